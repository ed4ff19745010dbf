"""Image data sets: which there are, where they lie, how they are fetched and checked.

Files lie in one folder (`root`), laid out as torchvision lays them out. Every file is checked
against the digest its publisher gives before anything in it is used. A missing set is downloaded,
or named with the folder looked in and the command that gets it. One data set never stands in for
another.
"""

import hashlib
import http.client
import os
import shutil
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioplaus.errors import BioplausError, extra, unknown
from bioplaus.tasks import _pixels
from bioplaus.tasks._pixels import About, Images

__all__ = ["About", "Images", "Row", "about", "catalogue", "get", "names", "read", "root"]

TIMEOUT = 20.0  # seconds without a byte after which a download is given up


@dataclass(frozen=True)
class File:
    """A file of a data set: path inside the root, published MD5 (None: its reader checks digests),
    size in bytes.
    """

    path: str
    md5: str | None = None
    n_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Entry(About):
    """A data set of the catalogue."""

    source: str  # where it comes from, for people
    decode: Callable[[About, dict[Path, np.ndarray]], Images]
    files: tuple[File, ...] = ()  # none where nothing needs to be on disk
    torchvision: str | None = None  # the torchvision class that downloads it


class Row(NamedTuple):
    """A line of the catalogue."""

    name: str
    found: str
    about: str


def root() -> Path:
    """The folder of all data sets: BIOPLAUS_DATA, or `data` in the user's cache folder."""
    if given := os.environ.get("BIOPLAUS_DATA"):
        return Path(os.path.expanduser(given)).absolute()
    return _cache() / "data"


def names() -> list[str]:
    """The names of all data sets, sorted; a path that ends in .npz is accepted wherever a name
    is.
    """
    return sorted(_CATALOGUE)


def about(name: str) -> About:
    """What is known of data set `name` without reading pixels; of a .npz its labels and headers are
    read.

    Raises
    ------
    BioplausError
        If there is no such data set (nearest name suggested), or no usable .npz at that path.
    """
    return _pixels.about_npz(_own(name)) if name.endswith(".npz") else _entry(name)


def read(name: str, *, download: bool = True) -> Images:
    """Read and check all images of data set `name`.

    Parameters
    ----------
    name : a name of the catalogue, or a path that ends in .npz: absolute, or relative to `root()`.
        Such a file holds either x_train, y_train, x_test, y_test (and y_train_coarse, y_test_coarse
        where there are superclasses), or images, labels (and coarse; and split: 0 train, 1 test;
        without it one image in five of each class, evenly spaced in stored order, is test). Images
        are uint8, (n, height, width), (n, height, width, 1 or 3) or (n, 1 or 3, height, width);
        labels are whole numbers from 0.
    download : fetch the set if it is missing; False never touches the network.

    Raises
    ------
    BioplausError
        If the set is unknown, missing and cannot be fetched, cut short, damaged, or holds pickled
        objects (nothing in a file is ever executed).
    """
    if name.endswith(".npz"):
        return _pixels.npz(_own(name))
    entry = _entry(name)
    if not entry.files:
        return entry.decode(entry, {})
    folder = root()
    if _missing(entry, folder):
        if not download:
            raise _not_there(entry, folder)
        get(name)
    return entry.decode(
        entry, {folder / file.path: _checked(entry, folder, file) for file in entry.files}
    )


def get(name: str) -> str:
    """Make sure that data set `name` is on disk, whole and right: fetch it if it is missing or
    damaged.

    Everything is fetched into a hidden folder, checked there, and only then moved, file by file, to
    its place. Of several callers at once one fetches and the others wait for it.

    Returns
    -------
    Where it is now: a folder, or "built in"; of a .npz of your own, the folder it was found in.

    Raises
    ------
    BioplausError
        If it cannot be had, with the reason; nothing half-written stays behind.
    """
    if name.endswith(".npz"):
        return str(_own(name).parent)
    entry, folder = _entry(name), root()
    if not _is_whole(entry, folder):
        if entry.torchvision is None:
            raise _not_there(entry, folder)
        try:
            _download(entry, folder)
        # what a missing network, a full disk, and a server that cuts the line or sends something
        # else end in
        except (
            BioplausError,
            OSError,
            RuntimeError,
            EOFError,
            http.client.HTTPException,
            zlib.error,
        ) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _not_there(entry, folder, reason) from error
    return _found(entry)


def catalogue() -> list[Row]:
    """What there is, for people: name, where it was found ("" where it is missing), description.
    Nothing is read.
    """
    return [
        Row(
            entry.name,
            _found(entry),
            f"{entry.n_train:,} + {entry.n_test:,} images of {'x'.join(map(str, entry.shape))},"
            f" {' and '.join(f'{n} {kind}' for kind, n in entry.n_classes.items())} classes;"
            f" {entry.source}",
        )
        for entry in _CATALOGUE.values()
    ]


def _found(entry: Entry) -> str:
    if not entry.files:
        return "built in"
    return "" if _missing(entry, root()) else str((root() / entry.files[0].path).parent)


def _entry(name: str) -> Entry:
    if name not in _CATALOGUE:
        raise unknown("data set", name, [*_CATALOGUE, "<path>.npz"])
    return _CATALOGUE[name]


def _own(name: str) -> Path:
    """The user's .npz called `name`; a relative path stays inside the root and so means the same
    from any folder.
    """
    path = Path(os.path.expanduser(name))
    if not path.is_absolute():
        if ".." in path.parts:
            raise BioplausError(
                f"Data set {name!r} would leave the data folder {root()}; give an absolute path."
            )
        path = root() / path
    if not os.path.isfile(path):
        raise BioplausError(
            f"There is no file {str(path)!r}; give an absolute path, or one relative to {root()}."
        )
    return path


def _cache() -> Path:
    with extra():
        import platformdirs

    return platformdirs.user_cache_path("bioplaus", appauthor=False)


def _missing(entry: Entry, folder: Path) -> list[File]:
    return [file for file in entry.files if not (folder / file.path).is_file()]


def _not_there(entry: Entry, folder: Path, reason: str = "") -> BioplausError:
    missing = _missing(entry, folder)
    what = f"Data set {entry.name} is not {'' if missing else 'whole '}in {folder}"
    what += f" (no {missing[0].path})" if missing else ""
    if entry.torchvision is None:
        return BioplausError(
            f"{what} and has no download; put the file there, or set BIOPLAUS_DATA to the folder"
            " that has it."
        )
    if reason:
        what += f" and could not be downloaded ({reason[:400]})"
    return BioplausError(
        f"{what}; run `python -m bioplaus data get {entry.name}` where there is a network, or set"
        " BIOPLAUS_DATA to a folder that has it and may be written to."
    )


def _is_whole(entry: Entry, folder: Path) -> bool:
    try:
        for file in entry.files:
            _checked(entry, folder, file)
    except BioplausError:
        return False
    return True


def _checked(entry: Entry, folder: Path, file: File) -> np.ndarray:
    """The bytes of a file, (n_bytes,) uint8, after its size and MD5 were found to be the published
    ones.
    """
    path = folder / file.path
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from error
    mend = f"`python -m bioplaus data get {entry.name}` replaces it"
    if file.n_bytes is not None and len(content) != file.n_bytes:
        raise BioplausError(
            f"{path} has {len(content):,} bytes, but {file.n_bytes:,} were expected; {mend}."
        )
    if (
        file.md5 is not None
        and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != file.md5
    ):
        raise BioplausError(
            f"{path} ({len(content):,} bytes) is damaged: its MD5 is {found}, but {file.md5} was"
            f" expected; {mend}."
        )
    return content


def _download(entry: Entry, folder: Path) -> None:
    with extra():
        from filelock import FileLock

    from bioplaus._torchvision import datasets

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{entry.name}.lock"):
        if _is_whole(entry, folder):  # another process fetched it meanwhile
            return
        scratch = folder / f".bioplaus-download-{entry.name}"
        # of a download that was killed; the lock is ours
        shutil.rmtree(scratch, ignore_errors=True)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none and would wait for ever
        try:
            scratch.mkdir()
            getattr(datasets, entry.torchvision)(root=scratch, download=True)
            for file in entry.files:
                _checked(entry, scratch, file)
            for file in entry.files:
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / file.path, folder / file.path)
        finally:
            socket.setdefaulttimeout(before)
            shutil.rmtree(scratch, ignore_errors=True)


def _idx_files(folder: str, *md5: str) -> tuple[File, ...]:
    names = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    sizes = (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)
    return tuple(
        File(f"{folder}/raw/{name}", *rest) for name, *rest in zip(names, md5, sizes, strict=True)
    )


_CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="synthetic",
            source="generated: a smoke test, no data",
            shape=(1, 8, 8),
            n_train=400,
            n_test=200,
            n_classes={"fine": 10, "coarse": 5},
            decode=_pixels.synthetic,
        ),
        Entry(
            name="synthetic-color",
            source="generated, with the shapes of CIFAR-100: a smoke test, no data",
            shape=(3, 32, 32),
            n_train=1_000,
            n_test=500,
            n_classes={"fine": 100, "coarse": 20},
            decode=_pixels.synthetic,
        ),
        Entry(
            name="digits",
            source=(
                "UCI optical recognition of handwritten digits (1998), as shipped with scikit-learn"
            ),
            shape=(1, 8, 8),
            n_train=1_440,
            n_test=357,
            n_classes={"fine": 10},
            top=16,
            decode=_pixels.digits,
        ),
        Entry(
            name="mnist",
            source="LeCun, Cortes, Burges (1998); 12 MB to download",
            shape=(1, 28, 28),
            n_train=60_000,
            n_test=10_000,
            n_classes={"fine": 10},
            decode=_pixels.idx,
            torchvision="MNIST",
            files=_idx_files(
                "MNIST",
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        Entry(
            name="fashion-mnist",
            source="Xiao, Rasul, Vollgraf (2017), Zalando Research, MIT licence; 31 MB to download",
            shape=(1, 28, 28),
            n_train=60_000,
            n_test=10_000,
            n_classes={"fine": 10},
            decode=_pixels.idx,
            torchvision="FashionMNIST",
            files=_idx_files(
                "FashionMNIST",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
        Entry(
            name="cifar10",
            source="Krizhevsky (2009); 170 MB to download",
            shape=(3, 32, 32),
            n_train=50_000,
            n_test=10_000,
            n_classes={"fine": 10},
            decode=_pixels.cifar,
            torchvision="CIFAR10",
            files=(
                File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
                File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
                File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e"),
                File("cifar-10-batches-py/batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
            ),
        ),
        Entry(
            name="cifar100",
            source="Krizhevsky (2009); 169 MB to download",
            shape=(3, 32, 32),
            n_train=50_000,
            n_test=10_000,
            n_classes={"fine": 100, "coarse": 20},
            decode=_pixels.cifar,
            torchvision="CIFAR100",
            files=(
                File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),
                File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
                File("cifar-100-python/meta", "7973b15100ade9c7d40fb424638fde48"),
            ),
        ),
        Entry(
            name="cifar10-jpeg",
            source=(
                "CIFAR-10 recompressed as JPEG (quality 75, colour halved): NOT the original pixels"
            ),
            shape=(3, 32, 32),
            n_train=50_000,
            n_test=10_000,
            n_classes={"fine": 10},
            decode=lambda about, files: _pixels.cifar_jpeg(about, files, _cache() / "decoded"),
            files=(File("cifar10_jpeg.npz"),),
        ),
    )
}
