"""What a network does with an image before it learns from it: activities, objective and information
by iteration.

`rule.relax(x, y)` gives the trajectory of a batch through its phases (free, then nudged towards the
labels); here it is made into tables, and beside it what learning changed: weights, and the hidden
representation in a plane. `dynamics_figures` draws them.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bioplaus.analysis.provenance import Provenance

if TYPE_CHECKING:
    import pandas

    from bioplaus.rules import LearningRule
    from bioplaus.rules._layered import Trajectory

WHEN = ("before", "after")  # learning


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
    for (rule, when), trajectory in trajectories.items():
        n = len(trajectory.phases)
        by_iteration = {"phase": trajectory.phases, "iteration": np.arange(1, n + 1)}
        named = {"rule": rule, "when": when}
        parts.append(
            pandas.DataFrame(
                {
                    **named,
                    "quantity": trajectory.objective_name,
                    **by_iteration,
                    "value": trajectory.objective,
                }
            )
        )
        for k, layer in enumerate(layers(trajectory) if when == "after" else (), start=1):
            for unit, values in enumerate(layer[:, image].t()):
                line = {
                    **named,
                    "quantity": f"layer {k}",
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
    for (rule, when), trajectory in trajectories.items():
        names = ["input", *(f"layer {k + 1}" for k in range(len(layers(trajectory))))]
        for t, phase in enumerate(trajectory.phases):
            rates = [x, *(layer[t] for layer in layers(trajectory))]
            for k in range(len(rates) - 1):
                value = float(correlative_information(rates[k], rates[k + 1], epsilon))
                named = {"rule": rule, "when": when, "pair": f"{names[k]}, {names[k + 1]}"}
                rows.append({**named, "phase": phase, "iteration": t + 1, "value": value})
    return pandas.DataFrame(rows)


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
            bins = {"matrix": name, "when": when, "low": edges[:-1], "high": edges[1:]}
            rows.append(pandas.DataFrame({**bins, "density": density}))
    return pandas.concat(rows, ignore_index=True)


def plane(hidden: Mapping[str, Tensor], y: Tensor, *, seed: int = 0) -> "pandas.DataFrame":
    """t-SNE of the hidden rates of a batch, before and after learning, and whose nearest neighbour
    is of its class.

    Parameters
    ----------
    hidden : (batch, n_hidden) rates by when, "before" and "after" learning.
    y : (batch,) class indices.

    Returns
    -------
    Columns when, image (row of the batch), label, x and y (position in the plane), is_near_its_own
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
        points = TSNE(
            2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed
        ).fit_transform(rates.numpy())
        images = {"when": when, "image": range(len(y)), "label": y.numpy()}
        parts.append(
            pandas.DataFrame(
                {**images, "x": points[:, 0], "y": points[:, 1], "is_near_its_own": is_near}
            )
        )
    return pandas.concat(parts, ignore_index=True)


def provenance(preset: str, dataset: str) -> Provenance:
    """Of a figure whose network was trained in its notebook: one seed, no runs."""
    return Provenance(
        preset=preset,
        paper="corinfomax",
        experiments=("dynamics",),
        datasets=(dataset,),
        n={"trained in the notebook": 1},
        command=f"make report PRESET={preset} PAPER=corinfomax",
        remarks=(
            f"The networks of this figure were trained in its notebook, on {dataset} at every"
            " preset: one seed, no published counterpart.",
        ),
    )
