"""Many runs read together: from their folders, and from the collected file of their experiment.

One bad entry hides none of the others: it is named in a sentence, and reading goes on.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.results.record import NAME as RESULT
from bioplaus.results.record import parse, save
from bioplaus.results.run import AGAIN, COMPLETE, examine
from bioplaus.results.run_json import NAME as RUN_JSON
from bioplaus.results.run_json import check_schema


@dataclass(frozen=True)
class Outcome:
    """One complete run: its `run.json` and its record."""

    run: dict[str, Any]
    record: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """A complete run as it is stored: its `run.json` and the bytes of its `result.pkl`."""

    run: dict[str, Any]
    result: bytes


def outcomes(
    experiment: str | Path, report: Callable[[str], object] = warnings.warn
) -> Iterator[Outcome]:
    """Every complete run of an experiment, from its folder and from the collected file beside it,
    sorted by id; a run's own folder wins.

    Parameters
    ----------
    experiment : `<root>/<preset>/<paper>/<experiment>`; neither the folder nor `<experiment>.pkl`
        need exist.
    report : receives a sentence for everything that is damaged or cannot be read.
    """
    experiment = Path(experiment)
    stored, problems = _stored(experiment)
    for run_id in sorted(stored):
        run = stored[run_id].run
        try:
            record = parse(stored[run_id].result, experiment / run_id / RESULT)
        except BioplausError as error:
            problems[run_id] = str(error)
        else:
            yield Outcome(run, _named(record))
    for problem in problems.values():
        report(problem)


def collect(experiment: str | Path, report: Callable[[str], object] = warnings.warn) -> Path | None:
    """Put every complete run of an experiment's folder into `<experiment>.pkl`, one small file with
    their provenance.

    Runs that are only in an earlier collection are kept. Each `result.pkl` is kept byte for byte,
    so its digest can still be checked.

    Parameters
    ----------
    report : receives a sentence for each run that is damaged or cannot be read.

    Returns
    -------
    The file, or None where there is no complete run.

    Raises
    ------
    BioplausError
        If an earlier collection is damaged or cannot be read: it stays as it is, as runs that are
        only in it would be lost.
    """
    experiment = Path(experiment)
    path = _collection(experiment)
    stored, problems = _stored(experiment)
    if path.name in problems:
        raise BioplausError(problems[path.name])
    for problem in problems.values():
        report(problem)
    return _write(stored, path) if stored else None


def complete_runs(
    folder: str | Path, report: Callable[[str], object] = warnings.warn
) -> Iterator[Stored]:
    """Every complete run in a folder of any layout and in those below it: as folders of runs, or in
    collected files; with a record that is whole.

    Parameters
    ----------
    report : receives a sentence for each that is damaged, is not complete or cannot be read.

    Raises
    ------
    BioplausError
        If there is no such folder.
    """
    if not os.path.isdir(folder):
        raise BioplausError(f"There is no folder {str(folder)!r} of runs.")
    for parent, folders, names in os.walk(folder):
        folders.sort()
        path = Path(parent)
        if RUN_JSON in names:
            state, result = examine(path, path.name)
            if state.is_complete:
                yield from _whole(path / RESULT, {path.name: Stored(state.run, result)}, report)
            else:
                report(state.problem or f"{path} is not complete: {state.status}.")
        for name in sorted(names):
            if name.endswith(".pkl") and name != RESULT:
                try:
                    stored = _collected(path / name)
                except BioplausError as error:
                    report(str(error))
                else:
                    yield from _whole(path / name, stored, report)


def merge(experiment: str | Path, runs: Mapping[str, Stored]) -> Path:
    """Put complete runs, by id, into the collected file of an experiment, in place of those of the
    same id.

    Raises
    ------
    BioplausError
        If an earlier collection is damaged or cannot be read, and stays as it is.
    """
    path = _collection(Path(experiment))
    return _write({**_collected(path), **runs}, path)


def _whole(
    path: Path, stored: Mapping[str, Stored], report: Callable[[str], object]
) -> Iterator[Stored]:
    """Those of which the record can be read; `path` is where they are from, for sentences."""
    for one in stored.values():
        try:
            parse(one.result, path)
        except BioplausError as error:
            report(str(error))
        else:
            yield one


def _write(stored: Mapping[str, Stored], path: Path) -> Path:
    runs = [
        {"run": stored[run_id].run, "result": np.frombuffer(stored[run_id].result, np.uint8)}
        for run_id in sorted(stored)
    ]
    _files.make_folder(path.parent)
    save({"runs": runs}, path)
    return path


def _named(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose epochs are named as all code names them: the records of some tasks call the
    split "validation" "val" (`Task.recorded_names`).
    """
    epochs = record.get("epochs")
    if not isinstance(epochs, dict):
        return record
    names = {name: f"validation{name[3:]}" if name.startswith("val_") else name for name in epochs}
    return {**record, "epochs": {names[name]: column for name, column in epochs.items()}}


def collected(experiment: str | Path) -> dict[str, dict[str, Any]]:
    """The `run.json` of each run in the collected file of an experiment, by id (empty where there
    is none).

    Raises
    ------
    BioplausError
        If that file is damaged or cannot be read.
    """
    return {run_id: one.run for run_id, one in _collected(_collection(Path(experiment))).items()}


def _collection(experiment: Path) -> Path:
    return experiment.with_name(experiment.name + ".pkl")


def _stored(experiment: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Complete runs by id; and a sentence for everything that is damaged or cannot be read, by the
    name of its folder or file.
    """
    stored, problems = {}, {}
    try:
        stored |= _collected(_collection(experiment))
    except BioplausError as error:
        problems[_collection(experiment).name] = str(error)
    try:
        folders = sorted(
            path for path in experiment.iterdir() if path.is_dir() and path.suffix != AGAIN
        )
    except FileNotFoundError:
        folders = []
    except OSError as error:
        folders, problems[experiment.name] = [], str(_files.unreadable(experiment, error))
    for folder in folders:
        state, result = examine(folder, folder.name)
        if state.problem:
            problems[folder.name] = state.problem
        elif state.is_complete:
            stored[folder.name] = Stored(state.run, result)
    return stored, problems


def _collected(path: Path) -> dict[str, Stored]:
    """The runs in a collected file, by id."""
    content = _files.read(path)
    if content is None:
        return {}
    stored = {}
    for entry in parse(content, path).get("runs", []):
        match entry:
            case {
                "run": {"id": str(run_id), "status": str(status), "sha256": digest, **rest},
                "result": np.ndarray() as result,
            }:
                check_schema(rest, path)
                content = result.tobytes()
                if status not in COMPLETE or _files.sha256(content) != digest:
                    raise BioplausError(
                        f"{path} holds run {run_id} with a digest that is not its own. Delete the"
                        " file and run `python -m bioplaus collect` again."
                    )
                stored[run_id] = Stored(entry["run"], content)
            case _:
                raise BioplausError(f"{path} holds an entry that is no run of bioplaus.")
    return stored
