"""Learning curves as the published scripts save them: one array with an axis each for seeds,
models, metrics and epochs.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioplaus import _files
from bioplaus.analysis.experiment import RunSet


@dataclass(frozen=True)
class Export:
    """Results in the published layout: `values` is (seeds, models, metrics, epochs), each axis with
    its labels.

    NaN stands for what a run did not measure. (The published linedraw arrays lack the axis of
    models, whatever their README says: `values[:, 0]` is that layout.)
    """

    values: np.ndarray
    seeds: list[int]
    models: list[str]
    metrics: list[str]
    epochs: list[int]

    def save(self, path: str | Path) -> Path:
        """Write `values` as a numpy file, as the published scripts do, and the labels of its axes
        as JSON beside it.

        Parameters
        ----------
        path : with or without its ending, .npy.

        Returns
        -------
        Path of the array; `.json` in place of `.npy` is that of the labels.
        """
        path = Path(path).with_suffix(".npy")
        content = io.BytesIO()
        np.save(content, self.values)
        _files.make_folder(path.parent)
        _files.write_atomic(path, content.getvalue())
        axes = {name: getattr(self, name) for name in ("seeds", "models", "metrics", "epochs")}
        _files.write_json(path.with_suffix(".json"), {"axes": list(axes), **axes})
        return path


def export(runs: RunSet, metrics: Sequence[str], entries: Sequence[str] | None = None) -> Export:
    """The learning curves of an experiment as one labelled array."""
    entries = list(entries or runs.entries)
    curves = {
        (o.run["entry"], o.run["seed"]): o.record["epochs"]
        for o in runs.outcomes
        if o.run["entry"] in entries
    }
    seeds = list(dict.fromkeys(run.seed for run in runs.runs))
    n_epochs = max((len(epochs["epoch"]) for epochs in curves.values()), default=0)
    values = np.full((len(seeds), len(entries), len(metrics), n_epochs), np.nan)
    for (entry, seed), epochs in curves.items():
        for m, metric in enumerate(metrics):
            column = epochs.get(metric, ())
            values[seeds.index(seed), entries.index(entry), m, : len(column)] = column
    return Export(values, seeds, entries, list(metrics), list(range(1, n_epochs + 1)))
