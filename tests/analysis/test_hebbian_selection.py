"""Which epoch is reported, and what it is held against."""

import dataclasses
import math

import numpy as np
import pytest

from bioplaus import paths, results
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.experiment import load as load_runs
from bioplaus.analysis.verdicts import Verdict
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest
from bioplaus.papers.hebbian import selection

EPOCHS = {
    "epoch": np.arange(4),
    "test_accuracy": np.array([0.5, 0.9, 0.7, 0.8]),
    "validation_accuracy": np.array([0.4, 0.6, 0.75, 0.75]),
}


@pytest.mark.parametrize(("how", "expected"), [("last", 0.8), ("best", 0.9), ("validation", 0.7)])
def test_epoch_is_chosen_as_asked_and_the_first_of_equals_wins(how, expected):
    assert selection.pick(EPOCHS, "test_accuracy", how) == expected


def test_what_was_not_recorded_is_no_number():
    assert math.isnan(selection.pick(EPOCHS, "train_accuracy", "last"))
    assert math.isnan(
        selection.pick(
            {"epoch": np.arange(2), "test_accuracy": np.ones(2)}, "test_accuracy", "validation"
        )
    )


def test_unknown_way_to_choose_is_named():
    with pytest.raises(BioplausError, match="unknown way to choose an epoch 'latest'"):
        selection.pick(EPOCHS, "test_accuracy", "latest")


def runs_of(preset: str, entry: str, records: list[dict], experiment: str = "cifar10") -> RunSet:
    """What `analysis.load` gives, with one run a record."""
    planned = next(
        run
        for run in manifest.runs(preset, ["hebbian"])
        if (run.experiment, run.entry) == (experiment, entry)
    )
    runs = [dataclasses.replace(planned, seed=seed) for seed in range(len(records))]
    outcomes = [
        results.Outcome(run={"entry": entry, "id": run.id}, record={"epochs": epochs})
        for run, epochs in zip(runs, records, strict=True)
    ]
    return RunSet(
        paper="hebbian",
        experiment=experiment,
        preset=preset,
        title="",
        runs=tuple(runs),
        outcomes=tuple(outcomes),
        n_foreign=0,
        differences={entry: "other data"},
    )


def test_shorter_runs_are_held_against_the_published_number_and_say_what_differs():
    other = {**EPOCHS, "test_accuracy": EPOCHS["test_accuracy"] - 0.4}
    row = selection.claim(
        shortened(runs_of("desk", "bio", [EPOCHS, other]), n_epochs=200),
        "bio",
        "test_accuracy",
        "best",
        published_metric="best accuracy over epochs on the TEST set (10000)",
    )
    assert row.published == 0.4997 and row.n == 2
    assert row.ours == pytest.approx(0.7) and row.difference == pytest.approx(0.7 - 0.4997)
    assert "n_epochs 200, 1000 at preset paper" in row.note and "n_units" not in row.note
    assert (row.axis, row.x) == ("best of epochs 1 to", 4)


def shortened(runs: RunSet, **parameters) -> RunSet:
    """The same runs with other parameters."""
    changed = [
        dataclasses.replace(run, parameters={**run.parameters, **parameters}) for run in runs.runs
    ]
    named = zip(changed, runs.outcomes, strict=True)
    return dataclasses.replace(
        runs,
        runs=tuple(changed),
        outcomes=tuple(
            results.Outcome({**one.run, "id": run.id}, one.record) for run, one in named
        ),
    )


def test_another_data_set_is_held_against_nothing():
    row = selection.claim(
        runs_of("quick", "bio", [EPOCHS]),
        "bio",
        "test_accuracy",
        "best",
        published_metric="best accuracy over epochs on the TEST set (10000)",
    )
    assert row.published is None and row.ours == 0.9


def test_published_error_is_turned_into_an_accuracy():
    row = selection.claim(
        runs_of("paper", "bp", [EPOCHS], "mnist"),
        "bp",
        "test_accuracy",
        "last",
        published_metric="test error at epoch 300",
        is_error=True,
    )
    assert row.published == pytest.approx(0.985) and row.verdict is Verdict.SHOWN


def test_every_published_number_that_the_table_names_is_in_the_file():
    """A name that the file does not have would be no comparison, silently."""
    import json

    from bioplaus.analysis import published

    source = json.loads(
        (paths.project_root() / "notebooks" / "hebbian_tab_accuracy.ipynb").read_text()
    )
    texts = "".join("".join(cell["source"]) for cell in source["cells"])
    known = set(published.values("hebbian").metric)
    named = [name for name in known if f'"{name}"' in texts]
    assert len(named) == 6


def test_runs_that_are_not_done_are_left_out_and_counted():
    collapsed = {**EPOCHS, "test_accuracy": np.array([0.5, 0.9, 0.7, 0.2])}
    row = selection.claim(
        runs_of("desk", "bio", [EPOCHS, collapsed]),
        "bio",
        "test_accuracy",
        "best",
        published_metric="best accuracy over epochs on the TEST set (10000)",
    )
    assert row.n == 1 and "1 of 2 seeds collapsed or diverged" in row.note


def test_number_of_another_network_is_shown_without_difference_or_verdict():
    how = {
        "published_metric": "test error at epoch 300",
        "is_error": True,
        "unlike": "of a wider network",
    }
    row = selection.claim(
        runs_of("paper", "bp", [EPOCHS], "mnist"), "bp", "test_accuracy", "last", **how
    )
    assert row.published == pytest.approx(0.985) and row.ours == pytest.approx(0.8)
    assert (row.difference, row.z, row.verdict) == (None, None, Verdict.SHOWN)
    assert row.note == "of a wider network"
    digits = runs_of("quick", "bp", [EPOCHS], "mnist")  # there is nothing to be unlike
    row = selection.claim(digits, "bp", "test_accuracy", "last", **how)
    assert row.verdict is Verdict.UNPUBLISHED


def test_remarks_of_a_table_deny_no_number_that_its_rows_show():
    runs = load_runs("hebbian", "cifar10", "quick")
    remarks = " ".join(runs.held_beside(["bio"]).provenance.remarks)
    assert "No published counterpart for BP, linear control: the data set is" in remarks
    assert "BIO" not in remarks and "BIO" in " ".join(runs.provenance.remarks)
