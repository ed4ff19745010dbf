"""How many units are active after learning, layer by layer: what a sparse code is sparse in."""

from typing import Any

import torch
from torch import Tensor

from bioplaus import rules
from bioplaus.errors import BioplausError
from bioplaus.rules._layered import LayeredRule

ACTIVE = 0.01  # a rate above this is active, dimensionless
CHUNK = 250  # images relaxed at once


def check(rule: str, n_images: int) -> None:
    """Raise `BioplausError` unless the activity of `n_images` images can be measured in networks of
    this rule; 0 measures nothing.
    """
    if n_images < 0:
        raise BioplausError(f"n_activity is {n_images}, but must be at least 0.")
    settle = getattr(rules.get(rule).Rule, "_settle", LayeredRule._settle)
    if n_images and settle is LayeredRule._settle:
        raise BioplausError(f"n_activity is {n_images}, but rule {rule} has no rates that relax.")


def measure(learner: Any, x: Tensor) -> dict[str, list[float]]:
    """The activity of each layer above the input, at the end of the phase that sees the input
    alone; means over images.

    Parameters
    ----------
    learner : a rule with `relax`.
    x : (n, n_in), prepared images.

    Returns
    -------
    One value a layer:

    active : share of the units with a rate above `ACTIVE`.
    total : sum of the rates.
    spread : (sum r)^2 / (n_k sum r^2), the share of the units that the activity is spread over
        (Treves and Rolls): 1 if all are alike, 1 / n_k if one is active alone. An image that
        leaves a layer silent counts as 0.
    """
    parts = [_layers(learner, part) for part in x.split(CHUNK)]
    values: dict[str, list[float]] = {"active": [], "total": [], "spread": []}
    for layer in zip(*parts, strict=True):
        r = torch.cat(layer).double()
        total = r.sum(1)
        values["active"].append(float((r > ACTIVE).double().mean()))
        values["total"].append(float(total.mean()))
        spread = total**2 / (r.shape[1] * (r * r).sum(1)).clamp(min=1e-300)
        values["spread"].append(float(spread.mean()))
    return values


def _layers(learner: Any, x: Tensor) -> list[Tensor]:
    """The rates by layer, (n, n_k), where the free phase ends."""
    trajectory = learner.relax(x)
    end = trajectory.phases.count(trajectory.phases[0]) - 1
    return [layer[end] for layer in next(iter(trajectory.states.values()))]
