"""`run.json`: which run it is, with which code, on what, how long, and the digest of its result.

The file is readable JSON whose last line, "seal", is the sha256 of the same file without that line.
So every changed bit is noticed, in a number as in a blank. Files of schema 1, which earlier
versions wrote, have no seal.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioplaus import _files
from bioplaus.errors import BioplausError

NAME = "run.json"
SCHEMA = 2  # of run.json; 1 had no seal
_END = b"\n}\n"
_SEAL = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n}\n\Z')


def read_run(folder: str | Path) -> dict[str, Any]:
    """The `run.json` of a run's folder, without its seal; empty only where there is no such file.

    Raises
    ------
    BioplausError
        Where the file may be there but cannot be read, is damaged or another program's, or is of a
        newer bioplaus.
    """
    path = Path(folder) / NAME
    content = _files.read(path)
    return {} if content is None else _parse(content, path)


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write `run`, sealed, as the `run.json` of a folder that is there.

    Raises
    ------
    BioplausError
        Where it cannot be written, or holds what JSON cannot.
    """
    _files.write_atomic(folder / NAME, _sealed({**run, "schema": SCHEMA}))


def check_schema(run: Mapping[str, Any], path: Path) -> None:
    """Raise `BioplausError` unless this version reads a `run.json` of the schema of `run`."""
    schema = run.get("schema")
    if type(schema) is not int or schema < 1:
        raise BioplausError(f"{path} was not written by bioplaus: its schema is {schema!r:.40}.")
    if schema > SCHEMA:
        raise BioplausError(
            f"{path} has schema {schema}, but this bioplaus reads up to {SCHEMA}; update it."
        )


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    match = _SEAL.search(content)
    if match and _files.sha256(content[: match.start()] + _END) != match[1].decode():
        raise _damaged(path)
    run = _files.parse_json(content, path)
    if not isinstance(run, dict):
        raise BioplausError(f"{path} was not written by bioplaus: it holds no table.")
    check_schema(run, path)
    if run["schema"] > 1 and not match:
        raise _damaged(path)
    run.pop("seal", None)
    return run


def _damaged(path: Path) -> BioplausError:
    return BioplausError(
        f"{path} is damaged or was changed: it does not match the digest at its end. Run again, or"
        " put the file back as it was."
    )


def _sealed(run: Mapping[str, Any]) -> bytes:
    content = _files.json_bytes(run)
    seal = _files.sha256(content).encode()
    return content.removesuffix(_END) + b',\n "seal": "' + seal + b'"' + _END
