"""Figure pieces in one style, and `save`, which writes a figure with the numbers it draws.

Ours is a thick line with the band mean +/- population standard deviation over seeds, as published
(no band for one seed); the published curve is thin with short dashes, in the same colour. A rule
has the same colour in every figure, whatever else is drawn: the palette is Okabe and Ito's, which
colour-blind readers can tell apart, assigned so that it is near the published colours. A rule that
is not in the table gets a colour from its name. Entries of one rule differ by their dashes.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus import _files, paths

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bioplaus.analysis.experiment import Analysis

DPI = 150
_COLOURS = {
    "corinfomax": "#0072B2",  # published #006BB2
    "corinfomax_sparse": "#CC79A7",
    "csm": "#D55E00",  # published red
    "ep": "#009E73",  # published green
    "pc": "#56B4E9",  # published blue
    "pc_nudge": "#E69F00",  # published orange
    "bp": "#222222",
    "bp_batchnorm": "#222222",
    "fa": "#8A8A8A",
    "competing_hidden": "#882255",
    "bptt": "#7F7F7F",  # published
    "caption_bptt": "#7F7F7F",
    "dni": "#F9AA38",  # published
    "caption_dni": "#F9AA38",
}
_NAMES = {
    "corinfomax": "CorInfoMax",
    "corinfomax_sparse": "CorInfoMax-Sparse",
    "csm": "CSM",
    "ep": "EP",
    "pc": "PC",
    "pc_nudge": "PC-Nudge",
    "bp": "BP",
    "fa": "FA",
}
# For rules without a colour of their own, chosen by name.
_SPARE = ("#44AA99", "#999933", "#332288", "#AA4499", "#117733", "#661100")
_DASHES = (
    "-",
    (0, (8, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (1.5, 1)),
)  # entries of one rule, in manifest order
_THEIRS = {"linewidth": 1.6, "linestyle": (0, (2.5, 1.6))}  # a published curve
_STYLE = {
    "figure.figsize": (10, 6),
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    # a Times that comes with matplotlib: the same figure on every machine
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 16,
    "axes.labelsize": 20,
    "axes.titlesize": 17,
    "xtick.labelsize": 16,
    "ytick.labelsize": 16,
    "legend.fontsize": 15,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "0.85",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 1.0,
    "axes.edgecolor": "0.4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.solid_capstyle": "round",
    "axes.prop_cycle": (
        "cycler('color', ['0072B2', 'D55E00', '009E73', 'CC79A7', 'E69F00', '56B4E9', '222222'])"
    ),
    "pdf.fonttype": 42,  # text stays text
}


def use_style() -> None:
    """Set the package's matplotlib style for this process; call it once, at the top of a
    notebook.
    """
    import matplotlib

    matplotlib.rcParams.update(
        matplotlib.rcParamsDefault | {"backend": matplotlib.rcParams["backend"]} | _STYLE
    )


def colour(rule: str) -> str:
    """The colour of a rule, the same in every figure, as #rrggbb."""
    number = int.from_bytes(hashlib.sha256(rule.encode()).digest()[:4], "big")
    return _COLOURS.get(rule, _SPARE[number % len(_SPARE)])


def name(rule: str) -> str:
    """What a rule is called in legends: the papers' name for it, or its key."""
    return _NAMES.get(rule, rule)


def styles(entries: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Line style of each entry: its rule's colour, and dashes that tell entries of one colour
    apart.

    Parameters
    ----------
    entries : entry -> rule, in manifest order.
    """
    drawn: dict[str, int] = {}
    found = {}
    for entry, rule in entries.items():
        shade = colour(rule)
        found[entry] = {"color": shade, "linestyle": _DASHES[drawn.get(shade, 0) % len(_DASHES)]}
        drawn[shade] = drawn.get(shade, 0) + 1
    return found


def shades(entries: Mapping[str, str]) -> dict[str, str]:
    """Colour of each entry where dashes mean something else: its rule's, lighter for every further
    one of that colour.

    Parameters
    ----------
    entries : entry -> rule, in manifest order.

    Returns
    -------
    entry -> #rrggbb.
    """
    from matplotlib.colors import to_hex, to_rgb

    drawn: dict[str, int] = {}
    found = {}
    for entry, rule in entries.items():
        shade = colour(rule)
        kept = 0.55 ** drawn.get(shade, 0)  # the rest is white
        found[entry] = to_hex([1 - kept * (1 - part) for part in to_rgb(shade)])
        drawn[shade] = drawn.get(shade, 0) + 1
    return found


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
) -> "Figure | None":
    """All entries in one axes, ours and published.

    The x axis ends with our longest run; the y axis goes from `bottom` to `top`, or further where a
    mean of ours would be cut off. Seeds that collapsed or diverged are thin lines; one that lies
    under the axes is pointed at. None where nothing of ours is there to draw.

    Parameters
    ----------
    drawn : as `Analysis.curves` gives it.
    top, bottom : limits of the published figure; without `bottom`, 0.01 below the first entry's
        first published value.
    scale : x in the figure = x in `drawn` / scale.
    """
    if not (drawn.source == "ours").any():
        return None
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    _fill(axes, drawn, styles(_entries(drawn)), bottom, top, scale, legend)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


@dataclass(frozen=True)
class Line:
    """One line of a figure that `learning_curves` draws: an entry of an experiment, ours and
    published.
    """

    found: "Analysis"  # loaded with `beside=True` where published curves are to be shown alone too
    entry: str
    metric: str
    label: str | None = None  # name in the legend; default: the entry's
    look: Mapping[str, Any] = field(default_factory=dict)  # line style; default: the rule's colour

    def frames(self) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
        """Ours with the published beside it, and what is published alone; `entry` is unique among
        lines.
        """
        key = f"{self.found.experiment}/{self.entry}/{self.metric}"
        found = self.found.only(self.entry)
        frames = found.curves(self.metric), found.published_curves(self.metric)
        label = {"label": self.label} if self.label else {}
        if (
            self.label and self.entry in found.copies
        ):  # a copy is never called by the name of the published data
            label = {"label": f"{self.label} (ours: {found.runs[0].parameters['dataset']})"}
        return tuple(frame.assign(entry=key, **label) for frame in frames)


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
) -> "tuple[Figure | None, pandas.DataFrame]":
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

    Returns
    -------
    The figure, and exactly what it draws.
    """
    import pandas
    from matplotlib import pyplot as plt

    pairs = [line.frames() for line in lines]
    if not pairs:
        return None, pandas.DataFrame(columns=["entry", "label", "source", "note"])
    if not any(
        (ours.source == "ours").any() for ours, _ in pairs
    ):  # planned, but nothing was run yet
        pairs = [(ours.iloc[:0], pandas.concat([ours, theirs])) for ours, theirs in pairs]
    panels = []
    for side, heading in enumerate((title, alone)):
        parts = [pair[side] for pair in pairs if len(pair[side])]
        drawn = pandas.concat(parts, ignore_index=True) if parts else pairs[0][side]
        if percent:
            drawn = drawn.assign(value=100 * drawn.value, sd=100 * drawn.sd)
        if (drawn.source == ("ours", "published")[side]).any():
            panels.append((heading, drawn))
    if not panels:
        return None, drawn
    figure, grid = plt.subplots(
        1, len(panels), figsize=(10 if len(panels) == 1 else 15, 6), squeeze=False
    )
    for axes, (heading, drawn) in zip(grid.flat, panels, strict=True):
        style = styles(_entries(drawn))
        for line in lines:
            key = f"{line.found.experiment}/{line.entry}/{line.metric}"
            if key in style:
                style[key] = style[key] | dict(line.look)
        _fill(axes, drawn, style, bottom, top, scale, legend, margin=1.0 if percent else 0.01)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=heading)
        if percent:  # a band may reach further
            axes.set_ylim(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102))
        if zoom and axes.get_xlim()[1] >= zoom[1]:
            _inset(axes, drawn, style, scale, zoom)
            axes.legend(
                *_legend(drawn, style), loc="center left", bbox_to_anchor=(0.11, 0.45), fontsize=12
            )
    return figure, pandas.concat([drawn for _, drawn in panels], ignore_index=True)


def by_entry(
    drawn: "pandas.DataFrame", *, xlabel: str, ylabel: str, title: str = "", scale: float = 1.0
) -> "Figure | None":
    """One small axes an entry: every seed of ours as a thin line, their mean, and the published
    curve.

    None where nothing of ours is there to draw.

    Parameters
    ----------
    drawn : as `Analysis.curves(metric, seeds=True)` gives it.
    """
    ours = drawn[drawn.source == "ours"]
    if ours.empty:
        return None
    from matplotlib import pyplot as plt

    style = styles(_entries(drawn))
    shown = [entry for entry in style if (ours.entry == entry).any()]
    n_columns = {4: 2, 7: 4, 8: 4}.get(len(shown), min(len(shown), 3))
    n_rows = math.ceil(len(shown) / n_columns)
    figure, panels = plt.subplots(
        n_rows, n_columns, figsize=(5.2 * n_columns, 4 * n_rows + 0.6), squeeze=False
    )
    for axes, entry in zip(panels.flat, shown, strict=False):
        lines = drawn[drawn.entry == entry]
        _draw(axes, lines, style[entry] | {"linestyle": "-"}, scale, width=2.4)
        _limits(axes, lines, scale, None, None)
        axes.set_title(_with_n(lines))
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in panels.flat[: len(shown)][-n_columns:]:
        axes.set_xlabel(xlabel)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    handles, labels = _source_keys(drawn)
    if len(handles) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(handles), frameon=False
        )
    return figure


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


def save(
    figure: "Figure | None",
    name: str,
    *,
    data: "pandas.DataFrame",
    notebook: str,
    title: str,
    caption: str,
    claims: Iterable[Mapping[str, Any]] = (),
    about: Mapping[str, Any],
) -> Path:
    """Write `<preset>/figures/<name>` as pdf, png (150 dpi), csv (exactly what is drawn) and json
    (what the page says).

    Equal results give equal bytes. With `figure` None (nothing to draw) only the json is written,
    so that the page says what is missing and which command makes it; files of an earlier drawing
    are removed.

    Parameters
    ----------
    notebook : name of the notebook that draws it, without suffix.
    claims : comparisons with published numbers, as `Analysis.compare_final` and `compare_curve`
        give them.
    about : `Analysis.about`.

    Returns
    -------
    The json file.
    """
    files = {}
    if figure is not None:
        figure.draw_without_rendering()  # lay out once, not for each format
        figure.set_layout_engine("none")
        files = {"png": _render(figure, "png"), "pdf": _render(figure, "pdf"), "csv": csv(data)}
    said = {"notebook": notebook, "title": title, "caption": caption}
    return store("figure", name, files, about=about, claims=claims, said=said)


def csv(table: "pandas.DataFrame") -> bytes:
    """A table as csv text: ten significant digits, \\n at line ends; equal tables give equal
    bytes.
    """
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()


def store(
    kind: str,
    name: str,
    files: Mapping[str, bytes],
    *,
    about: Mapping[str, Any],
    claims: Iterable[Mapping[str, Any]],
    said: Mapping[str, str],
) -> Path:
    """Write the files of a figure or table, by suffix, then `<name>.json`, which makes it appear on
    the report page.

    What an earlier drawing left under this name is removed first.
    """
    folder = paths.root() / about["preset"] / f"{kind}s"
    _files.make_folder(folder)
    for suffix in ("json", "png", "pdf", "csv", "md"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for suffix, content in files.items():
        _files.write_atomic(folder / f"{name}.{suffix}", content)
    described = {
        "kind": kind,
        "name": name,
        "files": sorted(files),
        **said,
        **about,
        "claims": [*map(dict, claims)],
    }
    _files.write_json(folder / f"{name}.json", _jsonable(described))
    return folder / f"{name}.json"


def _render(figure: "Figure", kind: str) -> bytes:
    """The file's bytes, without dates and version, so that equal figures are equal files."""
    import io

    buffer = io.BytesIO()
    metadata = (
        {"Software": None}
        if kind == "png"
        else {"CreationDate": None, "Producer": None, "Creator": None}
    )
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _jsonable(value: Any) -> Any:
    """NaN and infinity become null, numpy numbers become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fill(
    axes: "Axes",
    drawn: "pandas.DataFrame",
    style: dict[str, dict[str, Any]],
    bottom: float | None,
    top: float | None,
    scale: float,
    legend: str,
    margin: float = 0.01,
) -> None:
    """Every line of `drawn`, the limits and the legend; the first entry is the figure's subject,
    and thicker.
    """
    for entry, lines in drawn.groupby("entry", sort=False):
        _draw(axes, lines, style[entry], scale, width=3.2 if entry == next(iter(style)) else 2.2)
    theirs = drawn[(drawn.source == "published") & (drawn.axis == "epoch")]
    if bottom is None and len(theirs):
        bottom = theirs.value.iloc[0] - margin
    _limits(axes, drawn, scale, bottom, top)
    _point_at_hidden(axes, drawn, style)
    axes.legend(*_legend(drawn, style), loc=legend)


def _inset(
    axes: "Axes",
    drawn: "pandas.DataFrame",
    style: dict[str, dict[str, Any]],
    scale: float,
    x: tuple[float, float],
) -> None:
    """What the best entries do in the stretch `x`, enlarged, and where it is taken from."""
    means = drawn[drawn.part == "mean"]
    inside = means[(means.x / scale >= x[0]) & (means.x / scale <= x[1])]
    ends = inside.groupby("entry").value.last()
    near = inside[
        inside.entry.isin(ends.index[ends >= ends.max() - 0.1 * (ends.max() - ends.min())])
    ]
    sd = near.sd.astype(float).fillna(0)
    low, high = (near.value - sd).min(), (near.value + sd).max()
    space = 0.1 * (high - low) or 0.1
    small = axes.inset_axes((0.5, 0.27, 0.47, 0.4))
    for entry, lines in near.groupby("entry", sort=False):
        _draw(small, lines, style[entry], scale, width=2.2)
    small.set(xlim=x, ylim=(low - space, high + space))
    small.set_title(f"{x[0]:g} to {x[1]:g}, enlarged", fontsize=14)
    small.tick_params(labelsize=12)
    small.xaxis.get_major_locator().set_params(integer=True)
    small.set_facecolor("white")
    for side in small.spines.values():
        side.set(visible=True, color="0.45")
    axes.indicate_inset_zoom(small, edgecolor="0.45", linewidth=1.5)


def _entries(drawn: "pandas.DataFrame") -> dict[str, str]:
    return dict(zip(drawn.entry, drawn.rule, strict=True))


def _draw(
    axes: "Axes", lines: "pandas.DataFrame", style: dict[str, Any], scale: float, width: float
) -> None:
    """One entry's lines, published below ours."""
    for source, order in (("published", 2), ("ours", 3)):
        mean = lines[(lines.source == source) & (lines.part == "mean")]
        if mean.empty:
            continue
        x, y, sd = (mean[name].to_numpy(float) for name in ("x", "value", "sd"))
        is_ours = source == "ours"
        look = style | ({"linewidth": width} if is_ours else _THEIRS)
        marker = {"marker": "o", "markersize": 4} if is_ours and len(x) <= 20 else {}
        axes.plot(x / scale, y, zorder=order, **look, **marker)
        if (sd > 0).any():
            band = 0.22 if is_ours else 0.12
            low, high = y - sd, y + sd
            axes.fill_between(
                x / scale,
                low,
                high,
                color=style["color"],
                alpha=band,
                linewidth=0,
                zorder=order - 1,
            )
    for (part, _), one in lines[lines.part != "mean"].groupby(["part", "seed"], sort=False):
        y = one.value.to_numpy(float)
        alpha = 0.6 if part == "seed" else 1.0
        axes.plot(one.x / scale, y, color=style["color"], linewidth=0.9, alpha=alpha, zorder=2.5)
        if part != "seed":
            end = "x" if part == "diverged" else "v"
            axes.plot(
                one.x.iloc[-1:] / scale, y[-1:], end, color=style["color"], markersize=9, zorder=4
            )


def _limits(
    axes: "Axes", drawn: "pandas.DataFrame", scale: float, bottom: float | None, top: float | None
) -> None:
    """x from 0 to our last point; y from `bottom` to `top`, or further where a mean of ours would
    be cut off.
    """
    ours = drawn[drawn.source == "ours"]
    ours = ours if len(ours) else drawn  # published alone
    end = ours.x.max()
    axes.set_xlim(0, 1.02 * end / scale)
    axes.xaxis.get_major_locator().set_params(integer=True)
    kept = ours[ours.part.isin(["mean", "seed"])]
    shown = (
        kept
        if bottom is not None and top is not None and len(kept)
        else drawn[drawn.part.isin(["mean", "seed"])]
    )
    shown = shown[shown.x <= end]
    if len(shown):
        sd = shown.sd.astype(float).fillna(0)
        low, high = (shown.value - sd).min(), (shown.value + sd).max()
        margin = 0.04 * (high - low) or 0.01
        low, high = low - margin, high + margin
        axes.set_ylim(
            low if bottom is None else min(low, bottom), high if top is None else max(high, top)
        )


def _point_at_hidden(
    axes: "Axes", drawn: "pandas.DataFrame", style: dict[str, dict[str, Any]]
) -> None:
    """An arrow head at the lower edge for each collapsed or diverged seed that lies under the axes
    altogether.
    """
    low, _ = axes.get_ylim()
    left, right = axes.get_xlim()
    apart = drawn[drawn.part.isin(["collapsed", "diverged"])]
    hidden = [
        (entry, one)
        for (entry, *_), one in apart.groupby(["entry", "part", "seed"], sort=False)
        if one.value.max() < low
    ]
    for number, (entry, one) in enumerate(hidden):
        text = (
            f"{one.label.iloc[0]} seed {one.seed.iloc[0]} {one.part.iloc[0]}:"
            f" {one.value.iloc[-1]:.3f}"
        )
        place = (left + (0.03 + 0.3 * (number % 3)) * (right - left), 0.02 + 0.05 * (number // 3))
        look = {"color": style[entry]["color"], "fontsize": 11, "fontfamily": "DejaVu Sans"}
        axes.text(*place, f"▼ {text}", transform=axes.get_xaxis_transform(), **look)


def _with_n(lines: "pandas.DataFrame") -> str:
    """An entry's label with the number of seeds in its mean."""
    label = lines.label.iloc[0]
    mean = lines[(lines.source == "ours") & (lines.part == "mean")]
    apart = lines[lines.part.isin(["collapsed", "diverged"])].groupby("part").seed.nunique()
    if mean.empty and apart.empty:
        return f"{label} (not run)"
    n = int(mean.n.min()) if len(mean) else 0
    return f"{label} (n = {n}{''.join(f', {count} {part}' for part, count in apart.items())})"


def _legend(
    drawn: "pandas.DataFrame", style: dict[str, dict[str, Any]]
) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for entry, look in style.items():
        lines = drawn[drawn.entry == entry]
        is_run = (lines.source == "ours").any()
        handles.append(Line2D([], [], **look | ({"linewidth": 2.6} if is_run else _THEIRS)))
        labels.append(_with_n(lines) if (drawn.source == "ours").any() else lines.label.iloc[0])
    more = _source_keys(drawn)
    return handles + more[0][1:], labels + more[1][1:]


def _source_keys(drawn: "pandas.DataFrame") -> tuple[list[Any], list[str]]:
    """Legend keys for ours and, where there is any, published."""
    from matplotlib.lines import Line2D

    theirs = drawn[drawn.source == "published"]
    handles = [Line2D([], [], color="0.35", linewidth=2.4)]
    labels = ["ours"]
    if len(theirs):
        n = sorted({int(count) for count in theirs.n})
        handles.append(Line2D([], [], color="0.35", **_THEIRS))
        labels.append(f"published (n = {', '.join(map(str, n))})")
    return handles, labels
