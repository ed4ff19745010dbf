"""From the bytes of image data sets to uint8 arrays: one function per format. Nothing here is
executed from a file.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioplaus import _files
from bioplaus.errors import BioplausError, extra


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a data set without reading its pixels."""

    name: str  # as in run ids and legends
    shape: tuple[int, int, int]  # channels, height, width in pixels
    n_train: int  # images
    n_test: int  # images
    n_classes: dict[str, int]  # by kind of label: "fine", and "coarse" where there is one
    top: int = 255  # largest possible pixel value


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set in memory.

    Attributes
    ----------
    x_train, x_test : (n, channels, height, width), uint8, grey levels from 0 to `About.top`.
    labels : (train, test) class indices, each (n,) int64, by kind: "fine", and "coarse" where there
        is one.
    """

    x_train: np.ndarray
    x_test: np.ndarray
    labels: dict[str, tuple[np.ndarray, np.ndarray]]


def _divided(pixels: np.ndarray, is_test: np.ndarray, labels: dict[str, np.ndarray]) -> Images:
    n_train = int(np.sum(~is_test))
    # then the parts are views, which spares a copy of 184 MB for CIFAR
    is_sorted = bool(is_test[n_train:].all())
    train, test = (slice(n_train), slice(n_train, None)) if is_sorted else (~is_test, is_test)
    return Images(
        x_train=pixels[train],
        x_test=pixels[test],
        labels={kind: (values[train], values[test]) for kind, values in labels.items()},
    )


def spread(labels: np.ndarray, n_test: Callable[[int], int]) -> np.ndarray:
    """Which images are test images, (n,) bool: of each class `n_test(class size)`, evenly spaced in
    stored order.

    Of a class of n images, m of them test, the j-th (from 0) is test if floor((j+1) m/n) > floor(j
    m/n). Nothing is drawn, so the division is the same everywhere and for ever.
    """
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        n, m, j = len(members), n_test(len(members)), np.arange(len(members))
        is_test[members] = (j + 1) * m // n > j * m // n
    return is_test


# --- sets that need no file of their own
# -----------------------------------------------------------------------------

_DIGITS_TRAIN = (
    144  # of each class, so that the training set is balanced and 1440 = 72 batches of 20
)


def digits(about: About, files: dict[Path, np.ndarray]) -> Images:
    """scikit-learn's handwritten digits, 8x8 with 17 grey levels.

    Its file is read directly: importing sklearn.datasets takes 1.5 s of computing, reading the file
    10 ms.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise BioplausError(
            "Data set digits comes with scikit-learn, which is missing; pip install scikit-learn."
        )
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    else:  # another release of scikit-learn may keep it elsewhere
        with extra():
            from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype(np.uint8).reshape(-1, *about.shape)
    return _divided(
        pixels, spread(labels, lambda n: n - _DIGITS_TRAIN), {"fine": labels.astype(np.int64)}
    )


def synthetic(about: About, files: dict[Path, np.ndarray]) -> Images:
    """Images made up from a fixed seed: for each class a random pattern, for each image that
    pattern and noise.

    A class's pattern is the pattern of its superclass plus a smaller one of its own. Whole numbers
    from numpy's frozen generator only, so every machine makes the same bytes.
    """
    draw = np.random.RandomState(1).randint
    n_fine, n_coarse = about.n_classes["fine"], about.n_classes["coarse"]
    coarse_of = np.arange(n_fine) * n_coarse // n_fine
    patterns = draw(64, 192, (n_coarse, *about.shape))[coarse_of] + draw(
        -48, 49, (n_fine, *about.shape)
    )
    fine = np.arange(about.n_train + about.n_test) % n_fine
    pixels = patterns[fine] + draw(-64, 65, (len(fine), *about.shape))
    is_test = np.arange(len(fine)) >= about.n_train
    return _divided(
        np.clip(pixels, 0, 255).astype(np.uint8), is_test, {"fine": fine, "coarse": coarse_of[fine]}
    )


# --- published formats; `files` are bytes already checked against their digests
# --------------------------------------


def idx(about: About, files: dict[Path, np.ndarray]) -> Images:
    """MNIST's format: a header of 16 bytes (images) or 8 (labels), then one byte a pixel or
    label.
    """
    x_train, y_train, x_test, y_test = files.values()
    return Images(
        x_train=x_train[16:].reshape(-1, *about.shape),
        x_test=x_test[16:].reshape(-1, *about.shape),
        labels={"fine": (y_train[8:].astype(np.int64), y_test[8:].astype(np.int64))},
    )


def cifar(about: About, files: dict[Path, np.ndarray]) -> Images:
    """CIFAR's format: dicts pickled by Python 2, each with rows of 3072 bytes, colour by colour;
    the last is test.
    """
    batches = {path: content for path, content in files.items() if not path.name.endswith("meta")}
    *train, test = (
        _files.Unpickler(content, path, encoding="bytes").load()
        for path, content in batches.items()
    )
    keys = (
        {"fine": b"fine_labels", "coarse": b"coarse_labels"}
        if "coarse" in about.n_classes
        else {"fine": b"labels"}
    )
    return Images(
        x_train=np.concatenate([batch[b"data"] for batch in train]).reshape(-1, *about.shape),
        x_test=test[b"data"].reshape(-1, *about.shape),
        labels={
            kind: (
                np.concatenate([batch[key] for batch in train]).astype(np.int64),
                np.asarray(test[key], np.int64),
            )
            for kind, key in keys.items()
        },
    )


_CIFAR_JPEG_SHA256 = {
    "jpeg": "d06e4dc4691c243696390893b934d2d8d5aa88e541c9991b24e2a69493071560",
    "offset": "8bf51ad54e1a3055a787119765376dcf744084069a4ad8b1e2e6627a8fbb2e38",
    "label": "9ca37a7bfe5f5c99b7e891dff31d2e04c736d99b0458e60f26ed876a47730f65",
    "split": "9afad83ef78c29329463e238e21e46f5bf4d5d5754759c2dcad34b9bb8f5d769",
}


def cifar_jpeg(about: About, files: dict[Path, np.ndarray], cache: Path) -> Images:
    """CIFAR-10 stored as JPEG files one after another: decoded once, then kept in the folder
    `cache`.
    """
    ((path, content),) = files.items()
    with opened(path, io.BytesIO(content)) as stored:
        parts = {key: np.ascontiguousarray(stored[key]) for key in _CIFAR_JPEG_SHA256}
    for key, expected in _CIFAR_JPEG_SHA256.items():
        if (found := hashlib.sha256(parts[key]).hexdigest()) != expected:
            raise BioplausError(
                f"{path} is damaged: the sha256 of its {key} is {found}, but {expected} was"
                " expected."
            )
    pixels = _decoded(parts["jpeg"], parts["offset"].tolist(), cache)
    return _divided(pixels, parts["split"] == 1, {"fine": parts["label"].astype(np.int64)})


def _decoded(jpeg: np.ndarray, offset: list[int], cache: Path) -> np.ndarray:
    """The images of a JPEG set, (n, 3, height, width) uint8: from the cache, or decoded (7 s for
    60,000) and kept.

    The copy is named after the data and the decoder (decoders differ by a grey level). As a member
    of a zip file it carries a CRC, checked whenever it is read; a damaged copy is made anew.
    """
    with extra():
        from filelock import FileLock
        from PIL import features

    decoder = "-".join(str(features.version(part)) for part in ("jpg", "libjpeg_turbo"))
    kept = cache / f"cifar10-jpeg-{_CIFAR_JPEG_SHA256['jpeg'][:16]}-{decoder}.npz"
    pixels = _kept(kept)
    if pixels is not None:
        return pixels
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(
            kept.with_suffix(".lock")
        ):  # of several processes one decodes, the others wait for it
            pixels = _kept(kept)
            if pixels is None:
                pixels = _decode(jpeg, offset)
                _files.sweep(cache)  # what killed writers left; the lock is ours
                content = io.BytesIO()
                np.savez(content, pixels=pixels)
                _files.write_atomic(kept, content.getvalue())
    except (BioplausError, OSError) as error:
        warnings.warn(
            f"The decoded images cannot be kept, so every run decodes them again: {error}",
            stacklevel=2,
        )
    return _decode(jpeg, offset) if pixels is None else pixels


def _kept(path: Path) -> np.ndarray | None:
    with contextlib.suppress(BioplausError), opened(path) as stored:
        return stored["pixels"]
    return None


def _decode(jpeg: np.ndarray, offset: list[int]) -> np.ndarray:
    with extra():
        from PIL import Image

    bounds = zip(offset[:-1], offset[1:], strict=True)
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(jpeg[low:high].tobytes()))) for low, high in bounds]
    )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# --- a .npz of the user's own
# ----------------------------------------------------------------------------------------

_LAYOUTS = "either x_train, y_train, x_test and y_test, or images and labels"


@contextlib.contextmanager
def opened(path: Path, content: io.BytesIO | None = None) -> Iterator[np.lib.npyio.NpzFile]:
    """A .npz whose arrays are read inside the block, object arrays refused; whatever goes wrong is
    one sentence.
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


def about_npz(path: Path) -> About:
    """Check a .npz in one of the layouts that `data.read` describes; of its images only the headers
    are read.
    """
    with opened(path) as stored:
        keys, labels, is_test = _layout(path, stored)
        sizes = [len(part) for part in labels["fine"]]
        shapes = set()
        for key, n in zip(keys, sizes if is_test is None else [sum(sizes)], strict=True):
            shape, dtype = _header(stored, key)
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
            # of one byte, not of n images
            shapes.add(_channels_first(np.broadcast_to(np.uint8(0), shape)).shape[1:])
        if len(shapes) > 1:
            raise BioplausError(
                f"{path}: training and test images differ in shape:"
                f" {' and '.join(map(str, shapes))}."
            )
        if 0 in sizes:
            raise BioplausError(
                f"{path} has {sizes[0]:,} training and {sizes[1]:,} test images; both are needed."
            )
    return About(
        name=path.name,
        shape=shapes.pop(),
        n_train=sizes[0],
        n_test=sizes[1],
        n_classes={
            kind: 1 + int(max(part.max() for part in parts)) for kind, parts in labels.items()
        },
    )


def npz(path: Path) -> Images:
    """Read images and labels of a .npz in one of the layouts that `data.read` describes."""
    about_npz(path)
    with opened(path) as stored:
        keys, labels, is_test = _layout(path, stored)
        images = [np.ascontiguousarray(_channels_first(stored[key])) for key in keys]
    x_train, x_test = images if is_test is None else (images[0][~is_test], images[0][is_test])
    return Images(x_train=x_train, x_test=x_test, labels=labels)


def _layout(
    path: Path, stored: np.lib.npyio.NpzFile
) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray | None]:
    """(keys of images, (train, test) labels by kind, which images are test or None where keys
    already say so).
    """
    keys = set(stored.files)
    if {"x_train", "y_train", "x_test", "y_test"} <= keys:
        pairs = {"fine": ("y_train", "y_test"), "coarse": ("y_train_coarse", "y_test_coarse")}
        found = {
            kind: tuple(_labels(path, stored, key) for key in pair)
            for kind, pair in pairs.items()
            if set(pair) <= keys
        }
        if len({tuple(map(len, parts)) for parts in found.values()}) > 1:
            raise BioplausError(f"{path}: there must be one coarse label for each fine one.")
        return ["x_train", "x_test"], found, None
    x_keys = [key for key in ("images", "image") if key in keys][:1]
    y_keys = [key for key in ("labels", "label") if key in keys][:1]
    if not x_keys or not y_keys:
        raise BioplausError(
            f"{path} holds {', '.join(sorted(keys)) or 'nothing'}, but needs {_LAYOUTS}."
        )
    flat = {"fine": _labels(path, stored, y_keys[0])}
    if "coarse" in keys:
        flat["coarse"] = _labels(path, stored, "coarse")
        if len(flat["coarse"]) != len(flat["fine"]):
            raise BioplausError(f"{path}: there must be one coarse label for each fine one.")
    is_test = spread(flat["fine"], lambda n: n // 5)
    if "split" in keys:
        split = _labels(path, stored, "split")
        if len(split) != len(is_test) or split.max(initial=0) > 1:
            raise BioplausError(f"{path}: split must be 0 (train) or 1 (test) for each image.")
        is_test = split == 1
    return (
        x_keys,
        {kind: (values[~is_test], values[is_test]) for kind, values in flat.items()},
        is_test,
    )


def _labels(path: Path, stored: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    values = stored[key]
    if values.ndim == 2 and values.shape[1] == 1:  # as Keras keeps CIFAR's
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "biu" or (len(values) and values.min() < 0):
        raise BioplausError(
            f"{path}: {key} is {values.dtype} of shape {values.shape}, but must be whole numbers"
            " from 0, one an image."
        )
    return values.astype(np.int64)


def _header(stored: np.lib.npyio.NpzFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array that is not read."""
    with stored.zip.open(f"{key}.npy") as file:
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    return shape, dtype


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(n, channels, height, width) from images with the channels last, second, or absent."""
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images
