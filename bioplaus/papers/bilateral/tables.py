"""From runs of the bilateral experiments to tidy tables: accuracies, outcomes, parameters, and what
is published of them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioplaus import results
from bioplaus.analysis import published, verdicts
from bioplaus.analysis.experiment import RunSet
from bioplaus.papers.bilateral import measures

if TYPE_CHECKING:
    import pandas

COPIES = ("fine-2", "coarse-2", "both-2")  # second networks of a kind: only parts of others
FINE, COARSE = "test_fine_accuracy", "test_coarse_accuracy"
FROM_FINE, CONSISTENCY = "test_coarse_from_fine_accuracy", "test_consistency"


def finals(runs: RunSet, *, copies: bool = False) -> "pandas.DataFrame":
    """What each run that is done reports, one row a run and metric: entry, label, seed, metric,
    value.

    Parameters
    ----------
    copies : keep the second networks that are only parts of others.
    """
    import pandas

    rows = [
        {
            "entry": run["entry"],
            "label": runs.label(run["entry"]),
            "seed": run["seed"],
            "metric": name,
            "value": value,
        }
        for run, record in _done(runs)
        if copies or run["entry"] not in COPIES
        for name, value in record["final"].items()
        if name.startswith(("test_", "validation_"))
    ]
    return pandas.DataFrame(rows, columns=["entry", "label", "seed", "metric", "value"])


def summary(values: "pandas.DataFrame", metrics: Iterable[str]) -> "pandas.DataFrame":
    """Mean over seeds with its 95 % confidence interval: entry, label, metric, mean, low, high, n,
    in entry order.
    """
    import pandas

    rows = []
    for (entry, label, metric), group in values.groupby(["entry", "label", "metric"], sort=False):
        if metric in metrics:
            test = verdicts.student(group.value)
            rows.append(
                {
                    "entry": entry,
                    "label": label,
                    "metric": metric,
                    "mean": group.value.mean(),
                    "low": test.low if test else math.nan,
                    "high": test.high if test else math.nan,
                    "n": len(group),
                }
            )
    return pandas.DataFrame(rows, columns=["entry", "label", "metric", "mean", "low", "high", "n"])


def differences(
    values: "pandas.DataFrame", first: tuple[str, str], second: tuple[str, str]
) -> list[float]:
    """(entry, metric) `first` minus `second` seed by seed, over the seeds that both have.

    Parameters
    ----------
    values : as `finals` gives it; entry, metric, seed and value are read.
    """
    a, b = (
        values[(values.entry == entry) & (values.metric == metric)].set_index("seed").value
        for entry, metric in (first, second)
    )
    common = sorted(set(a.index) & set(b.index))
    return (a.loc[common] - b.loc[common]).astype(float).tolist()


def by_seed(runs: RunSet, *entries: str) -> dict[int, list[dict[str, Any]]]:
    """The records of `entries` for every seed for which all of them are done."""
    records = {(run["entry"], run["seed"]): record for run, record in _done(runs)}
    seeds = sorted({seed for _, seed in records})
    return {
        s: [records[e, s] for e in entries]
        for s in seeds
        if all((e, s) in records for e in entries)
    }


def outcome_table(runs: RunSet) -> "pandas.DataFrame":
    """Images by outcome: seed, then a column for each of `measures.OUTCOMES` by its
    name; images matched by position.
    """
    import pandas

    rows, names = [], [outcome.name for outcome in measures.OUTCOMES]
    for seed, records in by_seed(runs, "fine", "coarse", "specialised").items():
        fine, coarse, joined = (record["predictions"] for record in records)
        label = records[0]["labels"].astype(int)
        superclass = np.asarray(records[0]["coarse_of"])[label]
        right = (
            fine["fine"] == label,
            coarse["coarse"] == superclass,
            joined["fine"] == label,
            joined["coarse"] == superclass,
        )
        index = measures.outcomes(*map(torch.from_numpy, right))
        counts = np.bincount(index.numpy(), minlength=len(measures.OUTCOMES)).tolist()
        rows.append({"seed": seed, **dict(zip(names, counts, strict=True))})
    return pandas.DataFrame(rows, columns=["seed", *names])


def conditional(runs: RunSet) -> "pandas.DataFrame":
    """How often the joined network is right given which hemisphere was, and consistency: name,
    seed, value, published.

    `published` is of one run on CIFAR-100; NaN where nothing was published.
    """
    import pandas

    rows = []
    for counts in outcome_table(runs).to_dict("records"):
        seed = counts.pop("seed")
        fractions = measures.complementarity(list(counts.values()))
        rows += [{"name": name, "seed": seed, "value": value} for name, value in fractions.items()]
    for seed, (fine, coarse, joined) in by_seed(runs, "fine", "coarse", "specialised").items():
        superclass = np.asarray(fine["coarse_of"])
        separate = (
            superclass[fine["predictions"]["fine"]] == coarse["predictions"]["coarse"]
        ).mean()
        rows.append({"name": "consistency_separate", "seed": seed, "value": separate})
        rows.append(
            {"name": "consistency_joined", "seed": seed, "value": joined["final"][CONSISTENCY]}
        )
    known = published_conditional()
    table = pandas.DataFrame(rows, columns=["name", "seed", "value"])
    return table.assign(published=table.name.map(known).astype(float))


_PUBLISHED = {  # metric in the published file -> ours
    "P(fine head right | fine hemisphere alone wrong)": "joined_fine_given_fine_wrong",
    "P(fine head right | fine hemisphere alone right)": "joined_fine_given_fine_right",
    "P(fine head right | fine hemi wrong and coarse hemi right)": (
        "joined_fine_given_fine_wrong_coarse_right"
    ),
    "P(fine head right | both hemis wrong)": "joined_fine_given_both_wrong",
    "P(coarse head right | coarse hemi wrong and fine hemi right)": (
        "joined_coarse_given_coarse_wrong_fine_right"
    ),
    "P(coarse head right | both hemis wrong)": "joined_coarse_given_both_wrong",
}


def published_conditional() -> dict[str, float]:
    """The published conditional fractions by our names."""
    table = published.values("bilateral")
    known = {
        _PUBLISHED[m]: float(v)
        for m, v in zip(table.metric, table.value, strict=True)
        if m in _PUBLISHED
    }
    inside = table[table.metric == "P(fine prediction lies inside coarse prediction)"]
    for model, value in zip(inside.model, inside.value, strict=True):
        name = "consistency_separate" if "separate" in model else "consistency_joined"
        known[name] = float(value)
    return known


def published_accuracies() -> dict[tuple[str, str], float]:
    """The published accuracies of the 2022 form (one run, CIFAR-100) by (entry, metric)."""
    table = published.values("bilateral")
    rows = table[table.figure_or_table == "per-image results file"]
    metrics = {"test_acc_fine": FINE, "test_acc_coarse": COARSE}
    known = {}
    for model, metric, value in zip(rows.model, rows.metric, rows.value, strict=True):
        entry = next((e for start, e in _MODELS.items() if model.startswith(start)), None)
        if entry and metric in metrics:
            known[entry, FROM_FINE if "read off" in model else metrics[metric]] = float(value)
    return known


_MODELS = {"fine hemisphere": "fine", "coarse hemisphere": "coarse", "bilateral": "specialised"}


def parameters(runs: RunSet) -> "pandas.DataFrame":
    """Numbers of parameters of every entry that has run: entry, label, total, trainable,
    with_buffers.
    """
    import pandas

    rows = {
        run["entry"]: {
            "entry": run["entry"],
            "label": runs.label(run["entry"]),
            **record["parameters"],
        }
        for run, record in _done(runs)
    }
    return pandas.DataFrame(
        rows.values(), columns=["entry", "label", "total", "trainable", "with_buffers"]
    )


def _done(runs: RunSet) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(run, record) of the runs that are done, in manifest order."""
    order = {run.id: k for k, run in enumerate(runs.runs)}
    done: list[results.Outcome] = [
        o for o in runs.outcomes if runs.status[o.run["id"]] == "done" and o.record["final"]
    ]
    for outcome in sorted(done, key=lambda o: order[o.run["id"]]):
        yield outcome.run, outcome.record
