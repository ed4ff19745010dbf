"""Whole files or none: atomic writes, and files that carry their own digest."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

from bioplaus.errors import BioplausError

_TEMPORARY = ".bioplaus-"
_MARK = b"\n#sha256:"
_TRAILER = len(_MARK) + 64
_BUILDABLE = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct")}


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path`: a reader sees the old file or the new one, never a part.

    Written to a temporary file in the same folder, flushed to the disk, then renamed.

    Raises
    ------
    BioplausError
        Where the folder is read-only, missing, or its disk is full; the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise BioplausError(
            f"Could not write {path} ({len(content):,} bytes): {error.strerror}."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomic(
        path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    )


def read_json(path: Path) -> Any:
    """Read a JSON file; None where there is none or it is not JSON (a half-written file of another
    program).
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder`."""
    for leftover in folder.glob(_TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def sha256(content: bytes) -> str:
    """Hexadecimal sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def seal(content: bytes) -> bytes:
    """`content` followed by a trailer with its sha256; readers of pickles and zip files ignore what
    follows the end.
    """
    return content + _MARK + sha256(content).encode()


def unseal(sealed: bytes, path: Path) -> bytes:
    """The content of a sealed file, checked.

    Raises
    ------
    BioplausError
        If the digest is missing (truncated or foreign file) or does not match (damaged file).
    """
    content, trailer = sealed[:-_TRAILER], sealed[-_TRAILER:]
    if not is_sealed(sealed):
        raise BioplausError(
            f"{path} does not end with a bioplaus digest: it is cut short ({len(sealed):,} bytes)"
            " or was not written by bioplaus. Delete it and run again."
        )
    expected, found = trailer[len(_MARK) :].decode("ascii", "replace"), sha256(content)
    if expected != found:
        raise BioplausError(
            f"{path} is damaged: its sha256 is {found[:12]}..., but {expected[:12]}... was written."
            " Delete it and run again."
        )
    return content


def is_sealed(content: bytes) -> bool:
    """Whether the bytes end with a digest trailer."""
    return content[-_TRAILER:].startswith(_MARK)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Unpickler(pickle.Unpickler):
    """Reads pickles of builtins and numpy arrays, and builds nothing else.

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
        return super().find_class(module, name)
