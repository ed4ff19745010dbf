"""Image data sets: which there are, where they lie, how they are fetched and checked.

Files lie in one folder (`root`), laid out as torchvision lays them out. Every file is checked
against the digest its publisher gives before anything in it is used. A missing set is downloaded,
or named with the folder looked in, what lies there instead, and the command that gets it. One data
set never stands in for another. Images of one's own are read from a .npz or a folder by its path.
"""

import dataclasses
import hashlib
import http.client
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioplaus.errors import BioplausError, extra, unknown
from bioplaus.tasks import _folders, _idx, _network, _npz, _pixels
from bioplaus.tasks._catalogue import CATALOGUE as _CATALOGUE
from bioplaus.tasks._catalogue import Entry, File, Shuffled
from bioplaus.tasks._pixels import About, Images

__all__ = [
    "About",
    "Entry",
    "File",
    "Images",
    "Row",
    "Shuffled",
    "about",
    "catalogue",
    "get",
    "names",
    "read",
    "root",
]

TIMEOUT = _network.QUIET  # seconds without a kilobyte each, after which a download is given up


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
    """The names of all data sets, sorted; a path is accepted wherever a name is (`read`)."""
    return sorted(_CATALOGUE)


def about(name: str) -> About:
    """What is known of data set `name` without reading pixels; of images of one's own labels and
    headers are read.

    Raises
    ------
    BioplausError
        If there is no such data set (nearest name suggested), or nothing usable at that path.
    """
    if not _is_path(name):
        return _entry(name)
    path = _own(name)
    return _folders.about(path) if path.is_dir() else _npz.about(path)


def read(name: str, *, download: bool = True) -> Images:
    """Read and check all images of data set `name`.

    Parameters
    ----------
    name : a name of the catalogue, or a path, absolute or relative to `root()`: one that ends in
        .npz, or that of a folder (with a / in it).

        A .npz holds either x_train, y_train, x_test, y_test (and y_train_coarse, y_test_coarse
        where there are superclasses), or images, labels (and coarse; and split: 0 train, 1 test;
        without it one image in five of each class, evenly spaced in stored order, is test). Images
        are uint8, (n, height, width), (n, height, width, 1 or 3) or (n, 1 or 3, height, width);
        labels are whole numbers from 0. White is 255, or what a key `top` says.

        A folder holds one folder a class with pictures in it, or a train and a test folder of that
        form, or pictures and a .csv with the columns file and label (and coarse; and split: train,
        test), or the four files of MNIST's format, packed or not.
    download : fetch the set if it is missing; False never touches the network.

    Raises
    ------
    BioplausError
        If the set is unknown, missing and cannot be fetched, cut short, damaged, or holds pickled
        objects (nothing in a file is ever executed).
    """
    if _is_path(name):
        path = _own(name)
        return _folders.read(path) if path.is_dir() else _npz.read(path)
    entry = _entry(name)
    if not entry.files:
        return entry.decode(entry, {})
    folder = root()
    if _missing(entry, folder):
        other = entry.shuffled
        if other and (folder / other.path).is_file():
            images = _npz.read(folder / other.path)
            checked = _pixels.shuffled(entry, images, other.sha256, folder / other.path)
            return dataclasses.replace(checked, remark=other.remark)
        if not download:
            raise _not_there(entry, folder)
        get(name)
    files = {folder / file.path: _checked(entry, folder, file) for file in entry.files}
    return entry.decode(entry, files, *([_cache() / "decoded"] if entry.is_kept else []))


def get(name: str) -> str:
    """Make sure that data set `name` is on disk, whole and right: fetch it if it is missing or
    damaged.

    Everything is fetched into a hidden folder, checked there, and only then moved, file by file, to
    its place. Of several callers at once one fetches and the others wait for it.

    Returns
    -------
    Where it is now: a folder, or "built in"; of images of your own, the folder they lie in.

    Raises
    ------
    BioplausError
        If it cannot be had, with the reason; nothing half-written stays behind.
    """
    if _is_path(name):
        path = _own(name)
        return str(path if path.is_dir() else path.parent)
    entry, folder = _entry(name), root()
    if entry.shuffled and _missing(entry, folder) and (folder / entry.shuffled.path).is_file():
        read(name, download=False)
        return _found(entry)
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
            tarfile.TarError,
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
    folder, other = root(), entry.shuffled
    if not _missing(entry, folder):
        return str((folder / entry.files[0].path).parent)
    return str(folder) if other and (folder / other.path).is_file() else ""


def _entry(name: str) -> Entry:
    if name not in _CATALOGUE:
        raise unknown("data set", name, [*_CATALOGUE, "<path>.npz", "<folder>/"])
    return _CATALOGUE[name]


def _is_path(name: str) -> bool:
    """Whether a name is meant as a path."""
    return name.lower().endswith(".npz") or "/" in name or os.sep in name


def _own(name: str) -> Path:
    """The user's .npz or folder called `name`; a relative path stays inside the root and so means
    the same from any folder.
    """
    path = Path(os.path.expanduser(name))
    if not path.is_absolute():
        if ".." in path.parts:
            raise BioplausError(
                f"Data set {name!r} would leave the data folder {root()}; give an absolute path."
            )
        path = root() / path
    if name.lower().endswith(".npz"):
        if not os.path.isfile(path):
            raise BioplausError(
                f"There is no file {str(path)!r}; give an absolute path, or one relative to"
                f" {root()}."
            )
    elif not os.path.isdir(path):
        raise BioplausError(
            f"There is no folder {str(path)!r} of images; give an absolute path, or one relative to"
            f" {root()}. A file of images ends in .npz."
        )
    return path


def _cache() -> Path:
    with extra():
        import platformdirs

    return platformdirs.user_cache_path("bioplaus", appauthor=False)


def _located(folder: Path, file: File) -> Path | None:
    """Where a file of a data set lies: where it belongs, or there under another name of its format,
    or packed with gzip.
    """
    path = folder / file.path
    if path.is_file():
        return path
    if _idx.plain_name(path.name) not in _idx.NAMES:
        return None
    for parent in (path.parent, path.parent.parent):
        if others := _idx.candidates(parent, path.name):
            return others[0]
    return None


def _missing(entry: Entry, folder: Path) -> list[File]:
    return [file for file in entry.files if _located(folder, file) is None]


def _beside(folder: Path, file: File) -> str:
    """What lies where a missing file is looked for, in words."""
    path = folder / file.path
    for parent in (path.parent, folder):
        try:
            names = sorted(one.name for one in parent.iterdir() if not one.name.startswith("."))
        except OSError:
            continue
        if names:
            rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
            return f"; in {parent} lies {', '.join(names[:6])}{rest}"
    return ""


def _not_there(entry: Entry, folder: Path, reason: str = "") -> BioplausError:
    missing = _missing(entry, folder)
    fault = f"Data set {entry.name} is not {'' if missing else 'whole '}in {folder}"
    if missing:
        fault += f" (no {missing[0].path}{_beside(folder, missing[0])})"
    if entry.torchvision is None:
        return BioplausError(
            f"{fault} and has no download; put the file there, or set BIOPLAUS_DATA to the folder"
            " that has it."
        )
    if reason:
        fault += f" and could not be downloaded ({reason[:400]})"
    return BioplausError(
        f"{fault}; run `python -m bioplaus data get {entry.name}` where there is a network, or set"
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
    path = _located(folder, file) or folder / file.path
    most = _idx.MOST_BYTES if file.n_bytes is None else file.n_bytes + 1
    content = _idx.content(path, most)
    mend = f"`python -m bioplaus data get {entry.name}` replaces it"
    if file.n_bytes is not None and len(content) != file.n_bytes:
        raise BioplausError(
            f"{path} has {len(content):,} bytes, but {file.n_bytes:,} were expected; {mend}."
        )
    if (
        file.md5 is not None
        and (digest := hashlib.md5(content.data, usedforsecurity=False).hexdigest()) != file.md5
    ):
        raise BioplausError(
            f"{path} ({len(content):,} bytes) is damaged: its MD5 is {digest}, but {file.md5} was"
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
        source = getattr(datasets, entry.torchvision or "")
        try:
            scratch.mkdir()
            if hasattr(source, "mirrors"):
                paths = {file.path: file.n_bytes for file in entry.files}
                _network.idx(source, paths, scratch, entry.packed, TIMEOUT)
            else:
                paths = [file.path for file in entry.files]
                _network.archive(source, paths, scratch, sum(entry.packed.values()), TIMEOUT)
            for file in entry.files:
                _checked(entry, scratch, file)
            for file in entry.files:
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / file.path, folder / file.path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
