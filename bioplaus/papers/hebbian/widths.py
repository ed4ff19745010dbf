"""Accuracy against the width of the hidden layer, and how the weights of its units are spread.

Published are tables for MNIST and CIFAR-10 by width, without spread, seeds or settings, and one
notebook of MNIST with 1000 units (`Results/published/hebbian_addendum.csv`). What they call
validation accuracy is, for BIO, the best epoch's on the test set, as the notebook's code shows; for
BP the best on held-out training images.
"""

from typing import TYPE_CHECKING

import numpy as np

from bioplaus.analysis import published, style
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing
from bioplaus.analysis.provenance import Provenance
from bioplaus.papers.hebbian import synapses
from bioplaus.papers.hebbian.selection import pick

if TYPE_CHECKING:
    import pandas

METRIC = {"BIO": "test_accuracy", "BP": "validation_accuracy"}  # of which the best epoch counts
RULES = {"BIO": "competing_hidden", "BP": "bp_batchnorm"}
READING = (
    "Dashed, open: published, one number each, settings other than the width not stated. Solid:"
    " ours, mean and sample standard deviation. BIO: the best epoch on the test set; BP: the best"
    " on held-out training images; as the published notebook measured them."
)
COLUMNS = ["dataset", "network", "width", "source", "value", "sd", "n"]


def table(runs: RunSet | None = None) -> "pandas.DataFrame":
    """Best accuracies by data set, network (BIO or BP) and width: ours of the runs that are done,
    and published.

    Columns: dataset, network, width (hidden units), source (ours, published), value, sd (sample
    form), n.
    """
    import pandas

    known = published.values("hebbian")
    known = known[
        (known.figure_or_table == "README table") & (known.metric == "validation accuracy")
    ]
    names = known.model.str.extract(r"^(?P<network>\w+) H=(?P<width>\d+)$")
    rows = known[["dataset", "value"]].assign(
        network=names.network, width=names.width.astype(int), source="published"
    )
    ours = pandas.DataFrame(_ours(runs) if runs else [], columns=COLUMNS)
    return pandas.concat([ours, rows], ignore_index=True).reindex(columns=COLUMNS)


def _ours(runs: RunSet) -> list[dict[str, object]]:
    rows = []
    for entry in runs.entries:
        network, width = runs.label(entry).partition(",")[0], hidden_units(runs, entry)
        if network not in METRIC:
            continue
        values = [
            pick(outcome.record["epochs"], METRIC[network], "best")
            for outcome in runs.outcomes
            if outcome.run["entry"] == entry and runs.status[outcome.run["id"]] == "done"
        ]
        if values:
            rows.append(
                {
                    "dataset": {"mnist": "MNIST", "cifar10": "CIFAR-10"}.get(
                        runs.datasets[0], runs.datasets[0]
                    ),
                    "network": network,
                    "width": width,
                    "source": "ours",
                    "value": float(np.mean(values)),
                    "sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
                    "n": len(values),
                }
            )
    return rows


def provenance(runs: RunSet) -> Provenance:
    """That of the figure, which is drawn without runs of ours too."""
    return runs.provenance.replace(published_alone=("accuracy by width",))


def hidden_units(runs: RunSet, entry: str) -> int:
    """The width of the hidden layer of an entry."""
    return int(runs.first_run(entry).parameters["config"]["n_units"][1])


def draw(drawn: "pandas.DataFrame", *, title: str = "") -> Drawing:
    """Accuracy against width, one axes a data set."""
    from matplotlib import pyplot as plt

    names = [name for name in dict.fromkeys(drawn.dataset)]
    size = (6.4 * len(names), 4.8)
    figure, grid = plt.subplots(1, len(names), figsize=size, squeeze=False)
    for axes, name in zip(grid[0], names, strict=True):
        of_data = drawn[drawn.dataset == name]
        for (network, source), part in of_data.groupby(["network", "source"], sort=False):
            part = part.sort_values("width")
            is_ours = source == "ours"
            look = {"color": style.colour(RULES[network]), "marker": "o", "markersize": 6}
            look |= {} if is_ours else {"linestyle": "--", "markerfacecolor": "white"}
            n = f" (n = {int(part.n.min())})" if is_ours else ""
            spread = part.sd.astype(float) if is_ours else None
            label = f"{network}, {source}{n}"
            axes.errorbar(part.width, part.value, yerr=spread, capsize=3, label=label, **look)
        axes.set_xscale("log", base=2)
        widths = sorted(set(of_data.width))
        axes.set_xticks(widths, [f"{width:,}" for width in widths], rotation=30)
        axes.minorticks_off()
        axes.set(xlabel="Hidden units", title=name)
        axes.legend(fontsize=11)
    grid[0, 0].set_ylabel("Accuracy, best epoch")
    figure.suptitle(title)
    return Drawing(figure, drawn, READING)


def weights(runs: RunSet) -> Drawing:
    """Histograms of the weights of BIO's units that were kept, by width, with the shares of
    negative, zero and positive ones.

    A weight counts as zero if it is 0 to the precision it was kept with, a 510th of its unit's
    range.
    """
    import pandas
    from matplotlib import pyplot as plt

    parts = [pandas.DataFrame()]
    for entry in runs.entries:
        outcome = next((one for one in runs.outcomes if one.run["entry"] == entry), None)
        if outcome is None or outcome.run["parameters"]["rule"] != RULES["BIO"]:
            continue
        packed = outcome.record["weights"]
        weight, step = synapses.unpack(packed), (packed["high"] - packed["low"]) / 510
        is_zero = np.abs(weight) <= step
        shares = {
            "negative": float((~is_zero & (weight < 0)).mean()),
            "zero": float(is_zero.mean()),
            "positive": float((~is_zero & (weight > 0)).mean()),
        }
        limit = float(np.quantile(np.abs(weight), 0.999)) or 1.0
        counts, edges = np.histogram(weight, bins=81, range=(-limit, limit), density=True)
        middle = (edges[1:] + edges[:-1]) / 2
        part = pandas.DataFrame({"weight": middle, "density": counts})
        parts.append(part.assign(width=hidden_units(runs, entry), n_units=len(weight), **shares))
    drawn = pandas.concat(parts, ignore_index=True)
    if drawn.empty:
        return Drawing(None, drawn)
    figure, axes = plt.subplots()
    shades = style.ordered(drawn.width.nunique())
    for shade, (width, part) in zip(shades, drawn.groupby("width"), strict=True):
        first = part.iloc[0]
        label = (
            f"{width:,} units: {first.negative:.0%} < 0, {first.zero:.0%} = 0,"
            f" {first.positive:.0%} > 0"
        )
        axes.plot(part.weight, part.density, color=shade, label=label)
    axes.set(xlabel="Weight", ylabel="Density", yscale="log", title=runs.heading)
    axes.legend(fontsize=10)
    reading = (
        f"Of the first {int(drawn.n_units.max())} units of one seed. Zero: to a 510th of a unit's"
        " range, the precision they are kept with. Published for 1000 units: 60,298 of the 784,000"
        " weights, 8 %, are exactly 0."
    )
    return Drawing(figure, drawn, reading)
