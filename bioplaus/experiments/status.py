"""What state every run is in: one row a run; everything here reads and changes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bioplaus import _files, results
from bioplaus.experiments.completion import Completed, completed
from bioplaus.experiments.run import Run

_STATES = {"failed": "failed", "running": "interrupted"}  # by the status of a run.json


def rows(runs: Sequence[Run], known: Completed | None = None) -> list[dict[str, Any]]:
    """One row a run: experiment, entry, seed, id, status, progress, and the error of a failed one
    or its last cell.

    Status is one of: done, diverged, running (a live process holds its lock), interrupted (killed;
    the same command goes on from its checkpoint), failed, missing.
    """
    known = known or completed(runs)
    return [_row(run, known) for run in runs]


def _row(run: Run, known: Completed) -> dict[str, Any]:
    folder = run.folder
    record, progress = known.in_folder.get(run.key) or known.collected.get(run.key) or {}, ""
    if record:
        state = record["status"]
        progress = _progress(folder) if run.key in known.in_folder else ""
    elif not folder.is_dir():
        state = "missing"
    else:
        record, progress = results.read_run(folder), _progress(folder)
        ended = _STATES.get(str(record.get("status")), "missing")
        state = "running" if _is_locked(folder) else ended
    return {
        "experiment": f"{run.paper}/{run.experiment}",
        "entry": run.entry,
        "seed": run.seed,
        "id": run.id,
        "status": state,
        "progress": progress,
        "error": record.get("error", "") if state in ("failed", "done", "diverged") else "",
    }


def _progress(folder: Path) -> str:
    match _files.read_json(folder / "progress.json"):
        case {"epochs_done": done, "n_epochs": n_epochs}:
            return f"{done}/{n_epochs} epochs"
    return ""


def _is_locked(folder: Path) -> bool:
    if not (folder / ".lock").exists():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
