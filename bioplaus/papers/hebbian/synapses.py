"""Synapses of a trained layer as .npy files, so that a demo can skip training, and small enough to
be part of a result.

A file holds one array, (n_hidden, n_in) float: one row of weights a hidden unit, as the published
notebook saves them. The ones in `pretrained/` come with the package and are known by name.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioplaus import _files
from bioplaus.errors import BioplausError

_FOLDER = Path(__file__).resolve().parent / "pretrained"
_NPY = b"\x93NUMPY"
_KINDS = {
    b"MATLAB": "a MATLAB file (.mat)",
    b"\x89HDF": "an HDF5 file, as newer .mat files are",
    b"PK\x03\x04": "a zip archive, as .npz and .pt files are",
    b"\x1f\x8b": "a gzip archive",
    b"\x80": "a pickle",
}
_NUMBERS = re.compile(r"[\s\d.,;+\-eEna\"]+")


def names() -> list[str]:
    """Names of the synapses that come with the package, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.npy"))


def save(weight: Tensor, path: str | Path) -> None:
    """Write `weight`, (n_hidden, n_in), as float32 .npy file, whole or not at all; its digest
    follows the array, where numpy does not look.
    """
    content = io.BytesIO()
    np.save(content, weight.detach().cpu().numpy().astype(np.float32))
    _files.write_atomic(Path(path), _files.seal(content.getvalue()))


def load(name: str | Path, n_units: Sequence[int] | None = None) -> Tensor:
    """Synapses from a .npy file, or those that come with the package by their name; (n_hidden,
    n_in) float32.

    A file that `save` wrote is checked against its digest. One of another program has none: a
    warning says that damage to it would not be noticed.

    Parameters
    ----------
    n_units : inputs and hidden units that they must fit; None takes any.

    Raises
    ------
    BioplausError
        If there is no such file or name, the file is damaged or no plain array of numbers that are
        finite as float32, or its shape is another.
    """
    path = _FOLDER / f"{name}.npy" if str(name) in names() else Path(name)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a text that no file can be called
        known = ", ".join(names()) or "none"
        reason = getattr(error, "strerror", None) or error
        raise BioplausError(
            f"Could not read synapses {str(name)!r} ({reason}); give a .npy file, or one of those"
            f" that come with the package: {known}."
        ) from None
    if is_sealed := _files.is_sealed(content):
        content = _files.unseal(content, path, "Make it anew, or fetch it again.")
    weight = _array(content, path)
    if weight.ndim != 2 or weight.dtype.kind not in "fiu":
        raise BioplausError(
            f"{path} must hold one array of numbers, hidden units by inputs, but holds a"
            f" {weight.dtype} array of shape {weight.shape}."
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        converted = np.array(weight, np.float32)  # a copy in native byte order
    if not np.isfinite(converted).all():
        raise BioplausError(f"{path} holds weights that are not finite numbers as float32.")
    if n_units is not None and converted.shape != (n_units[1], n_units[0]):
        raise BioplausError(
            f"{path} holds {converted.shape[0]} hidden units with {converted.shape[1]} inputs, but"
            f" n_units {list(n_units)} asks for {n_units[1]} with {n_units[0]}."
        )
    if not is_sealed:
        warnings.warn(
            f"{path} carries no digest of bioplaus: damage to it would not be noticed.",
            stacklevel=2,
        )
    return torch.from_numpy(converted)


def _array(content: bytes, path: Path) -> np.ndarray:
    """The array in `content`, that of the .npy file `path`; nothing in it is executed."""
    if not content.startswith(_NPY):
        raise BioplausError(
            f"{path} is {_kind(content)}, but synapses are read from a .npy file (numpy.save) with"
            " one array of numbers, hidden units by inputs."
        )
    stream = io.BytesIO(content)
    try:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception:  # a damaged or hostile file can raise anything
        raise BioplausError(
            f"{path} is not a whole .npy file of numbers ({len(content):,} bytes)."
        ) from None
    if rest := len(content) - stream.tell():
        raise BioplausError(f"{path} is damaged: {rest:,} bytes follow the array in it.")
    return array


def _kind(content: bytes) -> str:
    """What a file that is no .npy file is, by how it begins."""
    for beginning, kind in _KINDS.items():
        if content.startswith(beginning):
            return kind
    try:
        text = content[:4096].decode("utf-8", "strict" if len(content) <= 4096 else "ignore")
    except UnicodeDecodeError:
        return "no .npy file"
    if not content:
        return "empty"
    return "a text file of numbers (.csv)" if _NUMBERS.fullmatch(text) else "a text file"


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
