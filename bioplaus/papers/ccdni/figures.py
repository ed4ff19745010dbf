"""Figures of numbers of the cerebro-cerebellar papers: learning curves, horizons, gradients, bars.

The cortex alone (cRNN) is grey, with cerebellum (ccRNN) orange, full back-propagation in time red,
as published; bands are the standard error of the mean over seeds, population form, as published.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bioplaus.analysis import plots, style, verdicts
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.papers.ccdni import tables
from bioplaus.papers.ccdni.measures import differences

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

BANDS = "Bands: population sd / √n over n seeds, as published; error bars: sample standard error."


def kind(entry: str, rule: str) -> str:
    """What gives an entry its colour: its rule, but for full back-propagation."""
    return "full_bptt" if entry == "bptt" else rule


def lines(
    axes: "Axes",
    drawn: "pandas.DataFrame",
    looks: plots.Styles | None = None,
    *,
    scale: float = 1.0,
    width: float = 2.4,
) -> None:
    """Mean of every entry with its band, and thin lines of the seeds that are in no mean.

    Parameters
    ----------
    drawn : as `tables.curves` gives it.
    looks : entry -> line style; None: the rule's colour.
    scale : values are multiplied by it.
    """
    rules = plots.rules_of(drawn)
    looks = looks or style.lines({entry: kind(entry, rule) for entry, rule in rules.items()})
    for entry, part in drawn.groupby("entry", sort=False):
        mean, label = part[part.part == "mean"], part.label.iloc[0]
        label = f"{label} (n = {int(mean.n.min()) if len(mean) else 0})"
        look = {**looks[entry], "linewidth": width, "label": label}
        value, sem = (scale * mean[name].to_numpy(float) for name in ("value", "sem"))
        plots.band(axes, mean.x.to_numpy(float), value, sem, **look)
        for (how, _), one in part[part.part != "mean"].groupby(["part", "seed"]):
            plots.seed_line(axes, one.x, scale * one.value, how, color=looks[entry]["color"])


def learning(drawn: "pandas.DataFrame", *, ylabel: str, title: str = "") -> Drawing:
    """Learning curves in one axes."""
    if drawn.empty:
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    lines(axes, drawn)
    axes.set(xlabel="Epoch", ylabel=ylabel, title=title)
    axes.set_xlim(left=0)
    axes.legend()
    return Drawing(figure, drawn, BANDS)


class Column(NamedTuple):
    """A column of figure S3: one task."""

    name: str  # of its part of the table
    title: str
    drawn: "pandas.DataFrame"  # as `tables.curves` gives it
    scale: float = 1.0  # of the values
    is_log: bool = False


def horizons_in_rows(columns: Sequence[Column], entries: Mapping[int, Sequence[str]]) -> Drawing:
    """Figure S3: one column a task, one row a truncation, the curves of its entries in each.

    Parameters
    ----------
    entries : K -> the entries of its row.
    """
    table = tables.stacked({column.name: column.drawn for column in columns})
    if table.empty:
        return Drawing(None, table)
    from matplotlib import pyplot as plt

    drawn = {entry for column in columns for entry in column.drawn.entry}
    entries = {k: names for k, names in entries.items() if drawn.intersection(names)}
    size = (5.6 * len(columns), 2.7 * len(entries) + 0.6)
    figure, grid = plt.subplots(len(entries), len(columns), figsize=size, squeeze=False)
    for column, below in zip(columns, grid.T, strict=True):
        for axes, (k, names) in zip(below, entries.items(), strict=True):
            part = column.drawn[column.drawn.entry.isin(names)]
            if part.empty:
                axes.set_axis_off()
                continue
            lines(axes, part, scale=column.scale, width=2)
            unit = f" × {column.scale:g}" if column.scale != 1 else ""
            axes.set(yscale="log" if column.is_log else "linear", title=f"K = {k}")
            axes.set_ylabel(f"Training MSE{unit}", fontsize=14)
            axes.legend(fontsize=10)
        below[0].set_title(f"{column.title}, {below[0].get_title()}".removesuffix(", "))
        below[-1].set_xlabel("Epoch")
    return Drawing(figure, table, BANDS)


def discrimination(drawn: "pandas.DataFrame", *, ylabel: str) -> Drawing:
    """Learning curves of cRNN and ccRNN, one axes a truncation, and single published points as
    stars.

    Parameters
    ----------
    drawn : as `tables.discrimination` gives it.
    """
    if drawn.empty:
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt

    truncations = sorted(drawn.K.dropna().unique())
    size = (3.9 * len(truncations), 4.4)
    figure, grid = plt.subplots(1, len(truncations), figsize=size, squeeze=False, sharey=True)
    for axes, k in zip(grid[0], truncations, strict=True):
        part = drawn[drawn.K == k]
        lines(axes, part[part.source == "ours"])
        for row in part[part.source == "published"].itertuples():
            name = f"{row.network.replace('rnn', 'RNN')} of 2019 (MNIST)"
            star = {"markersize": 15, "markeredgecolor": "black", "label": name}
            shade = style.colour("dni" if row.network == "ccrnn" else "bptt")
            axes.plot(row.x, row.value, "*", color=shade, **star)
        axes.set(title=f"K = {k}", xlabel="Epoch")
        axes.legend(fontsize=9)
    grid[0, 0].set_ylabel(ylabel)
    return Drawing(figure, drawn, BANDS)


def lesions(drawn: "pandas.DataFrame", epochs: Mapping[str, int], *, title: str = "") -> Drawing:
    """Training error of intact networks (grey, orange) and of lesioned ones (from dark to light).

    Parameters
    ----------
    drawn : `tables.stacked` curves with parts "intact" and "lesioned".
    epochs : entry -> first epoch with its lesion, shown by a dotted line.
    """
    if drawn.empty or not (drawn.part_of == "lesioned").any():
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    lines(axes, drawn[drawn.part_of == "intact"])
    lesioned = drawn[(drawn.part_of == "lesioned") & (drawn.part == "mean")]
    entries = list(dict.fromkeys(lesioned.entry))
    looks = {
        entry: {"color": shade}
        for entry, shade in zip(entries, style.ordered(len(entries)), strict=True)
    }
    names = lesioned.label + ", epoch " + lesioned.entry.map(epochs).astype(str)
    lines(axes, lesioned.assign(label=names), looks, width=2)
    for entry, look in looks.items():
        axes.axvline(epochs[entry], linewidth=1.2, linestyle=":", **look)
    axes.set(xlabel="Epoch", ylabel="Training MSE", title=title)
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=13)
    return Drawing(figure, drawn, BANDS)


def horizons(ratios: Mapping[str, "pandas.DataFrame"], *, ylabel: str) -> Drawing:
    """Error ratio ccRNN / cRNN against the feedback horizon of the cRNN, one axes a task; stars
    where a paired t-test says so, and K where two have the same horizon.

    Parameters
    ----------
    ratios : title of a task -> what `tables.horizon` gives.
    """
    table = tables.stacked(ratios)
    shown = {title: ratio for title, ratio in ratios.items() if len(ratio)}
    if not shown:
        return Drawing(None, table)
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 4.6), squeeze=False)
    look = {"color": style.colour("dni"), "marker": "o", "linewidth": 2, "capsize": 3}
    for axes, (title, ratio) in zip(grid[0], shown.items(), strict=True):
        axes.axhline(1, color=style.colour("bptt"), linewidth=1.5)
        ratio = ratio.sort_values(["horizon", "K"])  # the same horizon may be that of two K
        x = 100 * ratio.horizon
        axes.errorbar(x, ratio.ratio, yerr=ratio.ratio_sem, **look)
        if ratio.horizon.duplicated().any():
            for at, y, k in zip(x, ratio.ratio, ratio.K, strict=True):
                axes.annotate(
                    f"K = {k}",
                    (at, y),
                    xytext=(8, 6),
                    textcoords="offset points",
                    fontsize=10,
                )
        top = (ratio.ratio + ratio.ratio_sem.fillna(0)).max()
        for at, p, n in zip(x, ratio.p, ratio.n, strict=True):
            _above(axes, (at, top), stars(p, n))
        axes.set(
            xlabel="Feedback horizon (% of sequence)", title=f"{title} (n = {int(ratio.n.min())})"
        )
        axes.margins(y=0.18)
    grid[0, 0].set_ylabel(ylabel)
    return Drawing(figure, table, BANDS)


def stars(p: float, n: int) -> str:
    """What a test of n pairs says; nothing where there are too few for it to say anything."""
    if not np.isfinite(p) or n < verdicts.MIN_SEEDS:
        return ""
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else "n.s."


def bars(
    rows: "pandas.DataFrame", *, value: str, by: str, ylabel: str, xlabel: str = ""
) -> Drawing:
    """Mean over seeds with its standard error (sample form), and every seed as a dot; groups `by`,
    bars by network.

    In each bar its number of seeds n; above each group what the two-sided paired t-test between
    cRNN and ccRNN says, if it has both and there are at least `verdicts.MIN_SEEDS` pairs.

    Parameters
    ----------
    rows : one a seed, with the columns named, "network", "entry", "rule" and "seed".
    """
    if rows.empty:
        return Drawing(None, rows)
    from matplotlib import pyplot as plt

    groups, networks = list(dict.fromkeys(rows[by])), list(dict.fromkeys(rows.network))
    width = max(6.0, 1.1 + 0.75 * len(groups) * (len(networks) + 0.6))
    figure, axes = plt.subplots(figsize=(width, 5))
    for x, name, label, part in _placed(rows, by, groups, networks):
        y = part[value].to_numpy(float)
        sem = y.std(ddof=1) / np.sqrt(len(y)) if len(y) > 1 else 0.0
        shade = style.colour(kind(part.entry.iloc[0], part.rule.iloc[0]))
        look = {"color": shade, "alpha": 0.75, "capsize": 3, "label": name if label else None}
        axes.bar(x, y.mean(), 0.72 / len(networks), yerr=sem, **look)
        axes.plot(np.full(len(y), x), y, "o", color="black", markersize=3, alpha=0.6)
        at_bottom = {"transform": axes.get_xaxis_transform(), "ha": "center", "fontsize": 11}
        axes.text(x, 0.015, f"n = {len(y)}", **at_bottom)
    for k, group in enumerate(groups):
        part = rows[rows[by] == group]
        cortex, both = (
            dict(zip(one.seed, one[value], strict=True))
            for one in (part[part.network == name] for name in ("cRNN", "ccRNN"))
        )
        gap = differences(cortex, both)
        if gap:
            test = verdicts.student(gap)
            _above(axes, (k, part[value].max()), stars(test.p if test else np.nan, len(gap)))
    axes.set_xticks(range(len(groups)), [textwrap.fill(str(group), 16) for group in groups])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(y=0.12)
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
    axes.legend(ncols=len(networks), **above)
    return Drawing(figure, rows, BANDS)


def traces(
    runs: RunSet,
    names: Mapping[str, str],
    entries: Sequence[str],
    *,
    ylabel: str,
    n_columns: int = 3,
    share: str = "all",
) -> Drawing:
    """Diagnostics over training, one axes a diagnostic; a line at 0 where one goes below it.

    Parameters
    ----------
    names : diagnostic -> title, row by row.
    entries : in the order of their colours, from dark to light.
    share : axes with one y scale, as matplotlib's `sharey`: "all", "col".
    """
    import pandas

    parts = {name: tables.curves(runs, name, entries) for name in names}
    parts = {name: part for name, part in parts.items() if len(part)}
    if not parts:
        return Drawing(None, pandas.DataFrame())
    from matplotlib import pyplot as plt

    n_columns = min(len(parts), n_columns)
    n_rows = -(-len(parts) // n_columns)
    size = (4.6 * n_columns, 3.9 * n_rows)
    figure, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, sharey=share)
    shades = style.ordered(len(entries))
    looks = {entry: {"color": shade} for entry, shade in zip(entries, shades, strict=True)}
    for axes, (name, part) in zip(grid.flat, parts.items(), strict=False):
        lines(axes, part[part.part == "mean"], looks, width=1.8)
        axes.set(title=names[name], xlabel="Batches learned")
        if axes.get_ylim()[0] < 0:
            axes.axhline(0, color="0.4", linewidth=1)
    grid[0, 0].set_ylabel(ylabel)
    grid[0, -1].legend(fontsize=11)
    for axes in grid.flat[len(parts) :]:
        axes.set_axis_off()
    table = pandas.concat(
        [part.assign(diagnostic=name) for name, part in parts.items()], ignore_index=True
    )
    return Drawing(figure, table, BANDS)


def _placed(
    rows: "pandas.DataFrame", by: str, groups: Sequence[Any], networks: Sequence[str]
) -> Iterator[tuple[float, str, bool, "pandas.DataFrame"]]:
    """Of each bar: its x, network, whether it is the one of the legend, and its rows."""
    for k, name in enumerate(networks):
        shift = (k - (len(networks) - 1) / 2) * 0.8 / len(networks)
        of_network = rows[rows.network == name]
        for group, value in enumerate(groups):
            part = of_network[of_network[by] == value]
            if len(part):
                yield group + shift, name, group == 0, part


def _above(axes: "Axes", point: tuple[float, float], text: str) -> None:
    look = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 12}
    axes.annotate(text, point, **look)
