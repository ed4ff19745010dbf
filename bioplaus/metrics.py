"""Pure functions from tensors to numbers: accuracy and angles between weights."""

import math

import torch
from torch import Tensor


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
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) if math.isfinite(cosine) else math.nan
