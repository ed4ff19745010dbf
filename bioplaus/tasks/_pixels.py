"""From the bytes of image data sets to uint8 arrays: one function per published format. Nothing in
a file is executed.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bioplaus import _files
from bioplaus.errors import BioplausError, extra
from bioplaus.tasks._untrusted import opened


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a data set without reading its pixels."""

    name: str  # as in run ids and legends
    shape: tuple[int, int, int]  # channels, height, width in pixels
    n_train: int  # images
    n_test: int  # images
    n_classes: dict[str, int]  # by kind of label: "fine", and "coarse" where there is one
    top: int = 255  # largest possible pixel value
    # images of each fine class by "train" and "test", where they were counted
    counts: dict[str, np.ndarray] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set in memory.

    Attributes
    ----------
    remark : how they differ from the published images of this name, for records; mostly empty.
    x_train, x_test : (n, channels, height, width), uint8, grey levels from 0 to `About.top`.
    labels : (train, test) class indices, each (n,) int64, by kind: "fine", and "coarse" where there
        is one.
    """

    x_train: np.ndarray
    x_test: np.ndarray
    labels: dict[str, tuple[np.ndarray, np.ndarray]]
    remark: str = ""


def divided(pixels: np.ndarray, is_test: np.ndarray, labels: dict[str, np.ndarray]) -> Images:
    """Images as (n, channels, height, width) and labels (n,) by kind, divided by which are test."""
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

# of each class, so that the training set is balanced and 1440 = 72 batches of 20
_DIGITS_TRAIN = 144


def scikit_learn(*parts: str) -> Path | None:
    """Where scikit-learn would keep a file of its own; None where it is not installed. Importing
    sklearn.datasets takes 1.5 s of computing, so its files are read directly.
    """
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0]).joinpath(*parts) if folders else None


def digits(about: About, files: dict[Path, np.ndarray]) -> Images:
    """scikit-learn's handwritten digits, 8x8 with 17 grey levels."""
    path = scikit_learn("datasets", "data", "digits.csv.gz")
    if path is None:
        raise BioplausError(
            "Data set digits comes with scikit-learn, which is missing; pip install scikit-learn."
        )
    if path.is_file():
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    else:  # another release of scikit-learn may keep it elsewhere
        with extra():
            from sklearn.datasets import load_digits

        pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    pixels = pixels.astype(np.uint8).reshape(-1, *about.shape)
    return divided(
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
    return divided(
        np.clip(pixels, 0, 255).astype(np.uint8), is_test, {"fine": fine, "coarse": coarse_of[fine]}
    )


# --- published formats; `files` are bytes already checked against their digests


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
    with opened(path, io.BytesIO(content.data)) as stored:
        parts = {key: np.ascontiguousarray(stored[key]) for key in _CIFAR_JPEG_SHA256}
    for key, expected in _CIFAR_JPEG_SHA256.items():
        if (digest := hashlib.sha256(parts[key].data).hexdigest()) != expected:
            raise BioplausError(
                f"{path} is damaged: the sha256 of its {key} is {digest}, but {expected} was"
                " expected."
            )
    pixels = _decoded(parts["jpeg"], parts["offset"].tolist(), cache)
    return divided(pixels, parts["split"] == 1, {"fine": parts["label"].astype(np.int64)})


def _decoded(jpeg: np.ndarray, offset: list[int], cache: Path) -> np.ndarray:
    """The images of a JPEG set, (n, 3, height, width) uint8: from the cache, or decoded (7 s for
    60,000) and kept.

    The copy is named after the data and the decoder (decoders differ by a grey level). As a member
    of a zip file it carries a CRC, checked whenever it is read; a damaged copy is made again.
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


def shuffled(about: About, images: Images, sha256: str, path: Path) -> Images:
    """`images`, if they are those of the published set in whatever order.

    Parameters
    ----------
    sha256 : of all images with their labels, sorted (`digest_of_any_order`).

    Raises
    ------
    BioplausError
        If an image is missing, another one, or has another label.
    """
    if (digest := digest_of_any_order(images)) != sha256:
        raise BioplausError(
            f"{path} does not hold the images and labels of {about.name}: their sha256 in sorted"
            f" order is {digest[:16]}..., but {sha256[:16]}... was expected."
        )
    return images


def digest_of_any_order(images: Images) -> str:
    """sha256, hexadecimal, of the sorted sha256 of all images: of each whether it is a test image
    (1 byte), its fine and coarse label (1 byte each), and its pixels, colour by colour.
    """
    rows = []
    for part, x in enumerate((images.x_train, images.x_test)):
        kinds = [images.labels[kind][part] for kind in ("fine", "coarse") if kind in images.labels]
        labels = np.stack(kinds, axis=1).astype(np.uint8)
        rows += [
            hashlib.sha256(bytes([part]) + y.tobytes() + image.tobytes()).digest()
            for y, image in zip(labels, x, strict=True)
        ]
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()
