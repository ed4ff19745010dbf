"""Paired tests, horizons, exports and the verdicts on the papers' statements, from results made up
by the tests.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy import stats

from bioplaus import results
from bioplaus.analysis import experiment as analysis
from bioplaus.analysis import tables
from bioplaus.experiments import manifest
from bioplaus.papers.ccdni import (
    claims as cerebellum_claims,
)
from bioplaus.papers.ccdni import (
    figures as cerebellum_plots,
)
from bioplaus.papers.ccdni import (
    measures as cerebellum,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The repository's own manifest and published numbers, and an empty results folder."""
    for part in ("Simulations", "Results/published"):
        shutil.copytree(ROOT / part, tmp_path / part)
    monkeypatch.setenv("BIOPLAUS_HOME", str(tmp_path))
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / "Results"))


def write(
    experiment,
    entry,
    values,
    *,
    metric="train_mse",
    n_epochs=4,
    status="done",
    preset="desk",
    **more,
):
    """Complete runs of an entry, one for each seed that has a value: the metric is constant over
    epochs.
    """
    for run in manifest.runs(preset, ["ccdni"]):
        if (run.experiment, run.entry) != (experiment, entry) or run.seed not in values:
            continue
        about = {
            name: getattr(run, name) for name in ("id", "paper", "experiment", "entry", "label")
        }
        results.begin(
            run.folder, {**about, "preset": preset, "seed": run.seed, "parameters": run.parameters}
        )
        value = values[run.seed]
        record = {
            "status": status,
            "config": run.parameters["config"],
            "task": {"n_steps": 10, "n_out": 2},
            "epochs": {"epoch": np.arange(n_epochs), metric: np.full(n_epochs, value)},
            "diagnostics": {},
            "test": {},
            **more,
        }
        results.finish(run.folder, record)


SEEDS = (1, 2, 1243, 34521)
CORTEX = dict(zip(SEEDS, (5.5, 6.0, 5.7, 5.9), strict=True))
BOTH = dict(zip(SEEDS, (4.5, 4.4, 4.2, 4.6), strict=True))


def verdict(number, statement):
    rows = cerebellum_claims.judge(cerebellum.load("desk"))
    (row,) = [row for row in rows if row["label"] == number and statement in row["metric"]]
    return row


def test_a_paired_comparison_agrees_with_the_t_test_of_the_differences_and_ignores_unpaired_seeds():
    found = cerebellum.paired(CORTEX | {99: 1.0}, BOTH)
    gap = np.array([CORTEX[s] - BOTH[s] for s in SEEDS])
    assert (
        found.n == 4
        and found.mean == pytest.approx(gap.mean())
        and found.sd == pytest.approx(gap.std(ddof=1))
    )
    t = gap.mean() / (gap.std(ddof=1) / 2)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 3)) and found.sem == pytest.approx(
        gap.std(ddof=1) / 2
    )


def test_one_seed_or_equal_differences_give_no_p_and_no_common_seed_gives_nothing():
    assert math.isnan(cerebellum.paired({1: 2.0}, {1: 1.0}).p)
    assert math.isnan(cerebellum.paired({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0}).p)
    assert cerebellum.paired({1: 2.0}, {2: 1.0}) is None


def test_nothing_run_is_said_to_be_not_run_for_every_statement():
    rows = cerebellum_claims.judge(cerebellum.load("desk"))
    assert {row["label"].split(",")[0] for row in rows} >= {
        f"C{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
    }
    assert {row["grade"] for row in rows} == {"not-run"} and all(
        row["ours"] is None for row in rows
    )


def test_a_faster_network_makes_the_statement_hold_and_a_slower_one_makes_it_fail():
    write("linedraw", "crnn-k1", CORTEX)
    write("linedraw", "ccrnn-k1", BOTH)
    row = verdict("C1", "area")
    assert row["grade"] == "within" and row["verdict"].startswith("holds, p =") and row["n"] == 4
    assert row["ours"] == pytest.approx(np.mean([CORTEX[s] - BOTH[s] for s in SEEDS]))
    write("linedraw", "ccrnn-k1", {s: v + 5 + 0.1 * i for i, (s, v) in enumerate(BOTH.items())})
    row = verdict("C1", "area")
    assert row["grade"] == "outside" and row["verdict"].startswith("does not hold: the opposite")


def test_a_difference_within_the_noise_is_not_significant_and_says_which_way_it_goes():
    write("linedraw", "crnn-k1", CORTEX)
    write("linedraw", "ccrnn-k1", dict(zip(SEEDS, (5.4, 6.2, 5.3, 6.1), strict=True)))
    row = verdict("C1", "area")
    assert (
        row["grade"] == "open"
        and "not significant" in row["verdict"]
        and "on average" in row["verdict"]
    )


def test_one_seed_is_reported_without_a_test():
    write("linedraw", "crnn-k1", {1: 5.0})
    write("linedraw", "ccrnn-k1", {1: 4.0})
    assert verdict("C1", "area")["verdict"] == "seen in 1 seed, no test"


def test_a_diverged_run_is_in_no_mean():
    write("linedraw", "crnn-k1", CORTEX)
    write("linedraw", "ccrnn-k1", BOTH)
    write("linedraw", "ccrnn-k1", {1: 1e9}, status="diverged")
    assert verdict("C1", "area")["n"] == 3


def test_the_statement_of_an_ordering_is_false_where_the_middle_one_is_not_in_the_middle():
    seeds = (521, 1243, 34521)
    for entry, level in (("crnn-k3", 3.0), ("ccrnn-k3", 2.0), ("bptt", 1.0)):
        write("draw-line", entry, {s: level + 0.1 * i for i, s in enumerate(seeds)})
    assert verdict("C6", "line from rows: ccRNN lies between")["verdict"].startswith("holds")
    write("draw-line", "ccrnn-k3", {s: 5.0 + 0.2 * i for i, s in enumerate(seeds)})
    assert verdict("C6", "line from rows: ccRNN lies between")["grade"] == "outside"


def test_horizons_give_the_ratio_seed_by_seed():
    for k, factor in ((1, 0.8), (5, 1.5)):
        write("linedraw", f"crnn-k{k}", CORTEX)
        write("linedraw", f"ccrnn-k{k}", {s: factor * v for s, v in CORTEX.items()})
    table = cerebellum.horizon(analysis.load("ccdni", "linedraw", "desk"), "area").set_index("K")
    assert table.ratio.to_dict() == pytest.approx({1: 0.8, 5: 1.5})
    assert (
        table.horizon.to_dict() == pytest.approx({1: 0.1, 5: 0.5})
        and (table.ratio_sem < 1e-12).all()
    )
    assert verdict("C5", "simple line drawing: error ratio")["ours"] == pytest.approx(0.7)


def test_the_export_has_the_published_axes_and_nan_where_nothing_was_measured():
    write("linedraw", "crnn-k1", {1: 5.0, 2: 6.0}, n_epochs=3)
    write("linedraw", "ccrnn-k1", {2: 4.0}, n_epochs=2)
    found = cerebellum.export(
        analysis.load("ccdni", "linedraw", "desk"),
        ["train_mse", "val_mse"],
        ["crnn-k1", "ccrnn-k1"],
    )
    assert found.values.shape == (10, 2, 2, 3)
    assert found.values[found.seeds.index(2), 1, 0].tolist()[:2] == [4.0, 4.0]
    assert (
        np.isnan(found.values[found.seeds.index(2), 1, 0, 2])
        and np.isnan(found.values[0, 0, 1]).all()
    )
    assert found.metrics == ["train_mse", "val_mse"] and found.epochs == [1, 2, 3]


def test_a_saved_export_is_a_plain_numpy_array_with_its_axes_beside_it(tmp_path):
    write("linedraw", "crnn-k1", {1: 5.0, 2: 6.0}, n_epochs=3)
    found = cerebellum.export(
        analysis.load("ccdni", "linedraw", "desk"), ["train_mse"], ["crnn-k1"]
    )
    path = found.save(tmp_path / "export")
    assert np.array_equal(np.load(path, allow_pickle=False), found.values, equal_nan=True)
    labels = json.loads(path.with_suffix(".json").read_text())
    assert labels["axes"] == ["seeds", "models", "metrics", "epochs"]
    assert [len(labels[axis]) for axis in labels["axes"]] == list(found.values.shape)


def test_runs_of_unequal_length_are_compared_at_the_last_epoch_that_all_have():
    seeds, falling = (521, 1243), np.array([3.0, 2.0, 1.0, 0.5])
    for entry, n in (("crnn-k1", 4), ("ccrnn-k1", 4), ("crnn-k5", 2), ("ccrnn-k5", 2)):
        factor = 0.5 if entry.startswith("cc") else 1.0
        epochs = {"epoch": np.arange(n), "val_nll": factor * falling[:n]}
        write("discrimination", entry, dict.fromkeys(seeds, 0.0), epochs=epochs)
    table = cerebellum.horizon(
        analysis.load("ccdni", "discrimination", "desk"), "val_nll"
    ).set_index("K")
    assert table.crnn.to_dict() == {1: 2.0, 5: 2.0} and table.ratio.to_dict() == {1: 0.5, 5: 0.5}


@pytest.mark.parametrize(("n", "grade"), [(1, "open"), (4, "open"), (5, "within")])
def test_no_difference_is_only_claimed_with_enough_seeds(n, grade):
    seeds = (11, 1308, 42, 240, 7532)[:n]
    scores = {"length": np.array([3.0, 6.0, 9.0]), "image": {"cider": np.ones(3)}}
    for entry, shift in (("crnn-k6", 0.0), ("ccrnn-k6", 0.01)):
        noisy = {s: 1 + shift * (-1) ** i for i, s in enumerate(seeds)}
        write("captions", entry, noisy, metric="val_bits", preset="paper", scores=scores)
    (row,) = _paper("C9")
    assert row["grade"] == grade and row["n"] == n


def test_the_gap_of_2019_is_judged_at_its_epoch_and_against_the_longest_truncation():
    seeds = (521, 1243, 34521)
    for k, gain in ((1, 0.10), (7, 0.02)):
        for entry, shift in ((f"crnn-k{k}", 0.0), (f"ccrnn-k{k}", gain)):
            values = {s: 0.5 + shift * (1 + 0.1 * i) for i, s in enumerate(seeds)}
            write(
                "discrimination", entry, values, metric="val_accuracy", n_epochs=15, preset="paper"
            )
    rows = {(row["x"], "gap" in row["metric"]): row for row in _paper("C12")}
    assert rows[1, False]["ours"] == pytest.approx(0.11) and rows[1, False]["grade"] == "within"
    assert rows[1, False]["published"] == pytest.approx(0.564 - 0.474)
    assert rows[2, False]["grade"] == "not-run"
    assert (
        rows[7, True]["ours"] == pytest.approx(0.11 - 0.022) and rows[7, True]["grade"] == "within"
    )


def test_the_gap_of_2019_is_not_held_against_another_data_set():
    for entry in ("crnn-k1", "ccrnn-k1"):  # at quick: scikit-learn's digits
        write(
            "discrimination",
            entry,
            {521: 0.5, 1243: 0.6},
            metric="val_accuracy",
            n_epochs=15,
            preset="quick",
        )
    claims = [
        row for row in cerebellum_claims.judge(cerebellum.load("quick")) if row["label"] == "C12"
    ]
    assert claims and {row["grade"] for row in claims} == {"not-run"}


def _paper(number):
    return [
        row for row in cerebellum_claims.judge(cerebellum.load("paper")) if row["label"] == number
    ]


def test_areas_stand_beside_those_of_the_published_engine_with_the_same_parameters():
    write("linedraw", "crnn-k1", CORTEX)
    rows = {
        row["entry"]: row
        for row in cerebellum_claims.areas(analysis.load("ccdni", "linedraw", "desk"))
    }
    assert rows["crnn-k1"]["published"] == pytest.approx(np.mean([5.5811, 6.0746, 5.6517]))
    assert rows["crnn-k1"]["published_n"] == 3 and rows["crnn-k1"]["n"] == 4
    assert (
        rows["crnn-k1"]["verdict"].startswith("no difference found, p = ")
        and rows["crnn-k1"]["grade"] == "within"
    )
    assert rows["ccrnn2-k1"]["published"] == pytest.approx(np.mean([7.0032, 5.2956, 4.5567]))
    assert rows["mended-k10"]["published"] == pytest.approx(np.mean([4.0825, 2.3712]))
    assert rows["ccrnn2-k2"]["published"] is None
    lesions = {
        row["entry"]: row
        for row in cerebellum_claims.areas(analysis.load("ccdni", "linedraw-lesions", "desk"))
    }
    assert lesions["olive-20"]["published"] == pytest.approx(10.4513)
    assert lesions["cerebellum-20"]["published"] == pytest.approx(4.8003)
    assert lesions["olive-20-mended"]["published"] is None


def test_areas_far_from_those_of_the_published_engine_differ():
    write("linedraw", "crnn-k1", {seed: value + 2 for seed, value in CORTEX.items()})
    row = next(
        r
        for r in cerebellum_claims.areas(analysis.load("ccdni", "linedraw", "desk"))
        if r["entry"] == "crnn-k1"
    )
    assert row["verdict"].startswith("differs, p = ") and row["grade"] == "outside"


def test_the_plots_of_2019_are_read_with_their_truncation_and_epoch():
    found = {
        (k, model): (epoch, value)
        for k, model, epoch, value in cerebellum.record_2019("validation accuracy")
    }
    assert found[1, "DNI"] == (15, 0.564) and found[7, "Vanilla"] == (10, 0.760) and len(found) == 8


def test_bands_are_the_standard_error_in_population_form():
    write("linedraw", "crnn-k1", CORTEX)
    drawn = cerebellum.curves(analysis.load("ccdni", "linedraw", "desk"), "train_mse", ["crnn-k1"])
    assert drawn["sem"].iloc[0] == pytest.approx(np.std(list(CORTEX.values())) / 2)


def test_caption_scores_are_normalised_by_the_cortex_alone_group_by_group():
    length = np.array([3.0, 3.0, 6.0, 6.0, 9.0, 9.0])
    for entry, factor in (("crnn-k4", 1.0), ("ccrnn-k4", 2.0)):
        scores = {"length": length, "image": {"cider": factor * np.array([1.0, 1, 2, 2, 3, 3])}}
        write("captions", entry, {11: 1.0}, metric="val_bits", scores=scores)
    table = cerebellum.caption_groups(analysis.load("ccdni", "captions", "desk")).set_index(
        ["network", "group"]
    )
    assert table.value["cRNN"].to_dict() == {"short": 1.0, "medium": 2.0, "long": 3.0}
    assert table.normalised["ccRNN"].to_dict() == {"short": 2.0, "medium": 2.0, "long": 2.0}


def test_claims_become_a_table_that_is_saved_with_full_numbers():
    write("linedraw", "crnn-k1", CORTEX)
    write("linedraw", "ccrnn-k1", BOTH)
    experiments = cerebellum.load("desk")
    path = tables.save(
        cerebellum_claims.judge(experiments),
        "ccdni_test",
        notebook="n",
        title="t",
        caption=cerebellum_plots.caption("c", *experiments.values()),
        about=cerebellum_plots.about(*experiments.values()),
    )
    assert "holds, p =" in path.with_suffix(".md").read_text(encoding="utf-8")


def bar_texts(cortex: dict[int, float], both: dict[int, float]) -> list[str]:
    rows = [
        {"task": "t", "entry": entry, "network": network, "rule": rule, "seed": s, "value": v}
        for entry, network, rule, values in (
            ("crnn-k1", "cRNN", "bptt", cortex),
            ("ccrnn-k1", "ccRNN", "dni", both),
        )
        for s, v in values.items()
    ]
    figure = cerebellum_plots.bars(
        pandas.DataFrame(rows), value="value", by="task", within="network", ylabel=""
    )
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_carry_their_number_of_seeds_and_the_result_of_the_paired_test_where_there_are_enough():
    assert bar_texts(CORTEX, BOTH) == ["n = 4", "n = 4", ""]
    cortex, both = CORTEX | {99: 5.0}, BOTH | {99: 4.6}
    assert 0.001 < stats.ttest_rel(list(cortex.values()), list(both.values())).pvalue < 0.01
    assert bar_texts(cortex, both) == ["n = 5", "n = 5", "**"]


def test_a_figure_without_results_is_no_figure():
    experiments = cerebellum.load("desk")
    linedraw = experiments["linedraw"]
    assert (
        cerebellum_plots.learning(cerebellum.curves(linedraw, "train_mse", ["bptt"]), ylabel="")
        is None
    )
    assert cerebellum_plots.drawings(linedraw, ["bptt"])[0] is None
    assert cerebellum_plots.horizons({"a": cerebellum.horizon(linedraw, "area")}, ylabel="") is None
    assert cerebellum_plots.described(experiments["captions"], ["crnn-k4"])[0] is None
    assert (
        cerebellum_plots.traces(linedraw, {"cos_synth_true": ""}, ["ccrnn-k1"], ylabel="")[0]
        is None
    )
