"""A small project of its own: a manifest, the published numbers, and results made up by the
tests.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioplaus import results
from bioplaus.analysis import style
from bioplaus.experiments import manifest

os.environ["MPLBACKEND"] = "agg"  # read when matplotlib is first imported: no test opens a window
ROOT = Path(__file__).resolve().parents[2]

MANIFEST = """
paper: corinfomax
title: "A paper <b>with markup</b> & more"
experiments:
  mnist:
    title: "MNIST, 500 units"
    simulation: classify
    parameters: {dataset: mnist, n_epochs: 50, batch_size: 20}
    seeds: [0, 10, 20]
    presets:
      desk: {parameters: {n_epochs: 10}}
      quick: {parameters: {dataset: digits, n_epochs: 4, config: {n_units: [64, 20, 10]}}}
    entries:
      corinfomax:
        label: CorInfoMax
        parameters: {rule: corinfomax, config: {n_units: [784, 500, 10], lr_neural: 0.05}}
        published:
          algorithm: CorInfoMax
          dataset: MNIST
          architecture: 784-500-10
          setting: 3
          nearest: {setting: 1}
      ep:
        label: EP
        parameters: {rule: ep, config: {n_units: [784, 500, 10]}}
        published: {algorithm: EP, dataset: MNIST, architecture: 784-500-10}
        presets: {desk: {parameters: {n_epochs: 50}}}
      toy:
        label: Toy
        parameters: {rule: toy, config: {n_units: [784, 500, 10]}}
"""


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    """Figures look as in the notebooks, and none outlives its test."""
    from matplotlib import pyplot as plt

    style.use_style()
    yield
    plt.close("all")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root with a manifest of three entries and the repository's published numbers."""
    (tmp_path / "Simulations" / "manifests").mkdir(parents=True)
    (tmp_path / "Simulations" / "manifests" / "corinfomax.yaml").write_text(MANIFEST)
    shutil.copytree(ROOT / "Results" / "published", tmp_path / "Results" / "published")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("BIOPLAUS_HOME", str(tmp_path))
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / "Results"))
    return tmp_path


Write = Callable[..., manifest.Run]


@pytest.fixture
def write(home: Path) -> Write:
    """write(preset, entry, seed, test, ...) saves a complete run of the manifest, with these
    accuracies.
    """

    def make(
        preset: str,
        entry: str,
        seed: int,
        test: Sequence[float],
        train: Sequence[float] | None = None,
        angles: dict[int, float] | None = None,
        status: str = "done",
    ) -> manifest.Run:
        run = next(
            r for r in manifest.runs(preset, ["corinfomax"]) if r.entry == entry and r.seed == seed
        )
        named: dict[str, Any] = {
            name: getattr(run, name) for name in ("id", "paper", "experiment", "entry", "label")
        }
        results.begin(
            run.folder, {**named, "preset": preset, "seed": seed, "parameters": run.parameters}
        )
        angles = angles or {}
        diagnostics = (
            {"batch": np.array([*angles]), "angle_2_deg": np.array([*angles.values()], float)}
            if angles
            else {}
        )
        record = {
            "status": status,
            "task": {"n_out": 10},
            "epochs": {
                "epoch": np.arange(len(test)),
                "train_accuracy": np.asarray(test if train is None else train, float),
                "test_accuracy": np.asarray(test, float),
            },
            "diagnostics": diagnostics,
        }
        results.finish(run.folder, record)
        return run

    return make
