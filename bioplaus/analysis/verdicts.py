"""Verdicts: what the difference of two means, or of two networks of the same seeds, allows to say.

One rule for all papers. A value is ours beside a published mean with its standard deviation over
seeds; an ordering says that one network is above another of the same seed.

Values
------
With our mean a, standard deviation s_a and number of seeds n_a (sample form, n - 1), and b, s_b,
n_b of the published ones, the 95 % interval of the difference is Welch's:

    d = a - b,   e = sqrt(s_a^2 / n_a + s_b^2 / n_b),   d -+ t(0.975, f) e,   z = d / e
    f = e^4 / (s_a^4 / (n_a^2 (n_a - 1)) + s_b^4 / (n_b^2 (n_b - 1)))

and the margin is m = 2 s_b: a difference that seeds of the published code show among themselves.

    agrees            the interval contains 0 and lies inside -+m
    differs slightly  it excludes 0 and lies inside -+m
    differs           it excludes 0 and reaches past -+m
    undecided         it contains 0 and reaches past -+m, or cannot be had: too few seeds

A published number without a spread is shown without a verdict.

Orderings
---------
Differences seed by seed, their mean, its 95 % interval (Student's t), and the two-sided p of the
paired t-test, made stricter by Holm's method for all claims of one paper that are judged together:

    holds         p < 0.05 and the mean is on the claimed side
    contradicted  p < 0.05 and it is on the other side
    undecided     anything else, and always with fewer than five seeds

That there is no difference can be contradicted, and is undecided otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

LEVEL = 0.05  # chance of a false verdict: 95 % intervals
MARGIN = 2.0  # published standard deviations
MIN_SEEDS = 5  # of an ordering that is decided


class Verdict(StrEnum):
    """What is said of a claim, in the words of tables and of the report."""

    AGREES = "agrees"
    DIFFERS_SLIGHTLY = "differs slightly"
    DIFFERS = "differs"
    HOLDS = "holds"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    SHOWN = "no verdict"  # published without a spread, or of something else than ours
    NOT_RUN = "not run"
    UNPUBLISHED = "nothing published"


@dataclass(frozen=True)
class Interval:
    """A difference of means with its 95 % interval, in the unit of the values."""

    difference: float
    low: float
    high: float
    z: float  # difference in its standard errors, dimensionless
    p: float  # two-sided

    @property
    def contains_zero(self) -> bool:
        """Whether no difference is compatible with the data."""
        return self.low <= 0 <= self.high

    def lies_within(self, margin: float) -> bool:
        """Whether the whole interval is at most `margin` away from 0."""
        return -margin <= self.low and self.high <= margin


def welch(
    mean: float, sd: float, n: int, other_mean: float, other_sd: float, other_n: int
) -> Interval | None:
    """Welch's interval of mean - other_mean.

    Parameters
    ----------
    sd, other_sd : standard deviations over seeds, sample form, in the unit of the means.
    n, other_n : numbers of seeds.

    Returns
    -------
    None where it cannot be had: fewer than two seeds on a side, or no spread on both.
    """
    from scipy import stats

    if n < 2 or other_n < 2 or not (sd >= 0 and other_sd >= 0 and sd + other_sd > 0):
        return None
    part, other_part = sd**2 / n, other_sd**2 / other_n
    error = math.sqrt(part + other_part)
    freedom = error**4 / (part**2 / (n - 1) + other_part**2 / (other_n - 1))
    difference, half = mean - other_mean, float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    z = difference / error
    p = 2 * float(stats.t.sf(abs(z), freedom))
    return Interval(difference, difference - half, difference + half, z, p)


def student(values: Sequence[float]) -> Interval | None:
    """Student's interval of the mean of values, one a seed; of differences it is the paired test.

    Returns
    -------
    None where it cannot be had: fewer than two seeds, or values without any spread.
    """
    from scipy import stats

    sample = np.asarray(values, dtype=float)
    if len(sample) < 2 or np.ptp(sample) <= 1e-12 * np.abs(sample).max():
        return None
    test = stats.ttest_1samp(sample, 0.0)
    ends = test.confidence_interval(1 - LEVEL)
    return Interval(
        float(sample.mean()),
        float(ends.low),
        float(ends.high),
        float(test.statistic),
        float(test.pvalue),
    )


def of_value(interval: Interval | None, published_sd: float) -> Verdict:
    """The verdict on a value whose difference from the published one has this interval.

    Parameters
    ----------
    published_sd : above 0, from seed to seed, in the unit of the value.
    """
    if interval is None:
        return Verdict.UNDECIDED
    is_inside = interval.lies_within(MARGIN * published_sd)
    if interval.contains_zero:
        return Verdict.AGREES if is_inside else Verdict.UNDECIDED
    return Verdict.DIFFERS_SLIGHTLY if is_inside else Verdict.DIFFERS


def of_ordering(z: float, p: float, n: int, *, is_equality: bool = False) -> Verdict:
    """The verdict on an ordering.

    Parameters
    ----------
    z : mean difference over seeds in its standard errors; above 0 is what is claimed.
    p : two-sided, as `holm` adjusts it; NaN where no test can be made.
    n : seeds.
    is_equality : no difference is claimed, on either side. A test can contradict that; it cannot
        show it, as no margin was published within which networks would count as equal.
    """
    if n < MIN_SEEDS or not p < LEVEL:
        return Verdict.UNDECIDED
    return Verdict.HOLDS if z > 0 and not is_equality else Verdict.CONTRADICTED


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment (1979): tests of these p together keep the level of one.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may be smaller than the
    one before it, or above 1.

    Parameters
    ----------
    p_values : (m,) two-sided, in [0, 1].

    Returns
    -------
    (m,) adjusted, in the same order.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()
