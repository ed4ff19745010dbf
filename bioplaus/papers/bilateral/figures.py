"""Figures of numbers of the bilateral paper: accuracies, curves, outcomes, confusions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bioplaus.analysis import plots, style, verdicts
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.papers.bilateral import measures, tables
from bioplaus.papers.bilateral.tables import COARSE, FINE, FROM_FINE

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

BARS = (
    "Bars: mean over n seeds; whiskers: 95 % confidence interval of the mean (Student's t); dots:"
    " seeds."
)
BANDS = "Bands: ± one standard deviation over seeds."
CONFUSED = ("fine", "both", "joint", "specialised")  # networks whose confusions are drawn
FRACTIONS = {  # name in `tables.conditional` -> in words
    "joined_fine_given_fine_right": "joined fine correct, given left correct",
    "joined_fine_given_fine_wrong": "joined fine correct, given left wrong",
    "joined_fine_given_fine_wrong_coarse_right": (
        "joined fine correct, given left wrong, right correct"
    ),
    "joined_fine_given_both_wrong": "joined fine correct, given both wrong",
    "joined_coarse_given_coarse_wrong_fine_right": (
        "joined coarse correct, given left correct, right wrong"
    ),
    "joined_coarse_given_both_wrong": "joined coarse correct, given both wrong",
    "consistency_separate": "fine inside coarse prediction, separate hemispheres",
    "consistency_joined": "fine inside coarse prediction, joined network",
}


def heading(runs: RunSet) -> str:
    """Data set and preset, for titles."""
    return f"{', '.join(runs.datasets)}, preset {runs.preset}"


def accuracies(runs: RunSet) -> Drawing:
    """Fine and coarse test accuracy of every entry: bar to the mean, 95 % interval, one dot a seed.

    In the coarse panel a triangle is the accuracy of the superclass of the fine prediction.
    """
    values = tables.finals(runs)
    values = values[values.metric.isin([FINE, COARSE, FROM_FINE])]
    shown = tables.summary(values, (FINE, COARSE, FROM_FINE))
    if shown.empty:
        return Drawing(None, shown)
    from matplotlib import pyplot as plt

    labels = list(dict.fromkeys(shown.label))
    height = {label: len(labels) - 1 - k for k, label in enumerate(labels)}
    size = (12, 0.52 * len(labels) + 1.6)
    figure, (fine, coarse) = plt.subplots(1, 2, figsize=size, sharey=True)
    read = shown[shown.metric == FROM_FINE]
    hollow = {"color": "0.15", "markerfacecolor": "white", "markersize": 7}
    coarse.plot(read["mean"], read.label.map(height) - 0.2, "^", zorder=4, **hollow)
    for axes, metric, word in ((fine, FINE, "fine"), (coarse, COARSE, "coarse")):
        rows, dots = shown[shown.metric == metric], values[values.metric == metric]
        colours = [style.colour(entry) for entry in rows.entry]
        bars(axes, rows.label.map(height), rows["mean"], rows.high - rows["mean"], colours)
        axes.plot(dots.value, dots.label.map(height) + 0.2, "o", color="0.15", markersize=3.5)
        points = [*dots.value, *rows["mean"], *(read["mean"] if axes is coarse else ())]
        axes.set_xlim(*_limits(points, rows[rows.n > 1]))
        axes.set(xlabel=f"{word} test accuracy", title=f"{word} labels")
        axes.grid(axis="y", visible=False)
    counts = shown.groupby("label").n.max()
    names = [f"{label} (n = {counts[label]})" for label in labels]
    fine.set_yticks([height[label] for label in labels], names, fontsize=13)
    figure.suptitle(heading(runs), fontsize=14)
    return Drawing(figure, values, f"{BARS} Triangles: superclass of the fine prediction.")


def complementarity(runs: RunSet) -> Drawing:
    """When each hemisphere alone is wrong, how often is the joined network right? Ours, and
    published.
    """
    table = tables.conditional(runs)
    table = table[table.name.isin(FRACTIONS)]
    if table.empty:
        return Drawing(None, table)
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 5.6))
    by_name = table.groupby("name")
    names = [name for name in reversed(FRACTIONS) if name in by_name.groups]
    for y, name in enumerate(names):
        values = by_name.get_group(name).value.dropna()
        test = verdicts.student(values)
        half = (test.high - test.low) / 2 if test else np.nan
        bars(axes, [y], [values.mean()], np.array([half]), [style.colour("specialised")])
        axes.plot(values, np.full(len(values), y + 0.18), "o", color="0.15", markersize=3.5)
    known = by_name.published.first().reindex(names)
    diamond = {"color": style.colour("published"), "markersize": 8}
    axes.plot(known, range(len(names)), "D", label="published (CIFAR-100)", **diamond)
    axes.set_yticks(range(len(names)), [FRACTIONS[name] for name in names], fontsize=13)
    title = f"{heading(runs)}, n = {table.seed.nunique()}"
    axes.set(xlabel="fraction of test images", xlim=(0, 1.02), title=title)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower right", frameon=False, fontsize=13)
    return Drawing(figure, table, f"{BARS} Diamonds: published, CIFAR-100.")


def curves(runs: RunSet, kinds: Sequence[str] = ("fine", "coarse")) -> Drawing:
    """Test accuracy after each epoch of every network that is trained."""
    import pandas

    columns = ["entry", "label", "kind", "x", "value", "sd", "n"]
    trained = {run.entry for run in runs.runs if not run.parameters.get("members")}
    trained -= set(tables.COPIES)
    parts = [runs.curves(f"test_{kind}_accuracy").assign(kind=kind) for kind in kinds]
    table = pandas.concat(parts) if runs.outcomes else pandas.DataFrame(columns=[*columns, "part"])
    table = table[(table.part == "mean") & table.entry.isin(trained)]
    if table.empty:
        return Drawing(None, table[columns])
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(kinds), figsize=(6.6 * len(kinds), 5.4))
    handles: dict[str, Any] = {}
    for axes, kind in zip(panels, kinds, strict=True):
        lines = table[table.kind == kind].groupby(["entry", "label"], sort=False)
        for (entry, label), line in lines:
            dashes = "--" if entry.startswith(("two-", "both-long", "specialised-")) else "-"
            look = {"color": style.colour(entry), "linestyle": dashes, "linewidth": 2}
            marker = {"marker": "o", "markersize": 3.5, "alpha": 0.15}
            x, sd = line.x.to_numpy(float), line.sd.to_numpy(float)
            handles[label] = plots.band(axes, x, line.value, sd, **look, **marker)
        axes.set(xlabel="epoch", ylabel=f"{kind} test accuracy")
    below = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 12}
    figure.legend(handles.values(), handles, **below)
    figure.suptitle(heading(runs), fontsize=14)
    return Drawing(figure, table[columns], BANDS)


class Confusion(NamedTuple):
    """How one network confuses classes, mean over seeds."""

    entry: str
    n: int  # seeds
    share: np.ndarray  # (target, predicted), fraction of the target's images, classes in order
    order: np.ndarray  # the classes, sorted by superclass
    is_inside: np.ndarray  # (target, predicted) bool, both of one superclass

    @property
    def errors(self) -> np.ndarray:
        """Its shares without the correct predictions."""
        return self.share * (1 - np.eye(len(self.share)))


def confusions(runs: RunSet, entries: Sequence[str] = CONFUSED) -> Drawing:
    """Fine predictions against fine labels, classes sorted by superclass; mean over seeds of row
    fractions.
    """
    import pandas

    shown = [one for entry in entries if (one := _confusion(runs, entry))]
    columns = ["entry", "label", "n", "target", "predicted", "share"]
    rows = [
        (
            one.entry,
            runs.label(one.entry),
            one.n,
            int(one.order[i]),
            int(one.order[j]),
            one.share[i, j],
        )
        for one in shown
        for i, j in np.ndindex(one.share.shape)
    ]
    table = pandas.DataFrame(rows, columns=columns)
    if not shown:
        return Drawing(None, table)
    from matplotlib import pyplot as plt

    size = (4.1 * len(shown) + 0.8, 4.9)
    figure, grid = plt.subplots(1, len(shown), figsize=size, squeeze=False)
    most = max(one.errors.max() for one in shown)
    for axes, one in zip(grid.flat, shown, strict=True):
        _heatmap(axes, one, most, f"{runs.label(one.entry)} (n = {one.n})")
    grid[0, 0].set_ylabel("class")
    label = "fraction of the class's images"
    figure.colorbar(grid[0, 0].collections[0], ax=grid, label=label, shrink=0.8)
    figure.suptitle(heading(runs), fontsize=14)
    return Drawing(figure, table)


def bars(
    axes: "Axes", y: Sequence[float], mean: Sequence[float], half: Any, colours: Sequence[str]
) -> None:
    """Horizontal bars to the means, with whiskers where the interval is known.

    Parameters
    ----------
    half : half the width of each interval; NaN where there is none.
    """
    axes.barh(y, mean, color=colours, alpha=0.55, height=0.62)
    whiskers = {"fmt": "none", "ecolor": "0.2", "elinewidth": 1.6, "capsize": 4}
    axes.errorbar(mean, y, xerr=np.asarray(half, dtype=float), **whiskers)


def _limits(points: Sequence[float], rows: "pandas.DataFrame") -> tuple[float, float]:
    """x axis that holds all points, and intervals unless they are many times wider (two seeds)."""
    low, high = min(points), max(points)
    span = high - low
    low = min([low, *rows.low[rows.low > low - span]])
    high = max([high, *rows.high[rows.high < high + span]])
    floor = max(0.0, low - 0.15 * span - 0.01)
    return floor, min(1.005, high + 0.04 * (high - floor))


def _confusion(runs: RunSet, entry: str) -> Confusion | None:
    """None where the entry has no run."""
    records = [records[0] for records in tables.by_seed(runs, entry).values()]
    if not records:
        return None
    superclass = np.asarray(records[0]["coarse_of"])
    order = np.argsort(superclass, kind="stable")
    share = np.mean([_shares(record, len(superclass)) for record in records], axis=0)
    is_inside = superclass[order][:, None] == superclass[order]
    return Confusion(entry, len(records), share[np.ix_(order, order)], order, is_inside)


def _shares(record: Mapping[str, Any], n_classes: int) -> np.ndarray:
    predicted, target = (
        torch.from_numpy(values.astype(np.int64))
        for values in (record["predictions"]["fine"], record["labels"])
    )
    counts = measures.confusion(predicted, target, n_classes).numpy()
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _heatmap(axes: "Axes", one: Confusion, most: float, title: str) -> None:
    """Errors by class; lines between superclasses."""
    import seaborn

    n = len(one.share)
    names = one.order if n <= 20 else False
    scale = {"cmap": "Blues", "vmin": 0, "vmax": most, "square": True, "cbar": False}
    ticks = {"xticklabels": names, "yticklabels": names}
    seaborn.heatmap(one.errors, ax=axes, rasterized=True, **ticks, **scale)
    edges = np.flatnonzero(~np.diagonal(one.is_inside, offset=1)) + 1
    for between in (axes.hlines, axes.vlines):
        between(edges, 0, n, color="0.1", linewidth=1.2)
    inside = (one.is_inside * one.errors).sum() / one.errors.sum()
    axes.set_title(f"{title}\n{inside:.0%} of errors inside superclass", fontsize=12)
    axes.tick_params(labelsize=11, rotation=0)
    axes.set(xlabel="predicted class")
    axes.grid(visible=False)
