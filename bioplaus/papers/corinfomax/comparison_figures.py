"""Figures of `comparison`: how settings were chosen, and accuracy against what it costs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.analysis import style
from bioplaus.analysis.plots import ENDS, Drawing

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

OF_COSTS = (
    "Validation accuracy of the chosen settings, every seed a line, against epochs, wall time of"
    " training and operations that the rule's equations need. A dot is the epoch kept; seeds that"
    " collapsed or diverged end in a marker and are counted, thin where their setting was not"
    " chosen."
)
OF_CHOICE = (
    "Validation accuracy at the best epoch of every run, by the size of the weight step relative to"
    " the published one. Lines join means over seeds, dots are seeds; a ring is the setting chosen."
)
COSTS = {"epoch": "Epoch", "seconds": "Training time (s)", "gflop": "Useful arithmetic (GFLOP)"}


def draw(drawn: "pandas.DataFrame", of_runs: "pandas.DataFrame", *, title: str = "") -> Drawing:
    """Validation accuracy of the chosen settings against epoch, wall time and arithmetic; every
    seed is a line.

    A dot is the kept epoch. Runs that collapsed or diverged end in a marker; those of settings that
    were not chosen are thin. Nothing is drawn without results.
    """
    if drawn.empty:
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    figure, panels = plt.subplots(1, len(COSTS), figsize=(16, 6.4), sharey=True)
    looks = style.lines(dict(zip(of_runs.key, of_runs.rule, strict=True)))
    for axes, (cost, xlabel) in zip(panels, COSTS.items(), strict=True):
        for (key, *_), one in drawn.groupby(["key", "entry", "seed"], sort=False):
            _line(axes, one, cost, looks[key])
        axes.set(xlabel=xlabel, xscale="linear" if cost == "epoch" else "log")
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_xlim(0, None)
    panels[0].set_ylabel("Validation accuracy")
    good = drawn[drawn.is_chosen & (drawn.status == "done")]
    if len(good):  # the first steps of the slowest would press all else together
        low, high = good.validation_accuracy.quantile(0.1), good.validation_accuracy.max()
        panels[0].set_ylim(low - 0.15 * (high - low), high + 0.08 * (high - low))
    handles = [Line2D([], [], linewidth=2.4, **looks[key]) for key in looks]
    labels = [
        _counted(of_runs[of_runs.key == key], set(drawn.entry[drawn.is_chosen])) for key in looks
    ]
    handles.append(Line2D([], [], color="0.35", marker="o", linestyle="", markersize=7))
    labels.append("epoch kept")
    for status in ENDS:
        if (drawn.status == status).any():
            ended = {"marker": ENDS[status], "linewidth": 0.9, "markersize": 8}
            handles.append(Line2D([], [], color="0.35", **ended))
            labels.append(status)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return Drawing(figure, drawn, OF_COSTS)


def draw_choice(
    of_runs: "pandas.DataFrame", chosen: Mapping[str, str], *, title: str = ""
) -> Drawing:
    """Kept validation accuracy of every run against its setting, relative to the middle of the
    grid.

    Lines join the means over seeds, dots are seeds, a ring is the chosen setting. Rules stand side
    by side at each setting. Nothing is drawn without results.
    """
    complete = of_runs[(of_runs.status != "missing") & of_runs.factor.notna()]
    if complete.empty:
        return Drawing(None, of_runs)
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 6.4))
    looks = style.lines(dict(zip(of_runs.key, of_runs.rule, strict=True)))
    shift = dict(zip(looks, np.linspace(-0.16, 0.16, max(len(looks), 2)), strict=False))
    for key, of_key in complete.groupby("key", sort=False):
        x = np.log2(of_key.factor.astype(float)) + shift[key]
        means = of_key.validation_accuracy.groupby(x).mean()
        axes.plot(
            means.index, means, linewidth=1.4, alpha=0.8, label=of_key.label.iloc[0], **looks[key]
        )
        for status, of_status in of_key.groupby("status"):
            look = {
                "marker": ENDS.get(status, "o"),
                "linestyle": "",
                "color": looks[key]["color"],
                "markersize": 6,
            }
            axes.plot(x[of_status.index], of_status.validation_accuracy, **look)
        at = x[of_key.entry == chosen[key]].iloc[:1]
        ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.8}
        axes.plot(at, means[at], linestyle="", markeredgecolor=looks[key]["color"], **ring)
    factors = sorted(complete.factor.astype(float).unique())
    axes.set_xticks(np.log2(factors), [f"× {factor:g}" for factor in factors])
    axes.set(
        xlabel="Size of the weight step",
        ylabel="Validation accuracy at the epoch kept",
        title=title,
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return Drawing(figure, of_runs, OF_CHOICE)


def _line(axes: "Axes", one: "pandas.DataFrame", cost: str, look: Mapping[str, Any]) -> None:
    """One run."""
    is_chosen, status = bool(one.is_chosen.iloc[0]), one.status.iloc[0]
    width = 2.2 if is_chosen else 0.9
    axes.plot(
        one[cost],
        one.validation_accuracy,
        linewidth=width,
        alpha=1.0 if is_chosen else 0.7,
        **look,
    )
    if is_chosen:
        kept = one[one.is_kept]
        axes.plot(
            kept[cost], kept.validation_accuracy, "o", color=look["color"], markersize=7, zorder=4
        )
    if status in ENDS:
        last = one.iloc[-1:]
        axes.plot(
            last[cost],
            last.validation_accuracy,
            ENDS[status],
            color=look["color"],
            markersize=9,
            zorder=5,
        )


def _counted(of_key: "pandas.DataFrame", chosen: set[str]) -> str:
    """A rule's label with what became of its runs: of the chosen setting, then of the others."""
    parts = []
    for is_chosen, of_part in of_key.groupby(of_key.entry.isin(chosen), sort=True):
        counts = [f"{n} {state}" for state in ENDS if (n := int((of_part.status == state).sum()))]
        if is_chosen:
            parts.insert(0, ", ".join([f"n = {int((of_part.status == 'done').sum())}", *counts]))
        elif counts:
            parts.append(f"other settings: {', '.join(counts)}")
    return f"{of_key.label.iloc[0]} ({'; '.join(parts) or 'not run'})"
