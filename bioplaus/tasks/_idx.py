"""MNIST's format: a header, then one byte a pixel or label; also packed with gzip, and under the
names that it is found with.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from bioplaus.errors import BioplausError
from bioplaus.tasks._npz import check_levels, class_indices, labelled
from bioplaus.tasks._pixels import About, Images

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MOST_BYTES = 2**33  # of a file of one's own, unpacked


def plain_name(name: str) -> str:
    """The published name of a file that is also called `train-images.idx3-ubyte.gz` and the
    like.
    """
    return name.lower().removesuffix(".gz").replace(".idx", "-idx")


def candidates(folder: Path, name: str) -> list[Path]:
    """Files in a folder that are called `name` or an other form of it, the plainest first."""
    try:
        paths = [path for path in folder.iterdir() if plain_name(path.name) == plain_name(name)]
    except OSError:
        return []
    return sorted((path for path in paths if path.is_file()), key=lambda path: len(path.name))


def content(path: Path, most: int = MOST_BYTES) -> np.ndarray:
    """The bytes of a file, unpacked where it is packed, (n_bytes,) uint8.

    Parameters
    ----------
    most : bytes after which unpacking stops: no more is needed to see that the file is another.

    Raises
    ------
    BioplausError
        If it cannot be read, or is no whole gzip file though it is called one.
    """
    try:
        if path.suffix.lower() != ".gz":
            return np.fromfile(path, dtype=np.uint8)
        with gzip.open(path) as file:
            return np.frombuffer(file.read(most), dtype=np.uint8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BioplausError(f"{path} is not a whole gzip file ({error}).") from error
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from error


def array(values: np.ndarray, path: Path) -> np.ndarray:
    """The array of a file's bytes, uint8.

    Raises
    ------
    BioplausError
        If header and length do not fit together.
    """
    n_axes = int(values[3]) if len(values) >= 4 else 0
    if len(values) < 4 + 4 * n_axes or values[:3].tolist() != [0, 0, 8] or not n_axes:
        raise BioplausError(f"{path} is no file of bytes in MNIST's format.")
    shape = struct.unpack(f">{n_axes}I", values[4 : 4 + 4 * n_axes].tobytes())
    pixels = values[4 + 4 * n_axes :]
    if len(pixels) != np.prod(shape, dtype=float):
        raise BioplausError(
            f"{path} says that it holds {' x '.join(map(str, shape))} values, but holds"
            f" {len(pixels):,}."
        )
    return pixels.reshape(shape)


def is_here(folder: Path) -> bool:
    """Whether a folder holds the four files of this format."""
    return all(candidates(folder, name) for name in NAMES)


def about(folder: Path) -> About:
    """Check the four files of a folder."""
    arrays = _arrays(folder)
    labels = {"fine": (arrays[1], arrays[3])}
    n, height, width = arrays[0].shape
    return labelled(folder, (1, height, width), labels)


def read(folder: Path) -> Images:
    """Read the four files of a folder."""
    x_train, y_train, x_test, y_test = _arrays(folder)
    check_levels(folder, [x_train, x_test], 255)
    return Images(
        x_train=x_train[:, None], x_test=x_test[:, None], labels={"fine": (y_train, y_test)}
    )


def _arrays(folder: Path) -> list[np.ndarray]:
    """Images and labels, training and test."""
    paths = [candidates(folder, name)[0] for name in NAMES]
    arrays = [array(content(path), path) for path in paths]
    for x, y, k in ((arrays[0], arrays[1], 0), (arrays[2], arrays[3], 2)):
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            raise BioplausError(
                f"{paths[k]} holds an array of shape {x.shape} and {paths[k + 1].name} one of"
                f" {y.shape}, but they must be images and one label each."
            )
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise BioplausError(f"{folder}: training and test images differ in shape.")
    labels = [class_indices(arrays[k], paths[k], "label") for k in (1, 3)]
    return [arrays[0], labels[0], arrays[2], labels[1]]
