"""Paired tests, horizons, exports and the verdicts on the papers' statements, from results made up
by the tests.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy import stats

from bioplaus import analysis, paths, results
from bioplaus.analysis.verdicts import Verdict
from bioplaus.experiments import manifest
from bioplaus.papers.ccdni import claims, figures, measures, pictures, tables
from bioplaus.papers.ccdni.export import export

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
        names = ("id", "paper", "experiment", "entry", "label")
        described = {name: getattr(run, name) for name in names}
        results.begin(
            run.folder,
            {**described, "preset": preset, "seed": run.seed, "parameters": run.parameters},
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


SEEDS = (1, 2, 7, 1243, 34521)
CORTEX = dict(zip(SEEDS, (5.5, 6.0, 5.6, 5.7, 5.9), strict=True))
BOTH = dict(zip(SEEDS, (4.5, 4.4, 4.3, 4.2, 4.6), strict=True))


def claim(number, statement):
    rows = claims.judge(measures.load("desk"))
    (row,) = [row for row in rows if row.label == number and statement in row.metric]
    return row


def test_differences_are_paired_by_seed_and_unpaired_seeds_are_left_out():
    assert measures.differences({1: 2.0, 3: 5.0, 9: 1.0}, {3: 4.5, 1: 1.0, 7: 0.0}) == [1.0, 0.5]
    assert measures.differences({1: 2.0}, {2: 1.0}) == []


def test_nothing_run_is_said_to_be_not_run_for_every_statement():
    rows = claims.judge(measures.load("desk"))
    numbers = {f"C{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)}
    assert {row.label.split(",")[0] for row in rows} >= numbers
    assert {row.verdict for row in rows} == {Verdict.NOT_RUN}
    assert all(row.ours is None for row in rows)


def test_a_faster_network_makes_the_statement_hold_and_a_slower_one_contradicts_it():
    write("linedraw", "crnn-k1", CORTEX)
    write("linedraw", "ccrnn-k1", BOTH)
    row, gap = claim("C1", "area"), [CORTEX[s] - BOTH[s] for s in SEEDS]
    assert (row.verdict, row.n) == (Verdict.HOLDS, 5)
    assert row.ours == pytest.approx(np.mean(gap)) and row.ours_sd == pytest.approx(
        np.std(gap, ddof=1)
    )
    assert row.p == pytest.approx(
        stats.ttest_rel(list(CORTEX.values()), list(BOTH.values())).pvalue
    )
    write("linedraw", "ccrnn-k1", {s: v + 5 + 0.1 * i for i, (s, v) in enumerate(BOTH.items())})
    assert claim("C1", "area").verdict is Verdict.CONTRADICTED


def test_a_difference_within_the_noise_or_of_four_seeds_is_undecided():
    write("linedraw", "crnn-k1", CORTEX)
    noisy = (5.4, 6.2, 5.3, 6.1, 5.8)
    write("linedraw", "ccrnn-k1", dict(zip(SEEDS, noisy, strict=True)))
    assert claim("C1", "area").verdict is Verdict.UNDECIDED
    write("linedraw", "ccrnn-k1", BOTH)
    write("linedraw", "ccrnn-k1", {1: 1e9}, status="diverged")
    row = claim("C1", "area")
    assert (row.verdict, row.n) == (Verdict.UNDECIDED, 4)
    assert row.note.endswith("4 seeds: too few to decide")


def test_one_seed_is_reported_without_a_test():
    write("linedraw", "crnn-k1", {1: 5.0})
    write("linedraw", "ccrnn-k1", {1: 4.0})
    row = claim("C1", "area")
    assert (row.ours, row.p, row.verdict) == (1.0, None, Verdict.UNDECIDED)
    assert row.note.endswith("one seed: no test")


def test_an_ordering_of_three_is_as_sure_as_its_less_sure_side():
    seeds = (521, 1243, 34521)
    for entry, level in (("crnn-k3", 3.0), ("ccrnn-k3", 2.5), ("bptt", 1.0)):
        write("draw-line", entry, {s: level * (1 + 0.1 * i) for i, s in enumerate(seeds)})
    row = claim("C6", "line from rows: ccRNN lies between")
    assert row.p == pytest.approx(stats.ttest_1samp([0.5, 0.55, 0.6], 0).pvalue)
    assert row.ours == pytest.approx(1.65) and "25 % of the gap" in row.note


def test_horizons_give_the_ratio_seed_by_seed():
    for k, factor in ((1, 0.8), (5, 1.5)):
        write("linedraw", f"crnn-k{k}", CORTEX)
        write("linedraw", f"ccrnn-k{k}", {s: factor * v for s, v in CORTEX.items()})
    table = tables.horizon(analysis.load("ccdni", "linedraw", "desk"), "area").set_index("K")
    assert table.ratio.to_dict() == pytest.approx({1: 0.8, 5: 1.5})
    assert (
        table.horizon.to_dict() == pytest.approx({1: 0.1, 5: 0.5})
        and (table.ratio_sem < 1e-12).all()
    )
    assert claim("C5", "simple line drawing: error ratio").ours == pytest.approx(0.7)


def test_the_horizon_of_a_loss_at_the_last_step_is_the_length_of_the_last_truncation():
    """Counted by hand: 28 rows cut from the first on into pieces of K."""
    for k in (1, 2, 3, 5, 7):
        for entry in (f"crnn-k{k}", f"ccrnn-k{k}"):
            write("discrimination", entry, {521: 1.0}, task={"n_steps": 28, "n_out": 10})
    runs = analysis.load("ccdni", "discrimination", "desk")
    table = tables.horizon(runs, "train_mse").set_index("K")
    last = {k: len([*range(28)][(27 // k) * k :]) for k in (1, 2, 3, 5, 7)}
    assert last == {1: 1, 2: 2, 3: 1, 5: 3, 7: 7}
    assert table.horizon.to_dict() == pytest.approx({k: n / 28 for k, n in last.items()})
    drawn = figures.horizons({"discrimination": table.reset_index()}, ylabel="").figure.axes[0]
    assert {text.get_text() for text in drawn.texts} >= {"K = 1", "K = 3"}


def test_the_export_has_the_published_axes_and_nan_where_nothing_was_measured():
    write("linedraw", "crnn-k1", {1: 5.0, 2: 6.0}, n_epochs=3)
    write("linedraw", "ccrnn-k1", {2: 4.0}, n_epochs=2)
    found = export(
        analysis.load("ccdni", "linedraw", "desk"),
        ["train_mse", "validation_mse"],
        ["crnn-k1", "ccrnn-k1"],
    )
    assert found.values.shape == (10, 2, 2, 3)
    assert found.values[found.seeds.index(2), 1, 0].tolist()[:2] == [4.0, 4.0]
    assert (
        np.isnan(found.values[found.seeds.index(2), 1, 0, 2])
        and np.isnan(found.values[0, 0, 1]).all()
    )
    assert found.metrics == ["train_mse", "validation_mse"] and found.epochs == [1, 2, 3]


def test_a_saved_export_is_a_plain_numpy_array_with_its_axes_beside_it(tmp_path):
    write("linedraw", "crnn-k1", {1: 5.0, 2: 6.0}, n_epochs=3)
    found = export(analysis.load("ccdni", "linedraw", "desk"), ["train_mse"], ["crnn-k1"])
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
    table = tables.horizon(
        analysis.load("ccdni", "discrimination", "desk"), "validation_nll"
    ).set_index("K")
    assert table.crnn.to_dict() == {1: 2.0, 5: 2.0} and table.ratio.to_dict() == {1: 0.5, 5: 0.5}


@pytest.mark.parametrize("n", [1, 4, 5])
def test_no_difference_is_never_shown(n):
    seeds = (11, 1308, 42, 240, 7532)[:n]
    scores = {"length": np.array([3.0, 6.0, 9.0]), "image": {"cider": np.ones(3)}}
    for entry, shift in (("crnn-k6", 0.0), ("ccrnn-k6", 0.01)):
        noisy = {s: 1 + shift * (-1) ** i for i, s in enumerate(seeds)}
        write("captions", entry, noisy, metric="val_bits", preset="paper", scores=scores)
    (row,) = _paper("C9")
    assert (row.verdict, row.n, row.is_equality) == (Verdict.UNDECIDED, n, True)


def test_the_gap_of_2019_is_judged_at_its_epoch_and_against_the_longest_truncation():
    seeds = (521, 1243, 34521)
    for k, gain in ((1, 0.10), (7, 0.02)):
        for entry, shift in ((f"crnn-k{k}", 0.0), (f"ccrnn-k{k}", gain)):
            values = {s: 0.5 + shift * (1 + 0.1 * i) for i, s in enumerate(seeds)}
            write(
                "discrimination", entry, values, metric="val_accuracy", n_epochs=15, preset="paper"
            )
    rows = {(row.x, "gap" in row.metric): row for row in _paper("C12")}
    assert rows[1, False].ours == pytest.approx(0.11)
    assert rows[1, False].published == pytest.approx(0.564 - 0.474)
    assert rows[1, False].difference == pytest.approx(0.11 - 0.09)
    assert rows[2, False].verdict is Verdict.NOT_RUN
    assert rows[7, True].ours == pytest.approx(0.11 - 0.022)


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
    rows = [row for row in claims.judge(measures.load("quick")) if row.label == "C12"]
    assert rows and {row.verdict for row in rows} == {Verdict.NOT_RUN}


def _paper(number):
    return [row for row in claims.judge(measures.load("paper")) if row.label == number]


def areas(experiment):
    return {row.entry: row for row in claims.areas(analysis.load("ccdni", experiment, "desk"))}


def test_areas_stand_beside_those_of_the_published_engine_with_the_same_parameters():
    reference = [5.5811, 6.0746, 5.6517]
    write("linedraw", "crnn-k1", CORTEX)
    rows, lesions = areas("linedraw"), areas("linedraw-lesions")
    row = rows["crnn-k1"]
    assert row.published == pytest.approx(np.mean(reference))
    assert (row.published_n, row.n, row.x) == (3, 5, 1)
    test = stats.ttest_ind(list(CORTEX.values()), reference, equal_var=False)
    assert (row.z, row.p) == pytest.approx((test.statistic, test.pvalue))
    assert rows["ccrnn2-k1"].published == pytest.approx(np.mean([7.0032, 5.2956, 4.5567]))
    assert rows["mended-k10"].published == pytest.approx(np.mean([4.0825, 2.3712]))
    assert rows["ccrnn2-k2"].published is None
    assert lesions["olive-20"].published == pytest.approx(10.4513)
    assert lesions["cerebellum-20"].published == pytest.approx(4.8003)
    assert lesions["olive-20-mended"].published is None


def test_areas_far_from_those_of_the_published_engine_differ():
    write("linedraw", "crnn-k1", {seed: value + 2 for seed, value in CORTEX.items()})
    assert areas("linedraw")["crnn-k1"].verdict is Verdict.DIFFERS


def test_the_plots_of_2019_are_read_with_their_truncation_and_epoch():
    found = {
        (k, model): (epoch, value)
        for k, model, epoch, value in tables.record_2019("validation accuracy")
    }
    assert found[1, "DNI"] == (15, 0.564) and found[7, "Vanilla"] == (10, 0.760) and len(found) == 8


def test_bands_are_the_standard_error_in_population_form():
    write("linedraw", "crnn-k1", CORTEX)
    drawn = tables.curves(analysis.load("ccdni", "linedraw", "desk"), "train_mse", ["crnn-k1"])
    assert drawn["sem"].iloc[0] == pytest.approx(np.std(list(CORTEX.values())) / np.sqrt(5))


def test_caption_scores_are_normalised_by_the_cortex_alone_group_by_group():
    length = np.array([3.0, 3.0, 6.0, 6.0, 9.0, 9.0])
    for entry, factor in (("crnn-k4", 1.0), ("ccrnn-k4", 2.0)):
        scores = {"length": length, "image": {"cider": factor * np.array([1.0, 1, 2, 2, 3, 3])}}
        write("captions", entry, {11: 1.0}, metric="val_bits", scores=scores)
    table = tables.caption_groups(analysis.load("ccdni", "captions", "desk")).set_index(
        ["network", "group"]
    )
    assert table.value["cRNN"].to_dict() == {"short": 1.0, "medium": 2.0, "long": 3.0}
    assert table.normalised["ccRNN"].to_dict() == {"short": 2.0, "medium": 2.0, "long": 2.0}


def test_claims_become_a_table_that_is_saved_with_full_numbers():
    write("linedraw", "crnn-k1", CORTEX)
    write("linedraw", "ccrnn-k1", BOTH)
    experiments = measures.load("desk")
    out = analysis.Output("ccdni_test", "desk")
    rows = claims.judge(experiments)
    out.table("ccdni_test", rows, experiments.values(), title="t", caption="c")
    path = paths.root() / "desk" / "tables" / "ccdni_test.md"
    assert "holds, p =" in path.read_text(encoding="utf-8")


def bar_texts(cortex: dict[int, float], both: dict[int, float]) -> list[str]:
    rows = [
        {"task": "t", "entry": entry, "network": network, "rule": rule, "seed": s, "value": v}
        for entry, network, rule, values in (
            ("crnn-k1", "cRNN", "bptt", cortex),
            ("ccrnn-k1", "ccRNN", "dni", both),
        )
        for s, v in values.items()
    ]
    figure = figures.bars(pandas.DataFrame(rows), value="value", by="task", ylabel="").figure
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_carry_their_number_of_seeds_and_what_the_paired_test_of_enough_seeds_says():
    few = ({seed: values[seed] for seed in SEEDS[:4]} for values in (CORTEX, BOTH))
    assert bar_texts(*few) == ["n = 4", "n = 4", ""]
    cortex, both = CORTEX | {7: 5.0}, BOTH | {7: 4.6}
    assert 0.001 < stats.ttest_rel(list(cortex.values()), list(both.values())).pvalue < 0.01
    assert bar_texts(cortex, both) == ["n = 5", "n = 5", "**"]


def test_a_figure_without_results_is_no_figure():
    experiments = measures.load("desk")
    linedraw = experiments["linedraw"]
    curves, ratios = (
        tables.curves(linedraw, "train_mse", ["bptt"]),
        tables.horizon(linedraw, "area"),
    )
    column = figures.Column("a", "A", curves)
    for drawing in (
        figures.learning(curves, ylabel=""),
        figures.horizons_in_rows([column], {3: ["bptt"]}),
        figures.horizons({"a": ratios}, ylabel=""),
        figures.traces(linedraw, {"cos_synth_true": ""}, ["ccrnn-k1"], ylabel=""),
        pictures.drawings(linedraw, ["bptt"]),
        pictures.described(experiments["captions"], ["crnn-k4"]),
    ):
        assert drawing.figure is None


def test_full_back_propagation_has_a_colour_of_its_own_and_the_cortex_that_of_its_rule():
    for entry, value in (("crnn-k1", 5.0), ("ccrnn-k1", 4.0), ("bptt", 2.0)):
        write("linedraw", entry, {seed: value for seed in SEEDS})
    drawn = tables.curves(
        analysis.load("ccdni", "linedraw", "desk"), "train_mse", ["bptt", "crnn-k1"]
    )
    colours = {
        line.get_ydata()[0]: line.get_color()
        for line in figures.learning(drawn, ylabel="").figure.axes[0].lines
    }
    assert colours == {2.0: "#D55E00", 5.0: "#7F7F7F"}
