"""Figure pieces of the cerebro-cerebellar papers: learning curves, drawings, horizons, gradients,
described pictures.

The cortex alone (cRNN) is grey, with cerebellum (ccRNN) orange, full back-propagation in time red,
as published; bands are the standard error of the mean over seeds, population form, as published.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.analysis import experiment as analysis
from bioplaus.analysis import plots
from bioplaus.analysis.experiment import Analysis
from bioplaus.papers.ccdni import measures as cerebellum

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL = "#D55E00"  # full back-propagation through time
_DASHES = ("-", (0, (6, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1)))


def colour(entry: str, rule: str) -> str:
    """Red for full back-propagation, else the colour of the rule."""
    return FULL if entry == "bptt" else plots.colour(rule)


def lines(
    axes: "Axes", drawn: "pandas.DataFrame", *, scale: float = 1.0, width: float = 2.4
) -> None:
    """Mean of every entry with its band, and thin lines of the seeds that are in no mean.

    Parameters
    ----------
    drawn : as `cerebellum.curves` gives it.
    scale : values are multiplied by it.
    """
    seen: dict[str, int] = {}
    for entry, part in drawn.groupby("entry", sort=False):
        shade = colour(entry, part.rule.iloc[0])
        style = {"color": shade, "linestyle": _DASHES[seen.get(shade, 0) % len(_DASHES)]}
        seen[shade] = seen.get(shade, 0) + 1
        mean = part[part.part == "mean"]
        x, y, sem = (mean[name].to_numpy(float) for name in ("x", "value", "sem"))
        label = f"{part.label.iloc[0]} (n = {int(mean.n.min()) if len(mean) else 0})"
        axes.plot(x, scale * y, linewidth=width, label=label, **style)
        axes.fill_between(
            x, scale * (y - sem), scale * (y + sem), color=shade, alpha=0.25, linewidth=0
        )
        for _, one in part[part.part != "mean"].groupby(["part", "seed"]):
            axes.plot(one.x, scale * one.value, linewidth=0.9, **style)


def learning(
    drawn: "pandas.DataFrame",
    *,
    ylabel: str,
    title: str = "",
    scale: float = 1.0,
    log: bool = False,
) -> "Figure | None":
    """Learning curves in one axes; None where nothing is there to draw."""
    if drawn.empty:
        return None
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    lines(axes, drawn, scale=scale)
    axes.set(xlabel="Epoch", ylabel=ylabel, title=title, yscale="log" if log else "linear")
    axes.set_xlim(left=0)
    axes.legend()
    return figure


def panels(
    columns: Sequence[tuple[str, "pandas.DataFrame", Mapping[int, Sequence[str]], float, bool]],
) -> "Figure | None":
    """Figure S3: one column a task, one row a truncation, the learning curves of cRNN and ccRNN in
    each.

    Parameters
    ----------
    columns : of each task its title, curves (`cerebellum.curves`), the entries of each row by K, a
        factor on the values, and whether the y axis is logarithmic.
    """
    if all(drawn.empty for _, drawn, *_ in columns):
        return None
    from matplotlib import pyplot as plt

    rows = list(
        dict.fromkeys(k for _, drawn, entries, *_ in columns for k in entries if len(drawn))
    )
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(5.6 * len(columns), 2.7 * len(rows) + 0.6), squeeze=False
    )
    for column, (title, drawn, entries, scale, is_log) in enumerate(columns):
        for row, k in enumerate(rows):
            here, part = axes[row, column], drawn[drawn.entry.isin(entries.get(k, ()))]
            if part.empty:
                here.set_axis_off()
                continue
            lines(here, part, scale=scale, width=2)
            here.set(
                yscale="log" if is_log else "linear",
                title=f"{title}, K = {k}" if row == 0 else f"K = {k}",
            )
            here.set_ylabel("Training MSE" + (f" × {scale:g}" if scale != 1 else ""), fontsize=14)
            here.legend(fontsize=10)
        axes[-1, column].set_xlabel("Epoch")
    return figure


def discrimination(drawn: "pandas.DataFrame", *, ylabel: str) -> "Figure | None":
    """Learning curves of cRNN and ccRNN, one axes a truncation, and single published points as
    stars.

    Parameters
    ----------
    drawn : as `cerebellum.discrimination` gives it.
    """
    if drawn.empty:
        return None
    from matplotlib import pyplot as plt

    truncations = sorted(drawn.K.dropna().unique())
    width = 3.9 * len(truncations)
    figure, axes = plt.subplots(
        1, len(truncations), figsize=(width, 4.4), squeeze=False, sharey=True
    )
    for here, k in zip(axes[0], truncations, strict=True):
        part = drawn[drawn.K == k]
        lines(here, part[part.source == "ours"])
        for row in part[part.source == "published"].itertuples():
            shade = plots.colour("dni" if row.network == "ccrnn" else "bptt")
            here.plot(
                row.x,
                row.value,
                "*",
                color=shade,
                markersize=15,
                markeredgecolor="black",
                label=_of_2019(row.network),
            )
        here.set(title=f"K = {k}", xlabel="Epoch")
        here.legend(fontsize=9)
    axes[0, 0].set_ylabel(ylabel)
    return figure


def _of_2019(network: str) -> str:
    return f"{network.replace('rnn', 'RNN')} of 2019 (MNIST)"


def lesions(
    drawn: "pandas.DataFrame", epochs: Mapping[str, int], *, title: str = ""
) -> "Figure | None":
    """Training error of intact networks (grey, orange) and of lesioned ones (blue to green).

    Parameters
    ----------
    drawn : `cerebellum.stacked` curves with parts "intact" and "lesioned".
    epochs : entry -> first epoch with its lesion, shown by a dotted line.
    """
    if drawn.empty or not (drawn.part_of == "lesioned").any():
        return None
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    lines(axes, drawn[drawn.part_of == "intact"])
    lesioned = drawn[(drawn.part_of == "lesioned") & (drawn.part == "mean")]
    entries = list(dict.fromkeys(lesioned.entry))
    for entry, shade in zip(
        entries, plt.get_cmap("winter")(np.linspace(0, 0.8, len(entries))), strict=True
    ):
        one = lesioned[lesioned.entry == entry]
        x, y, sem = (one[name].to_numpy(float) for name in ("x", "value", "sem"))
        label = f"{one.label.iloc[0]}, epoch {epochs[entry]} (n = {int(one.n.min())})"
        axes.plot(x, y, color=shade, linewidth=2, label=label)
        axes.axvline(epochs[entry], color=shade, linewidth=1.2, linestyle=":")
        axes.fill_between(x, y - sem, y + sem, color=shade, alpha=0.2, linewidth=0)
    axes.set(xlabel="Epoch", ylabel="Training MSE", title=title)
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=13)
    return figure


def drawings(
    found: Analysis, entries: Sequence[str], *, title: str = "", apart: float = 0.0
) -> "tuple[Figure | None, pandas.DataFrame]":
    """What the networks of the first seed draw (lines) and should draw (dots), one axes an entry;
    and the numbers.

    Dots are filled at the steps that are supervised. x and y are in units of the drawing.

    Parameters
    ----------
    apart : distance between drawings, in units of the drawing, five in a row; 0 draws all from one
        origin.
    """
    import pandas
    from matplotlib import pyplot as plt

    shown = [(entry, cerebellum.good(found, entry)) for entry in entries]
    shown = [(entry, min(runs, key=lambda o: _place(found, o))) for entry, runs in shown if runs]
    if not shown:
        return None, pandas.DataFrame()
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4.4 * len(shown), 4.8), squeeze=False, sharex=True, sharey=True
    )
    rows = []
    for here, (entry, outcome) in zip(axes[0], shown, strict=True):
        outputs, every = outcome.record["outputs"], outcome.record["config"]["spars_int"]
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(outputs["label"])))
        curves = (outputs[name] for name in ("label", "drawn", "target"))
        for number, (label, drawn, target, shade) in enumerate(zip(*curves, shades, strict=True)):
            place = apart * np.array([number % 5, -(number // 5)])
            is_taught = np.arange(len(target)) % every == 0
            dots = {"color": shade, "markersize": 3.5, "alpha": 0.6}
            here.plot(*(target[is_taught] + place).T, "o", **dots)
            here.plot(
                *(target[~is_taught] + place).T, "o", fillstyle="none", markeredgewidth=0.6, **dots
            )
            here.plot(*(drawn + place).T, color=shade, linewidth=1.8, label=f"{label:d}")
            for t, (point, asked) in enumerate(zip(drawn, target, strict=True)):
                at = {
                    "entry": entry,
                    "seed": outcome.run["seed"],
                    "label": label,
                    "step": t,
                    "taught": is_taught[t],
                }
                rows.append(
                    at
                    | dict(zip(("x", "y", "target_x", "target_y"), (*point, *asked), strict=True))
                )
        here.set(
            aspect="equal", title=f"{found.label(entry)}\n(seed {outcome.run['seed']})", xlabel="x"
        )
    axes[0, 0].set_ylabel("y")
    look = {"fontsize": 10, "title_fontsize": 11, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes[0, -1].legend(title="Cue" if found.experiment == "linedraw" else "Digit", **look)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return figure, pandas.DataFrame(rows)


def _place(found: Analysis, outcome: Any) -> int:
    return [run.id for run in found.runs].index(outcome.run["id"])


def horizons(tables: Mapping[str, "pandas.DataFrame"], *, ylabel: str) -> "Figure | None":
    """Error ratio ccRNN / cRNN against the feedback horizon, one axes a task; stars where a paired
    t-test says so.

    Parameters
    ----------
    tables : title of a task -> what `cerebellum.horizon` gives.
    """
    tables = {title: table for title, table in tables.items() if len(table)}
    if not tables:
        return None
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(4.2 * len(tables), 4.6), squeeze=False)
    for here, (title, table) in zip(axes[0], tables.items(), strict=True):
        here.axhline(1, color=plots.colour("bptt"), linewidth=1.5)
        x = 100 * table.horizon
        here.errorbar(
            x,
            table.ratio,
            yerr=table.ratio_sem,
            color=plots.colour("dni"),
            marker="o",
            linewidth=2,
            capsize=3,
        )
        top = (table.ratio + table.ratio_sem.fillna(0)).max()
        for horizon, p, n in zip(x, table.p, table.n, strict=True):
            place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            here.annotate(_stars(p, n), (horizon, top), fontsize=12, **place)
        here.set(xlabel="Horizon K / T (%)", title=f"{title} (n = {int(table.n.min())})")
        here.margins(y=0.18)
    axes[0, 0].set_ylabel(ylabel)
    return figure


def _stars(p: float, n: int) -> str:
    """What a test of n pairs says; nothing where there are too few for it to say anything."""
    if not np.isfinite(p) or n < cerebellum.MIN_SEEDS:
        return ""
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else "n.s."


def bars(
    rows: "pandas.DataFrame",
    *,
    value: str,
    by: str,
    within: str,
    ylabel: str,
    xlabel: str = "",
    title: str = "",
) -> "Figure | None":
    """Mean over seeds with its standard error (sample form), and every seed as a dot; groups `by`,
    bars `within`.

    In each bar its number of seeds n; above each group what the two-sided paired t-test between
    cRNN and ccRNN says, if `within` has both and there are at least `cerebellum.MIN_SEEDS` pairs.

    Parameters
    ----------
    rows : one a seed, with the columns named, "entry", "rule" and "seed".
    """
    if rows.empty:
        return None
    from matplotlib import pyplot as plt

    groups, bars_of = list(dict.fromkeys(rows[by])), list(dict.fromkeys(rows[within]))
    figure, axes = plt.subplots(
        figsize=(max(6.0, 1.1 + 0.75 * len(groups) * (len(bars_of) + 0.6)), 5)
    )
    for number, name in enumerate(bars_of):
        for group, of in enumerate(groups):
            part = rows[(rows[by] == of) & (rows[within] == name)]
            if part.empty:
                continue
            x, y = (
                group + (number - (len(bars_of) - 1) / 2) * 0.8 / len(bars_of),
                part[value].to_numpy(float),
            )
            sem = y.std(ddof=1) / np.sqrt(len(y)) if len(y) > 1 else 0.0
            shade = colour(part.entry.iloc[0], part.rule.iloc[0])
            label = name if group == 0 else None
            axes.bar(
                x,
                y.mean(),
                0.72 / len(bars_of),
                yerr=sem,
                color=shade,
                alpha=0.75,
                capsize=3,
                label=label,
            )
            axes.plot(np.full(len(y), x), y, "o", color="black", markersize=3, alpha=0.6)
            axes.text(
                x,
                0.015,
                f"n = {len(y)}",
                transform=axes.get_xaxis_transform(),
                ha="center",
                fontsize=11,
            )
    for group, of in enumerate(groups):
        part = rows[rows[by] == of]
        cortex, both = (
            dict(zip(one.seed, one[value], strict=True))
            for one in (part[part[within] == n] for n in ("cRNN", "ccRNN"))
        )
        if tested := cerebellum.paired(cortex, both):
            place, words = (group, part[value].max()), _stars(tested.p, tested.n)
            axes.annotate(
                words, place, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=12
            )
    axes.set_xticks(range(len(groups)), [textwrap.fill(str(of), 16) for of in groups])
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.margins(y=0.12)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(bars_of), frameon=False)
    return figure


def traces(
    found: Analysis,
    names: Mapping[str, str],
    entries: Sequence[str],
    *,
    ylabel: str,
    n_columns: int = 3,
    share: str = "all",
) -> "tuple[Figure | None, Any]":
    """Diagnostics over training, one axes a diagnostic, with the numbers drawn; a line at 0 where
    one goes below it.

    Parameters
    ----------
    names : diagnostic -> title, row by row.
    share : axes with one y scale, as matplotlib's `sharey`: "all", "col".
    """
    import pandas

    parts = {name: cerebellum.curves(found, name, entries) for name in names}
    parts = {name: part for name, part in parts.items() if len(part)}
    if not parts:
        return None, pandas.DataFrame()
    from matplotlib import pyplot as plt

    n_columns = min(len(parts), n_columns)
    n_rows = -(-len(parts) // n_columns)
    size = (4.6 * n_columns, 3.9 * n_rows)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, sharey=share)
    for here, (name, part) in zip(axes.flat, parts.items(), strict=False):
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(entries)))
        for entry, shade in zip(entries, shades, strict=True):
            one = part[(part.entry == entry) & (part.part == "mean")]
            if one.empty:
                continue
            x, y, sem = (one[column].to_numpy(float) for column in ("x", "value", "sem"))
            here.plot(
                x,
                y,
                color=shade,
                linewidth=1.8,
                label=f"{found.label(entry)} (n = {int(one.n.min())})",
            )
            here.fill_between(x, y - sem, y + sem, color=shade, alpha=0.2, linewidth=0)
        here.set(title=names[name], xlabel="Batches learned")
        if here.get_ylim()[0] < 0:
            here.axhline(0, color="0.4", linewidth=1)
    axes[0, 0].set_ylabel(ylabel)
    axes[0, -1].legend(fontsize=11)
    for here in axes.flat[len(parts) :]:
        here.set_axis_off()
    return figure, pandas.concat(
        [part.assign(diagnostic=name) for name, part in parts.items()], ignore_index=True
    )


def described(found: Analysis, entries: Sequence[str], n: int = 6) -> "tuple[Figure | None, Any]":
    """Pictures with a reference and what the networks of the first seed say of them; and the
    sentences as a table.
    """
    import pandas

    runs = {entry: cerebellum.good(found, entry) for entry in entries}
    runs = {
        entry: min(outcomes, key=lambda o: _place(found, o))
        for entry, outcomes in runs.items()
        if outcomes
    }
    if not runs:
        return None, pandas.DataFrame()
    from matplotlib import pyplot as plt

    first = next(iter(runs.values())).record["outputs"]
    n = min(n, len(first["pictures"]))
    n_rows, shape = -(-n // 2), {"width_ratios": [1, 2.6], "wspace": 0.04}
    figure = plt.figure(figsize=(15, 2.5 * n_rows), layout="constrained")
    rows = []
    for i, cell in enumerate(figure.subfigures(n_rows, 2, squeeze=False).flat[:n]):
        picture, words = cell.subplots(1, 2, gridspec_kw=shape)
        picture.imshow(first["pictures"][i], interpolation="nearest")
        picture.set_axis_off()
        words.set_axis_off()
        said = {
            found.label(entry): outcome.record["outputs"]["generated"][i]
            for entry, outcome in runs.items()
        }
        reference = max(first["references"][i], key=len)
        truth = textwrap.wrap(f"Reference: {reference}", 66)
        others = [
            line
            for name, sentence in said.items()
            for line in textwrap.wrap(f"{name}: {sentence}", 74)
        ]
        for lines, weight in ((truth, "bold"), ([""] * len(truth) + others, "normal")):
            words.text(
                0, 1, "\n".join(lines), va="top", fontsize=11, weight=weight, linespacing=1.4
            )
        rows += [
            {"picture": i, "reference": reference, "entry": name, "generated": s}
            for name, s in said.items()
        ]
    return figure, pandas.DataFrame(rows)


def about(*found: Analysis) -> dict[str, Any]:
    """`Analysis.about` of several experiments drawn together."""
    parts = [one.about for one in found]
    if len(parts) == 1:
        return parts[0]
    return {
        **parts[0],
        "experiment": ", ".join(part["experiment"] for part in parts),
        "datasets": list(dict.fromkeys(name for part in parts for name in part["datasets"])),
        "n": {
            f"{part['experiment']}: {label}": n for part in parts for label, n in part["n"].items()
        },
        "missing": [f"{part['experiment']}: {name}" for part in parts for name in part["missing"]],
        "command": analysis.command(parts[0]["preset"], cerebellum.PAPER),
        "remarks": list(dict.fromkeys(remark for part in parts for remark in part["remarks"])),
    }


def caption(what: str, *found: Analysis) -> str:
    """`what`, with preset, data sets and how to read bands."""
    names = list(dict.fromkeys(name for one in found for name in one.about["datasets"]))
    band = (
        "Bands: population sd / √n over n seeds, as published; error bars: sample standard error."
    )
    return f"{what} Preset {found[0].preset}, data {' and '.join(names)}. {band}"
