"""Figures of `dynamics`: iteration by iteration, with controls where somebody is there to move
them, and what learning changed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bioplaus.analysis import style
from bioplaus.analysis.plots import Drawing
from bioplaus.papers.corinfomax.dynamics import WHEN, layers

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bioplaus.rules._layered import Trajectory

OF_RELAXATION = (
    "Left: what the iterations change, mean over all test images, from its value at the first"
    " iteration (the csv has the values themselves). The nudge is part of the energy, not of the"
    " information. Each layer of CorInfoMax climbs its own term of the information, so the sum may"
    " fall. Middle and right: every unit of the trained network for one image; the output of its"
    " class is thick."
)
OF_INFORMATION = (
    "A dot is the end of the first phase; from there the outputs are pulled towards the labels."
)
OF_WEIGHTS = "Grey: before learning. The density is drawn on a logarithmic axis."
OF_PLANE = (
    "A number stands at the median of its class. The percentage is counted in the space of all"
    " hidden units, not in the plane."
)
_PHASES = {
    "free": "free",
    "nudged": "nudged",
    "anti": "nudged away",
    "forward": "forward",
    "relaxed": "nudged",
}
_DASHES = {"before": (0, (4, 1.5)), "after": "-"}


def draw(drawn: "pandas.DataFrame", label: int, *, title: str = "") -> Drawing:
    """What `table` gives: a row a rule; objective, every hidden unit, and the outputs, against
    iteration.

    Parameters
    ----------
    label : class of the image.
    """
    from matplotlib import pyplot as plt

    rules = list(dict.fromkeys(drawn.rule))
    n_layers = drawn.quantity[drawn.quantity.str.startswith("layer ")].nunique()
    figure, panels = plt.subplots(
        len(rules), n_layers + 1, figsize=(5.4 * (n_layers + 1), 4.3 * len(rules) + 0.4)
    )
    for row, rule in zip(np.atleast_2d(panels), rules, strict=True):
        of_rule = drawn[drawn.rule == rule]
        after = of_rule[of_rule.when == "after"]
        _draw_objective(row[0], of_rule, rule)
        for k, axes in enumerate(row[1:], start=1):
            units = after[after.quantity == f"layer {k}"].pivot(
                index="unit", columns="iteration", values="value"
            )
            if k < n_layers:
                _draw_units(axes, units, k)
            else:
                _draw_outputs(axes, units, label, rule)
        for axes in row:
            _mark_phases(axes, after[after.unit.isna()])
    for axes in np.atleast_2d(panels)[-1]:
        axes.set_xlabel("Iteration")
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return Drawing(figure, drawn, OF_RELAXATION)


def draw_information(drawn: "pandas.DataFrame", *, title: str = "") -> Drawing:
    """What `information` gives: one axes a pair of layers; dashed before learning, solid after it.

    A dot is the end of the first phase.
    """
    from matplotlib import pyplot as plt

    pairs = list(dict.fromkeys(drawn.pair))
    figure, panels = plt.subplots(1, len(pairs), figsize=(7.2 * len(pairs), 5.2), squeeze=False)
    for axes, pair in zip(panels[0], pairs, strict=True):
        for (rule, when), line in drawn[drawn.pair == pair].groupby(["rule", "when"], sort=False):
            look = {"color": style.colour(rule), "linestyle": _DASHES[when], "linewidth": 2.4}
            axes.plot(
                line.iteration, line.value, label=f"{style.name(rule)}, {when} learning", **look
            )
            end = line[line.phase == line.phase.iloc[0]].iloc[-1:]
            axes.plot(end.iteration, end.value, "o", color=look["color"], markersize=7)
        axes.set(xlabel="Iteration", title=f"Between {pair.replace(', ', ' and ')}")
        axes.set_ylim(0, None)
    panels[0, 0].set_ylabel("Correlative information (nats)")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return Drawing(figure, drawn, OF_INFORMATION)


def draw_weights(drawn: "pandas.DataFrame", rule: str, *, title: str = "") -> Drawing:
    """What `weights` gives: one axes a matrix, before learning in grey; logarithmic, so that rare
    large ones show.
    """
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(drawn.matrix))
    figure, panels = plt.subplots(1, len(names), figsize=(4.6 * len(names), 4.6), squeeze=False)
    look = {"before": {"color": "0.6"}, "after": {"color": style.colour(rule), "alpha": 0.65}}
    for axes, name in zip(panels[0], names, strict=True):
        for when in WHEN:
            bars = drawn[(drawn.matrix == name) & (drawn.when == when)]
            edges = [*bars.low, bars.high.iloc[-1]]
            axes.stairs(bars.density, edges, fill=True, label=f"{when} learning", **look[when])
        axes.set(title=_matrix(name), xlabel="Weight", yscale="log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylabel("Density")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return Drawing(figure, drawn, OF_WEIGHTS)


def draw_plane(drawn: "pandas.DataFrame", *, title: str = "") -> Drawing:
    """What `plane` gives: every image a dot in the colour of its class, whose number stands at the
    class's median.
    """
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(WHEN), figsize=(14, 6.6))
    colours = plt.get_cmap("tab10")
    for axes, when in zip(panels, WHEN, strict=True):
        of_when = drawn[drawn.when == when]
        for label, dots in of_when.groupby("label"):
            axes.scatter(dots.x, dots.y, s=18, color=colours(label % 10), alpha=0.75, linewidths=0)
            box = {
                "boxstyle": "circle,pad=0.15",
                "facecolor": "white",
                "edgecolor": colours(label % 10),
                "alpha": 0.9,
            }
            middle = {"ha": "center", "va": "center", "fontsize": 13}
            axes.text(dots.x.median(), dots.y.median(), str(label), bbox=box, **middle)
        near = of_when.is_near_its_own.mean()
        axes.set_title(
            f"{when.capitalize()} learning: nearest neighbour of the same class {100 * near:.1f} %"
        )
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return Drawing(figure, drawn, OF_PLANE)


def explore(
    trajectories: Mapping[str, "Trajectory"], x: Tensor, y: Tensor, shape: Sequence[int]
) -> None:
    """One image and one iteration at a time, with controls for rule, image and iteration.

    The picture is an ordinary output that the controls replace: where nobody can move them (nbval,
    papermill, a printed notebook), or ipywidgets is not installed, the first image at the last
    iteration stays.

    Parameters
    ----------
    trajectories : of the same batch, by rule.
    x, y : the batch, (batch, n_in) float and (batch,) class indices.
    shape : (channels, height, width) of an image.
    """
    from IPython.display import display
    from matplotlib import pyplot as plt

    first = next(iter(trajectories))
    last = {rule: len(trajectory.phases) for rule, trajectory in trajectories.items()}

    def picture(rule: str, image: int, iteration: int) -> "Figure":
        t = min(iteration, last[rule]) - 1
        return _picture(rule, trajectories[rule], x[image], int(y[image]), image, t, shape)

    figure = picture(first, 0, last[first])
    handle = display(figure, display_id=True)
    plt.close(figure)  # shown by its handle, not again at the end of the cell
    try:
        import ipywidgets
    except ModuleNotFoundError:
        print("For controls under the picture: pip install ipywidgets")
        return
    width = ipywidgets.Layout(width="28rem")
    rule = ipywidgets.ToggleButtons(options=list(trajectories), description="rule")
    image = ipywidgets.IntSlider(0, 0, len(x) - 1, description="image", layout=width)
    iteration = ipywidgets.IntSlider(
        last[first], 1, max(last.values()), description="iteration", layout=width
    )
    play = ipywidgets.Play(value=1, min=1, max=max(last.values()), interval=200)
    ipywidgets.jslink((play, "value"), (iteration, "value"))

    def redraw(change: Mapping[str, Any]) -> None:
        changed = picture(rule.value, image.value, iteration.value)
        if handle is not None:
            handle.update(changed)
        plt.close(changed)

    for control in (rule, image, iteration):
        control.observe(redraw, names="value")
    display(ipywidgets.VBox([rule, image, ipywidgets.HBox([iteration, play])]))


def _draw_objective(axes: "Axes", of_rule: "pandas.DataFrame", rule: str) -> None:
    """From its first value: learning moves the objective much further than any relaxation does."""
    lines = of_rule[of_rule.unit.isna()]
    for when, line in lines.groupby("when", sort=False):
        look = {"color": style.colour(rule), "linestyle": _DASHES[when], "linewidth": 2.4}
        axes.plot(line.iteration, line.value - line.value.iloc[0], label=f"{when} learning", **look)
    axes.set(
        ylabel="Change since iteration 1", title=f"{style.name(rule)}: {lines.quantity.iloc[0]}"
    )
    axes.legend()


def _draw_units(axes: "Axes", units: "pandas.DataFrame", k: int) -> None:
    """All units of a hidden layer as rows of an image, the most active at the end on top."""
    order = units[units.columns[-1]].argsort()[::-1]
    n_units, n = units.shape
    box = (0.5, n + 0.5, n_units + 0.5, 0.5)
    image = axes.imshow(
        units.to_numpy(float)[order],
        aspect="auto",
        extent=box,
        interpolation="nearest",
        cmap="viridis",
    )
    axes.figure.colorbar(image, ax=axes, label="Activity")
    axes.grid(False)
    axes.set(ylabel="Hidden unit, sorted", title=f"Layer {k}: every unit")


def _draw_outputs(axes: "Axes", units: "pandas.DataFrame", label: int, rule: str) -> None:
    """The output units as lines, that of the image's class thick."""
    for unit, line in units.iterrows():
        is_own = unit == label
        look = {"color": style.colour(rule) if is_own else "0.6", "linewidth": 3 if is_own else 1.2}
        axes.plot(units.columns, line, zorder=3 if is_own else 2, **look)
    ends = units[units.columns[-1]].astype(float)
    for unit in {label, int(ends.drop(label).idxmax())}:
        axes.annotate(
            f" {unit}",
            (units.columns[-1], ends[unit]),
            va="center",
            fontsize=13,
            annotation_clip=False,
        )
    axes.set(ylabel="Activity", title=f"Outputs: the {label} thick")


def _mark_phases(axes: "Axes", line: "pandas.DataFrame") -> None:
    """Shade every phase after the first, and name all of them above the axes."""
    above = axes.get_xaxis_transform()
    for k, (phase, part) in enumerate(line.groupby("phase", sort=False)):
        low, high = part.iteration.min() - 0.5, part.iteration.max() + 0.5
        if k:
            axes.axvline(low, color="0.3", linewidth=1.2, linestyle=":")
            if not axes.images:
                axes.axvspan(low, high, color="#E69F00", alpha=0.07 * k, linewidth=0)
        if high - low > 1:
            look = {"ha": "center", "va": "bottom", "fontsize": 12, "color": "0.3"}
            name = _phase_name(part.rule.iloc[0], phase)
            axes.text((low + high) / 2, 1.0, name, transform=above, **look)
    axes.set_title(axes.get_title(), pad=20)
    axes.set_xlim(0.5, line.iteration.max() + 0.5)


def _phase_name(rule: str, phase: str) -> str:
    """A phase in words; what follows the forward pass is named by what is done to the outputs."""
    return "clamped" if (rule, phase) == ("pc", "relaxed") else _PHASES.get(phase, phase)


def _matrix(name: str) -> str:
    """`w_ff.0` in the paper's words."""
    kind, _, k = name.partition(".")
    symbols = {
        "w_ff": "forward, W",
        "w_fb": "feedback, V",
        "b_lateral": "lateral, B",
        "m_lateral": "lateral, M",
    }
    return f"{symbols[kind]}$_{int(k) + 1}$" if kind in symbols and k.isdigit() else name


def _picture(
    rule: str,
    trajectory: "Trajectory",
    x: Tensor,
    label: int,
    image: int,
    t: int,
    shape: Sequence[int],
) -> "Figure":
    """One image at one iteration: itself, the hidden rates, the outputs, and where in the
    relaxation this is.
    """
    from matplotlib import pyplot as plt

    figure, (of_image, of_hidden, of_output, of_objective) = plt.subplots(
        1, 4, figsize=(15, 3.6), width_ratios=[0.8, 1.3, 1.1, 1.3]
    )
    channels, height, width = shape
    pixels = x.reshape(channels, height, width).permute(1, 2, 0).numpy()
    low, high = pixels.min(), pixels.max()
    of_image.imshow((pixels - low) / ((high - low) or 1), cmap="gray_r")
    of_image.set_axis_off()
    of_image.set_title(f"Image {image}: a {label}")
    rates = [layer[:, image].numpy() for layer in layers(trajectory)]
    hidden, output = rates[0], rates[-1]
    colour = style.colour(rule)
    of_hidden.bar(range(hidden.shape[1]), hidden[t], width=1.0, color=colour)
    of_hidden.set(
        title="Layer 1", xlabel="Unit", ylim=(min(0, hidden.min()), max(hidden.max(), 1e-3) * 1.05)
    )
    of_output.bar(
        range(output.shape[1]),
        output[t],
        color=["0.6" if k != label else colour for k in range(output.shape[1])],
    )
    of_output.set(
        title="Outputs", xlabel="Class", ylim=(min(0, output.min()), max(output.max(), 1e-3) * 1.05)
    )
    of_output.set_xticks(range(output.shape[1]))
    phase = _phase_name(rule, trajectory.phases[t])
    of_objective.plot(range(1, len(trajectory.phases) + 1), trajectory.objective, color=colour)
    of_objective.plot(t + 1, float(trajectory.objective[t]), "o", color=colour, markersize=9)
    of_objective.set(
        title=f"{style.name(rule)}: {trajectory.objective_name}",
        xlabel=f"Iteration {t + 1}, {phase}",
    )
    return figure
