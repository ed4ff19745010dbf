"""Verdicts: intervals by an independent computation, each word and Holm's method by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from bioplaus.analysis import verdicts
from bioplaus.analysis.verdicts import Verdict

# Student's t, two-sided 5 %, by degrees of freedom: from printed tables
T = {4: 2.7764, 9: 2.2622, 18: 2.1009}


def sample(mean, sd, n):
    """n numbers with exactly this mean and sample deviation."""
    values = np.random.default_rng(n).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize(("sd", "other_sd"), [(0.002, 0.001), (0.0005, 0.004), (0.0001, 0.001)])
def test_welchs_interval_is_that_of_scipys_test_of_samples_with_these_means_and_spreads(
    n, sd, other_sd
):
    ours, published = sample(0.975, sd, n), sample(0.974, other_sd, 10)
    test = stats.ttest_ind(ours, published, equal_var=False)
    low, high = test.confidence_interval(0.95)
    interval = verdicts.welch(0.975, sd, n, 0.974, other_sd, 10)
    # 1e-9: the samples have their mean and spread to 1e-15, differences of 1e-3
    assert interval.low == pytest.approx(low, rel=1e-9)
    assert interval.high == pytest.approx(high, rel=1e-9)
    assert interval.z == pytest.approx(test.statistic, rel=1e-9)
    assert interval.p == pytest.approx(test.pvalue, rel=1e-9)


def test_with_equal_spreads_and_numbers_welchs_interval_is_students_of_the_printed_table():
    """Ten against ten seeds of sd 0.002: 18 degrees of freedom, standard error 0.002 sqrt(2/10)."""
    interval = verdicts.welch(0.972, 0.002, 10, 0.970, 0.002, 10)
    half = T[18] * 0.002 * np.sqrt(0.2)
    assert interval.low == pytest.approx(0.002 - half, abs=1e-7)
    assert interval.high == pytest.approx(0.002 + half, abs=1e-7)
    assert interval.z == pytest.approx(0.002 / (0.002 * np.sqrt(0.2)))


@pytest.mark.parametrize(
    ("sd", "n", "other_sd", "other_n"),
    [(0.001, 1, 0.001, 10), (0.001, 3, 0.001, 1), (0.0, 3, 0.0, 3), (float("nan"), 3, 0.001, 3)],
)
def test_there_is_no_interval_of_one_seed_or_without_any_spread(sd, n, other_sd, other_n):
    assert verdicts.welch(0.9, sd, n, 0.8, other_sd, other_n) is None


@pytest.mark.parametrize(
    ("gap", "sd", "n", "verdict"),
    [
        # margin 0.004; ten against ten seeds of sd 0.002: half a width of 0.00188
        (0.0010, 0.002, 10, Verdict.AGREES),  # -0.00088 to 0.00288
        (0.0020, 0.002, 10, Verdict.DIFFERS_SLIGHTLY),  # 0.00012 to 0.00388
        (-0.0020, 0.002, 10, Verdict.DIFFERS_SLIGHTLY),
        (0.0030, 0.002, 10, Verdict.DIFFERS),  # 0.00112 to 0.00488
        (-0.0100, 0.002, 10, Verdict.DIFFERS),  # past the margin altogether
        # three seeds of sd 0.004: half a width of 0.0093 (2.18 degrees of freedom)
        (0.0010, 0.004, 3, Verdict.UNDECIDED),
        (0.0060, 0.004, 3, Verdict.UNDECIDED),
        (0.0000, 0.002, 1, Verdict.UNDECIDED),
    ],
)
def test_each_verdict_on_a_value_by_hand(gap, sd, n, verdict):
    interval = verdicts.welch(0.970 + gap, sd, n, 0.970, 0.002, 10)
    assert verdicts.of_value(interval, 0.002) is verdict


def test_noisy_runs_cannot_buy_agreement():
    """The more our seeds scatter the wider the interval: agrees turns to undecided, never back."""
    words = [
        verdicts.of_value(verdicts.welch(0.971, sd, 5, 0.970, 0.002, 10), 0.002)
        for sd in (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
    ]
    assert [word for word, _ in itertools.groupby(words)] == [Verdict.AGREES, Verdict.UNDECIDED]


def test_the_paired_interval_is_students_of_the_differences():
    differences = sample(0.01, 0.004, 5)
    interval = verdicts.student(differences)
    half = T[4] * 0.004 / np.sqrt(5)
    assert interval.difference == pytest.approx(0.01)
    assert (interval.low, interval.high) == pytest.approx((0.01 - half, 0.01 + half), abs=1e-6)
    assert interval.p == pytest.approx(stats.ttest_rel(differences, np.zeros(5)).pvalue, rel=1e-9)


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_differences_without_spread_give_no_test(differences):
    assert verdicts.student(differences) is None


@pytest.mark.parametrize(
    ("difference", "p", "n", "verdict"),
    [
        (0.01, 0.049, 5, Verdict.HOLDS),
        (-0.01, 0.049, 5, Verdict.CONTRADICTED),
        (0.01, 0.050, 5, Verdict.UNDECIDED),
        (0.01, 0.0001, 4, Verdict.UNDECIDED),
        (0.01, float("nan"), 9, Verdict.UNDECIDED),
    ],
)
def test_an_ordering_is_decided_by_five_seeds_and_a_small_p_only(difference, p, n, verdict):
    assert verdicts.of_ordering(difference, p, n) is verdict


@pytest.mark.parametrize("z", [3.0, -3.0])
def test_a_claim_of_no_difference_is_contradicted_by_one_and_never_holds(z):
    assert verdicts.of_ordering(z, 0.01, 9, is_equality=True) is Verdict.CONTRADICTED
    assert verdicts.of_ordering(z, 0.60, 9, is_equality=True) is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        # 4 x 0.005, 3 x 0.01, then 2 x 0.03, and the largest no smaller than the one before
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.4, 0.9, 0.5], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holms_method_by_hand(p, adjusted):
    assert verdicts.holm(p) == pytest.approx(adjusted, abs=1e-15)


def test_holms_method_rejects_what_stepping_down_rejects():
    """The definition: reject while p of rank k is below level / (m - k), and stop at the first that
    is not.
    """
    for seed in range(50):
        p = np.random.default_rng(seed).uniform(0, 0.1, size=8)
        rejected = set()
        for rank, k in enumerate(np.argsort(p)):
            if p[k] >= verdicts.LEVEL / (len(p) - rank):
                break
            rejected.add(k)
        below = {k for k, value in enumerate(verdicts.holm(p)) if value < verdicts.LEVEL}
        assert below == rejected
