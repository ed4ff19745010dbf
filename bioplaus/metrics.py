"""Pure functions from tensors to numbers: accuracy and angles between weights."""

import math

import torch
from torch import Tensor

__all__ = [
    "accuracy",
    "angle_deg",
    "certainty",
    "cosine",
    "dysmetria",
    "population",
    "squared_distance",
    "weight_summary",
]


def accuracy(outputs: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Fraction of rows whose label is among the `k` largest outputs.

    Parameters
    ----------
    outputs : (n, n_classes), float.
    labels : (n,), int64, class indices.

    Returns
    -------
    0-d float tensor in [0, 1], dimensionless, on the device of `outputs`.
    """
    if k == 1:
        return (outputs.argmax(dim=1) == labels).double().mean()
    return (outputs.topk(k, dim=1).indices == labels[:, None]).any(dim=1).double().mean()


def angle_deg(a: Tensor, b: Tensor) -> float:
    """Angle between two arrays of one shape seen as vectors, in degrees in [0, 180].

    angle = arccos(<a, b>_F / (|a|_F |b|_F)), summed in float64.
    """
    a, b = a.double(), b.double()
    cosine = ((a * b).sum() / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))).item()
    return (
        math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) if math.isfinite(cosine) else math.nan
    )


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between the rows of `a` and `b`, (rows, n) float each; 0 where a row is
    zero.

    Returns
    -------
    (rows,), dimensionless, in [-1, 1].
    """
    scale = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return torch.where(scale > 0, (a * b).sum(1) / scale, 0.0)


def squared_distance(drawn: Tensor, target: Tensor) -> Tensor:
    """Mean over samples and steps of |drawn - target|^2, both (..., n_coordinates) float; squared
    drawing units.
    """
    return (drawn - target).square().sum(-1).mean()


def certainty(logits: Tensor) -> Tensor:
    """Mean over rows of the largest softmax probability, for logits of (n, n_classes); in [1 /
    n_classes, 1].
    """
    return logits.softmax(dim=1).amax(dim=1).mean()


def weight_summary(weight: Tensor) -> dict[str, Tensor]:
    """Mean, mean absolute value, the same of the weights that are not zero, and population standard
    deviation.
    """
    size = weight.abs()
    return {
        "mean": weight.mean(),
        "mean_abs": size.mean(),
        "mean_abs_nonzero": size[size > 0].mean(),
        "std": weight.std(correction=0),
    }


def dysmetria(drawn: Tensor, target: Tensor) -> Tensor:
    """Irregularity of drawn curves against their targets: mean length of the second difference of
    the error.

    With e_t = drawn_t - target_t: mean over samples and inner steps of |e_{t+1} - 2 e_t + e_{t-1}|.
    An offset and a constant drift do not count; a hand that overshoots and corrects does. (The
    papers name such a score, but publish no formula: this definition is ours.)

    Parameters
    ----------
    drawn, target : (n, n_steps, 2), float, in units of the drawing; at least three steps.

    Returns
    -------
    0-d float tensor, units of the drawing per step squared.
    """
    return torch.linalg.vector_norm((drawn - target).diff(n=2, dim=1), dim=2).mean()


def population(activity: Tensor) -> dict[str, Tensor]:
    """Measures of a population of N units over many samples, as in the published analysis of cortex
    and cerebellum.

    With the eigenvalues l of the units' covariance C (divisor: samples - 1):

        correlation   N/(N-1) max_i sqrt(l_i) / sum_i sqrt(l_i) - 1/N
        pearson       mean of |r_ij| over pairs of units
        coding_space  trace of C
        sparsity      (N - mean over samples of (sum_i |a_i|)^2 / sum_i a_i^2) / (N - 1);
                      0: all equal, 1: one unit

    The published `correlation` is kept as it is: it runs from 1/(N-1) - 1/N (all directions alike)
    to 1 + 1/(N-1) - 1/N (one direction only), not from 0 to 1. Units that never vary are left out
    of `pearson`, samples in which all units are silent out of `sparsity`; the published helpers
    divide by zero there.

    Parameters
    ----------
    activity : (n_units, n_samples), float, at least two of each.

    Returns
    -------
    0-d float64 tensors by name, dimensionless (coding_space: squared units of the activity).
    """
    a = activity.double()
    n = len(a)
    covariance = torch.cov(a)
    roots = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    is_varying = (a != a[:, :1]).any(1)
    scale = torch.where(is_varying, covariance.diagonal().rsqrt(), 0.0)
    correlations = (covariance * scale[:, None] * scale).abs_().fill_diagonal_(0)
    n_varying = int(is_varying.sum())
    active = a[:, a.abs().sum(0) > 0]
    spread = (
        (active.abs().sum(0).square() / active.square().sum(0)).mean()
        if active.numel()
        else a.new_tensor(n)
    )
    return {
        "correlation": (
            n / (n - 1) * roots.max() / roots.sum() - 1 / n if roots.sum() > 0 else a.new_zeros(())
        ),
        "pearson": correlations.sum() / max(n_varying * (n_varying - 1), 1),
        "coding_space": covariance.trace(),
        "sparsity": (n - spread) / (n - 1),
    }


def __dir__() -> list[str]:
    return sorted(__all__)
