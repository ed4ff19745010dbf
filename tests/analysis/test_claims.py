"""Claims: what a row says of ours and the published, and what decides orderings."""

import dataclasses
import math
import types

import numpy as np
import pytest

from bioplaus.analysis import claims
from bioplaus.analysis.published import Published
from bioplaus.analysis.verdicts import Verdict

RUNS = types.SimpleNamespace(paper="p", experiment="e", label=str.upper, runs=())
PUBLISHED = Published(value=0.97, sd=0.002, n=10)


def value(ours, published=PUBLISHED, **how):
    return claims.value(RUNS, "ep", "test_accuracy", "epoch", 10, ours, published, **how)


def ordering(differences, entry="c1", **how):
    return claims.ordering(RUNS, entry, "accuracy", differences, label="C1", **how)


def test_a_value_has_means_spreads_in_sample_form_numbers_difference_and_interval():
    claim = value([0.972, 0.970])
    assert (claim.label, claim.n, claim.published_n) == ("EP", 2, 10)
    assert claim.ours == pytest.approx(0.971) and claim.difference == pytest.approx(0.001)
    assert claim.ours_sd == pytest.approx(0.002 / math.sqrt(2))
    error = math.sqrt(0.001**2 + 0.002**2 / 10)
    assert claim.z == pytest.approx(0.001 / error)
    assert (claim.low + claim.high) / 2 == pytest.approx(0.001)


def test_seeds_that_were_added_after_looking_are_counted_in_the_note():
    planned = [types.SimpleNamespace(entry="ep", n_seeds_added=7) for _ in range(10)]
    more = types.SimpleNamespace(**{**vars(RUNS), "runs": planned})

    def note(n, **how):
        ours = [0.97 + 0.001 * i for i in range(n)]
        return claims.value(more, "ep", "a", "epoch", 10, ours, PUBLISHED, **how).note

    assert note(3) == ""  # those that had been planned
    assert note(10) == "7 of 10 seeds were added after looking at the others"
    assert note(8, left_out=2).startswith("7 of 10 seeds were added after looking")


def test_the_verdict_rests_on_our_spread_too():
    calm, wild = value([0.980, 0.9801]), value([0.93, 1.03])
    assert calm.difference == pytest.approx(wild.difference, abs=1e-4)
    assert (calm.verdict, wild.verdict) == (Verdict.DIFFERS, Verdict.UNDECIDED)


def test_one_seed_decides_nothing_and_the_note_says_why():
    claim = value([0.97])
    assert (claim.verdict, claim.z, claim.low, claim.ours_sd) == (
        Verdict.UNDECIDED,
        None,
        None,
        None,
    )
    assert claim.difference == 0 and claim.note == "one seed has no spread"


def test_seeds_that_are_all_equal_are_held_against_the_published_spread():
    claim = value([0.971, 0.971, 0.971])
    half = 2.2622 * 0.002 / math.sqrt(10)  # t of 9 degrees of freedom
    assert claim.low == pytest.approx(0.001 - half, abs=1e-7) and claim.verdict is Verdict.AGREES


@pytest.mark.parametrize("published", [Published(0.97, math.nan, 2), Published(0.97, 0.0, 2)])
def test_a_number_published_without_a_spread_is_shown_without_a_verdict(published):
    claim = value([0.98, 0.981], published)
    assert (claim.verdict, claim.z, claim.published_sd) == (Verdict.SHOWN, None, None)
    assert claim.difference == pytest.approx(0.0105) and claim.note == "no spread published"


def test_nothing_of_ours_is_not_run_and_nothing_published_is_said():
    assert value([]).verdict is Verdict.NOT_RUN
    assert value([0.9], None).verdict is Verdict.UNPUBLISHED


def test_lost_seeds_are_noted_and_several_that_are_all_lost_differ():
    some = value([0.97, 0.971], left_out=1)
    assert some.n == 2 and some.note == "1 of 3 seeds collapsed or diverged, left out"
    assert value([], left_out=3).verdict is Verdict.DIFFERS
    assert value([], left_out=1).verdict is Verdict.UNDECIDED
    assert value([], Published(0.97, math.nan, 1), left_out=3).verdict is Verdict.UNDECIDED


def test_what_cannot_be_held_against_the_published_gets_the_difference_and_the_reason():
    claim = value([0.98, 0.981], no_verdict="other data")
    assert (claim.verdict, claim.note) == (Verdict.SHOWN, "other data")
    assert claim.difference == pytest.approx(0.0105) and claim.z is None


def test_a_count_agrees_only_if_it_is_equal_and_is_no_primary_value():
    assert claims.count(RUNS, "net", "parameters", 5.0, 5.0).verdict is Verdict.AGREES
    other = claims.count(RUNS, "net", "parameters", 5.5, 5.0)
    assert (other.verdict, other.difference, other.is_primary) == (Verdict.DIFFERS, 0.5, False)


def noisy(mean, p, n=6):
    """Differences whose paired t-test gives this p: mean / (sd / sqrt n) = t of p."""
    from scipy import stats

    t = stats.t.isf(p / 2, n - 1)
    pattern = np.resize([1.0, -1.0], n)
    pattern *= (abs(mean) * math.sqrt(n) / t) / pattern.std(ddof=1)
    return mean + pattern - pattern.mean()


def test_orderings_of_a_paper_are_judged_together():
    """0.03 and 0.04 would each decide alone; of two, Holm's method asks 0.025 of the smaller."""
    alone = claims.judged([ordering(noisy(0.01, 0.03))])
    assert alone[0].verdict is Verdict.HOLDS and alone[0].p_holm == pytest.approx(0.03)
    both = claims.judged([ordering(noisy(0.01, 0.03)), ordering(noisy(-0.01, 0.04), "c2")])
    assert [claim.verdict for claim in both] == [Verdict.UNDECIDED] * 2
    assert [claim.p_holm for claim in both] == pytest.approx([0.06, 0.06])
    strong = claims.judged([ordering(noisy(0.01, 0.02)), ordering(noisy(-0.01, 0.04), "c2")])
    assert [claim.verdict for claim in strong] == [Verdict.HOLDS, Verdict.CONTRADICTED]


def test_orderings_that_cannot_be_decided_make_no_other_stricter():
    few = ordering(noisy(0.01, 0.001, n=4), "few")
    kept = claims.judged([ordering(noisy(0.01, 0.03)), few, ordering([0.1], "one"), ordering([])])
    assert [claim.verdict for claim in kept] == [
        Verdict.HOLDS,
        Verdict.UNDECIDED,
        Verdict.UNDECIDED,
        Verdict.NOT_RUN,
    ]
    assert kept[1].p == pytest.approx(0.001) and kept[1].p_holm is None


def test_two_orderings_that_must_both_hold_are_as_strong_as_the_weaker():
    strong, weak, wrong = noisy(0.02, 0.001), noisy(0.01, 0.03), noisy(-0.01, 0.002)
    both = ordering(strong, also=weak)
    assert both.ours == pytest.approx(0.02) and both.p == pytest.approx(0.03)
    assert claims.judged([both])[0].verdict is Verdict.HOLDS
    (against,) = claims.judged([ordering(strong, also=wrong)])
    assert against.verdict is Verdict.CONTRADICTED and against.p == pytest.approx(0.002)
    assert ordering(strong, also=[0.1] * 6).p is None


def test_values_among_orderings_are_left_as_they_are():
    row = value([0.972, 0.970, 0.971, 0.970, 0.971])
    assert claims.judged([row, ordering(noisy(0.01, 0.03))])[0] == row


def test_an_ordering_without_spread_has_no_test_and_says_so():
    claim = ordering([0.1] * 6, note="published as an ordering only")
    assert claim.note == "published as an ordering only; the same difference in every seed: no test"
    assert claims.judged([claim])[0].verdict is Verdict.UNDECIDED
    assert (claim.ours, claim.x, claim.p) == (pytest.approx(0.1), 6, None)
    assert claim.ours_sd == pytest.approx(0, abs=1e-15)


def test_a_claim_is_plain_values_so_that_it_survives_json_and_csv():
    for field in dataclasses.asdict(value([0.972, 0.970])).values():
        assert field is None or isinstance(field, str | int | float | bool)
