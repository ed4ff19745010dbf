"""Features of pictures by a fixed encoder, computed once and kept in the user's cache folder."""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bioplaus import _files
from bioplaus.errors import BioplausError, extra
from bioplaus.tasks import datasets as data
from bioplaus.tasks.captioned import Source
from bioplaus.tasks.encoders import ENCODERS, Encoder

SHARD = 1000  # pictures whose features are kept in one file
CHUNK = 32  # pictures encoded at once


def features(
    source: Source, encoder: str, is_training: bool, device: str | torch.device = "cpu"
) -> np.ndarray:
    """Features of all pictures of `source`, (n_images, n_features) float32, computed on the device.

    They are kept in the user's cache folder, so many pictures to a file, each with its digest; what
    is there and whole is not computed again, so an interrupted encoding goes on where it stopped.
    Of several processes that need a file one computes it and the others wait for it.
    """
    way, device = ENCODERS[encoder], torch.device(device)
    identity = f"{source.fingerprint} {encoder} {way.about} {is_training} {device.type}"
    folder = data._cache() / "features" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    net, parts = None, []
    for start in range(0, source.n_images, SHARD):
        path, rows = folder / f"{start:07d}.npy", range(start, min(start + SHARD, source.n_images))
        part = _read(path)
        if part is None:
            with _locked(path):
                part = _read(path)  # another process made it meanwhile
                if part is None:
                    net = net or way.build().to(device)
                    part = _encoded(net, way, source, rows, is_training, device)
                    _write(part, path)
        parts.append(part)
    return np.concatenate(parts)


@torch.no_grad()
def _encoded(
    net: torch.nn.Module,
    way: Encoder,
    source: Source,
    rows: range,
    is_training: bool,
    device: torch.device,
) -> np.ndarray:
    """Features of the pictures `rows` of `source`, (n, n_features) float32."""
    chunks = (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK))
    pictures = (
        torch.stack([way.prepare(source.image(i), is_training) for i in chunk]) for chunk in chunks
    )
    return torch.cat([net(batch.to(device)).cpu() for batch in pictures]).numpy()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file of features; where its folder cannot be written nothing is kept, so
    nothing is locked.
    """
    with extra():
        from filelock import FileLock

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def _write(part: np.ndarray, path: Path) -> None:
    content = io.BytesIO()
    np.save(content, part)
    try:
        _files.write_atomic(path, _files.seal(content.getvalue()))
    except BioplausError as error:
        warnings.warn(
            f"The features cannot be kept, so every run computes them again: {error}", stacklevel=2
        )


def _read(path: Path) -> np.ndarray | None:
    try:
        return np.load(io.BytesIO(_files.unseal(path.read_bytes(), path)))
    except (OSError, BioplausError):
        return None
