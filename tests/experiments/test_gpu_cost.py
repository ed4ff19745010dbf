"""What runs cost on a GPU: by hand for sizes that were measured, in proportion for larger ones."""

import json

import pytest

from bioplaus import rules
from bioplaus.cli import app
from bioplaus.experiments import forecast, gpu_cost, manifest

EP = {"rule": "ep", "label": "784-500-10", "batch_size": 20, "note": ""}


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A table of one measured step: 4 ms eager, 1 ms alone, 2 ms for 10 seeds together."""
    row = {**EP, "eager": 4.0, "graph": 1.0, "side_by_side": {"10": 0.2}}
    path = tmp_path / "gpu_steps.json"
    path.write_text(json.dumps({"machine": {"name": "A card"}, "rows": [row]}))
    monkeypatch.setattr(gpu_cost, "STEPS", path)
    return path


def _runs(n_seeds, only="corinfomax/mnist/ep", **overrides):
    runs = manifest.runs("paper", only=only, seeds=range(n_seeds), overrides=overrides)
    assert runs
    return runs


@pytest.mark.parametrize(
    ("n_seeds", "most", "milliseconds"),
    # alone 1; ten together 2; between them on a line; beyond, in proportion to the largest
    [(1, None, 1.0), (10, None, 2.0), (4, None, 1 + 3 / 9), (10, 1, 10.0), (10, 5, 2 * (1 + 4 / 9))]
    + [(15, None, 3.0), (20, 16, 4.0)],
)
def test_a_measured_step_costs_its_time_as_often_as_there_are_batches(
    steps, n_seeds, most, milliseconds
):
    cost = gpu_cost.cost(_runs(n_seeds, n_epochs=7), most)
    assert cost.seconds == pytest.approx(7 * 3000 * milliseconds / 1e3)  # 60,000 images by 20
    assert (cost.device, cost.measured) == ("A card", ["corinfomax/mnist/ep"])
    assert cost.scaled == cost.unknown == []


def test_a_larger_step_costs_in_proportion_and_a_smaller_one_the_same(steps):
    ran = 3000 * 1e-3
    for widths, is_larger in (([784, 1500, 10], True), ([784, 20, 10], False)):
        values = {"config.n_units": widths, "n_epochs": 1}
        (run,) = _runs(1, **values)
        ratio = rules.make("ep", run.parameters["config"]).useful_flops(20) / rules.make(
            "ep"
        ).useful_flops(20)
        cost = gpu_cost.cost([run])
        assert cost.seconds == pytest.approx(ran * ratio if is_larger else ran)
        assert (ratio > 1) == is_larger and cost.scaled == ["corinfomax/mnist/ep"]


def test_what_only_the_data_tell_is_not_counted_and_named(steps):
    cost = gpu_cost.cost(_runs(1, only="ccdni/captions/crnn-k4"))
    assert (cost.seconds, cost.unknown) == (0.0, ["ccdni/captions/crnn-k4"])


def test_features_and_their_readout_are_both_counted(steps):
    values = {"dataset": "mnist", "n_train": 60000, "n_epochs": 2, "batch_size": 1000}
    values |= {"readout.n_epochs": 3, "readout.batch_size": 100, "config.snapshot_epochs": []}
    (run,) = _runs(1, only="hebbian/demo", **values)
    trained = gpu_cost._trainings(run)
    assert [(one.rule, one.n_epochs, one.batch_size) for one in trained] == [
        ("competing_hidden", 2, 1000),
        ("bp_batchnorm", 3, 100),
    ]
    assert {one.spec.n_train for one in trained} == {60000}


def test_the_table_that_is_shipped_is_of_steps_that_there_are():
    content = json.loads(gpu_cost.STEPS.read_text())
    estimate = gpu_cost._Estimate(content["rows"])
    assert len(estimate._steps) == len(content["rows"]) and content["machine"]["name"]
    for step in estimate._steps:
        assert list(step.counts) == sorted(step.counts) and step.counts[0] == 1
        assert step.seconds(1) <= step.seconds(16) <= 16.5 * step.seconds(1)


def test_the_manifests_say_what_a_preset_costs_on_a_core(capsys):
    runs = manifest.runs("paper")
    seconds, n_without = forecast.cost(runs)
    given = {run.folder: run.seconds for run in runs}
    assert seconds == sum(value for value in given.values() if value is not None)
    assert n_without == sum(value is None for value in given.values())
    with pytest.raises(SystemExit):
        app(["status", "--preset", "paper", "--paper", "ccdni", "--only", "linedraw/*"])
    assert "By the manifests they cost" in capsys.readouterr().out


def test_status_says_what_runs_cost_on_a_gpu_that_need_not_be_here(steps, capsys, tmp_path):
    options = ["--preset", "paper", "--only", "corinfomax/mnist/ep", "--device", "cuda"]
    with pytest.raises(SystemExit):
        app(["status", *options, "--results", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()[-1]
    (first, *_) = runs = manifest.runs("paper", only="corinfomax/mnist/ep")
    seconds = first.parameters["n_epochs"] * 3000 * len(runs) * 0.2e-3
    assert f"they cost {seconds / 60:.0f} minutes of one A card" in said
    assert "of the entries 1 as measured" in said
