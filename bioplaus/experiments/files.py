"""Files that parameters name: their absolute paths, and digests of what is in them.

A run is a function of the content of a file and not of its name: the id of a run is made of the
digest, so that a changed file is another run, and the same file elsewhere is the same.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bioplaus import _files

SUFFIXES = (".npz", ".npy", ".pt", ".pth")  # a text that ends so is a path
_MAX_FOLDER = 2**30  # bytes; of a larger folder size and time of its files stand for their content


def resolve(value: Any, base: Path) -> Any:
    """`value` with absolute paths in place of those relative to `base` that exist, and of those
    that begin with `~`; lists and tables are gone through.
    """
    if isinstance(value, Mapping):
        return {name: resolve(item, base) for name, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, base) for item in value]
    if not (isinstance(value, str) and _is_path(value)):
        return value
    path = Path(os.path.expanduser(value))
    absolute = path if path.is_absolute() else base / path
    is_meant = path.is_absolute() or os.path.exists(absolute)
    return os.path.normpath(absolute) if is_meant else value


def digests(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of every file or folder that parameters name, by dotted name; a relative path is
    one in the folder of data sets.
    """
    named = {name: text for name, text in _texts(parameters, "") if _is_path(text)}
    if not named:
        return {}
    from bioplaus.tasks import datasets  # here, so that most commands need not wait for torch

    every = {name: digest(datasets.root() / text) for name, text in named.items()}
    return {name: sha256 for name, sha256 in every.items() if sha256 is not None}


def by_content(parameters: Mapping[str, Any], sha256: Mapping[str, str]) -> Any:
    """Parameters with digests of files (from `digests`) in place of their paths."""

    def replace(value: Any, name: str) -> Any:
        if name in sha256:
            return f"sha256:{sha256[name]}"
        if isinstance(value, Mapping):
            return {key: replace(item, _join(name, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [replace(item, _join(name, index)) for index, item in enumerate(value)]
        return value

    return replace(parameters, "") if sha256 else parameters


def digest(path: Path) -> str | None:
    """The sha256 of a file, or of the names and contents in a folder; None where there is none
    that can be read.
    """
    try:
        if os.path.isdir(path):
            return _folder_digest(path, _listing(path))
        return _file_digest(path, _state(path))
    except (OSError, ValueError):  # ValueError: a text that no file can be called
        return None


class _State(NamedTuple):
    """What changes when a file does."""

    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds; of the inode, which nobody can set back
    inode: int


def _state(path: str | Path) -> _State:
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):  # a device or a pipe may never end
        raise OSError(f"{path} is no regular file")
    return _State(state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


@cache
def _file_digest(path: Path, state: _State) -> str:
    """The sha256 of a file in this `state`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _folder_digest(folder: Path, listing: tuple[tuple[str, _State], ...]) -> str:
    is_small = sum(state.size for _, state in listing) <= _MAX_FOLDER
    lines = []
    for name, state in listing:
        is_read = is_small or name.endswith(".json")  # annotations
        content = _file_digest(folder / name, state) if is_read else str(state[:2])
        lines.append(f"{name} {content}")
    return _files.sha256("\n".join(lines).encode())


def _listing(folder: Path) -> tuple[tuple[str, _State], ...]:
    """Path and state of every file in a folder and below, sorted."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return tuple(sorted((os.path.relpath(path, folder), _state(path)) for path in paths))


def _is_path(text: str) -> bool:
    return "\n" not in text and (text.lower().endswith(SUFFIXES) or os.sep in text)


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every text in a table, with its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, _join(name, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, _join(name, index))


def _join(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)
