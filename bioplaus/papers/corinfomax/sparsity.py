"""How sparse the layers of CorInfoMax and CorInfoMax-Sparse are after learning."""

from typing import TYPE_CHECKING

from bioplaus.activity import ACTIVE
from bioplaus.analysis import plots, style
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.plots import Drawing

if TYPE_CHECKING:
    import pandas

MEASURES = {
    "active": f"Share of units with a rate above {ACTIVE}",
    "spread": "Share that the activity is spread over",
    "total": "Sum of the rates of a layer",
}
READING = (
    "At the end of the free phase, means over test images; dots: seeds. Spread: (sum of rates)² /"
    " (units x sum of squared rates), 1 if all units are alike. The multiplier of CorInfoMax-Sparse"
    " holds the sum of a layer's rates near 1 where it acts."
)


def table(runs: RunSet) -> "pandas.DataFrame":
    """One row a seed, layer and measure: entry, label, rule, seed, layer (from 1, the output last),
    n_units, measure, value.
    """
    import pandas

    rows = []
    for outcome in runs.outcomes:
        if runs.status[outcome.run["id"]] != "done" or "activity" not in outcome.record:
            continue
        entry, units = outcome.run["entry"], outcome.record["config"]["n_units"][1:]
        for measure, values in outcome.record["activity"].items():
            for layer, (n_units, value) in enumerate(zip(units, values, strict=True), start=1):
                rows.append(
                    {
                        "entry": entry,
                        "label": runs.label(entry),
                        "rule": runs.rule(entry),
                        "seed": outcome.run["seed"],
                        "layer": layer,
                        "n_units": n_units,
                        "measure": measure,
                        "value": value,
                    }
                )
    names = ["entry", "label", "rule", "seed", "layer", "n_units", "measure", "value"]
    return pandas.DataFrame(rows, columns=names)


def draw(drawn: "pandas.DataFrame", *, title: str = "") -> Drawing:
    """One axes a measure, the layers side by side, a bar a rule."""
    if drawn.empty:
        return Drawing(None, drawn)
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(MEASURES), figsize=(5 * len(MEASURES), 4.8))
    labels = dict.fromkeys(drawn.label)
    width = 0.8 / len(labels)
    layers = drawn.drop_duplicates("layer").set_index("layer").n_units
    for axes, (measure, ylabel) in zip(panels, MEASURES.items(), strict=True):
        part = drawn[drawn.measure == measure]
        for k, label in enumerate(labels):
            of_rule = part[part.label == label]
            shade = style.colour(plots.rules_of(of_rule)[of_rule.entry.iloc[0]])
            for layer, values in of_rule.groupby("layer").value:
                x = layer + (k - (len(labels) - 1) / 2) * width
                name = f"{label} (n = {len(values)})" if layer == 1 else None
                axes.bar(x, values.mean(), 0.9 * width, color=shade, alpha=0.8, label=name)
                axes.plot([x] * len(values), values, "o", color="black", markersize=3)
        names = [f"layer {layer}\n{n} units" for layer, n in layers.items()]
        axes.set_xticks(list(layers.index), names)
        axes.set_ylabel(ylabel)
    panels[-1].legend(fontsize=11, loc="upper right")
    figure.suptitle(title)
    return Drawing(figure, drawn, READING)
