"""Many runs read together: from their folders, and from the collected file of their experiment."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.results.record import load, parse, save
from bioplaus.results.run import is_complete
from bioplaus.results.run_json import read_run


@dataclass(frozen=True)
class Outcome:
    """One complete run: its `run.json` and its record."""

    run: dict[str, Any]
    record: dict[str, Any]


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
        yield Outcome(run, parse(result, experiment / run_id / "result.pkl"))


def collected(experiment: str | Path) -> dict[str, dict[str, Any]]:
    """The `run.json` of each run in the collected file of an experiment, by id (empty where there
    is none).
    """
    return {run["id"]: run for run, _ in _collected(Path(experiment))}


def _stored(experiment: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(run.json, bytes of result.pkl) of complete runs, collected ones first so that a run's own
    folder wins.
    """
    yield from _collected(experiment)
    for folder in sorted(experiment.glob("*/")) if experiment.is_dir() else ():
        if is_complete(folder):
            yield read_run(folder), (folder / "result.pkl").read_bytes()


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
