"""What a notebook loads: which runs, in which state, and what of them is averaged and compared."""

import numpy as np
import pytest

from bioplaus import analysis, results
from bioplaus.analysis import experiment, plots, published, report
from bioplaus.analysis.verdicts import Verdict
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

LEARNED = [0.94, 0.955, 0.963, 0.967, 0.97, 0.971, 0.972, 0.973, 0.974, 0.9745]


def mean(drawn, entry, source="ours"):
    return drawn[(drawn.entry == entry) & (drawn.source == source) & (drawn.part == "mean")]


def test_without_results_everything_is_missing_and_nothing_is_drawn_of_ours(home):
    runs = analysis.load("corinfomax", "mnist", "desk")
    assert set(runs.status.values()) == {"missing"} and len(runs.provenance.missing) == 9
    drawn = runs.curves("test_accuracy")
    assert set(drawn.source) == {"published"} and set(drawn.entry) == {"corinfomax", "ep"}
    assert (
        runs.provenance.command
        == "make reproduce-figures PRESET=desk PAPER=corinfomax ONLY='mnist/*'"
    )


def test_a_preset_that_does_not_run_the_experiment_gives_an_empty_analysis(home):
    runs = analysis.load("corinfomax", "mnist", "smoke")
    assert (
        runs.entries == []
        and runs.curves("test_accuracy").empty
        and analysis.compare_final(runs) == []
    )


def test_the_mean_and_its_population_deviation_are_over_seeds_at_each_epoch(write):
    rows = np.array([LEARNED, [x - 0.002 for x in LEARNED], [x + 0.004 for x in LEARNED]])
    for seed, row in zip((0, 10, 20), rows, strict=True):
        write("desk", "corinfomax", seed, row)
    drawn = mean(analysis.load("corinfomax", "mnist", "desk").curves("test_accuracy"), "corinfomax")
    np.testing.assert_allclose(drawn.value, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(drawn.sd, rows.std(0, ddof=0), rtol=1e-9)
    assert list(drawn.x) == list(range(1, 11)) and set(drawn.n) == {3}


def test_a_run_that_two_entries_share_is_found_under_both(home, write):
    path = home / "Simulations" / "manifests" / "corinfomax.yaml"
    text = path.read_text()
    path.write_text(
        text.replace(
            "      toy:", text[text.index("      ep:") : text.index("      toy:")] + "      toy:"
        )
    )
    path.write_text(path.read_text().replace("      ep:", "      twin:", 1))
    run = write("desk", "ep", 0, LEARNED)
    runs = analysis.load("corinfomax", "mnist", "desk")
    assert [o.run["entry"] for o in runs.outcomes] == ["twin", "ep"] and runs.n_foreign == 0
    assert runs.final("test_accuracy", "twin") == runs.final("test_accuracy", "ep") == [LEARNED[-1]]
    assert [o.run["entry"] for o in runs.only("twin").outcomes] == ["twin"] and runs.status[
        run.id
    ] == "done"
    counts = report._run_counts(runs)
    assert counts["planned"] == counts["done"] + counts["missing"] == 9


def test_one_seed_has_no_deviation(write):
    write("desk", "corinfomax", 0, LEARNED)
    drawn = mean(analysis.load("corinfomax", "mnist", "desk").curves("test_accuracy"), "corinfomax")
    assert drawn.sd.isna().all() and set(drawn.n) == {1}


def test_collapsed_and_diverged_seeds_are_in_no_mean_and_drawn_apart(write):
    write("desk", "corinfomax", 0, LEARNED)
    write("desk", "corinfomax", 10, [*LEARNED[:5], 0.1, 0.1, 0.1, 0.1, 0.1])
    write("desk", "corinfomax", 20, LEARNED[:3], status="diverged")
    runs = analysis.load("corinfomax", "mnist", "desk")
    drawn = runs.curves("test_accuracy")
    np.testing.assert_allclose(mean(drawn, "corinfomax").value, LEARNED)
    apart = drawn[drawn.part.isin(["collapsed", "diverged"])]
    assert {(part, seed): len(one) for (part, seed), one in apart.groupby(["part", "seed"])} == {
        ("collapsed", 10): 10,
        ("diverged", 20): 3,
    }
    assert runs.provenance.remarks[:2] == (
        "Collapsed, in no mean: CorInfoMax seed 10.",
        "Diverged, in no mean: CorInfoMax seed 20.",
    )
    assert (
        "2 of 3 seeds collapsed or diverged, left out"
        in analysis.compare_curve(runs, "test_accuracy")[0].note
    )


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([0.95, 0.97, 0.96], False),
        ([0.97, 0.78], False),  # 0.8 of 0.97 is 0.776
        ([0.97, 0.77], True),
        ([0.11, 0.15], True),  # 1.5 times chance
        ([0.11, 0.16], False),
        ([0.098], True),
    ],
)
def test_a_seed_has_collapsed_if_it_ended_at_chance_or_below_0_8_of_its_best(accuracies, verdict):
    assert experiment.has_collapsed(accuracies, chance=0.1) is verdict


def test_runs_that_the_manifest_does_not_plan_are_left_out_and_said_to_be(write):
    run = write("desk", "corinfomax", 0, LEARNED)
    stranger = run.folder.with_name("corinfomax-mnist-s1-deadbeef")
    results.begin(
        stranger,
        {"id": stranger.name, "entry": "corinfomax", "seed": 1, "parameters": run.parameters},
    )
    results.finish(
        stranger,
        {"status": "done", "epochs": {"epoch": [0], "test_accuracy": [0.5]}, "diagnostics": {}},
    )
    runs = analysis.load("corinfomax", "mnist", "desk")
    assert mean(runs.curves("test_accuracy"), "corinfomax").value.iloc[0] == LEARNED[0]
    assert (
        "Left out: 1 runs in the results folder that the manifest does not plan."
        in runs.provenance.remarks
    )


def test_collected_runs_are_read_like_folders(write, home):
    run = write("desk", "corinfomax", 0, LEARNED)
    before = analysis.load("corinfomax", "mnist", "desk").curves("test_accuracy")
    results.collect(run.experiment_folder)
    for path in sorted(run.folder.iterdir()):
        path.unlink()
    after = analysis.load("corinfomax", "mnist", "desk").curves("test_accuracy")
    assert before.equals(after) and (before.source == "ours").any()


def test_a_short_run_is_held_against_the_published_curve_at_the_same_epochs(write):
    write("desk", "ep", 0, [0.95] * 50)
    runs = analysis.load("corinfomax", "mnist", "desk")
    claims = {c.x: c for c in analysis.compare_curve(runs, "test_accuracy") if c.entry == "ep"}
    assert sorted(claims) == [1, 2, 3, 5, 10, 50]
    curve = published.curve("corinfomax", manifest.runs("desk")[3].published, "test_accuracy")
    for epoch, claim in claims.items():
        assert claim.published == curve["mean"][epoch - 1] and claim.ours == pytest.approx(0.95)
        assert claim.difference == pytest.approx(0.95 - curve["mean"][epoch - 1])


def test_one_value_of_an_entry_is_primary_the_last_that_both_have(write):
    """Ten epochs of CorInfoMax, fifty of EP; one run read at five epochs counts once."""
    write("desk", "corinfomax", 0, LEARNED)
    write("desk", "ep", 0, [0.95] * 50)
    runs = analysis.load("corinfomax", "mnist", "desk")
    rows = analysis.compare_curve(runs, "test_accuracy")
    assert [(row.entry, row.x) for row in rows if row.is_primary] == [
        ("corinfomax", 10),
        ("ep", 50),
    ]
    assert len(rows) == 11
    assert all(row.is_primary for row in analysis.compare_final(runs, ["test_accuracy"]))


def test_final_values_are_compared_only_after_the_published_number_of_epochs(write):
    write("desk", "corinfomax", 0, LEARNED)  # 10 epochs
    write("desk", "ep", 0, [*[0.95] * 49, 0.9762])  # 50
    runs = analysis.load("corinfomax", "mnist", "desk")
    claims = {c.entry: c for c in analysis.compare_final(runs, ["test_accuracy"])}
    short, ep = claims["corinfomax"], claims["ep"]
    assert (short.verdict, short.note) == (Verdict.NOT_RUN, "10 of 50 epochs")
    assert (short.published, short.ours) == (0.97622, None)
    assert (ep.published, ep.ours, ep.verdict) == (0.97616, 0.9762, Verdict.UNDECIDED)
    assert claims["toy"].verdict is Verdict.UNPUBLISHED


def test_a_curve_of_another_setting_is_noted_in_every_claim_and_caption(write):
    for seed in (0, 10):
        write("desk", "corinfomax", seed, LEARNED)
    runs = analysis.load("corinfomax", "mnist", "desk")
    note = "published setting: 1, ours: 3"
    claims = analysis.compare_curve(runs, "test_accuracy")
    assert {claim.note for claim in claims if claim.entry == "corinfomax"} == {note}
    assert (
        f"For CorInfoMax no curve of exactly these parameters was published ({note})."
        in plots.reading(runs.curves("test_accuracy"))
    )


def test_digits_are_held_against_nothing(write):
    write("quick", "ep", 0, [0.5, 0.8, 0.9, 0.92])
    runs = analysis.load("corinfomax", "mnist", "quick")
    assert set(runs.curves("test_accuracy").source) == {"ours"}
    assert analysis.compare_curve(runs, "test_accuracy") == []
    assert {c.verdict for c in analysis.compare_final(runs)} == {Verdict.UNPUBLISHED}
    assert (
        "No published counterpart for CorInfoMax, EP: the data set is digits, published is MNIST."
        in runs.provenance.remarks
    )


def test_angles_are_compared_at_the_same_batches(write):
    for seed, end in ((0, 67.4), (10, 67.5)):
        angles = {1: 90.0, 501: 75.0, 1001: 70.0, 2001: end}
        write("desk", "corinfomax", seed, LEARNED, angles=angles)
    runs = analysis.load("corinfomax", "mnist", "desk")
    claims = analysis.compare_curve(runs, "angle_2_deg", at=(2001, 5001))
    assert [(claim.x, claim.verdict, claim.is_primary) for claim in claims] == [
        (2001, Verdict.AGREES, True),  # published 67.30 +- 0.51
        (5001, Verdict.NOT_RUN, False),
    ]


def test_a_metric_that_no_run_measured_gives_no_line_of_ours(write):
    write("desk", "ep", 0, [0.95] * 50)
    drawn = analysis.load("corinfomax", "mnist", "desk").curves("angle_2_deg")
    assert set(drawn.source) == {"published"}


def test_an_unknown_experiment_is_refused_with_the_nearest_name(home):
    with pytest.raises(BioplausError, match="did you mean 'mnist'"):
        analysis.load("corinfomax", "mnits", "desk")


def test_the_overview_counts_how_runs_ended(write):
    write("desk", "corinfomax", 0, LEARNED)
    write("desk", "corinfomax", 10, [0.1] * 10)
    rows = analysis.load("corinfomax", "mnist", "desk").overview().set_index("entry")
    assert list(rows.loc["corinfomax", ["runs", "done", "collapsed", "diverged", "missing"]]) == [
        3,
        1,
        1,
        0,
        1,
    ]
    assert rows.loc["ep", "epochs"] == 50 and rows.loc["ep", "network"] == "784-500-10"
