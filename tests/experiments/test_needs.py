"""Runs that are built from other runs: their ids, their order, and what happens when one of them is
not there.
"""

import shutil

import pytest
from toy import on_dask, silent

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import completion, manifest, sweep

MANIFEST = """
paper: toy
title: A toy paper
experiments:
  stages:
    title: Two specialists and what joins them
    simulation: act
    parameters: {rule: toy}
    seeds: [0, 1]
    presets: {quick: {parameters: {rate: 0.5}}, smoke: {seeds: [0]}}
    entries:
      above: {needs: {config.below: joined}}
      joined: {needs: {config.left: left, config.right: right-2}}
      left: {parameters: {value: 2.0}}
      right: {grid: {value: [3.0, 4.0]}}
"""


@pytest.fixture
def stages(project):
    """Write the manifest, with one piece of its text replaced."""

    def write(old="", new=""):
        assert old in MANIFEST
        path = project / "Simulations" / "manifests" / "toy.yaml"
        path.write_text(MANIFEST.replace(old, new, 1))

    write()
    return write


def runs(**how):
    return {(run.entry, run.seed): run for run in manifest.runs("paper", **how)}


def test_a_parameter_receives_the_id_of_the_needed_run_of_the_same_seed(stages):
    found = runs()
    for seed in (0, 1):
        config = found["joined", seed].parameters["config"]
        assert config == {"left": found["left", seed].id, "right": found["right-2", seed].id}
        assert found["joined", seed].needs == {
            "config.left": config["left"],
            "config.right": config["right"],
        }
        assert found["above", seed].parameters["config"] == {"below": found["joined", seed].id}
        assert found["left", seed].needs == {}


def test_an_id_changes_when_anything_it_is_built_from_changes(stages):
    before = runs()
    stages("value: 2.0", "value: 2.5")
    after = runs()
    changed = {entry for entry, seed in before if before[entry, seed].id != after[entry, seed].id}
    assert changed == {"left", "joined", "above"}


def test_ids_hold_no_path(stages, project, monkeypatch):
    before = {key: run.id for key, run in runs().items()}
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(project / "elsewhere"))
    assert {key: run.id for key, run in runs().items()} == before


def test_only_brings_what_is_needed_along(stages):
    assert set(runs(only="above")) == {
        (e, s) for e in ("above", "joined", "left", "right-2") for s in (0, 1)
    }
    assert set(runs(only="joined", seeds=[5])) == {("joined", 5), ("left", 5), ("right-2", 5)}
    assert set(runs(only="left")) == {("left", 0), ("left", 1)}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "config.left: left",
            "config.left: lefft",
            "toy.yaml, stages/joined, needs: unknown entry 'lefft'; did you mean",
        ),
        (
            "config.right: right-2",
            "config.right: right",
            "unknown entry 'right'; did you mean 'right-",
        ),
        ("{parameters: {value: 2.0}}", "{needs: {value: above}}", "need one another in a circle"),
        ("{parameters: {value: 2.0}}", "{needs: {value: left}}", "circle: left needs left"),
        (
            "{parameters: {value: 2.0}}",
            "{presets: {quick: false}}",
            "joined needs left with seed 0, which preset quick",
        ),
        (
            "{parameters: {value: 2.0}}",
            "{seeds: [0]}",
            "joined needs left with seed 1, which preset",
        ),
        (
            "needs: {config.below: joined}",
            "needs: [joined]",
            "toy.yaml, experiments/stages/entries/above/needs",
        ),
    ],
)
def test_a_wrong_need_is_one_sentence(stages, old, new, sentence):
    stages(old, new)
    with pytest.raises(BioplausError) as error:
        manifest.runs("quick" if "quick" in new else "paper")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_are_executed_after_what_they_need_wherever_the_manifest_lists_them(stages):
    lines = []
    summary = sweep.execute(manifest.runs("smoke"), inline=True, report=lines.append)
    assert len(summary.done) == 5
    order = [line.split("stages/")[1].split()[0] for line in lines]
    assert (
        order.index("above")
        > order.index("joined")
        > max(order.index("left"), order.index("right-2"))
    )


def test_a_failed_need_stops_only_what_needs_it(stages):
    stages("{parameters: {value: 2.0}}", "{parameters: {mishap: raise}}")
    found = {run.entry: run for run in manifest.runs("smoke")}
    summary = sweep.execute(list(found.values()), inline=True, report=silent)
    assert set(summary.failed) == {found[entry].id for entry in ("left", "joined", "above")}
    assert (
        summary.failed[found["joined"].id]
        == f"not started: needs left ({found['left'].id}), which failed"
    )
    assert (
        summary.failed[found["above"].id]
        == f"not started: needs {found['joined'].id}, which is missing"
    )
    assert set(summary.done) == {found["right-1"].id, found["right-2"].id}
    assert not (found["joined"].folder / "run.json").exists()


def test_nothing_is_built_from_a_run_that_diverged(stages):
    stages("{parameters: {value: 2.0}}", "{parameters: {mishap: diverge}}")
    found = {run.entry: run for run in manifest.runs("smoke")}
    for _ in range(2):  # the second time the diverged run is already there
        summary = sweep.execute(list(found.values()), inline=True, report=silent)
        assert "needs left" in summary.failed[found["joined"].id]
        assert summary.failed[found["joined"].id].endswith("which diverged")


def test_a_needed_run_that_is_only_collected_is_made_again(stages):
    found = {run.entry: run for run in manifest.runs("smoke")}
    sweep.execute(list(found.values()), inline=True, report=silent)
    results.collect(found["left"].experiment_folder)
    shutil.rmtree(found["left"].experiment_folder)
    every = list(found.values())
    assert completion.pending(every) == []  # all are collected, nobody asks for files
    (found["left"].experiment_folder.with_name("stages.pkl")).unlink()
    sweep.execute([found["left"]], inline=True, report=silent)
    results.collect(found["left"].experiment_folder)
    shutil.rmtree(found["left"].experiment_folder)
    assert [run.entry for run in completion.pending(every)] == [
        "above",
        "joined",
        "left",
        "right-1",
        "right-2",
    ]


@pytest.mark.parametrize("mishap", ["", "raise"])
def test_on_dask_a_run_waits_for_what_it_needs(stages, scheduler, mishap):
    stages("{parameters: {value: 2.0}}", f"{{parameters: {{mishap: '{mishap}'}}}}")
    todo = completion.pending(manifest.runs("smoke"))
    outcomes = on_dask(todo, scheduler)
    ended = {run.entry: (outcome.status, outcome.message) for run, outcome in outcomes}
    if mishap:
        assert [ended[entry][0] for entry in ("right-2", "left", "joined", "above")] == [
            "done"
        ] + 3 * ["failed"]
        assert ended["joined"][1].startswith("not started: needs left")
        sentence = "RuntimeError: this seed is unlucky (act.ipynb cell 2, line "
        assert ended["left"][1].startswith(sentence)
    else:
        assert {status for status, _ in ended.values()} == {"done"} and len(ended) == 5
