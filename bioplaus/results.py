"""The record of a run: build, save atomically, load safely, and many runs as one tidy DataFrame.

A run's folder holds `result.pkl` (what was measured, nothing about when or where) and `run.json`
(which run it is, with which code, on what, how long, and the sha256 of `result.pkl`), written in
that order. A run is complete if and only if `run.json` says so (status done or diverged) and the
digest matches; nothing else is asked.

A record is made of None, bool, int, float, str, list, dict with text keys, and numpy arrays of
numbers or text. Its bytes are canonical: equal records give equal files.
"""

import io
import pickle
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.version import __version__

if TYPE_CHECKING:
    import pandas
    import torch

# of records and run.json; raise it when their meaning changes, and teach `load` the older one
SCHEMA = 1


def save(record: Mapping[str, Any], path: str | Path) -> str:
    """Save `record` at `path`, whole or not at all, and return the sha256 of the file.

    The file is a protocol-4 pickle of the canonical record followed by its digest; `pickle.load`
    can read it, `load` reads it safely.

    Raises
    ------
    BioplausError
        If the record holds anything but builtins and numpy arrays (the place is named), or cannot
        be written.
    """
    content = _files.seal(_dump({"schema": SCHEMA, **record}))
    _files.write_atomic(Path(path), content)
    return _files.sha256(content)


def load(path: str | Path) -> dict[str, Any]:
    """Load a record that `save` wrote, checking its digest, and that of `run.json` beside it if
    there is one.

    Nothing in the file is executed: only the constructors of numpy arrays are let through, any
    other name is refused.

    Raises
    ------
    BioplausError
        For a missing, truncated, damaged, foreign or malicious file, or one of a newer bioplaus;
        the file is named.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from error
    if path.name == "result.pkl":
        expected = about(path.parent).get("sha256")
        if expected and expected != (found := _files.sha256(content)):
            raise BioplausError(
                f"{path} is damaged or was changed: its sha256 is {found[:12]}..., but run.json"
                f" beside it says {expected[:12]}.... Delete the folder and run again."
            )
    return _parse(content, path)


@dataclass(frozen=True)
class Outcome:
    """One complete run: its `run.json` and its record."""

    run: dict[str, Any]
    record: dict[str, Any]


def about(folder: str | Path) -> dict[str, Any]:
    """The `run.json` of a run's folder; empty where there is none, or where it holds no table
    (another program's).
    """
    run = _files.read_json(Path(folder) / "run.json")
    return run if isinstance(run, dict) else {}


def begin(folder: str | Path, run: Mapping[str, Any]) -> None:
    """Write the first `run.json` of a run: its identity, with status "running" and no digest."""
    _files.write_json(
        Path(folder) / "run.json", {**run, "schema": SCHEMA, "status": "running", "started": _now()}
    )


def finish(
    folder: str | Path,
    record: Mapping[str, Any],
    *,
    seconds: Mapping[str, Any] | None = None,
    device: "str | torch.device" = "cpu",
) -> None:
    """Complete a run: save `record` as `result.pkl`, then `run.json` with its digest and the full
    provenance.

    Parameters
    ----------
    folder : the run's folder; the identity that `begin` wrote there is kept.
    record : its "status" ("done" or "diverged") becomes the run's.
    seconds : wall times, for instance `History.seconds`.
    """
    folder = Path(folder)
    digest = save(record, folder / "result.pkl")
    _files.write_json(
        folder / "run.json",
        {
            **about(folder),
            **_provenance(device),
            "schema": SCHEMA,
            "sha256": digest,
            "status": record.get("status", "done"),
            "seconds": seconds or {},
            "finished": _now(),
        },
    )


def is_complete(folder: str | Path) -> bool:
    """Whether the run in `folder` is done (or diverged) and its `result.pkl` is the one `run.json`
    names.
    """
    run, result = about(folder), Path(folder) / "result.pkl"
    if (
        run.get("status") not in ("done", "diverged")
        or not run.get("sha256")
        or not result.is_file()
    ):
        return False
    return _files.sha256(result.read_bytes()) == run["sha256"]


def collect(experiment: str | Path) -> Path | None:
    """Put every complete run of an experiment's folder into `<experiment>.pkl`, one small file with
    their provenance.

    Runs that are only in an earlier collection are kept. Each `result.pkl` is kept byte for byte,
    so its digest can still be checked. Returns the file, or None where there is no complete run.
    """
    experiment = Path(experiment)
    runs = {
        run["id"]: {"run": run, "result": np.frombuffer(result, np.uint8)}
        for run, result in _stored(experiment)
    }
    if not runs:
        return None
    path = experiment.with_name(experiment.name + ".pkl")
    save({"runs": [runs[run_id] for run_id in sorted(runs)]}, path)
    return path


def outcomes(experiment: str | Path) -> Iterator[Outcome]:
    """Every complete run of an experiment, from its folder and from the collected file beside it,
    sorted by id.

    Parameters
    ----------
    experiment : `<root>/<preset>/<paper>/<experiment>`; neither the folder nor `<experiment>.pkl`
        need exist.
    """
    experiment = Path(experiment)
    runs = {run["id"]: (run, result) for run, result in _stored(experiment)}
    for run_id in sorted(runs):
        run, result = runs[run_id]
        yield Outcome(run, _parse(result, experiment / run_id / "result.pkl"))


def collected(experiment: str | Path) -> dict[str, dict[str, Any]]:
    """The `run.json` of each run in the collected file of an experiment, by id (empty where there
    is none).
    """
    return {run["id"]: run for run, _ in _collected(Path(experiment))}


def frame(found: Iterable[Outcome]) -> "pandas.DataFrame":
    """The epochs of many runs as a tidy DataFrame: one row an epoch and run.

    Columns: run_id, entry, rule (the one that ran), dataset, seed, status, epoch (1-based: the
    number of epochs learned), then the metrics as recorded. A diverged run keeps the epochs before
    it diverged; nothing is filled in.
    """
    return _tidy(found, "epochs", {"epoch": lambda column: column + 1})


def diagnostics_frame(found: Iterable[Outcome]) -> "pandas.DataFrame":
    """The logged diagnostics of many runs, tidy: the columns of `frame` with "batch" in place of
    "epoch".
    """
    return _tidy(found, "diagnostics", {})


def _tidy(found: Iterable[Outcome], part: str, change: dict[str, Any]) -> "pandas.DataFrame":
    import pandas

    tables = []
    for outcome in found:
        columns = {
            name: change.get(name, lambda column: column)(values)
            for name, values in outcome.record[part].items()
        }
        parameters = outcome.run.get("parameters", {})
        about = {
            "run_id": outcome.run["id"],
            "entry": outcome.run.get("entry"),
            "rule": outcome.record.get("rule", outcome.run.get("rule", parameters.get("rule"))),
            "dataset": parameters.get("dataset"),
            "seed": outcome.run.get("seed"),
            "status": outcome.record.get("status", "done"),
        }
        table = pandas.DataFrame(columns)
        tables.append(
            pandas.DataFrame({name: [value] * len(table) for name, value in about.items()}).join(
                table
            )
        )
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame()


def _stored(experiment: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(run.json, bytes of result.pkl) of complete runs, collected ones first so that a run's own
    folder wins.
    """
    yield from _collected(experiment)
    for folder in sorted(experiment.glob("*/")) if experiment.is_dir() else ():
        if is_complete(folder):
            yield about(folder), (folder / "result.pkl").read_bytes()


def _collected(experiment: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    path = experiment.with_name(experiment.name + ".pkl")
    if not path.is_file():
        return
    for entry in load(path)["runs"]:
        result = entry["result"].tobytes()
        if _files.sha256(result) != entry["run"]["sha256"]:
            raise BioplausError(
                f"{path} holds run {entry['run']['id']} with a digest that is not its own. Delete"
                " the file and run `python -m bioplaus collect` again."
            )
        yield entry["run"], result


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _provenance(device: "str | torch.device") -> dict[str, Any]:
    """Code, versions and machine type; no user, host or path."""
    import torch

    from bioplaus import device as _device

    commit, is_dirty = _commit()
    return {
        "commit": commit,
        "dirty": is_dirty,
        "device": _device.describe(device),
        "versions": {
            "bioplaus": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "system": f"{sys.platform} {platform.machine()}",
        },
    }


@cache
def _commit() -> tuple[str | None, bool | None]:
    """The source's git commit, and whether tracked files differ from it; (None, None) outside a
    checkout.
    """
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10
        )
        state = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    return (
        (head.stdout.strip(), bool(state.stdout.strip())) if head.returncode == 0 else (None, None)
    )


def _canonical(value: Any, where: str) -> Any:
    """`value` with sorted keys, lists for tuples, builtins for numpy scalars, contiguous native
    arrays.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise BioplausError(f"A record's keys are texts, but {where} has the key {key!r}.")
        return {key: _canonical(value[key], f"{where}.{key}") for key in sorted(value)}
    if type(value) is np.ndarray and value.dtype.kind in "biufcU":
        return np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape)
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise BioplausError(
        f"A record holds builtins and numpy arrays of numbers or text, but {where} is a {kind}."
    )


def _dump(record: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = (
        True  # no memo: whether two equal values are one object must not show in the bytes
    )
    pickler.dump(_canonical(dict(record), "record"))
    return buffer.getvalue()


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    if _files.is_sealed(content):
        content = _files.unseal(content, path)
        is_ours = True
    else:
        is_ours = False
    try:
        record = _files.Unpickler(content, path).load()
    except BioplausError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise BioplausError(
            f"{path} is not a whole result ({len(content):,} bytes; {type(error).__name__}). Delete"
            " it and run again."
        ) from error
    if not is_ours or not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise BioplausError(
            f"{path} was not written by bioplaus.results.save (no digest, or no schema in it)."
        )
    if record["schema"] > SCHEMA:
        raise BioplausError(
            f"{path} has schema {record['schema']}, but this bioplaus reads up to {SCHEMA};"
            " update it."
        )
    return record
