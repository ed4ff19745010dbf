"""Pieces that figures are made of: a line with its band, curves of all entries in one axes or in
one each, a live curve.

Ours is a thick line with the band mean +/- population standard deviation over seeds, as published
(no band for one seed); the published curve is thin with short dashes, in the same colour.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bioplaus.analysis import style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike
Styles = Mapping[str, Mapping[str, Any]]  # entry -> arguments of `Axes.plot`
ENDS = {"collapsed": "v", "diverged": "x"}  # markers of seeds that are in no mean
_PUBLISHED = {"linewidth": 1.6, "linestyle": (0, (2.5, 1.6))}  # a published curve


class Drawing(NamedTuple):
    """A figure with exactly what it draws. `figure` is None where there is nothing to draw."""

    figure: "Figure | None"
    data: "pandas.DataFrame"
    reading: str = ""  # sentences that say how to read its lines, for the caption


def band(
    axes: "Axes",
    x: "ArrayLike",
    mean: "ArrayLike",
    spread: "ArrayLike",
    *,
    alpha: float = 0.22,
    zorder: float = 3,
    **look: Any,
) -> "Line2D":
    """A line with the band mean +/- spread; no band where the spread is 0 or not a number.

    Parameters
    ----------
    x, mean, spread : (n,), in the units of the axes.
    alpha : opacity of the band.
    look : of the line, as in `Axes.plot`; the band has its colour.
    """
    x, mean, spread = (np.asarray(values, dtype=float) for values in (x, mean, spread))
    (line,) = axes.plot(x, mean, zorder=zorder, **look)
    if (spread > 0).any():
        fill = {"color": line.get_color(), "alpha": alpha, "linewidth": 0, "zorder": zorder - 1}
        axes.fill_between(x, mean - spread, mean + spread, **fill)
    return line


def reading(drawn: "pandas.DataFrame") -> str:
    """How to read the lines of `drawn` (columns as in `RunSet.curves`), and where published curves
    are not exactly ours; empty for an empty table.
    """
    if drawn.empty:
        return ""
    sentences = []
    published = drawn[drawn.source == "published"]
    if (drawn.source == "ours").any():
        sentences.append(
            "Thick lines: ours, mean over n seeds, with a band of ± population standard deviation."
        )
    if len(published):
        sentences.append(
            "Thin short dashes: published, mean over its seeds with a band of ± population standard"
            " deviation."
        )
    for note, lines in published[published.note != ""].groupby("note", sort=False):
        labels = ", ".join(dict.fromkeys(lines.label))
        sentences.append(
            f"For {labels} no curve of exactly these parameters was published ({note})."
        )
    return " ".join(sentences)


def curves(
    drawn: "pandas.DataFrame",
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    top: float | None = None,
    bottom: float | None = None,
    scale: float = 1.0,
    legend: str = "best",
) -> Drawing:
    """All entries in one axes, ours and published.

    The x axis ends with our longest run; the y axis goes from `bottom` to `top`, or further where a
    mean of ours would be cut off. Seeds that collapsed or diverged are thin lines; one that lies
    under the axes is pointed at. Nothing is drawn where nothing of ours is there.

    Parameters
    ----------
    drawn : as `RunSet.curves` gives it.
    top, bottom : limits of the published figure; without `bottom`, 0.01 below the first entry's
        first published value.
    scale : x in the figure = x in `drawn` / scale.
    """
    if not (drawn.source == "ours").any():
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    fill(axes, drawn, style.lines(rules_of(drawn)), bottom, top, scale, legend)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return Drawing(figure, drawn, reading(drawn))


def by_entry(
    drawn: "pandas.DataFrame", *, xlabel: str, ylabel: str, title: str = "", scale: float = 1.0
) -> Drawing:
    """One small axes an entry: every seed of ours as a thin line, their mean, and the published
    curve. All have the same axes, so that rules can be compared.

    Nothing is drawn where nothing of ours is there.

    Parameters
    ----------
    drawn : as `RunSet.curves(metric, seeds=True)` gives it.
    """
    ours = drawn[drawn.source == "ours"]
    if ours.empty:
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt

    looks = style.lines(rules_of(drawn))
    shown = [entry for entry in looks if (ours.entry == entry).any()]
    n_columns = {4: 2, 7: 4, 8: 4}.get(len(shown), min(len(shown), 3))
    n_rows = math.ceil(len(shown) / n_columns)
    size = (5.2 * n_columns, 4 * n_rows + 0.6)
    figure, panels = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, sharey=True)
    for axes, entry in zip(panels.flat, shown, strict=False):
        lines = drawn[drawn.entry == entry]
        draw_entry(axes, lines, {**looks[entry], "linestyle": "-"}, scale, width=2.4)
        _limits(axes, lines, scale, None, None)
        axes.set_title(_with_n(lines))
    _limits(panels[0, 0], drawn[drawn.entry.isin(shown)], scale, None, None, is_x=False)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in panels.flat[: len(shown)][-n_columns:]:
        axes.set_xlabel(xlabel)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    handles, labels = _source_keys(drawn)
    if len(handles) > 1:
        below = {"loc": "outside lower center", "ncols": len(handles), "frameon": False}
        figure.legend(handles, labels, **below)
    return Drawing(figure, drawn, reading(drawn))


class Live:
    """A learning curve that grows while a notebook trains: `fit(..., on_epoch=Live("test_accuracy",
    n_epochs=9))`.

    Parameters
    ----------
    metrics : what to draw, by name.
    n_epochs : length of the x axis.
    """

    def __init__(self, *metrics: str, n_epochs: int) -> None:
        from IPython.display import display
        from matplotlib import pyplot as plt

        self.figure, self.axes = plt.subplots(figsize=(7, 3.6))
        self.lines = {
            name: self.axes.plot([], [], "o-", label=name.replace("_", " "))[0] for name in metrics
        }
        self.axes.set(xlim=(0, 1.02 * n_epochs), ylim=(0, 1), xlabel="Epoch", ylabel="Accuracy")
        self.axes.legend(loc="lower right")
        self.handle = display(self.figure, display_id=True)
        plt.close(self.figure)  # shown by the handle, not again at the end of the cell

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, line in self.lines.items():
            x, y = line.get_data()
            line.set_data([*x, epoch + 1], [*y, metrics[name]])
        self.handle.update(self.figure)


def fill(
    axes: "Axes",
    drawn: "pandas.DataFrame",
    looks: Styles,
    bottom: float | None,
    top: float | None,
    scale: float,
    legend: str,
    margin: float = 0.01,
) -> None:
    """Draw every line of `drawn`, with limits and legend; the first entry is the figure's subject,
    and thicker.

    Parameters
    ----------
    looks : entry -> line style, as `style.lines` gives them.
    bottom, top, scale : as in `curves`.
    margin : what is left below the first published value where `bottom` is None.
    """
    for k, (entry, lines) in enumerate(drawn.groupby("entry", sort=False)):
        draw_entry(axes, lines, looks[entry], scale, width=2.2 if k else 3.2)
    published = drawn[(drawn.source == "published") & (drawn.axis == "epoch")]
    if bottom is None and len(published):
        bottom = published.value.iloc[0] - margin
    _limits(axes, drawn, scale, bottom, top)
    _point_at_hidden(axes, drawn, looks)
    axes.legend(*legend_of(drawn, looks), loc=legend)


def draw_entry(
    axes: "Axes", lines: "pandas.DataFrame", look: Mapping[str, Any], scale: float, width: float
) -> None:
    """One entry's lines, published below ours."""
    means = lines[lines.part == "mean"]
    for source, order in (("published", 2), ("ours", 3)):
        mean = means[means.source == source]
        if mean.empty:
            continue
        own = dict(look) | ({"linewidth": width} if source == "ours" else _PUBLISHED)
        if source == "ours" and len(mean) <= 20:
            own |= {"marker": "o", "markersize": 4}
        x, alpha = mean.x.to_numpy(float) / scale, 0.22 if source == "ours" else 0.12
        band(axes, x, mean.value, mean.sd.to_numpy(float), zorder=order, alpha=alpha, **own)
    for (part, _), one in lines[lines.part != "mean"].groupby(["part", "seed"], sort=False):
        seed_line(axes, one.x / scale, one.value, part, color=look["color"])


def seed_line(axes: "Axes", x: "ArrayLike", y: "ArrayLike", part: str, *, color: str) -> None:
    """A thin line of one seed; of one that collapsed or diverged its end is marked.

    Parameters
    ----------
    part : "seed", or how the seed ended.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    axes.plot(x, y, color=color, linewidth=0.9, alpha=0.6 if part == "seed" else 1.0, zorder=2.5)
    if part in ENDS:
        axes.plot(x[-1:], y[-1:], ENDS[part], color=color, markersize=9, zorder=4)


def _limits(
    axes: "Axes",
    drawn: "pandas.DataFrame",
    scale: float,
    bottom: float | None,
    top: float | None,
    *,
    is_x: bool = True,
) -> None:
    """x from 0 to our last point; y from `bottom` to `top`, or further where a mean of ours would
    be cut off.
    """
    ours = drawn[drawn.source == "ours"]
    ours = ours if len(ours) else drawn  # published alone
    end = ours.x.max()
    if is_x:
        axes.set_xlim(0, 1.02 * end / scale)
        axes.xaxis.get_major_locator().set_params(integer=True)
    kept = ours[ours.part.isin(["mean", "seed"])]
    is_given = bottom is not None and top is not None and len(kept)
    shown = kept if is_given else drawn[drawn.part.isin(["mean", "seed"])]
    shown = shown[shown.x <= end]
    if len(shown):
        sd = shown.sd.astype(float).fillna(0)
        low, high = (shown.value - sd).min(), (shown.value + sd).max()
        margin = 0.04 * (high - low) or 0.01
        low, high = low - margin, high + margin
        axes.set_ylim(
            low if bottom is None else min(low, bottom), high if top is None else max(high, top)
        )


def _point_at_hidden(axes: "Axes", drawn: "pandas.DataFrame", looks: Styles) -> None:
    """An arrow head at the lower edge for each collapsed or diverged seed that lies under the axes
    altogether.
    """
    low, _ = axes.get_ylim()
    apart = drawn[drawn.part.isin(ENDS)].groupby(["entry", "part", "seed"], sort=False)
    hidden = [(names, one) for names, one in apart if one.value.max() < low]
    for k, ((entry, part, seed), one) in enumerate(hidden):
        text = f"▼ {one.label.iloc[0]} seed {seed} {part}: {one.value.iloc[-1]:.3f}"
        corner = (0.03 + 0.3 * (k % 3), 0.02 + 0.05 * (k // 3))
        look = {"color": looks[entry]["color"], "fontsize": 11, "fontfamily": "DejaVu Sans"}
        axes.text(*corner, text, transform=axes.transAxes, **look)


def rules_of(drawn: "pandas.DataFrame") -> dict[str, str]:
    """Entry -> rule, in the order in which they are drawn."""
    return dict(zip(drawn.entry, drawn.rule, strict=True))


def _with_n(lines: "pandas.DataFrame") -> str:
    """An entry's label with the number of seeds in its mean."""
    label = lines.label.iloc[0]
    mean = lines[(lines.source == "ours") & (lines.part == "mean")]
    apart = lines[lines.part.isin(ENDS)].groupby("part").seed.nunique()
    if mean.empty and apart.empty:
        return f"{label} (not run)"
    n = int(mean.n.min()) if len(mean) else 0
    return f"{label} (n = {n}{''.join(f', {count} {part}' for part, count in apart.items())})"


def legend_of(drawn: "pandas.DataFrame", looks: Styles) -> tuple[list[Any], list[str]]:
    """Handles and labels: every entry with its number of seeds, and what a published line is."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for entry, look in looks.items():
        lines = drawn[drawn.entry == entry]
        is_run = (lines.source == "ours").any()
        handles.append(Line2D([], [], **{**look, **({"linewidth": 2.6} if is_run else _PUBLISHED)}))
        labels.append(_with_n(lines) if (drawn.source == "ours").any() else lines.label.iloc[0])
    more = _source_keys(drawn)
    return handles + more[0][1:], labels + more[1][1:]


def _source_keys(drawn: "pandas.DataFrame") -> tuple[list[Any], list[str]]:
    """Legend keys for ours and, where there is any, published."""
    from matplotlib.lines import Line2D

    published = drawn[drawn.source == "published"]
    handles = [Line2D([], [], color="0.35", linewidth=2.4)]
    labels = ["ours"]
    if len(published):
        n = sorted({int(count) for count in published.n})
        handles.append(Line2D([], [], color="0.35", **_PUBLISHED))
        labels.append(f"published (n = {', '.join(map(str, n))})")
    return handles, labels
