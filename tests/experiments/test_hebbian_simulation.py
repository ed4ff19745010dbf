"""Simulations/hebbian.ipynb and its manifest: both phases, controls, loaded synapses, resume, bad
parameters.
"""

import numpy as np
import pytest

from bioplaus import results, train
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, simulation
from bioplaus.papers.hebbian import synapses

BIO = {
    "config": {"n_units": [64, 20], "k": 2, "lr": 0.04, "snapshot_epochs": [0, 2]},
    "dataset": "digits",
    "n_train": 200,
    "n_test": 100,
    "n_epochs": 4,
    "readout": {"n_epochs": 8, "batch_size": 20, "config": {"lr": 0.02}},
}
CONTROL = {
    **BIO,
    "rule": "bp_batchnorm",
    "phase": "classes",
    "config": {"n_units": [64, 20, 10], "lr": 0.01},
    "readout": {},
}
PATCHES = {
    "config": {"n_units": [16, 9]},
    "dataset": "natural-patches",
    "patches": {"side": 4, "n_patches": 200},
    "n_epochs": 2,
    "readout": {},
}


def run(values, folder) -> dict:
    results.begin(folder, {"id": folder.name})
    simulation.load("hebbian").run({**values, "folders": [str(folder)]})
    assert results.is_complete(folder)
    return results.load(folder / "result.pkl")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(train, "_bar", lambda epochs, *_: epochs)


def test_features_and_readout_are_learned_and_kept(tmp_path):
    record = run(BIO, tmp_path)
    assert record["epochs"]["test_accuracy"][-1] > 0.4  # chance is 0.1
    assert len(record["epochs"]["epoch"]) == 8 and len(record["features"]["epochs"]["epoch"]) == 4
    assert record["task"]["image_shape"] == [1, 8, 8] and record["task"]["n_out"] == 10
    kept = synapses.load(tmp_path / "synapses.npy", (64, 20)).numpy()
    assert np.abs(synapses.unpack(record["weights"]) - kept).max() < 0.02
    assert record["snapshots"]["level"].shape == (2, 20, 64)


def test_control_learns_the_labels_themselves(tmp_path):
    record = run(CONTROL, tmp_path)
    assert record["epochs"]["train_accuracy"][-1] > 0.4
    assert set(record["epochs"]) == {
        "epoch",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
    }
    assert record["weights"]["level"].shape == (20, 64) and "features" not in record


def test_patches_have_features_only(tmp_path):
    record = run(PATCHES, tmp_path)
    assert "n_winners" in record["epochs"] and "test_accuracy" not in record["epochs"]


def test_loaded_synapses_take_the_place_of_training(tmp_path):
    learned = run(BIO, tmp_path / "learned")
    loaded = run(
        {**BIO, "synapses": str(tmp_path / "learned" / "synapses.npy")}, tmp_path / "loaded"
    )
    assert len(loaded["features"]["epochs"]) == 0 and "snapshots" not in loaded
    for name, values in learned["epochs"].items():
        assert np.array_equal(loaded["epochs"][name], values), name


def test_shipped_synapses_read_digits_well(tmp_path):
    values = {
        "config": {"n_units": [64, 100], "k": 2},
        "dataset": "digits",
        "synapses": "competing_hidden-digits",
        "readout": {"n_epochs": 15, "batch_size": 100, "config": {"lr": 0.05}},
    }
    assert run(values, tmp_path)["epochs"]["test_accuracy"][-1] > 0.9


@pytest.mark.parametrize("phase", ["features", "readout"])
def test_run_killed_in_either_phase_ends_with_the_same_bytes(phase, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    run(BIO, whole)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    save, n_saved = train.Checkpoints.save, []

    def save_and_die(self, *values, **how):
        save(self, *values, **how)
        n_saved.append(1)
        if len(n_saved) == (2 if phase == "features" else 4 + 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(train.Checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(BIO, tmp_path / "cut")
    assert not results.is_complete(tmp_path / "cut")
    run(BIO, tmp_path / "cut")
    assert (tmp_path / "cut" / "result.pkl").read_bytes() == (whole / "result.pkl").read_bytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"phase": "clases"}, "unknown phase 'clases'; did you mean 'classes'"),
        ({"second": "unit"}, "unknown second preprocessing 'unit'; did you mean 'unit_norm'"),
        ({"first": "centered"}, "did you mean 'centred'"),
        ({"order": "random"}, "unknown order 'random'"),
        ({"config": {"n_units": [64, 20], "k": 30}}, "k is 30, but there are only 20 hidden units"),
        ({"config": {"n_units": [784, 20], "k": 2}}, "'digits' has 64 inputs"),
        (
            {"readout": {"epochs": 3}},
            "unknown parameter of readout 'epochs'; did you mean 'n_epochs'",
        ),
        (
            {"readout": {"config": {"n_units": [30, 10]}}},
            "n_units must start with 20 and end with 10",
        ),
        ({"synapses": "competing_hidden-digits"}, "holds 100 hidden units with 64 inputs"),
        ({"synapses": "none.npy"}, "Could not read synapses"),
        ({"phase": "classes"}, "learns features without labels"),
        (
            {**PATCHES, "n_train": None, "n_test": None, "readout": {"n_epochs": 2}},
            "A readout needs features of labelled images",
        ),
        ({"n_kept": 0}, "n_kept is 0"),
        (
            {"n_epochs": 1},
            "n_epochs is 1, but snapshot_epochs in config asks for the weights after 2 epochs",
        ),
        (
            {"config": {"n_units": [64, 20], "snapshot_epochs": 3}},
            "must be a list of whole numbers",
        ),
        ({"patches": {"seed": 3}}, "patches is {'seed': 3}, but has no effect"),
        (
            {**PATCHES, "n_train": None, "n_test": None, "patches": {"seed": 3}},
            "seed is a parameter beside patches, not one in patches",
        ),
        (
            {**PATCHES, "n_train": None, "n_test": None, "batch_size": 201},
            "batch_size is 201, but must be from 1 to 200",
        ),
        ({"batch_size": 201}, "batch_size is 201, but must be from 1 to 200"),
        ({"readout": {"batch_size": 201}}, "readout.batch_size is 201, but must be from 1 to 200"),
        (
            {"readout": {"batch_size": 199}},
            "readout.batch_size is 199, which leaves a last batch of 1 (of 200 training inputs)",
        ),
        (
            {**CONTROL, "batch_size": 199},
            "batch_size is 199, which leaves a last batch of 1 (of 200 training inputs), but the"
            " rule normalises over a batch: every batch must have at least 2",
        ),
        ({**CONTROL, "batch_size": 1}, "batch_size is 1, but the rule normalises over a batch"),
        ({"validation": 0.5, "batch_size": 101}, "batch_size is 101, but must be from 1 to 100"),
        (
            {"patches": {"side": 8}},
            "patches is {'side': 8}, but has no effect on data set 'digits'",
        ),
        (
            {**PATCHES, "n_train": 100},
            "n_train is 100, but has no effect on data set 'natural-patches'",
        ),
        ({**PATCHES, "n_train": None}, "n_test is 100, but has no effect"),
        (
            {**PATCHES, "n_train": None, "n_test": None, "validation": 0.1},
            "validation is 0.1, but has no effect",
        ),
        ({**PATCHES, "first": "unit_norm"}, "first is 'unit_norm', but has no effect"),
        (
            {**PATCHES, "n_train": None, "n_test": None, "second": "none"},
            "second is 'none', but has no effect",
        ),
        (
            {"rule": "bp_batchnorm"},
            "phase is 'features', but rule bp_batchnorm learns labels: set phase to 'classes'",
        ),
        (
            {**CONTROL, "phase": "features"},
            "phase is 'features', but rule bp_batchnorm learns labels",
        ),
        (
            {"phase": "classes"},
            "phase is 'classes', but rule competing_hidden learns features without labels",
        ),
        (
            {**CONTROL, "synapses": "competing_hidden-digits"},
            "but phase 'classes' learns all weights",
        ),
    ],
)
def test_parameters_that_cannot_work_are_found_before_anything_is_read(change, sentence):
    with pytest.raises(BioplausError) as refused:
        simulation.load("hebbian").check({**BIO, **change})
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("preset", manifest.PRESETS)
def test_every_run_of_the_manifest_can_work(preset):
    runs = manifest.runs(preset, ["hebbian"])
    more = {"desk": {"widths", "cifar10-jpeg"}, "paper": {"widths"}}.get(preset, set())
    assert {run.experiment for run in runs} == {"demo", "mnist", "cifar10", "patches"} | more
    for planned in runs:
        planned.check()


def test_published_settings_of_the_cifar10_notebook_are_those_of_the_specification():
    runs = {run.entry: run.parameters for run in manifest.runs("paper", ["hebbian"], "cifar10")}
    bio, bp, linear = runs["bio"], runs["bp"], runs["linear"]
    assert bio["config"]["n_units"] == [3072, 2000] and (bio["n_epochs"], bio["batch_size"]) == (
        1000,
        1000,
    )
    assert [bio["config"][name] for name in ("p", "k", "delta", "lr", "power")] == [
        2.0,
        2,
        0.2,
        0.04,
        4.5,
    ]
    assert (bio["first"], bio["second"], bio["order"], bio["validation"]) == (
        "centred",
        "row_centred",
        "fixed",
        0.1,
    )
    assert bio["readout"] == {
        "n_epochs": 500,
        "batch_size": 100,
        "config": {"lr": 0.4, "lr_decay": 0.7, "n_decay_steps": 20000},
    }
    assert (bp["second"], bp["n_epochs"], bp["batch_size"], bp["config"]["lr"]) == (
        "none",
        20,
        1000,
        0.001,
    )
    assert (linear["second"], linear["n_epochs"], linear["config"]["start_step"]) == (
        "row_centred",
        10,
        225000,
    )
    # 225000 steps of the readout: 500 epochs of 45000 / 100 batches
    assert (
        linear["config"]["start_step"]
        == bio["readout"]["n_epochs"] * 45000 // bio["readout"]["batch_size"]
    )
