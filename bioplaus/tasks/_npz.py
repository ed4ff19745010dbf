"""Images and labels of a user's own, in one .npz file: what the file must hold, and what is said
where it does not.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioplaus.errors import BioplausError
from bioplaus.tasks._pixels import About, Images, spread
from bioplaus.tasks._untrusted import header, opened

MOST_CLASSES = 100_000  # a label beyond is a mistake, and would cost an output unit each
_SMALL = 2**24  # bytes of images that are looked through before a run starts: 10 ms
_LAYOUTS = "either x_train, y_train, x_test and y_test, or images and labels"


class _Layout(NamedTuple):
    """What a file holds."""

    keys: list[str]  # of images
    labels: dict[str, tuple[np.ndarray, np.ndarray]]  # (train, test) by kind
    is_test: np.ndarray | None  # which images are; None where keys already say so
    top: int  # grey level that counts as white


def about(path: Path) -> About:
    """Check a .npz in one of the layouts that `datasets.read` describes; of its images only the
    headers are read.
    """
    with opened(path) as stored:
        layout = _layout(path, stored)
        sizes = [len(part) for part in layout.labels["fine"]]
        shapes = set()
        n_images = sizes if layout.is_test is None else [sum(sizes)]
        for key, n in zip(layout.keys, n_images, strict=True):
            shape, dtype = header(stored, key)
            if dtype != np.uint8:
                raise BioplausError(
                    f"{path}: {key} is {dtype}, but images must be uint8, from 0 to 255."
                )
            if len(shape) not in (3, 4) or (len(shape) == 4 and not {shape[1], shape[3]} & {1, 3}):
                raise BioplausError(
                    f"{path}: {key} has shape {shape}, but images must be (n, height, width), with"
                    " 1 or 3 channels as second or last axis if there are any."
                )
            if shape[0] != n:
                raise BioplausError(
                    f"{path}: {key} has {shape[0]:,} images, but there are {n:,} labels."
                )
            if np.prod(shape, dtype=float) <= _SMALL:  # so that it is said before the start
                check_levels(path, [stored[key]], layout.top)
            # of one byte, not of n images
            shapes.add(_channels_first(np.broadcast_to(np.uint8(0), shape)).shape[1:])
        if len(shapes) > 1:
            raise BioplausError(
                f"{path}: training and test images differ in shape:"
                f" {' and '.join(map(str, shapes))}."
            )
    return labelled(path, shapes.pop(), layout.labels, layout.top)


def read(path: Path) -> Images:
    """Read images and labels of a .npz in one of the layouts that `datasets.read` describes."""
    about(path)
    with opened(path) as stored:
        layout = _layout(path, stored)
        images = [np.ascontiguousarray(_channels_first(stored[key])) for key in layout.keys]
    check_levels(path, images, layout.top)
    is_test = layout.is_test
    x_train, x_test = images if is_test is None else (images[0][~is_test], images[0][is_test])
    return Images(x_train=x_train, x_test=x_test, labels=layout.labels)


def labelled(
    path: Path,
    shape: tuple[int, int, int],
    labels: dict[str, tuple[np.ndarray, np.ndarray]],
    top: int = 255,
) -> About:
    """What is known of images of one's own; a warning says which classes have no training image.

    Parameters
    ----------
    shape : channels, height, width.
    labels : (train, test) class indices by kind, each (n,) int64.

    Raises
    ------
    BioplausError
        If there are no training or no test images.
    """
    n_train, n_test = (len(part) for part in labels["fine"])
    if 0 in (n_train, n_test):
        raise BioplausError(
            f"{path} has {n_train:,} training and {n_test:,} test images; both are needed."
        )
    n_classes = {kind: 1 + int(max(y.max() for y in parts)) for kind, parts in labels.items()}
    for kind, (y_train, _) in labels.items():
        if empty := np.flatnonzero(np.bincount(y_train, minlength=n_classes[kind]) == 0).tolist():
            named = ", ".join(map(str, empty[:8])) + (", ..." if len(empty) > 8 else "")
            some = "class" if len(empty) == 1 else f"{len(empty)} classes:"
            warnings.warn(
                f"{path.name} has no training image of {some} {named}, of {n_classes[kind]} {kind}"
                f" classes; labels are meant to go from 0 to the number of classes - 1.",
                stacklevel=2,
            )
    counts = (np.bincount(y, minlength=n_classes["fine"]) for y in labels["fine"])
    return About(
        name=path.name,
        shape=shape,
        n_train=n_train,
        n_test=n_test,
        n_classes=n_classes,
        top=top,
        counts=dict(zip(("train", "test"), counts, strict=True)),
    )


def check_levels(path: Path, images: list[np.ndarray], top: int) -> None:
    """Raise `BioplausError` if grey levels cannot be meant from 0 (black) to `top` (white), and
    warn where hardly any of them are used.
    """
    largest = max((int(part.max(initial=0)) for part in images), default=0)
    if largest > top:
        raise BioplausError(f"{path} has a grey level of {largest}, but says that {top} is white.")
    hint = "store the level of white as `top` in a .npz, or multiply the images"
    if largest == 1 < top:
        raise BioplausError(
            f"{path} holds only the grey levels 0 and 1, of which {top} would be white: {hint}."
        )
    if 0 < largest < top // 2:
        warnings.warn(
            f"{path.name} holds the grey levels 0 to {largest} only, of which {top} is white: if"
            f" {largest} is, {hint}.",
            stacklevel=2,
        )


def class_indices(values: np.ndarray, path: Path, key: str) -> np.ndarray:
    """Labels as (n,) int64.

    Parameters
    ----------
    key : what they are called, for the error.

    Raises
    ------
    BioplausError
        If they are no whole numbers from 0 to `MOST_CLASSES` - 1, one an image.
    """
    if values.ndim == 2 and values.shape[1] == 1:  # as Keras keeps CIFAR's
        values = values[:, 0]
    is_whole = values.ndim == 1 and values.dtype.kind in "biu"
    if not is_whole or (
        len(values) and not 0 <= int(values.min()) <= int(values.max()) < MOST_CLASSES
    ):
        extent = f", from {values.min()} to {values.max()}" if is_whole else ""
        raise BioplausError(
            f"{path}: {key} is {values.dtype} of shape {values.shape}{extent}, but must be whole"
            f" numbers from 0 to {MOST_CLASSES - 1:,}, one an image."
        )
    return values.astype(np.int64)


def _layout(path: Path, stored: np.lib.npyio.NpzFile) -> _Layout:
    keys = set(stored.files)
    top = _top(path, stored) if "top" in keys else 255
    if {"x_train", "y_train", "x_test", "y_test"} <= keys:
        pairs = {"fine": ("y_train", "y_test"), "coarse": ("y_train_coarse", "y_test_coarse")}
        labels = {
            kind: (
                class_indices(stored[train], path, train),
                class_indices(stored[test], path, test),
            )
            for kind, (train, test) in pairs.items()
            if {train, test} <= keys
        }
        if len({tuple(map(len, parts)) for parts in labels.values()}) > 1:
            raise BioplausError(f"{path}: there must be one coarse label for each fine one.")
        return _Layout(["x_train", "x_test"], labels, None, top)
    x_keys = [key for key in ("images", "image") if key in keys][:1]
    y_keys = [key for key in ("labels", "label") if key in keys][:1]
    if not x_keys or not y_keys:
        raise BioplausError(
            f"{path} holds {', '.join(sorted(keys)) or 'nothing'}, but needs {_LAYOUTS}."
        )
    flat = {"fine": class_indices(stored[y_keys[0]], path, y_keys[0])}
    if "coarse" in keys:
        flat["coarse"] = class_indices(stored["coarse"], path, "coarse")
        if len(flat["coarse"]) != len(flat["fine"]):
            raise BioplausError(f"{path}: there must be one coarse label for each fine one.")
    is_test = spread(flat["fine"], lambda n: n // 5)
    if "split" in keys:
        split = class_indices(stored["split"], path, "split")
        if len(split) != len(is_test) or split.max(initial=0) > 1:
            raise BioplausError(f"{path}: split must be 0 (train) or 1 (test) for each image.")
        is_test = split == 1
    labels = {kind: (values[~is_test], values[is_test]) for kind, values in flat.items()}
    return _Layout(x_keys, labels, is_test, top)


def _top(path: Path, stored: np.lib.npyio.NpzFile) -> int:
    value = stored["top"]
    if value.size != 1 or value.dtype.kind not in "iu" or not 1 <= int(value.ravel()[0]) <= 255:
        raise BioplausError(f"{path}: top must be one whole number from 1 to 255.")
    return int(value.ravel()[0])


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(n, channels, height, width) from images with the channels last, second, or absent."""
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images
