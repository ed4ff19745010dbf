"""The bytes of a record: canonical, sealed with their digest, and read without executing anything.

A record is made of None, bool, int, float, str, list, dict with text keys, and numpy arrays of
numbers or text. Its bytes are canonical: equal records give equal files.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.results.run_json import NAME as RUN_JSON
from bioplaus.results.run_json import read_run

NAME = "result.pkl"  # in a run's folder
SCHEMA = 1  # of records; raise it when their meaning changes, and teach `load` the older one


def save(record: Mapping[str, Any], path: str | Path) -> str:
    """Save `record` at `path`, whole or not at all, and return the sha256 of the file.

    The file is a protocol-4 pickle of the canonical record followed by its digest; `pickle.load`
    can read it, `load` reads it safely.

    Raises
    ------
    BioplausError
        If the record holds anything but builtins and numpy arrays (what is wrong is named by its
        keys), or cannot be written.
    """
    content = _files.seal(dump({"schema": SCHEMA, **record}))
    _files.write_atomic(Path(path), content)
    return _files.sha256(content)


def load(path: str | Path) -> dict[str, Any]:
    """Load a record that `save` wrote, checking its digest, and that of `run.json` beside it if
    there is one.

    Nothing in the file is executed: only arrays of numbers and text are built, any other name is
    refused.

    Raises
    ------
    BioplausError
        For a missing, truncated, damaged, foreign or malicious file, one of a newer bioplaus, or
        one beside a `run.json` that is damaged or of another result; the file is named.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _files.unreadable(path, error) from error
    if path.name == NAME:
        expected = read_run(path.parent).get("sha256")
        if expected and expected != (computed := _files.sha256(content)):
            raise BioplausError(
                f"{path} is damaged or was changed: its sha256 is {computed[:12]}..., but"
                f" {RUN_JSON} beside it says {expected[:12]}.... Delete the folder and run again."
            )
    return parse(content, path)


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """The record in `content`, the content of the file `path`, checked as `load` says."""
    is_sealed = _files.is_sealed(content)
    if is_sealed:
        _files.check_seal(content, path)
    try:
        record = _files.Unpickler(content, path).load()  # what follows its end is not read
    except BioplausError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise BioplausError(
            f"{path} is not a whole result ({len(content):,} bytes; {type(error).__name__}). Delete"
            " it and run again."
        ) from error
    if not is_sealed or not isinstance(record, dict) or type(record.get("schema")) is not int:
        raise BioplausError(
            f"{path} was not written by bioplaus.results.save (no digest, or no schema in it)."
        )
    if record["schema"] != SCHEMA:
        raise BioplausError(
            f"{path} has schema {record['schema']}, but this bioplaus reads up to {SCHEMA};"
            " update it."
        )
    return record


def dump(record: Mapping[str, Any]) -> bytes:
    """The pickle of `record` in canonical form, without a digest."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = (
        True  # no memo: whether two equal values are one object must not show in the bytes
    )
    pickler.dump(_canonical(dict(record), "record"))
    return buffer.getvalue()


def _canonical(value: Any, where: str, level: int = 0) -> Any:
    """`value` with sorted keys, lists for tuples, builtins for numpy scalars, contiguous native
    arrays.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if level > _files.MOST_LEVELS:
        raise BioplausError(
            f"A record has at most {_files.MOST_LEVELS} lists or tables inside one another, but"
            f" {where[:60]}... has more."
        )
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{i}]", level + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise BioplausError(f"A record's keys are texts, but {where} has the key {key!r}.")
        return {key: _canonical(value[key], f"{where}.{key}", level + 1) for key in sorted(value)}
    if type(value) is np.ndarray and value.dtype.kind in "biufcU":
        return np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape)
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise BioplausError(
        f"A record holds builtins and numpy arrays of numbers or text, but {where} is a {kind}."
    )
