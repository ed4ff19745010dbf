"""The forecast: like runs first, then the manifest's figures, and each record is read once."""

import pytest
from toy import silent

from bioplaus import results
from bioplaus.experiments import manifest, sweep
from bioplaus.experiments.forecast import KERNEL_SECONDS, forecast


def test_a_forecast_uses_what_like_runs_took_and_else_the_manifest(project, rewrite):
    runs = manifest.runs("paper", only="plain")
    assert forecast(runs, 1) is None
    rewrite("plain: {label: Plain}", "plain: {label: Plain, seconds: 30}")
    runs = manifest.runs("paper", only="plain")
    assert forecast(runs, 1) == 2 * (30 + KERNEL_SECONDS)
    sweep.execute(runs[:1], inline=True, report=silent)  # says it took 0.1 s
    assert forecast(runs[1:], 1) == pytest.approx(0.1 + KERNEL_SECONDS)
    assert forecast(runs, 2) == pytest.approx(0.1 + KERNEL_SECONDS)  # no run is split


def test_a_forecast_is_in_proportion_to_the_epochs(project):
    path = project / "Simulations" / "act.ipynb"
    path.write_text(path.read_text().replace("seed: int = 0", "seed: int = 0\\nn_epochs: int = 1"))
    # says it took 0.1 s
    sweep.execute(manifest.runs("smoke", overrides={"n_epochs": 2}), inline=True, report=silent)
    longer = manifest.runs("smoke", overrides={"n_epochs": 200})
    assert forecast(longer, 1) == pytest.approx(10 + KERNEL_SECONDS)


def test_a_forecast_reads_each_run_once(project, monkeypatch):
    runs = manifest.runs("paper")
    sweep.execute(runs, inline=True, report=silent)
    read, read_run = [], results.read_run
    monkeypatch.setattr(results, "read_run", lambda folder: read.append(folder) or read_run(folder))
    assert forecast(runs, 1) is not None
    assert sorted(read) == sorted(run.folder for run in runs)
