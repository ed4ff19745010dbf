"""A claim: ours beside what was published, or an ordering of ours, with its verdict.

Every table and the report page are rows of these; `value`, `ordering` and `count` make them, for
all papers. The verdicts are those of `verdicts`.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bioplaus.analysis import verdicts
from bioplaus.analysis.published import Published
from bioplaus.analysis.verdicts import Verdict

if TYPE_CHECKING:
    from bioplaus.analysis.experiment import RunSet


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One compared value, or one ordering. Numbers are in the unit of `metric`."""

    paper: str
    experiment: str
    entry: str  # with the other words above, `metric`, `axis` and `x`: unique
    label: str  # what the entry is called in tables
    metric: str
    axis: str  # what x counts: "epoch", "batch", "seeds", ...
    x: int
    published: float | None = None
    published_sd: float | None = None  # over seeds, sample form; None where none was published
    published_n: int | None = None  # seeds
    ours: float | None = None  # mean over seeds; of an ordering the mean of the differences
    ours_sd: float | None = None  # sample form; None for one seed
    n: int = 0  # our seeds
    difference: float | None = None  # ours - published
    z: float | None = None  # difference, or ordering, in its standard errors; dimensionless
    low: float | None = None  # ends of the 95 % interval of the difference, or of the ordering
    high: float | None = None
    p: float | None = None  # two-sided
    p_holm: float | None = None  # the same, for all orderings that are judged together
    verdict: Verdict = Verdict.UNPUBLISHED
    note: str = ""
    is_ordering: bool = False  # one network of ours above another of the same seed
    is_equality: bool = False  # an ordering that is claimed not to be there
    is_primary: bool = True  # counts in the headline; points on the way do not
    is_planned: bool = True  # False: published, and this preset plans nothing like it


def value(
    run_set: "RunSet",
    entry: str,
    metric: str,
    axis: str,
    x: int,
    ours: Sequence[float],
    published: Published | None,
    *,
    label: str | None = None,
    left_out: int = 0,
    no_verdict: str | None = None,
    note: str = "",
    is_primary: bool = True,
    is_planned: bool = True,
) -> Claim:
    """Ours beside a published value.

    Parameters
    ----------
    ours : one number a seed.
    label : None: the entry's.
    left_out : seeds that are not in `ours` because they collapsed or diverged.
    no_verdict : why ours cannot be held against the published number: both are shown, the
        difference too, and no verdict.
    """
    n, mean = len(ours), float(np.mean(ours)) if ours else math.nan
    note = "; ".join(filter(None, [note, _added_seeds(run_set, entry, n + left_out)]))
    has_spread = published is not None and published.sd > 0 and (published.n or 0) > 1
    claim = Claim(
        paper=run_set.paper,
        experiment=run_set.experiment,
        entry=entry,
        label=run_set.label(entry) if label is None else label,
        metric=metric,
        axis=axis,
        x=x,
        published=published.value if published else None,
        published_sd=published.sd if published and published.sd > 0 else None,
        published_n=published.n if published else None,
        ours=mean if n else None,
        ours_sd=float(np.std(ours, ddof=1)) if n > 1 else None,
        n=n,
        note=note,
        is_primary=is_primary,
        is_planned=is_planned,
    )
    if published is None:
        return claim
    notes = [text for text in (note, published.note) if text]
    if n and left_out:
        notes.append(f"{left_out} of {n + left_out} seeds collapsed or diverged, left out")
    if not n and left_out:
        notes.append(f"all {left_out} seeds collapsed or diverged")
        lost = Verdict.DIFFERS if left_out > 1 and has_spread else Verdict.UNDECIDED
        return dataclasses.replace(claim, verdict=lost, note="; ".join(notes))
    if not n:
        return dataclasses.replace(claim, verdict=Verdict.NOT_RUN, note="; ".join(notes))
    gap = mean - published.value
    if no_verdict is not None or not has_spread:
        why = no_verdict if no_verdict is not None else "no spread published"
        text = "; ".join(dict.fromkeys(filter(None, [*notes, why])))
        return dataclasses.replace(claim, difference=gap, verdict=Verdict.SHOWN, note=text)
    interval = verdicts.welch(
        mean, claim.ours_sd or 0.0, n, published.value, published.sd, published.n or 0
    )
    if interval is None:
        notes.append("one seed has no spread")
    return dataclasses.replace(
        claim,
        difference=gap,
        **_ends(interval),
        verdict=verdicts.of_value(interval, published.sd),
        note="; ".join(notes),
    )


def ordering(
    run_set: "RunSet",
    entry: str,
    metric: str,
    differences: Sequence[float],
    *,
    label: str,
    axis: str = "seeds",
    x: int | None = None,
    published: float | None = None,
    also: Sequence[float] | None = None,
    is_equality: bool = False,
    note: str = "",
    is_primary: bool = True,
) -> Claim:
    """An ordering: the mean of differences of the same seed is claimed to be above 0.

    It is undecided until `judged` has seen all orderings of the paper.

    Parameters
    ----------
    differences : one a seed.
    also : other differences whose mean must be above 0 too (of three networks in a row, say): z, p
        and interval are those of the weaker of the two.
    is_equality : that there is no difference is what is claimed.
    entry : unique within the table.
    x : None: the number of seeds.
    published : the published difference, of unknown spread; shown beside.
    """
    n = len(differences)
    mean = float(np.mean(differences)) if n else None
    tests = [verdicts.student(each) for each in (differences, also) if each is not None]
    interval = None if None in tests else min(tests, key=lambda test: test.z)
    why = ""
    if n and interval is None:
        why = "one seed: no test" if n == 1 else "the same difference in every seed: no test"
    elif interval and n < verdicts.MIN_SEEDS:
        why = f"{n} seeds: too few to decide"
    return Claim(
        paper=run_set.paper,
        experiment=run_set.experiment,
        entry=entry,
        label=label,
        metric=metric,
        axis=axis,
        x=n if x is None else x,
        published=published,
        ours=mean,
        ours_sd=float(np.std(differences, ddof=1)) if n > 1 else None,
        n=n,
        difference=None if published is None or mean is None else mean - published,
        **_ends(interval),
        verdict=Verdict.UNDECIDED if n else Verdict.NOT_RUN,
        note="; ".join(filter(None, [note, why])),
        is_ordering=True,
        is_equality=is_equality,
        is_primary=is_primary,
    )


def count(
    run_set: "RunSet", entry: str, metric: str, ours: float, published: float, *, note: str = ""
) -> Claim:
    """A number without chance, as of parameters: it agrees if it is equal.

    No run is measured by it, so that it is no primary value.
    """
    return Claim(
        paper=run_set.paper,
        experiment=run_set.experiment,
        entry=entry,
        label=entry,
        metric=metric,
        axis="network",
        x=1,
        published=published,
        ours=ours,
        n=1,
        difference=ours - published,
        verdict=Verdict.AGREES if ours == published else Verdict.DIFFERS,
        note=note,
        is_primary=False,
    )


def judged(claims: Iterable[Claim]) -> list[Claim]:
    """The claims, with the verdicts of all orderings among them: Holm's method over those with
    enough seeds.

    A claim with fewer than `verdicts.MIN_SEEDS` seeds is never decided, so it makes no other
    stricter.
    """
    claims = list(claims)
    tested = [
        k
        for k, claim in enumerate(claims)
        if claim.is_ordering and claim.p is not None and claim.n >= verdicts.MIN_SEEDS
    ]
    for k, p in zip(tested, verdicts.holm([claims[k].p for k in tested]), strict=True):
        claim = claims[k]
        verdict = verdicts.of_ordering(claim.z, p, claim.n, is_equality=claim.is_equality)
        claims[k] = dataclasses.replace(claim, p_holm=p, verdict=verdict)
    return claims


def _added_seeds(run_set: "RunSet", entry: str, n: int) -> str:
    """How many of an entry's `n` seeds were added after looking, in words; empty if none."""
    planned = [run for run in run_set.runs if run.entry == entry]
    added = n - (len(planned) - planned[0].n_seeds_added) if planned else 0
    is_so = planned and planned[0].n_seeds_added and added > 0
    return f"{added} of {n} seeds were added after looking at the others" if is_so else ""


def _ends(interval: verdicts.Interval | None) -> dict[str, float | None]:
    """The fields of a claim that come from an interval."""
    names = ("z", "low", "high", "p")
    values = [getattr(interval, name) if interval else None for name in names]
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in zip(names, values, strict=True)
    }
