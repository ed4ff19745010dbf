"""One architecture and budget for all rules: what is chosen, by what, and what it cost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from bioplaus import analysis, paths, results, rules, train
from bioplaus.analysis import report
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, simulation
from bioplaus.papers.corinfomax import comparison, comparison_figures

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = """
paper: corinfomax
title: "A paper"
experiments:
  comparison:
    title: "All at one size"
    simulation: classify
    parameters: {dataset: digits, n_epochs: 4, validation: 0.2, config: {n_units: [64, 20, 10]}}
    seeds: [0, 10]
    entries:
      ep:
        label: EP
        parameters: {rule: ep}
        grid: {config.lr_ff: [[0.05, 0.025], [0.1, 0.05], [0.2, 0.1]]}
      bp:
        label: BP
        parameters: {rule: bp}
        grid: {config.lr: [0.001, 0.002]}
      fa: {label: FA, parameters: {rule: fa}}
"""
GOOD = [0.5, 0.8, 0.9, 0.85]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(entry, seed, validation, test, ...) saves a complete run of the manifest above at
    preset paper.
    """
    (tmp_path / "Simulations" / "manifests").mkdir(parents=True)
    (tmp_path / "Simulations" / "manifests" / "corinfomax.yaml").write_text(MANIFEST)
    shutil.copytree(ROOT / "Results" / "published", tmp_path / "Results" / "published")
    monkeypatch.setenv("BIOPLAUS_HOME", str(tmp_path))
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / "Results"))

    def make(
        entry,
        seed,
        validation,
        test=None,
        *,
        status="done",
        wall=2.0,
        cpu=2.0,
        flops=10**9,
        with_choice=True,
    ):
        run = next(
            r for r in manifest.runs("paper", ["corinfomax"]) if (r.entry, r.seed) == (entry, seed)
        )
        about = {
            name: getattr(run, name)
            for name in ("id", "paper", "experiment", "entry", "label", "seed")
        }
        results.begin(run.folder, {**about, "parameters": run.parameters})
        history = train.History(divergence={"epoch": 3} if status == "diverged" else None)
        for epoch, (chosen_by, reported) in enumerate(
            zip(validation, test or validation, strict=True)
        ):
            history.epochs.append(
                {"epoch": epoch, "validation_accuracy": chosen_by, "test_accuracy": reported}
            )
        record = {"task": {"n_out": 10}, **history.record(), "useful_flops_per_epoch": flops}
        if with_choice:
            record["selected"] = history.first_best("validation_accuracy")
        n = len(validation) + (status == "diverged")
        results.finish(
            run.folder,
            record,
            seconds={"train": [wall] * n, "evaluate": [9.0] * n, "train_cpu": [cpu] * n},
        )

    return make


def load():
    return analysis.load("corinfomax", "comparison", "paper")


def test_setting_with_the_best_mean_of_validation_accuracies_is_chosen_whatever_the_test_accuracies(
    write,
):
    validation = {1: (0.80, 0.90), 2: (0.88, 0.86), 3: (0.95, 0.60)}  # means 0.85, 0.87, 0.775
    rng = np.random.default_rng(0)
    for _ in range(3):
        for number, seeds in validation.items():
            for seed, best in zip((0, 10), seeds, strict=True):
                write(f"ep-{number}", seed, [0.3, best, best - 0.1], list(rng.uniform(0.2, 1, 3)))
        of_runs = comparison.runs(load())
        assert comparison.choose(of_runs) == {"ep": "ep-2"}
        blind = of_runs.drop(columns=["test_accuracy", "seconds", "cpu_seconds", "gflop"])
        assert comparison.choose(blind) == {"ep": "ep-2"}


def test_first_of_equal_settings_and_the_first_of_equal_epochs_are_kept(write):
    for entry in ("bp-1", "bp-2"):
        write(entry, 0, [0.4, 0.9, 0.9, 0.8], [0.1, 0.7, 0.95, 1.0])
    of_runs = comparison.runs(load())
    assert comparison.choose(of_runs) == {"bp": "bp-1"}
    row = of_runs[(of_runs.entry == "bp-1") & (of_runs.seed == 0)].iloc[0]
    assert (row.kept_epoch, row.validation_accuracy, row.test_accuracy) == (2, 0.9, 0.7)


def test_run_that_ends_before_its_first_evaluation_counts_as_nothing_learned(write):
    write("bp-1", 0, [0.6])
    write("bp-2", 0, [0.99])
    write("bp-2", 10, [], status="diverged")
    runs = load()
    of_runs = comparison.runs(runs)
    chosen = comparison.choose(of_runs)
    assert chosen == {"bp": "bp-1"}
    assert comparison.curves(runs, of_runs, chosen).entry.unique().tolist() == ["bp-1"]


def test_costs_add_up_over_epochs_and_leave_evaluation_out(write):
    write("fa", 0, GOOD, wall=2.5, cpu=2.0, flops=3 * 10**9)
    runs = load()
    of_runs = comparison.runs(runs)
    drawn = comparison.curves(runs, of_runs, comparison.choose(of_runs))
    assert drawn.epoch.tolist() == [1, 2, 3, 4] and drawn.is_kept.tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert drawn.seconds.tolist() == [2.5, 5.0, 7.5, 10.0] and drawn.gflop.tolist() == [3, 6, 9, 12]
    row = comparison.summary(of_runs, {"fa": "fa"}).set_index("key").loc["fa"]
    assert (row.seconds, row.cpu_seconds, row.gflop, row.epochs, row.kept_epoch) == (
        10,
        8,
        12,
        4,
        3,
    )
    assert "80 % of a core" in comparison.timing(of_runs)
    write("fa", 0, GOOD, wall=2.5, cpu=2.45)
    assert comparison.timing(comparison.runs(load())) == ""


def test_collapsed_seed_of_the_chosen_setting_is_counted_and_drawn_but_in_no_mean(write):
    write("ep-2", 0, GOOD, [0.5, 0.7, 0.88, 0.9])
    write("ep-2", 10, [0.5, 0.95, 0.2, 0.1], [0.5, 0.96, 0.2, 0.1])
    write("ep-3", 0, [0.4, 0.3, 0.1, 0.1])
    write("ep-3", 10, [0.4, 0.7], status="diverged")
    runs = load()
    of_runs = comparison.runs(runs)
    chosen = comparison.choose(of_runs)
    assert chosen == {"ep": "ep-2"}
    row = comparison.summary(of_runs, chosen).set_index("key").loc["ep"]
    assert (row.n, row.collapsed, row.diverged, row.n_settings) == (1, 1, 0, 2)
    assert (row.validation_accuracy, row.test_accuracy) == (0.9, 0.88)
    drawn = comparison.curves(runs, of_runs, chosen)
    assert set(zip(drawn.entry, drawn.seed, drawn.status, strict=True)) == {
        ("ep-2", 0, "done"),
        ("ep-2", 10, "collapsed"),
        ("ep-3", 0, "collapsed"),
        ("ep-3", 10, "diverged"),
    }
    figure = comparison_figures.draw(drawn, of_runs).figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == [
        "EP (n = 1, 1 collapsed; other settings: 1 collapsed, 1 diverged)",
        "BP (not run)",
        "FA (not run)",
    ]
    assert labels[3:] == ["epoch kept", "collapsed", "diverged"]
    epochs = figure.axes[0]
    ends = {
        (line.get_marker(), *map(float, line.get_xydata()[-1]))
        for line in epochs.lines
        if len(line.get_xdata()) == 1
    }
    assert ends == {("o", 3, 0.9), ("o", 2, 0.95), ("v", 4, 0.1), ("x", 2, 0.7)}
    widths = {
        len(line.get_xdata()): line.get_linewidth()
        for line in epochs.lines
        if len(line.get_xdata()) == 2
    }
    assert widths == {2: 0.9}
    assert [axes.get_xscale() for axes in figure.axes] == ["linear", "log", "log"]
    choice = comparison_figures.draw_choice(of_runs, chosen).figure.axes[0]
    assert [tick.get_text() for tick in choice.get_xticklabels()] == ["× 1", "× 2"]


def test_settings_are_named_by_what_the_grid_varies_and_scaled_to_its_middle(write):
    of_runs = comparison.runs(load())
    named = of_runs.drop_duplicates("entry").set_index("entry")
    assert named.setting.to_dict() == {
        "ep-1": "lr_ff = 0.05, 0.025",
        "ep-2": "lr_ff = 0.1, 0.05",
        "ep-3": "lr_ff = 0.2, 0.1",
        "bp-1": "lr = 0.001",
        "bp-2": "lr = 0.002",
        "fa": "",
    }
    assert named.factor[["ep-1", "ep-2", "ep-3", "bp-1", "bp-2"]].tolist() == [0.5, 1, 2, 0.5, 1]
    assert pandas.isna(named.factor["fa"])


def test_nothing_to_draw_gives_no_figure_and_a_table_of_dashes(write):
    runs = load()
    of_runs = comparison.runs(runs)
    drawn = comparison.curves(runs, of_runs, comparison.choose(of_runs))
    assert comparison_figures.draw(drawn, of_runs).figure is None
    assert comparison_figures.draw_choice(of_runs, {}).figure is None
    read = comparison.readable(comparison.summary(of_runs, {}))
    assert read["test accuracy"].tolist() == ["–"] * 3
    assert comparison.timing(of_runs) == ""


def test_runs_without_validation_images_are_refused_by_name(write):
    write("fa", 0, GOOD, with_choice=False)
    with pytest.raises(BioplausError, match=r"Run fa-digits-s0-\w+ held out no validation images"):
        comparison.runs(load())


def test_plain_table_is_on_the_page_with_its_markup_escaped(write):
    runs = load().provenance.replace(n={"EP": 1})
    table = pandas.DataFrame({"rule": ["EP <b>"], "test accuracy": ["0.9 | 1"]})
    out = analysis.Output("corinfomax_fig_a", "paper")
    out.frame("corinfomax_fig_a_t", table, table, runs, title="T", caption="C")
    path = paths.root() / "paper" / "tables" / "corinfomax_fig_a_t.md"
    assert path.read_text().splitlines()[2] == "| EP <b> | 0.9 \\| 1 |"
    notebooks = paths.project_root() / "notebooks"
    notebooks.mkdir()
    (notebooks / "corinfomax_fig_a.ipynb").write_text(json.dumps({"cells": []}))
    page = report.render("paper").with_name("corinfomax.html").read_text()
    assert (
        '<th scope="col">test accuracy</th>' in page
        and "<td>EP &lt;b&gt;</td><td>0.9 | 1</td>" in page
    )


def test_notebook_draws_what_is_there_and_says_what_is_missing(write, monkeypatch):
    source = json.loads((ROOT / "notebooks" / "corinfomax_fig_comparison.ipynb").read_text())

    def execute():
        namespace = {}
        for cell in source["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), namespace)
                namespace["preset"] = "paper"
        folders = (paths.root() / "paper" / kind for kind in ("figures", "tables"))
        return {
            path.name for folder in folders for path in folder.glob("corinfomax_fig_comparison_*")
        }

    names = [f"corinfomax_fig_comparison_{what}" for what in ("choice", "cost", "table")]
    assert execute() == {f"{name}.json" for name in names}
    write("ep-2", 0, GOOD)
    write("bp-1", 10, GOOD)
    made = execute()
    assert made > {f"{name}.{kind}" for name in names[:2] for kind in ("png", "pdf", "csv", "json")}
    assert made > {f"{names[2]}.{kind}" for kind in ("csv", "md", "json")}
    cost = json.loads((paths.root() / "paper" / "figures" / f"{names[1]}.json").read_text())
    assert len(cost["missing"]) == 10 and cost["n"]["EP 2"] == 1
    drawn = pandas.read_csv(paths.root() / "paper" / "figures" / f"{names[1]}.csv")
    assert set(drawn.entry) == {"ep-2", "bp-1"} and drawn.validation_accuracy.tolist() == 2 * GOOD


# --- the manifest and the simulation
# ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", manifest.PRESETS)
def test_all_rules_have_the_same_network_images_and_budget_and_a_grid_around_the_published_step(
    preset,
):
    runs = load_real(preset)
    keys = manifest.load("corinfomax").experiments["comparison"].keys
    shared = ("dataset", "n_train", "n_test", "validation", "n_epochs", "batch_size")
    budgets = {
        tuple(str(run.parameters.get(name)) for name in shared)
        + tuple(run.parameters["config"]["n_units"])
        for run in runs.runs
    }
    assert len(budgets) == 1
    of_runs = comparison.runs(runs)
    for _, of_key in of_runs.groupby("key"):
        assert sorted(of_key.factor.unique()) == [0.5, 1, 2]
    names = {"bp", "fa", "ep", "csm", "pc", "pc_nudge", "corinfomax", "corinfomax_sparse"}
    assert set(keys[run.entry] for run in runs.runs) == (
        {"bp", "corinfomax"} if preset == "smoke" else names
    )
    most = {"smoke": 8, "quick": 24, "desk": 24}
    assert len(runs.runs) <= most.get(preset, 10**6)
    seconds = sum(run.seconds for run in runs.runs)
    assert seconds <= {"smoke": 8, "quick": 96, "desk": 1800}.get(preset, float("inf"))


def load_real(preset):
    return analysis.load("corinfomax", "comparison", preset)


@pytest.mark.parametrize("rule", ["bp", "corinfomax"])
def test_simulation_says_which_epoch_validation_chooses_and_what_its_arithmetic_was(rule):
    values = {
        "rule": rule,
        "dataset": "digits",
        "n_train": 130,
        "n_test": 50,
        "validation": 0.2,
        "n_epochs": 4,
    }
    values |= {"config": {"n_units": [64, 12, 10]}, "batch_size": 20}
    ran = simulation.load("classify").run(values)
    record = ran["record"]
    chosen_by = record["epochs"]["validation_accuracy"]
    best = int(np.flatnonzero(chosen_by == chosen_by.max())[0])
    assert record["selected"] == {
        "metric": "validation_accuracy",
        "epoch": best,
        "value": chosen_by[best],
    }
    assert len(ran["task"].splits["validation"][0]) == 26
    # 104 images: five full batches and one of four
    batches = list(ran["task"].batches(20, torch.Generator()))
    learner = rules.make(rule, values["config"], ran["task"].spec)
    assert record["useful_flops_per_epoch"] == sum(learner.useful_flops(len(x)) for x, _ in batches)
    plain = simulation.load("classify").run({**values, "validation": 0.0, "n_epochs": 1})
    assert (
        "selected" not in plain["record"] and "validation_accuracy" not in plain["record"]["epochs"]
    )
