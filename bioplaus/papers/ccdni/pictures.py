"""What the networks of the cerebro-cerebellar papers draw, and what they say of pictures."""

import textwrap
from collections.abc import Sequence

import numpy as np

from bioplaus.analysis import style
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.papers.ccdni.measures import good
from bioplaus.results import Outcome

OF_DRAWINGS = (
    "Lines: drawn; dots: asked for, filled at supervised steps. One network of each kind, the first"
    " seed."
)
OF_SENTENCES = (
    "The longest reference of each picture, and the captions of one network of each kind."
)


def drawings(
    runs: RunSet, entries: Sequence[str], *, title: str = "", apart: float = 0.0
) -> Drawing:
    """What the networks of the first seed draw (lines) and should draw (dots), one axes an entry.

    Dots are filled at the steps that are supervised. x and y are in units of the drawing.

    Parameters
    ----------
    apart : distance between drawings, in units of the drawing, five in a row; 0 draws all from one
        origin.
    """
    import pandas
    from matplotlib import pyplot as plt

    shown = _first(runs, entries)
    if not shown:
        return Drawing(None, pandas.DataFrame())
    size = (4.4 * len(shown), 4.8)
    figure, grid = plt.subplots(
        1, len(shown), figsize=size, squeeze=False, sharex=True, sharey=True
    )
    rows = []
    for axes, (entry, outcome) in zip(grid[0], shown.items(), strict=True):
        outputs, every = outcome.record["outputs"], outcome.record["config"]["spars_int"]
        shades = style.ordered(len(outputs["label"]))
        curves = (outputs[name] for name in ("label", "drawn", "target"))
        for k, (label, drawn, target, shade) in enumerate(zip(*curves, shades, strict=True)):
            origin = apart * np.array([k % 5, -(k // 5)])
            is_taught = np.arange(len(target)) % every == 0
            dots = {"color": shade, "markersize": 3.5, "alpha": 0.6}
            hollow = {"fillstyle": "none", "markeredgewidth": 0.6, **dots}
            axes.plot(*(target[is_taught] + origin).T, "o", **dots)
            axes.plot(*(target[~is_taught] + origin).T, "o", **hollow)
            axes.plot(*(drawn + origin).T, color=shade, linewidth=1.8, label=f"{label:d}")
            for step, (point, asked) in enumerate(zip(drawn, target, strict=True)):
                rows.append(
                    {
                        "entry": entry,
                        "seed": outcome.run["seed"],
                        "label": label,
                        "step": step,
                        "taught": is_taught[step],
                        "x": point[0],
                        "y": point[1],
                        "target_x": asked[0],
                        "target_y": asked[1],
                    }
                )
        heading = f"{runs.label(entry)}\n(seed {outcome.run['seed']})"
        axes.set(aspect="equal", title=heading, xlabel="x")
    grid[0, 0].set_ylabel("y")
    beside = {
        "fontsize": 10,
        "title_fontsize": 11,
        "loc": "center left",
        "bbox_to_anchor": (1, 0.5),
    }
    grid[0, -1].legend(title="Cue" if runs.experiment == "linedraw" else "Digit", **beside)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return Drawing(figure, pandas.DataFrame(rows), OF_DRAWINGS)


def described(runs: RunSet, entries: Sequence[str], n: int = 6) -> Drawing:
    """Pictures with a reference and what the networks of the first seed say of them."""
    import pandas
    from matplotlib import pyplot as plt

    shown = _first(runs, entries)
    if not shown:
        return Drawing(None, pandas.DataFrame())
    first = next(iter(shown.values())).record["outputs"]
    n = min(n, len(first["pictures"]))
    n_rows, shape = -(-n // 2), {"width_ratios": [1, 2.6], "wspace": 0.04}
    figure = plt.figure(figsize=(15, 2.5 * n_rows), layout="constrained")
    rows = []
    for k, cell in enumerate(figure.subfigures(n_rows, 2, squeeze=False).flat[:n]):
        picture, words = cell.subplots(1, 2, gridspec_kw=shape)
        if len(first["pictures"][k]) > 1:
            picture.imshow(first["pictures"][k], interpolation="nearest")
        else:
            picture.text(0.5, 0.9, "(photograph,\nnot kept)", ha="center", va="top", color="0.5")
        for axes in (picture, words):
            axes.set_axis_off()
        reference = max(first["references"][k], key=len)
        sentences = {
            runs.label(entry): outcome.record["outputs"]["generated"][k]
            for entry, outcome in shown.items()
        }
        truth = textwrap.wrap(f"Reference: {reference}", 66)
        generated = [
            line
            for name, sentence in sentences.items()
            for line in textwrap.wrap(f"{name}: {sentence}", 74)
        ]
        look = {"va": "top", "fontsize": 11, "linespacing": 1.4}
        words.text(0, 1, "\n".join(truth), weight="bold", **look)
        words.text(0, 1, "\n".join([""] * len(truth) + generated), **look)
        rows += [
            {"picture": k, "reference": reference, "entry": name, "generated": sentence}
            for name, sentence in sentences.items()
        ]
    return Drawing(figure, pandas.DataFrame(rows), OF_SENTENCES)


def _first(runs: RunSet, entries: Sequence[str]) -> dict[str, Outcome]:
    """Entry -> the first of its good runs, in manifest order; entries without one are left out."""
    order = {run.id: k for k, run in enumerate(runs.runs)}
    complete = {entry: good(runs, entry) for entry in entries}
    return {
        entry: min(outcomes, key=lambda outcome: order[outcome.run["id"]])
        for entry, outcomes in complete.items()
        if outcomes
    }
