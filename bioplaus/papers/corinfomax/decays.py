"""To which of the four published decays of predictive coding does the published curve belong, by
its mean and by its spread?

The published figure draws one of four settings, chosen by training accuracy after the last epoch;
the other three are in the tables, at epoch 50 alone. Ours are held against the one curve, epoch by
epoch, whatever their decay.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from bioplaus.analysis import published, style, verdicts
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing

if TYPE_CHECKING:
    import pandas

EXPERIMENT = "pc_decays"  # its entries are the four settings
PLOTTED = {"algorithm": "PC", "dataset": "MNIST", "architecture": "784-600-600-10", "setting": 3}
FALL = (
    0.005  # of a seed's test accuracy from one epoch to the next: more than any noise of counting
)
READING = (
    "Left: mean over seeds; right: standard deviation over seeds (sample form). Dashed: the"
    " published curve, of ten seeds, drawn for decay 0.95."
)


def by_epoch(runs: RunSet) -> "pandas.DataFrame":
    """Mean and spread of the test accuracy after each epoch: ours by decay, and the published
    curve's.

    Columns: source (ours, published), decay (NaN: published), epoch, mean, sd (sample form), n.
    """
    import pandas

    parts = [_published()]
    for entry, decay in entries(runs).items():
        values = _values(runs, entry)
        if len(values):
            sd = values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
            parts.append(
                pandas.DataFrame(
                    {
                        "source": "ours",
                        "decay": decay,
                        "epoch": np.arange(1, values.shape[1] + 1),
                        "mean": values.mean(0),
                        "sd": sd,
                        "n": len(values),
                    }
                )
            )
    return pandas.concat(parts, ignore_index=True)


def entries(runs: RunSet) -> dict[str, float]:
    """Entry -> decay of the four settings, in the order of the script."""
    return {
        entry: float(runs.first_run(entry).parameters["config"]["lr_decay"])
        for entry in runs.entries
    }


def summary(runs: RunSet) -> "pandas.DataFrame":
    """One row a decay that has run: how far its mean, and its spread, are from the published curve.

    Columns: decay, n, epochs, mean, published, z (Welch, of the last common epoch), largest_z (of
    all epochs), sd and published_sd (the largest of any epoch), p_sd (that of ours is so much
    larger by chance, at the epoch where it is largest; F-test), falls (seeds that lose more than
    `FALL` in an epoch after the fourth).
    """
    import pandas
    from scipy import stats

    table, rows = by_epoch(runs), []
    theirs = table[table.source == "published"].set_index("epoch")
    for entry, decay in entries(runs).items():
        ours = table[table.decay == decay].set_index("epoch")
        common = ours.index.intersection(theirs.index)
        if not len(common):
            continue
        pairs = [(ours.loc[x], theirs.loc[x]) for x in common]
        zs = [
            interval.z
            for a, b in pairs
            if (interval := verdicts.welch(a["mean"], a.sd, int(a.n), b["mean"], b.sd, int(b.n)))
        ]
        values, n, last = _values(runs, entry), int(ours.n.iloc[0]), common[-1]
        widest = ours.sd.loc[common].idxmax() if n > 1 else last
        ratio = (ours.sd[widest] / theirs.sd[widest]) ** 2
        p_sd = float(stats.f.sf(ratio, n - 1, int(theirs.n[widest]) - 1)) if n > 1 else math.nan
        rows.append(
            {
                "decay": decay,
                "n": n,
                "epochs": int(last),
                "mean": ours["mean"][last],
                "published": theirs["mean"][last],
                "z": zs[-1] if zs else math.nan,
                "largest_z": max(zs, key=abs) if zs else math.nan,
                "sd": ours.sd.loc[common].max(),
                "published_sd": theirs.sd.loc[common].max(),
                "p_sd": p_sd,
                "falls": int((np.diff(values[:, 3:], axis=1) < -FALL).any(1).sum()),
            }
        )
    names = "decay n epochs mean published z largest_z sd published_sd p_sd falls".split()
    return pandas.DataFrame(rows, columns=names)


def answer(rows: "pandas.DataFrame") -> str:
    """What the rows of `summary` allow to say, in a sentence."""
    if len(rows) < 4 or (rows.n < verdicts.MIN_SEEDS).any():
        return "Not decided here: not all four decays have run with five seeds or more."
    fits = rows[(rows.largest_z.abs() < 3) & (rows.p_sd > verdicts.LEVEL / len(rows))]
    if fits.empty:
        return "None of the four decays reproduces mean and spread of the published curve."
    names = " and ".join(f"{decay:g}" for decay in fits.decay)
    return f"Mean and spread of the published curve are compatible with decay {names}."


def draw(runs: RunSet) -> Drawing:
    """Mean and spread by epoch, ours and published."""
    table = by_epoch(runs)
    ours = table[table.source == "ours"]
    if ours.empty:
        return Drawing(None, table)
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(13, 5))
    most = int(ours.epoch.max())
    shades = style.ordered(ours.decay.nunique())
    for axes, name in zip(panels, ("mean", "sd"), strict=True):
        for shade, (decay, part) in zip(shades, ours.groupby("decay"), strict=True):
            label = f"decay {decay:g} (n = {int(part.n.iloc[0])})"
            axes.plot(part.epoch, part[name], color=shade, label=label)
        theirs = table[(table.source == "published") & (table.epoch <= most)]
        axes.plot(theirs.epoch, theirs[name], "--", color=style.INK, label="published (n = 10)")
        axes.set_xlabel("Epoch")
    panels[0].set_ylabel("Test accuracy, mean")
    panels[0].set_ylim(bottom=ours[ours.epoch > 1]["mean"].min() - 0.004)
    panels[1].set_ylabel("Test accuracy, standard deviation")
    panels[0].legend(fontsize=12)
    figure.suptitle(runs.heading)
    return Drawing(figure, table[table.epoch <= most], READING)


def _values(runs: RunSet, entry: str) -> np.ndarray:
    """Test accuracies (seeds, epochs) of the runs that are not diverged; collapsed ones count, as a
    seed that falls is what is looked for.
    """
    rows = [
        outcome.record["epochs"]["test_accuracy"]
        for outcome in runs.outcomes
        if outcome.run["entry"] == entry and outcome.record.get("status", "done") == "done"
    ]
    return np.array(rows) if rows else np.empty((0, 0))


def _published() -> "pandas.DataFrame":
    curve = published.curve("corinfomax", PLOTTED, "test_accuracy")
    points = {int(x): published.point(curve, x) for x in curve.x}
    import pandas

    return pandas.DataFrame(
        [
            {
                "source": "published",
                "decay": math.nan,
                "epoch": x,
                "mean": point.value,
                "sd": point.sd,
                "n": point.n,
            }
            for x, point in points.items()
        ]
    )
