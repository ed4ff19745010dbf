"""Synapses of a trained layer as .npy files, so that a demo can skip training, and small enough to
be part of a result.

A file holds one array, (n_hidden, n_in) float: one row of weights a hidden unit, as the published
notebook saves them. The ones in `pretrained/` come with the package and are known by name.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioplaus import _files
from bioplaus.errors import BioplausError

_FOLDER = Path(__file__).resolve().parent / "pretrained"


def names() -> list[str]:
    """Names of the synapses that come with the package, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.npy"))


def save(weight: Tensor, path: str | Path) -> None:
    """Write `weight`, (n_hidden, n_in), as float32 .npy file, whole or not at all."""
    content = io.BytesIO()
    np.save(content, weight.detach().cpu().numpy().astype(np.float32))
    _files.write_atomic(Path(path), content.getvalue())


def load(name: str | Path, n_units: Sequence[int] | None = None) -> Tensor:
    """Synapses from a .npy file, or those that come with the package by their name; (n_hidden,
    n_in) float32.

    Parameters
    ----------
    n_units : inputs and hidden units that they must fit; None takes any.

    Raises
    ------
    BioplausError
        If there is no such file or name, the file is no plain array of finite numbers, or its shape
        is another.
    """
    path = _FOLDER / f"{name}.npy" if str(name) in names() else Path(name)
    try:
        weight = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except OSError as error:
        known = ", ".join(names()) or "none"
        raise BioplausError(
            f"Could not read synapses {str(name)!r} ({error.strerror}); give a .npy file, or one of"
            f" those that come with the package: {known}."
        ) from None
    except Exception as error:  # a damaged or hostile file can raise anything
        raise BioplausError(
            f"{path} is not a .npy file of numbers ({type(error).__name__}: {error})."
        ) from None
    if not isinstance(weight, np.ndarray) or weight.ndim != 2 or weight.dtype.kind not in "fiu":
        found = (
            f"{weight.dtype} array of shape {weight.shape}"
            if isinstance(weight, np.ndarray)
            else "several arrays"
        )
        raise BioplausError(
            f"{path} must hold one array of numbers, hidden units by inputs, but holds {found}."
        )
    if not np.isfinite(weight).all():
        raise BioplausError(f"{path} holds weights that are not finite numbers.")
    if n_units is not None and weight.shape != (n_units[1], n_units[0]):
        raise BioplausError(
            f"{path} holds {weight.shape[0]} hidden units with {weight.shape[1]} inputs, but"
            f" n_units {list(n_units)} asks for {n_units[1]} with {n_units[0]}."
        )
    return torch.from_numpy(np.array(weight, np.float32))  # a copy in native byte order


def pack(weight: Tensor, n_units: int | None = None) -> dict[str, np.ndarray]:
    """The first `n_units` rows as bytes, for a record: a quarter of the size, and what a figure
    shows anyway.

    Every row has its own scale: weight = low + level (high - low) / 255, rounded to the nearest
    level.

    Returns
    -------
    level : (..., n_in) uint8; low, high : (..., 1) float32.
    """
    kept = (
        (weight if n_units is None else weight[:n_units]).detach().cpu().numpy().astype(np.float32)
    )
    low, high = kept.min(-1, keepdims=True), kept.max(-1, keepdims=True)
    span = np.where(high > low, high - low, 1)
    return {
        "level": np.rint(255 * ((kept - low) / span)).astype(np.uint8),
        "low": low,
        "high": high,
    }


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """What `pack` was given, float32, each weight wrong by at most (high - low) / 510 of its
    row.
    """
    return packed["low"] + packed["level"].astype(np.float32) / 255 * (
        packed["high"] - packed["low"]
    )
