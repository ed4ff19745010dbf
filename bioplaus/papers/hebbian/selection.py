"""Which epoch's accuracy stands for a run, and how it compares with a published one.

The best of many epochs on the set it is reported on is optimistic: it has as many chances as there
are epochs. So next to it stand the last epoch, which nobody chose, and the epoch chosen on
validation data, reported on test data.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from bioplaus.analysis import claims, published
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet, published_runs_of
from bioplaus.analysis.published import Published
from bioplaus.errors import unknown
from bioplaus.experiments.manifest import Run

HOW = {
    "last": "epoch",
    "best": "best of epochs 1 to",
    "validation": "epoch of best validation accuracy, of 1 to",
}


def pick(epochs: Mapping[str, np.ndarray], metric: str, how: str) -> float:
    """The value of `metric` at the epoch that `how` chooses; NaN where it, or what chooses, was not
    recorded.

    Parameters
    ----------
    epochs : a record's columns, one value an epoch.
    how : "last", "best" (the largest `metric`), or "validation" (the first of the largest
        "validation_accuracy").
    """
    if how not in HOW:
        raise unknown("way to choose an epoch", how, HOW)
    chooser = {"last": "epoch", "best": metric, "validation": "validation_accuracy"}[how]
    if metric not in epochs or chooser not in epochs:
        return math.nan
    return float(epochs[metric][int(np.argmax(epochs[chooser]))])


def claim(
    run_set: RunSet,
    entry: str,
    metric: str,
    how: str,
    *,
    published_metric: str | None = None,
    is_error: bool = False,
    unlike: str = "",
) -> Claim:
    """An entry's accuracy, chosen by `how`, beside a published number.

    Nothing is compared across data sets; every parameter that is another one than at preset `paper`
    is said in the claim's note.

    Parameters
    ----------
    published_metric : text in the column `metric` of the published file, for the rows that the
        manifest's entry names; None compares with nothing.
    is_error : the published number is an error rate; its complement is compared.
    unlike : how the published network is another one than ours. The number is then only shown: this
        is the note, and there is no difference and no verdict.
    """
    records = [
        outcome.record
        for outcome in run_set.outcomes
        if outcome.run["entry"] == entry and run_set.status[outcome.run["id"]] == "done"
    ]
    values = [pick(record["epochs"], metric, how) for record in records]
    number = _counterpart(run_set, entry, published_metric, is_error) if published_metric else None
    if number and unlike:
        number = dataclasses.replace(number, note="")
    row = claims.value(
        run_set,
        entry,
        metric,
        HOW[how],
        max((len(record["epochs"]["epoch"]) for record in records), default=0),
        [value for value in values if math.isfinite(value)],
        number,
        left_out=run_set.count(entry, "collapsed", "diverged"),
        no_verdict=unlike or None,
    )
    return dataclasses.replace(row, difference=None) if unlike else row


def _counterpart(run_set: RunSet, entry: str, metric: str, is_error: bool) -> Published | None:
    """The published number that an entry may be held against, with what differs as its note."""
    run = run_set.first_run(entry)
    ours, answered = (
        re.sub(r"[^a-z0-9]", "", str(name).lower())
        for name in (run.parameters["dataset"], (run.published or {}).get("dataset"))
    )
    if ours != answered:
        return None
    number = published.value(run.paper, run.published, metric)
    if number is None:
        return None
    notes = _changes(run, published_runs_of(run.paper, run.experiment)[entry])
    value = 1 - number.value if is_error else number.value
    return dataclasses.replace(number, value=value, note="; ".join(notes))


def _changes(run: Run, reference: Run) -> list[str]:
    """The parameters of a run that are others than at preset paper, in words."""
    here, there = (published.flattened(one.parameters) for one in (run, reference))
    return [
        f"{name} {here.get(name)}, {there.get(name)} at preset paper"
        for name in {**there, **here}
        if name not in ("dataset", "seed") and here.get(name) != there.get(name)
    ]
