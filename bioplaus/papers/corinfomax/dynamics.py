"""What a network does with an image before it learns from it: activities, objective and information
by iteration.

`rule.relax(x, y)` gives the trajectory of a batch through its phases (free, then nudged towards the
labels); here it is made into tables and drawn: iteration by iteration, with controls where somebody
is there to move them, and beside it what learning changed: receptive fields, weights, and the
hidden representation in a plane.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bioplaus.analysis import plots

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bioplaus.rules import LearningRule
    from bioplaus.rules._layered import Trajectory

WHEN = ("before", "after")  # learning; drawn dashed, solid
_PHASES = {
    "free": "free",
    "nudged": "nudged",
    "anti": "nudged away",
    "forward": "forward",
    "relaxed": "nudged",
}
_DASHES = {"before": (0, (4, 1.5)), "after": "-"}


def correlative_information(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    """Correlative mutual information between two layers over a batch, in nats.

        I = (log det(R_a + eps I) + log det(R_b + eps I) - log det(R_ab + eps I)) / 2

    with the correlation matrices R of a, of b, and of both side by side, R = mean over the batch of
    r r^T. The same is (log det(R_b + eps I) - log det(R_e + eps I)) / 2, R_e = R_b - R_ba (R_a +
    eps I)^-1 R_ab: what the best linear prediction from a leaves of b. It is 0 for uncorrelated
    layers, and alike in both directions.

    Parameters
    ----------
    a, b : (batch, n_a), (batch, n_b), float, rates, dimensionless.
    epsilon : above 0; the rule's `epsilon`.

    Returns
    -------
    0-d float64 tensor.
    """
    both = torch.cat([a, b], 1).double()
    joint = both.t() @ both / len(both)
    joint.diagonal().add_(epsilon)
    n = a.shape[1]
    parts = (joint[:n, :n], joint[n:, n:], joint)
    of_a, of_b, of_both = (torch.linalg.cholesky(part).diagonal().log().sum() for part in parts)
    return of_a + of_b - of_both


def layers(trajectory: "Trajectory") -> list[Tensor]:
    """Activities by layer above the input, each (n_iterations, batch, n_k): rates, which a
    trajectory has first.
    """
    return next(iter(trajectory.states.values()))


def least_decided(trajectory: "Trajectory", y: Tensor) -> int:
    """The image whose own class and the best other one are nearest to each other at the end of the
    first phase.
    """
    end = trajectory.phases.count(trajectory.phases[0]) - 1
    output = layers(trajectory)[-1][end]
    own = output.gather(1, y[:, None])
    others = output.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True)
    return int((own - others).abs().argmin())


def table(trajectories: Mapping[tuple[str, str], "Trajectory"], image: int) -> "pandas.DataFrame":
    """Trajectories as numbers: the objective, before and after learning, and all units for one
    image, after it.

    Parameters
    ----------
    trajectories : of the same batch, by (rule, when), when being "before" or "after" learning.
    image : row of the batch.

    Returns
    -------
    Columns rule, when, quantity ("energy", "information", ... or "layer 1", ...), unit (empty for
    the objective), phase, iteration (1-based, through all phases), value.
    """
    import pandas

    parts = []
    for (rule, when), found in trajectories.items():
        n = len(found.phases)
        by_iteration = {"phase": found.phases, "iteration": np.arange(1, n + 1)}
        about = {"rule": rule, "when": when}
        parts.append(
            pandas.DataFrame(
                {
                    **about,
                    "quantity": found.objective_name,
                    **by_iteration,
                    "value": found.objective,
                }
            )
        )
        for number, layer in enumerate(layers(found) if when == "after" else (), start=1):
            for unit, values in enumerate(layer[:, image].t()):
                line = {
                    **about,
                    "quantity": f"layer {number}",
                    "unit": unit,
                    **by_iteration,
                    "value": values,
                }
                parts.append(pandas.DataFrame(line))
    columns = ["rule", "when", "quantity", "unit", "phase", "iteration", "value"]
    return (
        pandas.concat(parts, ignore_index=True).reindex(columns=columns).astype({"unit": "Int64"})
    )


def information(
    trajectories: Mapping[tuple[str, str], "Trajectory"], x: Tensor, epsilon: float
) -> "pandas.DataFrame":
    """Correlative information between neighbouring layers over the batch, at every iteration.

    Columns: rule, when, pair ("input, layer 1", ...), phase, iteration (1-based), value (nats).
    """
    import pandas

    rows = []
    for (rule, when), found in trajectories.items():
        names = ["input", *(f"layer {k + 1}" for k in range(len(layers(found))))]
        for t, phase in enumerate(found.phases):
            rates = [x, *(layer[t] for layer in layers(found))]
            for k in range(len(rates) - 1):
                value = float(correlative_information(rates[k], rates[k + 1], epsilon))
                about = {"rule": rule, "when": when, "pair": f"{names[k]}, {names[k + 1]}"}
                rows.append({**about, "phase": phase, "iteration": t + 1, "value": value})
    return pandas.DataFrame(rows)


def draw(drawn: "pandas.DataFrame", label: int, *, title: str = "") -> "Figure":
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
        for number, axes in enumerate(row[1:], start=1):
            units = after[after.quantity == f"layer {number}"].pivot(
                index="unit", columns="iteration", values="value"
            )
            if number < n_layers:
                _draw_units(axes, units, number)
            else:
                _draw_outputs(axes, units, label, rule)
        for axes in row:
            _mark_phases(axes, after[after.unit.isna()])
    for axes in np.atleast_2d(panels)[-1]:
        axes.set_xlabel("Iteration")
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    return figure


def draw_information(drawn: "pandas.DataFrame", *, title: str = "") -> "Figure":
    """What `information` gives: one axes a pair of layers; dashed before learning, solid after it.

    A dot is the end of the first phase.
    """
    from matplotlib import pyplot as plt

    pairs = list(dict.fromkeys(drawn.pair))
    figure, panels = plt.subplots(1, len(pairs), figsize=(7.2 * len(pairs), 5.2), squeeze=False)
    for axes, pair in zip(panels[0], pairs, strict=True):
        for (rule, when), line in drawn[drawn.pair == pair].groupby(["rule", "when"], sort=False):
            look = {"color": plots.colour(rule), "linestyle": _DASHES[when], "linewidth": 2.4}
            axes.plot(
                line.iteration, line.value, label=f"{plots.name(rule)}, {when} learning", **look
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
    return figure


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
    last = {rule: len(found.phases) for rule, found in trajectories.items()}

    def picture(rule: str, image: int, iteration: int) -> "Figure":
        t = min(iteration, last[rule]) - 1
        return _picture(rule, trajectories[rule], x[image], int(y[image]), image, t, shape)

    figure = picture(first, 0, last[first])
    place = display(figure, display_id=True)
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
        if place is not None:
            place.update(changed)
        plt.close(changed)

    for control in (rule, image, iteration):
        control.observe(redraw, names="value")
    display(ipywidgets.VBox([rule, image, ipywidgets.HBox([iteration, play])]))


def weights(rules: Mapping[str, "LearningRule"], *, most_bins: int = 60) -> "pandas.DataFrame":
    """Histograms of all weight matrices, the same bins before and after learning.

    Parameters
    ----------
    rules : the same network by when, "before" and "after" learning.
    most_bins : a small matrix has fewer, the root of its size.

    Returns
    -------
    Columns matrix (name of the parameter; vectors are left out), when, low and high (of the bin),
    density (per unit of weight: its sum over bins times their width is 1).
    """
    import pandas

    rows = []
    for name, after in rules["after"].named_parameters():
        if after.ndim != 2:
            continue
        values = {
            when: dict(rules[when].named_parameters())[name].detach().numpy().ravel()
            for when in WHEN
        }
        n_bins = min(most_bins, max(10, math.isqrt(after.numel())))
        edges = np.histogram_bin_edges(np.concatenate([*values.values()]), n_bins)
        for when, part in values.items():
            density, _ = np.histogram(part, edges, density=True)
            about = {"matrix": name, "when": when, "low": edges[:-1], "high": edges[1:]}
            rows.append(pandas.DataFrame({**about, "density": density}))
    return pandas.concat(rows, ignore_index=True)


def draw_weights(drawn: "pandas.DataFrame", rule: str, *, title: str = "") -> "Figure":
    """What `weights` gives: one axes a matrix, before learning in grey; logarithmic, so that rare
    large ones show.
    """
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(drawn.matrix))
    figure, panels = plt.subplots(1, len(names), figsize=(4.6 * len(names), 4.6), squeeze=False)
    look = {"before": {"color": "0.6"}, "after": {"color": plots.colour(rule), "alpha": 0.65}}
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
    return figure


def plane(hidden: Mapping[str, Tensor], y: Tensor, *, seed: int = 0) -> "pandas.DataFrame":
    """t-SNE of the hidden rates of a batch, before and after learning, and whose nearest neighbour
    is of its class.

    Parameters
    ----------
    hidden : (batch, n_hidden) rates by when, "before" and "after" learning.
    y : (batch,) class indices.

    Returns
    -------
    Columns when, image (row of the batch), label, x and y (place in the plane), is_near_its_own
    (the nearest other image, in the space of all hidden units, is of the same class).
    """
    import pandas
    from sklearn.manifold import TSNE

    parts = []
    for when, rates in hidden.items():
        rates = rates.double()
        distance = torch.cdist(rates, rates).fill_diagonal_(torch.inf)
        is_near = (y[distance.argmin(1)] == y).numpy()
        perplexity = min(30, (len(y) - 1) / 3)
        place = TSNE(
            2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed
        ).fit_transform(rates.numpy())
        about = {"when": when, "image": range(len(y)), "label": y.numpy()}
        parts.append(
            pandas.DataFrame(
                {**about, "x": place[:, 0], "y": place[:, 1], "is_near_its_own": is_near}
            )
        )
    return pandas.concat(parts, ignore_index=True)


def draw_plane(drawn: "pandas.DataFrame", *, title: str = "") -> "Figure":
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
    return figure


def about(preset: str, paper: str, dataset: str, notebook: str) -> dict[str, Any]:
    """What `plots.save` must know of a figure whose network was trained in the notebook itself: one
    seed, no runs.
    """
    return {
        "preset": preset,
        "paper": paper,
        "experiment": notebook,
        "datasets": [dataset],
        "n": {"trained in the notebook": 1},
        "missing": [],
        "command": f"make report PRESET={preset} PAPER={paper}",
        "remarks": [
            f"The networks of this figure were trained in its notebook, on {dataset} at every"
            " preset: one seed, no published counterpart."
        ],
    }


def _draw_objective(axes: "Axes", of_rule: "pandas.DataFrame", rule: str) -> None:
    """From its first value: learning moves the objective much further than any relaxation does."""
    lines = of_rule[of_rule.unit.isna()]
    for when, line in lines.groupby("when", sort=False):
        look = {"color": plots.colour(rule), "linestyle": _DASHES[when], "linewidth": 2.4}
        axes.plot(line.iteration, line.value - line.value.iloc[0], label=f"{when} learning", **look)
    axes.set(
        ylabel="Change since iteration 1", title=f"{plots.name(rule)}: {lines.quantity.iloc[0]}"
    )
    axes.legend()


def _draw_units(axes: "Axes", units: "pandas.DataFrame", number: int) -> None:
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
    axes.set(ylabel="Hidden unit, sorted", title=f"Layer {number}: every unit")


def _draw_outputs(axes: "Axes", units: "pandas.DataFrame", label: int, rule: str) -> None:
    """The output units as lines, that of the image's class thick."""
    for unit, line in units.iterrows():
        is_own = unit == label
        look = {"color": plots.colour(rule) if is_own else "0.6", "linewidth": 3 if is_own else 1.2}
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
    for number, (phase, part) in enumerate(line.groupby("phase", sort=False)):
        low, high = part.iteration.min() - 0.5, part.iteration.max() + 0.5
        if number:
            axes.axvline(low, color="0.3", linewidth=1.2, linestyle=":")
            if not axes.images:
                axes.axvspan(low, high, color="#E69F00", alpha=0.07 * number, linewidth=0)
        if high - low > 1:
            place = {
                "transform": above,
                "ha": "center",
                "va": "bottom",
                "fontsize": 12,
                "color": "0.3",
            }
            axes.text((low + high) / 2, 1.0, _phase_name(part.rule.iloc[0], phase), **place)
    axes.set_title(axes.get_title(), pad=20)
    axes.set_xlim(0.5, line.iteration.max() + 0.5)


def _phase_name(rule: str, phase: str) -> str:
    """A phase in words; what follows the forward pass is named by what is done to the outputs."""
    return "clamped" if (rule, phase) == ("pc", "relaxed") else _PHASES.get(phase, phase)


def _matrix(name: str) -> str:
    """`w_ff.0` in the paper's words."""
    kind, _, number = name.partition(".")
    symbols = {
        "w_ff": "forward, W",
        "w_fb": "feedback, V",
        "b_lateral": "lateral, B",
        "m_lateral": "lateral, M",
    }
    return f"{symbols[kind]}$_{int(number) + 1}$" if kind in symbols and number.isdigit() else name


def _picture(
    rule: str, found: "Trajectory", x: Tensor, label: int, image: int, t: int, shape: Sequence[int]
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
    rates = [layer[:, image].numpy() for layer in layers(found)]
    hidden, output = rates[0], rates[-1]
    colour = plots.colour(rule)
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
    phase = _phase_name(rule, found.phases[t])
    of_objective.plot(range(1, len(found.phases) + 1), found.objective, color=colour)
    of_objective.plot(t + 1, float(found.objective[t]), "o", color=colour, markersize=9)
    of_objective.set(
        title=f"{plots.name(rule)}: {found.objective_name}", xlabel=f"Iteration {t + 1}, {phase}"
    )
    return figure
