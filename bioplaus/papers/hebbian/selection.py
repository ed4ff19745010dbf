"""Which epoch's accuracy stands for a run, how it compares with a published one, and curves of all
epochs.

The best of many epochs on the set it is reported on is optimistic: it has as many chances as there
are epochs. So next to it stand the last epoch, which nobody chose, and the epoch chosen on
validation data, reported on test data.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.analysis import plots, published
from bioplaus.errors import unknown
from bioplaus.experiments import manifest

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from bioplaus.analysis.experiment import Analysis
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
    found: "Analysis",
    entry: str,
    metric: str,
    how: str,
    *,
    published_metric: str | None = None,
    is_error: bool = False,
    unlike: str = "",
) -> dict[str, Any]:
    """An entry's accuracy, chosen by `how`, beside a published number: a row for `tables.save`.

    Nothing is compared across data sets, but for a JPEG copy of the published one; that, and every
    parameter that is another one than at preset `paper`, are said in the row's note.

    Parameters
    ----------
    published_metric : text in the column `metric` of the published file, for the rows that the
        manifest's entry names; None compares with nothing.
    is_error : the published number is an error rate; its complement is compared.
    unlike : how the published network is another one than ours. The number is then only shown: this
        is the row's note, and there is no difference and no verdict.
    """
    states = [found.status[run.id] for run in found.runs if run.entry == entry]
    records = [
        o.record
        for o in found.outcomes
        if o.run["entry"] == entry and found.status[o.run["id"]] == "done"
    ]
    ours = [
        value
        for value in (pick(record["epochs"], metric, how) for record in records)
        if math.isfinite(value)
    ]
    run = next(run for run in found.runs if run.entry == entry)
    theirs = _counterpart(run, published_metric, is_error) if published_metric else None
    if theirs and unlike:
        theirs = dataclasses.replace(theirs, note=unlike)
    compared = published.compare(
        ours, theirs, left_out=states.count("collapsed") + states.count("diverged")
    )
    if theirs and unlike and ours:
        compared = dataclasses.replace(
            compared, difference=None, k=None, chance=None, verdict="no verdict"
        )
    n_epochs = max((len(record["epochs"]["epoch"]) for record in records), default=0)
    about = {
        "paper": found.paper,
        "experiment": found.experiment,
        "entry": entry,
        "label": found.label(entry),
    }
    about |= {"metric": metric, "axis": HOW[how], "x": n_epochs}
    return {**about, **vars(compared), "grade": compared.grade}


def about(found: "Analysis", claims: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`Analysis.about` of a table of `claims`: how ours differ from the published is said by the
    rows that show it.
    """
    shown = {claim["entry"] for claim in claims if claim["published"] is not None}
    differences = {entry: "" if entry in shown else why for entry, why in found.differences.items()}
    return dataclasses.replace(found, differences=differences).about


def _counterpart(run: "Run", metric: str, is_error: bool) -> published.Published | None:
    """The published number that this run may be held against, with what differs as its note."""
    where = run.published or {}
    ours, its = (
        re.sub(r"[^a-z0-9]", "", str(name).lower())
        for name in (run.parameters["dataset"], where.get("dataset"))
    )
    if ours.removesuffix("jpeg") != its:
        return None
    theirs = published.value(run.paper, where, metric)
    if theirs is None:
        return None
    notes = ["ours on a JPEG copy of the data set"] if ours != its else []
    full = next(
        r
        for r in manifest.runs("paper", [run.paper])
        if (r.experiment, r.entry) == (run.experiment, run.entry)
    )
    here, there = (published._flat(r.parameters) for r in (run, full))
    notes += [
        f"{name} {here.get(name)}, {there.get(name)} at preset paper"
        for name in {**there, **here}
        if name not in ("dataset", "seed") and here.get(name) != there.get(name)
    ]
    value = 1 - theirs.value if is_error else theirs.value
    return dataclasses.replace(theirs, value=value, note="; ".join(notes))


def together(
    found: "Analysis", metrics: Mapping[str, str], n_epochs: int | None = None
) -> "pandas.DataFrame":
    """The curves of several metrics in one table, as `Analysis.curves` gives each, told apart by a
    column "split".

    Parameters
    ----------
    metrics : split -> metric.
    n_epochs : leave out later epochs.
    """
    import pandas

    parts = [found.curves(metric).assign(split=split) for split, metric in metrics.items()]
    drawn = pandas.concat(parts, ignore_index=True)
    return drawn[drawn.x <= n_epochs] if n_epochs else drawn


def draw(
    drawn: "pandas.DataFrame", *, xlabel: str = "Epoch", ylabel: str, title: str, log: bool = False
) -> "Figure | None":
    """What `together` gives, in one axes: an entry has a colour, a split a kind of line (the last
    one is solid).

    Bands are +- the population standard deviation over seeds. The y axis is logarithmic with `log`;
    else it is laid out for the third epoch and later, so that a slow start may leave it. None where
    there is nothing to draw.
    """
    lines = drawn[drawn.part == "mean"]
    if lines.empty:
        return None
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    figure, axes = plt.subplots()
    shades, splits = (
        plots.shades(dict(zip(drawn.entry, drawn.rule, strict=True))),
        list(dict.fromkeys(drawn.split)),
    )
    dashes = dict(zip(reversed(splits), ("-", (0, (4, 1.5)), (0, (1.5, 1.2))), strict=False))
    handles = []
    for entry, shade in shades.items():
        of_entry = lines[lines.entry == entry]
        n = int(of_entry.n.max()) if len(of_entry) else 0
        handles.append(Line2D([], [], color=shade, label=f"{_label(drawn, entry)} (n = {n})"))
        for split, line in of_entry.groupby("split", sort=False):
            x, y, sd = (line[name].to_numpy(float) for name in ("x", "value", "sd"))
            axes.plot(x, y, color=shade, linestyle=dashes[split], linewidth=2)
            if (sd > 0).any():
                axes.fill_between(x, y - sd, y + sd, color=shade, alpha=0.2, linewidth=0)
    handles += [
        Line2D([], [], color="0.4", linestyle=dashes[split], label=split) for split in splits
    ]
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(0, None))
    if log:
        axes.set_yscale("log")
    else:
        late = lines[lines.x >= min(3, lines.x.max())]
        low, high = late.value.min(), late.value.max()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.legend(handles=handles)
    return figure


def _label(drawn: "pandas.DataFrame", entry: str) -> str:
    return drawn.label[drawn.entry == entry].iloc[0]
