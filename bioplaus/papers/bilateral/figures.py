"""The figures of the bilateral paper: accuracies, outcomes, confusions, distances between features,
Grad-CAM maps.

Each function returns the figure and a table of exactly what it draws; the figure is None where
nothing is there to draw.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioplaus.analysis import plots
from bioplaus.analysis.experiment import Analysis
from bioplaus.errors import BioplausError
from bioplaus.papers.bilateral import claims as tables
from bioplaus.papers.bilateral import measures as hemisphere_analysis
from bioplaus.tasks import datasets as data

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Drawn = tuple["Figure | None", "pandas.DataFrame"]
_COLOURS = {  # Okabe and Ito's; what is built alike is coloured alike
    "specialised": "#0072B2",
    "specialised-drift": "#56B4E9",
    "joined": "#0072B2",
    "fine": "#E69F00",
    "coarse": "#CC79A7",
    "two-fine": "#E69F00",
    "two-coarse": "#CC79A7",
    "specialists": "#F0E442",
    "both": "#8A8A8A",
    "both-long": "#444444",
    "joint": "#D55E00",
    "ensemble": "#009E73",
}
_NAMES = {
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


def colour(entry: str) -> str:
    """The colour of an entry, the same in every figure of this paper, as #rrggbb."""
    return _COLOURS.get(entry) or plots.colour(entry)


def heading(found: Analysis) -> str:
    """Data set and preset, for titles."""
    return f"{', '.join(found.about['datasets'])}, preset {found.preset}"


def accuracies(found: Analysis) -> Drawn:
    """Fine and coarse test accuracy of every entry: bar to the mean, 95 % interval, one dot a seed.

    In the coarse panel a triangle is the accuracy of the superclass of the fine prediction.
    """
    values = tables.finals(found)
    shown = tables.summary(values, (tables.FINE, tables.COARSE, tables.FROM_FINE))
    if shown.empty:
        return None, shown
    from matplotlib import pyplot as plt

    labels = list(dict.fromkeys(shown.label))
    place = {label: len(labels) - 1 - k for k, label in enumerate(labels)}
    figure, panels = plt.subplots(1, 2, figsize=(12, 0.52 * len(labels) + 1.6), sharey=True)
    for axes, metric, title in zip(
        panels, (tables.FINE, tables.COARSE), ("fine", "coarse"), strict=True
    ):
        rows, dots = shown[shown.metric == metric], values[values.metric == metric]
        y = rows.label.map(place)
        colours = [colour(entry) for entry in rows.entry]
        axes.barh(y, rows["mean"], color=colours, alpha=0.55, height=0.62)
        many = rows.n > 1
        errors = (rows["high"] - rows["mean"])[many]
        axes.errorbar(
            rows["mean"][many],
            y[many],
            xerr=errors,
            fmt="none",
            ecolor="0.2",
            elinewidth=1.6,
            capsize=4,
        )
        axes.plot(dots.value, dots.label.map(place) + 0.2, "o", color="0.15", markersize=3.5)
        lows = [*dots.value, *rows["mean"]]
        if metric == tables.COARSE:
            read = shown[shown.metric == tables.FROM_FINE]
            axes.plot(
                read["mean"],
                read.label.map(place) - 0.2,
                "^",
                color="0.15",
                markerfacecolor="white",
                markersize=7,
            )
            lows += list(read["mean"])
        # intervals of two seeds can be many times wider: those leave the axes
        span = max(lows) - min(lows)
        low = min([*lows, *rows.low[many & (rows.low > min(lows) - span)]])
        high = max([*lows, *rows.high[many & (rows.high < max(lows) + span)]])
        floor = max(0.0, low - 0.15 * span - 0.01)
        axes.set_xlim(floor, min(1.005, high + 0.04 * (high - floor)))
        axes.set(xlabel=f"{title} test accuracy", title=f"{title} labels")
        axes.grid(axis="y", visible=False)
    counts = shown.groupby("label").n.max()
    panels[0].set_yticks(
        list(place.values()), [f"{label} (n = {counts[label]})" for label in place], fontsize=13
    )
    figure.suptitle(heading(found), fontsize=14)
    return figure, values[values.metric.isin([tables.FINE, tables.COARSE, tables.FROM_FINE])]


def complementarity(found: Analysis) -> Drawn:
    """When each hemisphere alone is wrong, how often is the joined network right? Ours, and
    published.
    """
    table = tables.conditional(found)
    table = table[table.name.isin(_NAMES)]
    if table.empty:
        return None, table
    from matplotlib import pyplot as plt

    names = list(_NAMES)[::-1]
    figure, axes = plt.subplots(figsize=(11, 5.6))
    for y, name in enumerate(names):
        values = table[table.name == name]
        mean, half = tables.interval(values.value.dropna())
        axes.barh(y, mean, color=colour("specialised"), alpha=0.55, height=0.6)
        if half == half:
            axes.errorbar(mean, y, xerr=half, fmt="none", ecolor="0.2", elinewidth=1.6, capsize=4)
        axes.plot(values.value, np.full(len(values), y + 0.18), "o", color="0.15", markersize=3.5)
    theirs = table.drop_duplicates("name").set_index("name").published
    known = [
        (y, theirs[name])
        for y, name in enumerate(names)
        if name in theirs and theirs[name] == theirs[name]
    ]
    axes.plot(
        [x for _, x in known],
        [y for y, _ in known],
        "D",
        color="#D55E00",
        markersize=8,
        label="published (CIFAR-100)",
    )
    axes.set_yticks(range(len(names)), [_NAMES[name] for name in names], fontsize=13)
    axes.set(
        xlabel="fraction of test images",
        xlim=(0, 1.02),
        title=f"{heading(found)}, n = {table.seed.nunique()}",
    )
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower right", frameon=False, fontsize=13)
    return figure, table


def curves(found: Analysis, kinds: Sequence[str] = ("fine", "coarse")) -> Drawn:
    """Test accuracy after each epoch of every network that is trained, mean over seeds with a band
    of +/- one sd.
    """
    import pandas

    untrained = {run.entry for run in found.runs if run.parameters.get("members")} | set(
        tables.COPIES
    )
    drawn = (
        [found.curves(f"test_{kind}_accuracy").assign(kind=kind) for kind in kinds]
        if found.outcomes
        else []
    )
    table = (
        pandas.concat([d[(d.part == "mean") & ~d.entry.isin(untrained)] for d in drawn])
        if drawn
        else None
    )
    if table is None or table.empty:
        return None, pandas.DataFrame(columns=["entry", "label", "kind", "x", "value", "sd", "n"])
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(kinds), figsize=(6.6 * len(kinds), 5.4))
    styles: dict[str, Any] = {}
    for axes, kind in zip(panels, kinds, strict=True):
        for (entry, label), line in table[table.kind == kind].groupby(
            ["entry", "label"], sort=False
        ):
            dashes = "--" if entry.startswith(("two-", "both-long", "specialised-")) else "-"
            look = {
                "color": colour(entry),
                "linestyle": dashes,
                "marker": "o",
                "markersize": 3.5,
                "linewidth": 2,
            }
            (styles[label],) = axes.plot(line.x, line.value, **look)
            low, high = line.value - line.sd, line.value + line.sd
            axes.fill_between(
                line.x.astype(float), low, high, color=colour(entry), alpha=0.15, linewidth=0
            )
        axes.set(xlabel="epoch", ylabel=f"{kind} test accuracy")
    figure.legend(
        styles.values(), styles, loc="outside lower center", ncols=3, frameon=False, fontsize=12
    )
    figure.suptitle(heading(found), fontsize=14)
    return figure, table[["entry", "label", "kind", "x", "value", "sd", "n"]]


def confusions(
    found: Analysis, entries: Sequence[str] = ("fine", "both", "joint", "specialised")
) -> Drawn:
    """Fine predictions against fine labels, classes sorted by superclass; mean over seeds of row
    fractions.
    """
    import pandas

    shares, order, edges = {}, None, None
    for entry in entries:
        records = [records[0] for records in tables.by_seed(found, entry).values()]
        if records:
            superclass = np.asarray(records[0]["coarse_of"])
            order = np.argsort(superclass, kind="stable")
            edges = np.flatnonzero(np.diff(superclass[order])) + 1
            matrices = [_shares(record, len(superclass)) for record in records]
            shares[entry] = (np.mean(matrices, axis=0)[np.ix_(order, order)], len(records))
    columns = ["entry", "label", "n", "target", "predicted", "share"]
    if not shares:
        return None, pandas.DataFrame(columns=columns)
    import seaborn
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(shares), figsize=(4.1 * len(shares) + 0.8, 4.9), squeeze=False
    )
    rows = []
    for axes, (entry, (matrix, n)) in zip(panels.flat, shares.items(), strict=True):
        errors = matrix * (1 - np.eye(len(matrix)))
        names = order if len(matrix) <= 20 else False
        most = max(e.max() for e in _errors(shares))
        how = {
            "cmap": "Blues",
            "vmin": 0,
            "vmax": most,
            "square": True,
            "cbar": False,
            "rasterized": True,
        }
        seaborn.heatmap(errors, ax=axes, xticklabels=names, yticklabels=names, **how)
        axes.hlines(edges, 0, len(matrix), color="0.1", linewidth=1.2)
        axes.vlines(edges, 0, len(matrix), color="0.1", linewidth=1.2)
        inside = (superclass[order][:, None] == superclass[order]) * errors
        axes.set_title(
            f"{found.label(entry)} (n = {n})\n{inside.sum() / errors.sum():.0%} of errors inside"
            " superclass",
            fontsize=12,
        )
        axes.tick_params(labelsize=11, rotation=0)
        axes.set(xlabel="predicted class")
        axes.grid(visible=False)
        about = {"entry": entry, "label": found.label(entry), "n": n}
        rows += [
            {**about, "target": int(order[i]), "predicted": int(order[j]), "share": matrix[i, j]}
            for i, j in np.ndindex(matrix.shape)
        ]
    panels[0, 0].set_ylabel("class")
    figure.colorbar(
        axes.collections[0], ax=panels, label="fraction of the class's images", shrink=0.8
    )
    figure.suptitle(heading(found), fontsize=14)
    return figure, pandas.DataFrame(rows, columns=columns)


def distances(found: Analysis, *, by: str = "joined") -> Drawn:
    """For each outcome, pairs of images of a class: how far apart in the left, the right and the
    joined features.

    x: cosine distance in the left hemisphere's features ("specific"); y: in the right one's
    ("general"); colour: in the features `by`, in ten bins; one seed, the first.

    Parameters
    ----------
    by : "joined" network, or "concatenated" features of the two hemispheres trained apart.
    """
    import pandas

    columns = ["seed", "outcome", "left", "right", "joined", "concatenated"]
    first = _first(found, "distances")
    if first is None:
        return None, pandas.DataFrame(columns=columns)
    seed, kept = first
    table = pandas.DataFrame({**kept, "seed": seed})
    table["outcome"] = table.outcome.map(dict(enumerate(hemisphere_analysis.OUTCOMES)))
    from matplotlib import pyplot as plt
    from matplotlib.colors import BoundaryNorm

    top = float(table[["left", "right"]].to_numpy().max()) * 1.03
    norm = BoundaryNorm(np.linspace(table[by].min(), table[by].max(), 11), 256)
    figure, panels = plt.subplots(4, 4, figsize=(11.5, 10.5), sharex=True, sharey=True)
    for axes, outcome in zip(panels.flat, hemisphere_analysis.OUTCOMES, strict=True):
        rows = table[table.outcome == outcome]
        points = axes.scatter(
            rows.left, rows.right, c=rows[by], cmap="viridis", norm=norm, s=9, linewidths=0
        )
        axes.plot([0, top], [0, top], "--", color="0.5", linewidth=1)
        for values, is_x in ((rows.left, True), (rows.right, False)):
            if len(values):
                _margin(axes, values, top, is_x=is_x)
        axes.text(
            0.97, 0.03, f"{len(rows)} pairs", transform=axes.transAxes, ha="right", fontsize=10
        )
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.tick_params(labelsize=11)
    for k in range(4):
        left, right, fine, coarse = _words(hemisphere_analysis.OUTCOMES[5 * k])
        panels[0, k].set_title(f"joined: fine {fine},\ncoarse {coarse}", fontsize=12)
        panels[k, 0].set_ylabel(f"left {left},\nright {right}", fontsize=12)
    figure.supxlabel("distance in left features (specific)", fontsize=15)
    figure.supylabel("distance in right features (general)", fontsize=15)
    bar = figure.colorbar(points, ax=panels, shrink=0.6, format="%.2f")
    bar.set_label(f"distance in {by} features", fontsize=14)
    figure.suptitle(f"Pairs of images of one class, {heading(found)}, seed {seed}", fontsize=14)
    return figure, table[columns]


def attention(found: Analysis, *, rows: int = 8) -> Drawn:
    """Grad-CAM maps of left, right and joined network over test images of different outcomes; one
    seed, the first.

    Beside them: how the joined map correlates with the left one, the right one, and the mean of the
    two. Where the data set is not on this machine, maps are drawn alone.
    """
    import pandas

    columns = ["seed", "image", "outcome", "corr_left", "corr_right", "corr_mean"]
    first = _first(found, "maps")
    if first is None:
        return None, pandas.DataFrame(columns=columns)
    seed, kept = first
    pictures = _pictures(found, kept["image"])
    from matplotlib import pyplot as plt

    names = ("left", "right", "joined")
    n = min(rows, len(kept["image"]))
    table = []
    figure, panels = plt.subplots(n, 4, figsize=(8.8, 1.75 * n + 0.7), squeeze=False)
    for k in range(n):
        maps = {name: kept[name][k] / 255 for name in names}
        outcome = hemisphere_analysis.OUTCOMES[kept["outcome"][k]]
        grey = np.full((*maps["left"].shape, 3), 0.5) if pictures is None else pictures[k]
        for axes, name in zip(panels[k], ("image", *names), strict=True):
            shown = (
                grey
                if name == "image"
                else 0.5 * grey + 0.5 * plt.get_cmap("jet")(maps[name])[..., :3]
            )
            axes.imshow(shown, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            if k == 0:
                axes.set_title(name, fontsize=14)
        left, right, fine, coarse = _words(outcome)
        said = f"left {left}, right {right};\njoined: fine {fine},\ncoarse {coarse}"
        panels[k, 0].set_ylabel(said, fontsize=10, rotation=0, ha="right", va="center")
        either = (maps["left"] + maps["right"]) / 2
        scores = [
            _correlation(maps["joined"], other) for other in (maps["left"], maps["right"], either)
        ]
        beside = "\n".join(
            f"{name}: {score:.2f}" if score == score else f"{name}: –"
            for name, score in zip(("left", "right", "mean"), scores, strict=True)
        )
        panels[k, 3].text(
            1.06, 0.5, beside, transform=panels[k, 3].transAxes, fontsize=10, va="center"
        )
        table.append(
            dict(zip(columns, (seed, int(kept["image"][k]), outcome, *scores), strict=True))
        )
    figure.suptitle(f"Grad-CAM, {heading(found)}, seed {seed}", fontsize=13)
    return figure, pandas.DataFrame(table, columns=columns)


def _shares(record: Mapping[str, Any], n_classes: int) -> np.ndarray:
    predicted, target = (
        torch.from_numpy(v.astype(np.int64))
        for v in (record["predictions"]["fine"], record["labels"])
    )
    counts = hemisphere_analysis.confusion(predicted, target, n_classes).numpy()
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _errors(shares: Mapping[str, tuple[np.ndarray, int]]) -> list[np.ndarray]:
    return [matrix * (1 - np.eye(len(matrix))) for matrix, _ in shares.values()]


def _first(found: Analysis, part: str) -> tuple[int, Mapping[str, np.ndarray]] | None:
    """(seed, part of the record) of the first specialised network that kept it."""
    for seed, (record,) in tables.by_seed(found, "specialised").items():
        if part in record:
            return seed, record[part]
    return None


def _margin(axes: Any, values: "pandas.Series", top: float, *, is_x: bool) -> None:
    """A small histogram along the lower or left edge."""
    heights, edges = np.histogram(values, bins=24, range=(0, top))
    draw = axes.bar if is_x else axes.barh
    size = {"width": edges[1] - edges[0]} if is_x else {"height": edges[1] - edges[0]}
    draw(
        edges[:-1],
        0.16 * top * heights / heights.max(),
        align="edge",
        color="0.6",
        alpha=0.5,
        zorder=0,
        **size,
    )


def _pictures(found: Analysis, places: np.ndarray) -> np.ndarray | None:
    """(n, height, width, 3) in [0, 1]: the test images, if the data set is on this machine."""
    run = next(run for run in found.runs if run.entry == "specialised")
    name, n_test = run.parameters["dataset"], run.parameters.get("task", {}).get("n_test")
    try:
        about, stored = data.about(name), data.read(name, download=False)
    except BioplausError:
        return None
    from bioplaus.tasks import images

    pixels = (
        stored.x_test[images.subset(n_test, len(stored.x_test))][places].transpose(0, 2, 3, 1)
        / about.top
    )
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, over positions; NaN where a map is flat."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() and b.std() else float("nan")


def _words(outcome: str) -> list[str]:
    """Whether left, right, joined fine and joined coarse are "correct" or "wrong"."""
    return ["correct" if outcome[k] == "t" else "wrong" for k in (1, 3, 11, 13)]
