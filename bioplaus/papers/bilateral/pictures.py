"""What the hemispheres see: distances between features, and Grad-CAM maps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.errors import BioplausError
from bioplaus.papers.bilateral import tables
from bioplaus.papers.bilateral.figures import heading
from bioplaus.papers.bilateral.measures import OUTCOMES
from bioplaus.tasks import datasets

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

OF_DISTANCES = "One seed. Dashed: equal distance in both. Grey: marginal histograms."
OF_MAPS = (
    "The first test image of each outcome; map (jet) and image half and half; one seed. A dark map:"
    " nothing in the image speaks for the prediction there. Numbers: correlation of the joined map"
    " with the left one, the right one and their mean."
)
MAPS = ("left", "right", "joined")


def distances(runs: RunSet, *, by: str = "joined") -> Drawing:
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
    first = _first(runs, "distances")
    if first is None:
        return Drawing(None, pandas.DataFrame(columns=columns))
    seed, kept = first
    table = pandas.DataFrame({**kept, "seed": seed})
    table["outcome"] = table.outcome.map({k: outcome.name for k, outcome in enumerate(OUTCOMES)})
    from matplotlib import cm
    from matplotlib import pyplot as plt
    from matplotlib.colors import BoundaryNorm

    top = float(table[["left", "right"]].to_numpy().max()) * 1.03
    norm = BoundaryNorm(np.linspace(table[by].min(), table[by].max(), 11), 256)
    figure, grid = plt.subplots(4, 4, figsize=(11.5, 10.5), sharex=True, sharey=True)
    for axes, outcome in zip(grid.flat, OUTCOMES, strict=True):
        rows = table[table.outcome == outcome.name]
        dots = {"c": rows[by], "cmap": "viridis", "norm": norm, "s": 9, "linewidths": 0}
        axes.scatter(rows.left, rows.right, **dots)
        axes.plot([0, top], [0, top], "--", color="0.5", linewidth=1)
        _margin(axes, rows.left, top, is_x=True)
        _margin(axes, rows.right, top, is_x=False)
        corner = {"transform": axes.transAxes, "ha": "right", "fontsize": 10}
        axes.text(0.97, 0.03, f"{len(rows)} pairs", **corner)
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.tick_params(labelsize=11)
    for k, axes in enumerate(grid[0]):  # four columns by the joined network, rows by hemispheres
        words = OUTCOMES[k].words
        axes.set_title(f"joined: fine {words[2]},\ncoarse {words[3]}", fontsize=12)
    for k, axes in enumerate(grid[:, 0]):
        words = OUTCOMES[4 * k].words
        axes.set_ylabel(f"left {words[0]},\nright {words[1]}", fontsize=12)
    figure.supxlabel("distance in left features (specific)", fontsize=15)
    figure.supylabel("distance in right features (general)", fontsize=15)
    colours = cm.ScalarMappable(norm, "viridis")
    bar = figure.colorbar(colours, ax=grid, shrink=0.6, format="%.2f")
    bar.set_label(f"distance in {by} features", fontsize=14)
    figure.suptitle(f"Pairs of images of one class, {heading(runs)}, seed {seed}", fontsize=14)
    return Drawing(figure, table[columns], OF_DISTANCES)


def attention(runs: RunSet, *, n_images: int = 8) -> Drawing:
    """Grad-CAM maps of left, right and joined network over test images of different outcomes; one
    seed, the first.

    Beside them: how the joined map correlates with the left one, the right one, and the mean of the
    two. Where the data set is not on this machine, maps are drawn alone.
    """
    import pandas

    columns = ["seed", "image", "outcome", "corr_left", "corr_right", "corr_mean"]
    first = _first(runs, "maps")
    if first is None:
        return Drawing(None, pandas.DataFrame(columns=columns))
    from matplotlib import pyplot as plt

    seed, kept = first
    pictures = _pictures(runs, kept["image"])
    n = min(n_images, len(kept["image"]))
    figure, grid = plt.subplots(n, 4, figsize=(8.8, 1.75 * n + 0.7), squeeze=False)
    rows = []
    for k, row in enumerate(grid):
        maps = {name: kept[name][k] / 255 for name in MAPS}
        picture = np.full((*maps["left"].shape, 3), 0.5) if pictures is None else pictures[k]
        _overlay(row, picture, maps)
        outcome = OUTCOMES[kept["outcome"][k]]
        left, right, fine, coarse = outcome.words
        text = f"left {left}, right {right};\njoined: fine {fine},\ncoarse {coarse}"
        row[0].set_ylabel(text, fontsize=10, rotation=0, ha="right", va="center")
        others = (maps["left"], maps["right"], (maps["left"] + maps["right"]) / 2)
        scores = [_correlation(maps["joined"], other) for other in others]
        named = zip(("left", "right", "mean"), scores, strict=True)
        text = "\n".join(f"{name}: {'–' if np.isnan(r) else f'{r:.2f}'}" for name, r in named)
        row[3].text(1.06, 0.5, text, transform=row[3].transAxes, fontsize=10, va="center")
        rows.append((seed, int(kept["image"][k]), outcome.name, *scores))
    for axes, name in zip(grid[0], ("image", *MAPS), strict=True):
        axes.set_title(name, fontsize=14)
    figure.suptitle(f"Grad-CAM, {heading(runs)}, seed {seed}", fontsize=13)
    return Drawing(figure, pandas.DataFrame(rows, columns=columns), OF_MAPS)


def _first(runs: RunSet, part: str) -> tuple[int, Mapping[str, np.ndarray]] | None:
    """(seed, part of the record) of the first specialised network that kept it."""
    for seed, (record,) in tables.by_seed(runs, "specialised").items():
        if part in record:
            return seed, record[part]
    return None


def _margin(axes: "Axes", values: "pandas.Series", top: float, *, is_x: bool) -> None:
    """A small histogram along the lower or left edge."""
    heights, edges = np.histogram(values, bins=24, range=(0, top))
    if not heights.any():
        return
    draw, width = (axes.bar, "width") if is_x else (axes.barh, "height")
    look = {"align": "edge", "color": "0.6", "alpha": 0.5, "zorder": 0}
    draw(edges[:-1], 0.16 * top * heights / heights.max(), **{width: edges[1] - edges[0]}, **look)


def _overlay(row: np.ndarray, picture: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
    """The picture, then map and picture half and half."""
    import matplotlib

    jet = matplotlib.colormaps["jet"]
    shown = [picture, *(0.5 * picture + 0.5 * jet(maps[name])[..., :3] for name in MAPS)]
    for axes, image in zip(row, shown, strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)


def _pictures(runs: RunSet, positions: np.ndarray) -> np.ndarray | None:
    """(n, height, width, 3) in [0, 1]: the test images, if the data set is on this machine."""
    run = runs.first_run("specialised")
    name, n_test = run.parameters["dataset"], run.parameters.get("task", {}).get("n_test")
    try:
        known, stored = datasets.about(name), datasets.read(name, download=False)
    except BioplausError:
        return None
    from bioplaus.tasks import images

    kept = images.subset(n_test, len(stored.x_test))
    pixels: Any = stored.x_test[kept][positions].transpose(0, 2, 3, 1) / known.top
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, over positions; NaN where a map is flat."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() and b.std() else float("nan")
