"""Numbers of the cerebro-cerebellar experiments by seed: areas, epochs, tests, paired differences.

A cRNN and a ccRNN of one seed start from the same cortex and see the same data, so every comparison
is paired by seed.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bioplaus import analysis
from bioplaus.analysis import published
from bioplaus.analysis.experiment import RunSet
from bioplaus.results import Outcome

if TYPE_CHECKING:
    import pandas

PAPER = "ccdni"
EXPERIMENTS = (
    "linedraw",
    "linedraw-lesions",
    "draw-line",
    "draw-digit",
    "discrimination",
    "discrimination-record",
    "captions",
)
TASKS = {  # experiment -> what its task is called in figures and tables
    "linedraw": "simple line drawing",
    "draw-line": "line from rows",
    "draw-digit": "digit from rows",
    "discrimination": "discrimination",
}


def load(preset: str) -> dict[str, RunSet]:
    """Every experiment of the paper that has a figure or table, by name."""
    return {name: analysis.load(PAPER, name, preset) for name in EXPERIMENTS}


def differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """a - b seed by seed, over the seeds that both have, in their order."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def good(runs: RunSet, entry: str) -> list[Outcome]:
    """The outcomes of an entry's runs that ended well."""
    return [
        o
        for o in runs.outcomes
        if o.run["entry"] == entry and o.record.get("status", "done") == "done"
    ]


def area(runs: RunSet, entry: str, metric: str = "train_mse") -> dict[int, float]:
    """Seed -> mean of a metric over all epochs: the area under the learning curve, in the metric's
    unit.
    """
    return {o.run["seed"]: float(np.mean(o.record["epochs"][metric])) for o in good(runs, entry)}


def at_epoch(runs: RunSet, entry: str, metric: str, epoch: int = -1) -> dict[int, float]:
    """Seed -> a metric after `epoch` epochs (1-based; -1: the last); runs that are shorter are left
    out.
    """
    values = {o.run["seed"]: o.record["epochs"].get(metric, ()) for o in good(runs, entry)}
    index = epoch - 1 if epoch > 0 else epoch
    return {seed: float(v[index]) for seed, v in values.items() if len(v) > max(index, 0)}


def best(runs: RunSet, entry: str, metric: str) -> dict[int, float]:
    """Seed -> the lowest value of a metric over epochs."""
    return {o.run["seed"]: float(np.min(o.record["epochs"][metric])) for o in good(runs, entry)}


def tested(runs: RunSet, entry: str, name: str) -> dict[int, float]:
    """Seed -> a value of the test made after training."""
    return {
        o.run["seed"]: float(o.record["test"][name])
        for o in good(runs, entry)
        if name in o.record["test"]
    }


def lesion_epochs(runs: RunSet) -> dict[str, int]:
    """Entry -> the first epoch with its lesion, at the analysis' preset."""
    configs = {run.entry: run.parameters["config"] for run in runs.runs}
    epochs = {
        entry: c.get("lesion_epoch") or c.get("io_lesion_epoch") for entry, c in configs.items()
    }
    return {entry: epoch for entry, epoch in epochs.items() if epoch}


def share(runs: RunSet, entry: str) -> float:
    """How far back an error reaches in an entry without a cerebellum, as a part of the sequence;
    NaN before it has run.

    That is K / T, but where only the last step has a target: there the last truncation alone has a
    loss, and it has T - K floor((T - 1) / K) steps, which at T = 28 and K = 3 is one.
    """
    for outcome in good(runs, entry):
        config, n_steps = outcome.record["config"], outcome.record["task"]["n_steps"]
        k = config["n_truncation"] or n_steps
        if config.get("loss") == "xent":
            k = n_steps - k * ((n_steps - 1) // k)
        return k / n_steps
    return math.nan


def truncations(runs: RunSet, cortex: str = "crnn", cerebellum: str = "ccrnn") -> list[int]:
    """The K for which both networks are planned, ascending."""

    def planned(prefix: str) -> set[int]:
        names = (entry.partition("-k") for entry in runs.entries)
        return {int(k) for name, _, k in names if name == prefix and k}

    return sorted(planned(cortex) & planned(cerebellum))


def values(runs: RunSet, entry: str, value: str) -> dict[int, float]:
    """Seed -> "area" (of the training error), a value of the test ("test_..."), or a metric at the
    last common epoch.

    That is the last epoch that all runs of the experiment have: not all train equally long.
    """
    if value == "area":
        return area(runs, entry)
    if value.startswith("test_"):
        return tested(runs, entry, value)
    lengths = [len(o.record["epochs"]["epoch"]) for name in runs.entries for o in good(runs, name)]
    return at_epoch(runs, entry, value, min(lengths, default=-1))


def reference_areas(runs: RunSet, entry: str) -> list[float]:
    """Areas under the training error that the published engine gave with an entry's parameters, one
    a seed.

    They were measured for this project's specification (a port to a current torch, few seeds).
    """
    table = published.read(PAPER, "reference_runs")
    return list(table[_is_same(table, runs, entry)].auc_train_mse)


def _is_same(reference: "pandas.DataFrame", runs: RunSet, entry: str) -> "pandas.Series":
    """Which of the reference runs have an entry's parameters."""
    run = runs.first_run(entry)
    c = run.parameters["config"]
    is_dni = run.parameters["rule"] == "dni"
    is_mended = c.get("bootstrap_last") is False
    same = reference.model == ("DNI_LSTM" if is_dni else "LSTM")
    same &= reference.variant == ("no bootstrap on last truncation" if is_mended else "reference")
    same &= reference["K"] == c["n_truncation"]
    if is_dni:
        same &= (reference.synth_hidden_layers == c.get("n_synth_layers", 1)) & (
            reference.nfibres == "dense"
        )
    for name, column in (("lesion_epoch", "lesion_epoch"), ("io_lesion_epoch", "io_lesion_epoch")):
        wanted = c.get(name)
        same &= reference[column].isna() if wanted is None else reference[column] == wanted
    return same & (c.get("keep_stale_grads") is not False)
