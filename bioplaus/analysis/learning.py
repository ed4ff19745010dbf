"""Learning curves of several entries, ours beside the published, and what is published alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bioplaus.analysis import plots, style
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing, Styles

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """One line of a figure that `learning_curves` draws: an entry of an experiment, ours and
    published.
    """

    run_set: RunSet  # loaded with `beside=True` where published curves are shown alone too
    entry: str
    metric: str
    label: str | None = None  # name in the legend; default: the entry's
    look: Mapping[str, Any] = field(default_factory=dict)  # line style; default: the rule's colour

    @property
    def key(self) -> str:
        """Tells it from other lines of a figure."""
        return f"{self.run_set.experiment}/{self.entry}/{self.metric}"

    def frames(self) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
        """Ours with the published beside it, and what is published alone; `entry` is the `key`."""
        one = self.run_set.only(self.entry)
        columns = {"entry": self.key}
        if self.label:
            columns["label"] = self.label
        frames = one.curves(self.metric), one.published_curves(self.metric)
        return tuple(frame.assign(**columns) for frame in frames)


def learning_curves(
    lines: Sequence[Line],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    alone: str,
    top: float | None = None,
    bottom: float | None = None,
    scale: float = 1.0,
    percent: bool = False,
    zoom: tuple[float, float] | None = None,
    legend: str = "best",
) -> Drawing:
    """A figure with ours on the left and, on the right, what is published but has nothing of ours
    beside it.

    With nothing on one side the figure has one panel; with nothing at all it is None.

    Parameters
    ----------
    title, alone : titles of the panels.
    top, bottom : limits of the published figure, in the unit that is drawn.
    percent : accuracies times 100.
    zoom : a stretch of x, on the axis, that an inset shows enlarged in every panel that reaches its
        end.
    """
    import pandas
    from matplotlib import pyplot as plt

    pairs = [line.frames() for line in lines]
    if not pairs:
        return Drawing(None, pandas.DataFrame(columns=["entry", "label", "source", "note"]))
    if not any((ours.source == "ours").any() for ours, _ in pairs):  # planned, but not run yet
        pairs = [(ours.iloc[:0], pandas.concat([ours, alone_])) for ours, alone_ in pairs]
    panels = []
    for side, (heading, source) in enumerate(((title, "ours"), (alone, "published"))):
        parts = [pair[side] for pair in pairs if len(pair[side])]
        drawn = pandas.concat(parts, ignore_index=True) if parts else pairs[0][side]
        if percent:
            drawn = drawn.assign(value=100 * drawn.value, sd=100 * drawn.sd)
        if (drawn.source == source).any():
            panels.append((heading, drawn))
    if not panels:
        return Drawing(None, pairs[0][1])
    size = (10 if len(panels) == 1 else 15, 6)
    figure, grid = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axes, (heading, drawn) in zip(grid.flat, panels, strict=True):
        looks = style.lines(plots.rules_of(drawn))
        for line in lines:
            if line.key in looks:
                looks[line.key] |= dict(line.look)
        plots.fill(axes, drawn, looks, bottom, top, scale, legend, margin=1.0 if percent else 0.01)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=heading)
        if percent:  # a band may reach further
            axes.set_ylim(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102))
        if zoom and axes.get_xlim()[1] >= zoom[1]:
            _inset(axes, drawn, looks, scale, zoom)
            corner = {"loc": "center left", "bbox_to_anchor": (0.11, 0.45), "fontsize": 12}
            axes.legend(*plots.legend_of(drawn, looks), **corner)
    data = pandas.concat([drawn for _, drawn in panels], ignore_index=True)
    return Drawing(figure, data, plots.reading(data))


def _inset(
    axes: "Axes", drawn: "pandas.DataFrame", looks: Styles, scale: float, x: tuple[float, float]
) -> None:
    """What the best entries do in the stretch `x`, enlarged, and where it is taken from."""
    means = drawn[drawn.part == "mean"]
    inside = means[(means.x / scale >= x[0]) & (means.x / scale <= x[1])]
    ends = inside.groupby("entry").value.last()
    best = ends.index[ends >= ends.max() - 0.1 * (ends.max() - ends.min())]
    near = inside[inside.entry.isin(best)]
    sd = near.sd.astype(float).fillna(0)
    low, high = (near.value - sd).min(), (near.value + sd).max()
    space = 0.1 * (high - low) or 0.1
    small = axes.inset_axes((0.5, 0.27, 0.47, 0.4), facecolor=style.FACE)
    for entry, lines in near.groupby("entry", sort=False):
        plots.draw_entry(small, lines, looks[entry], scale, width=2.2)
    small.set(xlim=x, ylim=(low - space, high + space))
    small.set_title(f"{x[0]:g} to {x[1]:g}, enlarged", fontsize=14)
    small.tick_params(labelsize=12)
    small.xaxis.get_major_locator().set_params(integer=True)
    for side in small.spines.values():
        side.set(visible=True, color="0.45")
    axes.indicate_inset_zoom(small, edgecolor="0.45", linewidth=1.5)
