"""Whole files or none, files that carry their own digest, and pickles of numbers alone."""

import contextlib
import hashlib
import io
import json
import math
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bioplaus.errors import BioplausError

MOST_LEVELS = 100  # of lists and tables inside one another
_TEMPORARY = ".bioplaus-"
_MARK = b"\n#sha256:"
_TRAILER = len(_MARK) + 64


class UnreadableError(BioplausError):
    """A file that may be there, and whole, but cannot be read: nothing may be put in its place."""


def make_folder(folder: Path, *, parents: bool = True) -> None:
    """Make `folder` where it is missing, and with `parents` also those that it is in.

    Raises
    ------
    BioplausError
        Where it cannot be made.
    """
    try:
        folder.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise BioplausError(f"Could not make the folder {folder}: {error.strerror}.") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path`: a reader sees the old file or the new one, never a part.

    Written to a temporary file in the same folder, flushed to the disk, then renamed. A folder that
    is missing is not made: one that was moved away while something ran would come into being again,
    with a part of what was in it.

    Raises
    ------
    BioplausError
        Where the folder is read-only, missing, or its disk is full; the old file is untouched.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            reason = "its folder is not there"
        raise BioplausError(
            f"Could not write {path} ({len(content):,} bytes): {reason}."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def read(path: Path, kind: str = "") -> bytes | None:
    """The content of a file; None only where there is no such file.

    Parameters
    ----------
    kind : what it should be, for the error: "the result", say.

    Raises
    ------
    UnreadableError
        Where the file may be there but cannot be read: no permission, a failing disk, a folder in
        its place.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error, kind) from error


def unreadable(path: Path, error: OSError, kind: str = "") -> UnreadableError:
    """The error for a file that could not be read."""
    name = f"{kind} {path}" if kind else f"{path}"
    return UnreadableError(f"Could not read {name}: {error.strerror or type(error).__name__}.")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """`value` as readable JSON with sorted keys: equal values give equal bytes.

    Raises
    ------
    BioplausError
        For a value that JSON cannot hold, not-a-number and infinity among them.
    """
    try:
        return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    except RecursionError:
        raise BioplausError(
            f"A value has more than {MOST_LEVELS} lists or tables inside one another, too many for"
            " JSON."
        ) from None
    except (TypeError, ValueError) as error:
        raise BioplausError(f"A value cannot be written as JSON: {error}.") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is no such file, or it is not JSON (another
    program's half-written file).

    Raises
    ------
    UnreadableError
        Where the file may be there but cannot be read.
    """
    content = read(path)
    try:
        return None if content is None else parse_json(content, path)
    except BioplausError:
        return None


def parse_json(content: bytes, path: Path) -> Any:
    """The value in `content`, the content of the file `path`.

    Raises
    ------
    BioplausError
        Where it is not JSON, or has more than `MOST_LEVELS` lists and tables inside one another.
    """
    try:
        value = json.loads(content)
        # counting brackets is fast, and is enough for most files
        if content.count(b"[") + content.count(b"{") > MOST_LEVELS:
            _check_levels(value)
    except RecursionError:
        raise BioplausError(
            f"{path} has more than {MOST_LEVELS} lists or tables inside one another."
        ) from None
    except ValueError:
        raise BioplausError(f"{path} is not JSON ({len(content):,} bytes).") from None
    return value


def _check_levels(value: Any) -> None:
    """Raise `RecursionError` if a value has more than `MOST_LEVELS` lists and tables inside one
    another.
    """
    parts = [value]
    for _ in range(MOST_LEVELS):
        tables = [part.values() for part in parts if isinstance(part, dict)]
        lists = [part for part in parts if isinstance(part, list)]
        parts = [item for part in (*tables, *lists) for item in part]
    if any(isinstance(part, dict | list) for part in parts):
        raise RecursionError


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder`."""
    for leftover in folder.glob(_TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def sha256(content: bytes | memoryview) -> str:
    """Hexadecimal sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def seal(content: bytes) -> bytes:
    """`content` followed by a trailer with its sha256; readers of pickles, .npy and zip files
    ignore what follows the end.
    """
    return content + _MARK + sha256(content).encode()


def check_seal(sealed: bytes, path: Path, remedy: str = "Delete it and run again.") -> None:
    """Raise `BioplausError` unless a file ends with the digest of what is before it.

    Parameters
    ----------
    sealed : the content of the file `path`.
    remedy : what to do about a damaged file, for the error.
    """
    if not is_sealed(sealed):
        raise BioplausError(
            f"{path} does not end with a bioplaus digest: it is cut short ({len(sealed):,} bytes)"
            f" or was not written by bioplaus. {remedy}"
        )
    expected = sealed[-_TRAILER + len(_MARK) :].decode("ascii", "replace")
    computed = sha256(memoryview(sealed)[:-_TRAILER])
    if expected != computed:
        raise BioplausError(
            f"{path} is damaged: its sha256 is {computed[:12]}..., but {expected[:12]}... was"
            f" written. {remedy}"
        )


def unseal(sealed: bytes, path: Path, remedy: str = "Delete it and run again.") -> bytes:
    """The content of a sealed file, checked as `check_seal` says."""
    check_seal(sealed, path, remedy)
    return sealed[:-_TRAILER]


def is_sealed(content: bytes) -> bool:
    """Whether the bytes end with a digest trailer."""
    return content[-_TRAILER:].startswith(_MARK)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Unpickler(pickle.Unpickler):
    """Reads pickles of builtins and of numpy arrays of numbers or text, and builds nothing else.

    A pickle names what is to be built and hands it a state. numpy believes that state: a dtype
    whose flags a file cleared takes raw bytes for pointers. So no numpy object is built by the
    pickle: its names stand for the classes below, which check what they are handed, and the arrays
    are made from that at the end.

    Parameters
    ----------
    content : the pickle.
    path : where it comes from, for the error.
    encoding : as of `pickle.loads`.

    Raises
    ------
    BioplausError
        From `load`, where the pickle asks for anything else; nothing is executed.
    """

    def __init__(self, content: Any, path: Path, *, encoding: str = "ASCII") -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # as older versions of numpy wrote it
        if (module, name) not in _BUILDABLE:
            raise BioplausError(
                f"{self.path} asks for {module}.{name}, which no file of numbers needs; it was"
                " refused and nothing was executed."
            )
        return _BUILDABLE[module, name]

    def load(self) -> Any:
        try:
            return _with_arrays(super().load(), 0, {})
        except _Refused as refusal:
            raise BioplausError(
                f"{self.path} asks for {refusal}, which no file of numbers needs; it was refused"
                " and nothing was executed."
            ) from None


class _Refused(Exception):
    """What a pickle asks of numpy, in words, and does not get."""


class _Dtype:
    """In place of `numpy.dtype`: bool, integers, floats, complex numbers or text, of either byte
    order, with nothing else changed.
    """

    __hash__ = None  # type: ignore[assignment]  # no key of a table

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        name = spec.decode("ascii", "replace") if isinstance(spec, bytes) else spec
        try:
            dtype = np.dtype(name if isinstance(name, str) else "O")
        except Exception:  # no dtype at all
            dtype = np.dtype("O")
        if dtype.kind not in "biufcU":
            raise _Refused(f"numpy.dtype({name!r:.40})")
        self.dtype: np.dtype[Any] = dtype

    def __setstate__(self, state: Any) -> None:
        version, order, *rest = state if isinstance(state, tuple) and len(state) > 1 else (0, "")
        order = order.decode("ascii", "replace") if isinstance(order, bytes) else order
        own: Any = self.dtype.__reduce__()
        if order not in ("<", ">", "|", "=") or (version, *rest) != (own[2][0], *own[2][2:]):
            raise _Refused(f"a numpy.dtype({self.dtype.str!r}) with another state, {state!r:.80},")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """In place of an array that is being unpickled: `array` once its state is known."""

    __hash__ = None  # type: ignore[assignment]  # no key of a table
    array: np.ndarray | None = None

    def __init__(self, kind: Any, shape: Any, typecode: Any) -> None:
        if kind is not _ArrayType:
            raise _Refused("an array of another type")

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype)):
            raise _Refused("an array whose state is not that of numbers or text")
        version, shape, spec, is_fortran, content = state
        if (
            version != 1
            or not isinstance(shape, tuple)
            or not all(type(n) is int and n >= 0 for n in shape)
            or not isinstance(content, bytes)
            or math.prod(shape) * spec.dtype.itemsize != len(content)
        ):
            raise _Refused("an array whose state is not that of numbers or text")
        array: Any = np.empty(0, spec.dtype)
        array.__setstate__((1, shape, spec.dtype, bool(is_fortran), content))
        self.array = array


class _ArrayType:
    """In place of `numpy.ndarray`, which a pickle may name and not call."""

    def __init__(self, *arguments: Any) -> None:
        raise _Refused("a numpy.ndarray that is not in the file")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a changed numpy.ndarray")


_BUILDABLE = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


def _with_arrays(value: Any, level: int, done: dict[int, Any]) -> Any:
    """`value` with the arrays in their places.

    Parameters
    ----------
    level : lists, tables and tuples around it.
    done : those that are already converted, by id: a file may name one many times.

    Raises
    ------
    _Refused
        For a place that an array cannot have, an array without numbers, or anything inside itself
        or too deep.
    """
    if isinstance(value, _Array):
        if value.array is None:
            raise _Refused("an array without numbers")
        return value.array
    if not isinstance(value, dict | list | tuple):
        if type(value) not in _PLAIN:
            raise _Refused(f"an object of type {type(value).__name__.lstrip('_')}")
        return value
    if level > MOST_LEVELS:
        raise _Refused(f"more than {MOST_LEVELS} lists or tables inside one another")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, tuple):
        done[id(value)] = tuple(_with_arrays(item, level + 1, done) for item in value)
        return done[id(value)]
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if type(key) not in _PLAIN:
            raise _Refused(f"a key of type {type(key).__name__.lstrip('_')}")
        if type(item) not in _PLAIN:
            value[key] = _with_arrays(item, level + 1, done)
    done[id(value)] = value
    return value


_PLAIN = {type(None), bool, int, float, str, bytes}
