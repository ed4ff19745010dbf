"""Files that nobody vouches for: arrays are read without executing anything, names stay inside
their folder, and every failure is one sentence.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioplaus.errors import BioplausError, extra

if TYPE_CHECKING:
    from PIL.Image import Image


@contextlib.contextmanager
def opened(path: Path, content: io.BytesIO | None = None) -> Iterator[np.lib.npyio.NpzFile]:
    """A .npz whose arrays are read inside the block, object arrays refused.

    Parameters
    ----------
    content : its bytes, where they were read already.

    Raises
    ------
    BioplausError
        For whatever goes wrong inside the block.
    """
    try:
        with np.load(content or path, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("one array, not several")
            yield stored
    except BioplausError:
        raise
    except Exception as error:  # a damaged or hostile zip can raise anything
        size = f"{os.path.getsize(path):,} bytes" if path.is_file() else "no such file"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BioplausError(
            f"{path} ({size}) is not a whole .npz of plain arrays ({reason})."
        ) from error


def header(stored: np.lib.npyio.NpzFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array that is not read."""
    assert stored.zip is not None  # open, as `opened` gives it
    with stored.zip.open(f"{key}.npy") as file:
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    return shape, dtype


def inside(folder: Path, name: str, source: Path) -> Path:
    """The path of `name` in `folder`.

    Raises
    ------
    BioplausError
        If it is absolute, or leaves the folder, also by a link; `source`, which names it, is told.
    """
    path = folder / name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a loop of links, or no name of a file at all
        is_inside = False
    if not is_inside or Path(name).is_absolute():
        raise BioplausError(
            f"{source} names the file {name!r}, which is not in the folder {folder}; nothing"
            " outside is read."
        )
    return path


def picture(source: Path | io.BytesIO, name: str) -> "Image":
    """The picture in a file, decoded.

    Parameters
    ----------
    name : what it is called, for the error.

    Raises
    ------
    BioplausError
        If it is no whole picture.
    """
    with extra():
        from PIL import Image

    try:
        image = Image.open(source)
        image.load()
    except Exception as error:  # a damaged or hostile file can raise anything
        raise unreadable(name, error) from error
    return image


def unreadable(name: Path | str, error: Exception) -> BioplausError:
    """The sentence for a picture that cannot be decoded."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return BioplausError(f"{name} is not a whole picture ({reason}).")
