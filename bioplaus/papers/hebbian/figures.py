"""Figures of the hebbian paper: weight maps, how they take shape, convergence, and curves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bioplaus.analysis import experiment, plots, style
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.papers.hebbian import mosaics, synapses

if TYPE_CHECKING:
    from bioplaus.results import Outcome

TYPICAL = (
    "Colours end at 1.25 times the median unit's largest weight, where the published map ends at"
    " the largest of all, so that units which have won too rarely to converge, and keep part of"
    " their random start, do not hide the others: they are the saturated tiles."
)
ONE_SCALE = "One scale from the smallest to the largest weight shown, as published."
OF_NORMS = (
    "Left: mean and largest p-norm of all units, to the power p. Right: number of units that are"
    " the most driven one for at least one of 1000 held-out (or, without any, training) inputs, so"
    " at most 1000 of however many units there are. One line a seed."
)
OF_SNAPSHOTS = "Each panel has its own colours."
OF_SPLITS = "A slow start of an accuracy, of the first two epochs, may lie below the axes."
_DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)))  # of splits, the last one solid


def cifar10(preset: str) -> RunSet:
    """The runs on CIFAR-10; where there are none those on JPEG files of it, which have weights and
    curves to look at, and nothing to hold against published numbers.
    """
    runs = experiment.load("hebbian", "cifar10", preset)
    jpeg = experiment.load("hebbian", "cifar10-jpeg", preset)
    return jpeg if jpeg.outcomes and not runs.outcomes else runs


def maps(
    run_set: RunSet,
    entries: Sequence[str],
    most: int = 10,
    *,
    as_published: bool = False,
    bar: bool = True,
    size: float = 8.6,
) -> Drawing:
    """Weight maps of the first seed of each entry side by side.

    Parameters
    ----------
    most : rows and columns of units at most.
    as_published : images in colour have one scale from their smallest to their largest weight;
        otherwise, and for grey images, colours end at `mosaics.typical`.
    bar : with a colour bar (grey images only).
    size : width of one map, inches.
    """
    import pandas
    from matplotlib import pyplot as plt

    shown = {entry: outcome for entry in entries if (outcome := first_outcome(run_set, entry))}
    if not shown:
        return Drawing(None, pandas.DataFrame())
    figure, panels = plt.subplots(1, len(shown), figsize=(size * len(shown), 8), squeeze=False)
    tables, sentence = [pandas.DataFrame()], TYPICAL
    for axes, (entry, outcome) in zip(panels.flat, shown.items(), strict=True):
        packed, shape = outcome.record["weights"], outcome.record["task"]["image_shape"]
        weight = synapses.unpack(packed)
        side, limit = mosaics.side_of(len(weight), most), mosaics.typical(weight)
        if as_published and shape[0] == 3:
            limit, sentence = None, ONE_SCALE
        title = run_set.label(entry)
        mosaics.draw(axes, weight, shape, n_rows=side, limit=limit, bar=bar, title=title)
        tables.append(mosaics.table(packed, side**2, entry=entry))
    figure.suptitle(run_set.heading)
    return Drawing(figure, pandas.concat(tables), sentence)


def evolution(run_set: RunSet, entry: str, most: int = 5) -> Drawing:
    """Weights of the first units of an entry's first seed at the epochs that it kept, and at the
    end; each panel has its own colours.
    """
    import pandas
    from matplotlib import pyplot as plt

    outcome = first_outcome(run_set, entry)
    if outcome is None:
        return Drawing(None, pandas.DataFrame())
    record = outcome.record
    snapshots, shape = record["snapshots"], record["task"]["image_shape"]
    n, n_units = snapshots["level"].shape[:2]
    packed = [{name: part[k] for name, part in snapshots.items()} for k in range(n)]
    packed.append({name: part[:n_units] for name, part in record["weights"].items()})
    epochs = [*record["config"]["snapshot_epochs"], outcome.run["parameters"]["n_epochs"]]
    side = mosaics.side_of(n_units, most)
    size = (3.4 * len(packed), 4.4)
    figure, panels = plt.subplots(1, len(packed), figsize=size, squeeze=False)
    for axes, part, epoch in zip(panels.flat, packed, epochs, strict=True):
        weight, title = synapses.unpack(part), f"epoch {epoch}" if epoch else "start"
        limit = mosaics.typical(weight)
        mosaics.draw(axes, weight, shape, n_rows=side, limit=limit, bar=False, title=title)
    figure.suptitle(run_set.heading)
    tables = [
        mosaics.table(part, side**2, epoch=epoch)
        for part, epoch in zip(packed, epochs, strict=True)
    ]
    return Drawing(figure, pandas.concat([pandas.DataFrame(), *tables]), OF_SNAPSHOTS)


def convergence(run_set: RunSet) -> Drawing:
    """Mean and largest p-norm of all units, to the power p, and how many units win; a line a
    seed.
    """
    import pandas
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    rows = []
    for outcome in run_set.outcomes:
        epochs = (outcome.record.get("features") or outcome.record)["epochs"]
        if "norm_mean" in epochs:
            named = {"label": run_set.label(outcome.run["entry"]), "seed": outcome.run["seed"]}
            rows.append(pandas.DataFrame(epochs).assign(**named))
    if not rows:
        return Drawing(None, pandas.DataFrame())
    drawn = pandas.concat(rows)
    figure, (norms, winners) = plt.subplots(1, 2, figsize=(13, 5))
    shades = style.shades(dict.fromkeys(drawn.label, "competing_hidden"))
    for (label, _seed), line in drawn.groupby(["label", "seed"], sort=False):
        look = {"color": shades[label], "alpha": 0.8}
        norms.semilogy(line.epoch + 1, line.norm_mean, **look)
        norms.semilogy(line.epoch + 1, line.norm_max, linestyle=":", **look)
        winners.plot(line.epoch + 1, line.n_winners, **look)
    norms.axhline(1, color="0.6", linewidth=1)
    norms.set(xlabel="Epoch", ylabel=r"$\sum_j |W_{ij}|^p$")
    winners.set(xlabel="Epoch", ylabel="Units that win", ylim=(0, None))
    keys = [Line2D([], [], color=shade, label=label) for label, shade in shades.items()]
    for name, dash in {"mean of all units": "-", "largest": ":"}.items():
        keys.append(Line2D([], [], color="0.4", label=name, linestyle=dash))
    norms.legend(handles=keys)
    figure.suptitle(run_set.heading)
    return Drawing(figure, drawn, OF_NORMS)


def curves(
    run_set: RunSet,
    metrics: Mapping[str, str],
    *,
    ylabel: str,
    n_epochs: int | None = None,
    log: bool = False,
) -> Drawing:
    """Curves of several metrics in one axes: an entry has a colour, a split a kind of line (the
    last one is solid).

    The y axis is logarithmic with `log`; else it is laid out for the third epoch and later, so that
    a slow start may leave it. Nothing is drawn without results.

    Parameters
    ----------
    metrics : split -> metric; the table has a column "split" for each of `RunSet.curves`.
    n_epochs : leave out later epochs.
    """
    import pandas
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    parts = [run_set.curves(metric).assign(split=split) for split, metric in metrics.items()]
    drawn = pandas.concat(parts, ignore_index=True)
    drawn = drawn[drawn.x <= n_epochs] if n_epochs else drawn
    lines = drawn[drawn.part == "mean"]
    if lines.empty:
        return Drawing(None, drawn)
    figure, axes = plt.subplots()
    shades, splits = style.shades(plots.rules_of(drawn)), list(dict.fromkeys(drawn.split))
    dashes = dict(zip(reversed(splits), _DASHES, strict=False))
    handles = []
    for entry, shade in shades.items():
        of_entry = lines[lines.entry == entry]
        n = int(of_entry.n.max()) if len(of_entry) else 0
        label = f"{run_set.label(entry)} (n = {n})"
        handles.append(Line2D([], [], color=shade, label=label))
        for split, line in of_entry.groupby("split", sort=False):
            look = {"color": shade, "linestyle": dashes[split], "linewidth": 2, "alpha": 0.2}
            plots.band(axes, line.x, line.value, line.sd.to_numpy(float), **look)
    for split in splits:
        handles.append(Line2D([], [], color="0.4", linestyle=dashes[split], label=split))
    axes.set(
        xlabel="Epoch (BIO: of the readout)",
        ylabel=ylabel,
        title=run_set.heading,
        xlim=(0, None),
        yscale="log" if log else "linear",
    )
    if not log:
        late = lines[lines.x >= min(3, lines.x.max())]
        low, high = late.value.min(), late.value.max()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.legend(handles=handles)
    return Drawing(figure, drawn, f"{plots.reading(drawn)} {OF_SPLITS}")


def first_outcome(run_set: RunSet, entry: str) -> "Outcome | None":
    """The complete run of an entry's first seed; None where there is none."""
    return next((one for one in run_set.outcomes if one.run["entry"] == entry), None)
