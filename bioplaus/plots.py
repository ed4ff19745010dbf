"""Figure pieces in one style, and `save`, which writes a figure with the numbers it draws.

Ours is a solid line with the band mean +/- population standard deviation over seeds, as published (no band for one seed);
the published curve is dashed, in the same colour. A rule has the same colour in every figure, whatever else is drawn:
the palette is Okabe and Ito's, which colour-blind readers can tell apart, assigned so that it is near the published
colours. A rule that is not in the table gets a colour from its name. Entries of one rule differ by their dashes.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus import _files, results

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
_COLOURS = {
    "corinfomax": "#0072B2",  # published #006BB2
    "corinfomax_sparse": "#CC79A7",
    "csm": "#D55E00",  # published red
    "ep": "#009E73",  # published green
    "pc": "#56B4E9",  # published blue
    "pc_nudge": "#E69F00",  # published orange
    "bp": "#222222",
    "fa": "#8A8A8A",
}
_SPARE = ("#882255", "#44AA99", "#999933", "#332288", "#AA4499", "#117733", "#661100")  # for rules without an own colour
_DASHES = ("-", (0, (8, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1)))  # entries of one rule, in manifest order
_PUBLISHED = (0, (2.5, 1.6))
_STYLE = {
    "figure.figsize": (10, 6),
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "font.family": "STIXGeneral",  # a Times that comes with matplotlib: the same figure on every machine
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
    "pdf.fonttype": 42,  # text stays text
}


def use_style() -> None:
    """Set the package's matplotlib style for this process; call it once, at the top of a notebook."""
    import matplotlib

    matplotlib.rcParams.update(matplotlib.rcParamsDefault | {"backend": matplotlib.rcParams["backend"]} | _STYLE)


def colour(rule: str) -> str:
    """The colour of a rule, the same in every figure, as #rrggbb."""
    number = int.from_bytes(hashlib.sha256(rule.encode()).digest()[:4], "big")
    return _COLOURS.get(rule, _SPARE[number % len(_SPARE)])


def styles(entries: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Line style of each entry: its rule's colour, and dashes that tell entries of one colour apart.

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

    The x axis ends with our longest run, the y axis goes from `bottom` to `top`; both give way so that no mean of ours is
    cut off. Seeds that collapsed or diverged are thin lines; one that lies under the axes is pointed at.
    None where nothing of ours is there to draw.

    Parameters
    ----------
    drawn : as `Analysis.curves` gives it.
    top, bottom : limits of the published figure; without `bottom`, 0.01 below the first entry's first published value.
    scale : x in the figure = x in `drawn` / scale.
    """
    if not (drawn.source == "ours").any():
        return None
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    style = styles(_entries(drawn))
    for entry, lines in drawn.groupby("entry", sort=False):
        _draw(axes, lines, style[entry], scale, width=3.2 if entry == next(iter(style)) else 2.2)
    _limits(axes, drawn, scale, top, bottom)
    _point_at_hidden(axes, drawn, style)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend(*_legend(drawn, style), loc=legend)
    return figure


def by_entry(drawn: "pandas.DataFrame", *, xlabel: str, ylabel: str, title: str = "", scale: float = 1.0) -> "Figure | None":
    """One small axes an entry: every seed of ours as a thin line, their mean, and the published curve.

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
    n_columns = min(len(shown), 3) if len(shown) != 4 else 2
    n_rows = math.ceil(len(shown) / n_columns)
    figure, panels = plt.subplots(n_rows, n_columns, figsize=(5.2 * n_columns, 4 * n_rows + 0.6), squeeze=False)
    for axes, entry in zip(panels.flat, shown, strict=False):
        lines = drawn[drawn.entry == entry]
        _draw(axes, lines, style[entry] | {"linestyle": "-"}, scale, width=2.4)
        _limits(axes, lines, scale, None, None)
        axes.set_title(_with_n(lines))
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set_xlabel(xlabel)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    handles, labels = _source_keys(drawn)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


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
    """Write `<preset>/figures/<name>` as pdf, png (150 dpi), csv (exactly what is drawn) and json (what the page says).

    Equal results give equal bytes. With `figure` None (nothing to draw) only the json is written, so that the page says
    what is missing and which command makes it; files of an earlier drawing are removed.

    Parameters
    ----------
    notebook : name of the notebook that draws it, without suffix.
    claims : comparisons with published numbers, as `Analysis.compare_final` and `compare_curve` give them.
    about : `Analysis.about`.

    Returns
    -------
    The json file.
    """
    folder = results.root() / about["preset"] / "figures"
    _clear(folder, name)
    if figure is not None:
        figure.draw_without_rendering()  # lay out once, not for each format
        figure.set_layout_engine("none")
        _files.write_atomic(folder / f"{name}.png", _render(figure, "png"))
        _files.write_atomic(folder / f"{name}.pdf", _render(figure, "pdf"))
        _files.write_atomic(folder / f"{name}.csv", csv(data))
    return describe(
        folder, name, "figure", is_empty=figure is None, notebook=notebook, title=title, caption=caption, claims=claims, about=about
    )


def csv(table: "pandas.DataFrame") -> bytes:
    """A table as csv text: ten significant digits, \\n at line ends; equal tables give equal bytes."""
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()


def describe(
    folder: Path, name: str, kind: str, *, claims: Iterable[Mapping[str, Any]], about: Mapping[str, Any], **said: Any
) -> Path:
    """Write `<name>.json`: what the report page says of a figure or table."""
    path = folder / f"{name}.json"
    _files.write_json(path, _jsonable({"kind": kind, "name": name, **said, **about, "claims": [dict(c) for c in claims]}))
    return path


def _clear(folder: Path, name: str) -> None:
    for suffix in ("json", "png", "pdf", "csv", "md"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def _render(figure: "Figure", kind: str) -> bytes:
    """The file's bytes, without dates and version, so that equal figures are equal files."""
    import io

    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
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


def _entries(drawn: "pandas.DataFrame") -> dict[str, str]:
    return dict(zip(drawn.entry, drawn.rule, strict=True))


def _draw(axes: "Axes", lines: "pandas.DataFrame", style: dict[str, Any], scale: float, width: float) -> None:
    """One entry's lines, published below ours."""
    for source, order in (("published", 2), ("ours", 3)):
        mean = lines[(lines.source == source) & (lines.part == "mean")]
        if mean.empty:
            continue
        x, y, sd = (mean[name].to_numpy(float) for name in ("x", "value", "sd"))
        is_ours = source == "ours"
        look = style | ({"linewidth": width} if is_ours else {"linewidth": 1.6, "linestyle": _PUBLISHED})
        marker = {"marker": "o", "markersize": 4} if is_ours and len(x) <= 20 else {}
        axes.plot(x / scale, y, zorder=order, **look, **marker)
        if (sd > 0).any():
            band = 0.22 if is_ours else 0.12
            axes.fill_between(x / scale, y - sd, y + sd, color=style["color"], alpha=band, linewidth=0, zorder=order - 1)
    for (part, _), one in lines[lines.part != "mean"].groupby(["part", "seed"], sort=False):
        y = one.value.to_numpy(float)
        axes.plot(one.x / scale, y, color=style["color"], linewidth=0.9, alpha=0.6 if part == "seed" else 1.0, zorder=2.5)
        if part != "seed":
            end = "x" if part == "diverged" else "v"
            axes.plot(one.x.iloc[-1:] / scale, y[-1:], end, color=style["color"], markersize=9, zorder=4)


def _limits(axes: "Axes", drawn: "pandas.DataFrame", scale: float, top: float | None, bottom: float | None) -> None:
    means = drawn[drawn.part == "mean"]
    ours, theirs = means[means.source == "ours"], means[means.source == "published"]
    seeds = drawn[drawn.part.isin(["mean", "seed"]) & (drawn.source == "ours")]
    if len(drawn[drawn.source == "ours"]):
        end = drawn.x[drawn.source == "ours"].max() / scale
        axes.set_xlim(0, end * 1.02)
        theirs = theirs[theirs.x <= end * scale]
    seen = [frame for frame in (seeds, theirs) if len(frame)]
    if not seen:
        return
    if bottom is None and len(theirs):
        bottom = theirs.value.iloc[0] - 0.01 if theirs.value.iloc[0] < 1 else theirs.value.min() - 1
    low = min(frame.value.min() for frame in seen)
    high = max(frame.value.max() for frame in seen)
    margin = 0.03 * (high - low) or 0.01
    low = low - margin if bottom is None else min(bottom, ours.value.min() - margin if len(ours) else bottom)
    high = high + margin if top is None else max(top, ours.value.max() + margin if len(ours) else top)
    axes.set_ylim(low, high)


def _point_at_hidden(axes: "Axes", drawn: "pandas.DataFrame", style: dict[str, dict[str, Any]]) -> None:
    """An arrow head at the lower edge for each collapsed or diverged seed that lies under the axes altogether."""
    low, _ = axes.get_ylim()
    left, right = axes.get_xlim()
    apart = drawn[drawn.part.isin(["collapsed", "diverged"])]
    hidden = [(entry, one) for (entry, *_), one in apart.groupby(["entry", "part", "seed"], sort=False) if one.value.max() < low]
    for number, (entry, one) in enumerate(hidden):
        text = f"{one.label.iloc[0]} seed {one.seed.iloc[0]} {one.part.iloc[0]}: {one.value.iloc[-1]:.3f}"
        place = (left + (0.03 + 0.3 * (number % 3)) * (right - left), 0.02 + 0.05 * (number // 3))
        axes.text(
            *place, f"▼ {text}", color=style[entry]["color"], fontsize=11, fontfamily="DejaVu Sans",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _with_n(lines: "pandas.DataFrame") -> str:
    """An entry's label with the number of seeds in its mean."""
    label = lines.label.iloc[0]
    mean = lines[(lines.source == "ours") & (lines.part == "mean")]
    apart = lines[lines.part.isin(["collapsed", "diverged"])].groupby("part").seed.nunique()
    if mean.empty and apart.empty:
        return f"{label} (not run)"
    n = int(mean.n.min()) if len(mean) else 0
    return f"{label} (n = {n}{''.join(f', {count} {part}' for part, count in apart.items())})"


def _legend(drawn: "pandas.DataFrame", style: dict[str, dict[str, Any]]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=2.6, **style[entry]) for entry in style]
    labels = [_with_n(drawn[drawn.entry == entry]) for entry in style]
    more = _source_keys(drawn)
    return handles + more[0][1:], labels + more[1][1:]


def _source_keys(drawn: "pandas.DataFrame") -> tuple[list[Any], list[str]]:
    """Legend keys for what every line is: ours, published, and published under another setting."""
    from matplotlib.lines import Line2D

    theirs = drawn[drawn.source == "published"]
    handles = [Line2D([], [], color="0.35", linewidth=2.4)]
    labels = ["ours"]
    if len(theirs):
        n = sorted({int(count) for count in theirs.n})
        handles.append(Line2D([], [], color="0.35", linewidth=1.6, linestyle=_PUBLISHED))
        labels.append(f"published (n = {', '.join(map(str, n))})")
    return handles, labels


def load_description(path: Path) -> dict[str, Any] | None:
    """What `describe` wrote; None for a file that is not one of ours."""
    found = _files.read_json(path)
    return found if isinstance(found, dict) and {"kind", "name", "notebook"} <= found.keys() else None
