"""What state every run is in: one row a run; everything here reads and changes nothing."""

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioplaus import _files
from bioplaus.experiments.completion import Completed, completed
from bioplaus.experiments.run import Run

_STATES = {"running": "interrupted"}  # of a run that no process executes, by its status
_ENDED = ("failed", "done", "diverged")


def rows(runs: Sequence[Run], known: Completed | None = None) -> list[dict[str, Any]]:
    """One row a run: experiment, entry, seed, id, status, progress, and the error of a failed one
    or its last cell.

    Status is one of: done, diverged, running (a live process holds its lock), interrupted (killed;
    the same command goes on from its checkpoint), failed, missing, damaged, unreadable.
    """
    known = known or completed(runs)
    return [_row(run, known) for run in runs]


def _row(run: Run, known: Completed) -> dict[str, Any]:
    folder, held = run.folder, known.states[run.key]
    record, progress = known.in_folder.get(run.key) or known.collected.get(run.key) or {}, ""
    if record:
        state = record["status"]
        progress = _progress(folder) if run.key in known.in_folder else ""
    elif held.problem or not os.path.isdir(folder):
        state = held.status
    else:
        record, progress = held.run, _progress(folder)
        state = "running" if _is_locked(folder) else _STATES.get(held.status, held.status)
    return {
        "experiment": f"{run.paper}/{run.experiment}",
        "entry": run.entry,
        "seed": run.seed,
        "id": run.id,
        "status": state,
        "progress": progress,
        "error": held.problem or (record.get("error", "") if state in _ENDED else ""),
    }


def _progress(folder: Path) -> str:
    with contextlib.suppress(_files.UnreadableError):
        match _files.read_json(folder / "progress.json"):
            case {"epochs_done": done, "n_epochs": n_epochs}:
                return f"{done}/{n_epochs} epochs"
    return ""


def _is_locked(folder: Path) -> bool:
    """Whether a live process holds a run's lock; asked for without writing anything."""
    with contextlib.suppress(OSError):  # there is no lock, or nobody but its owner may read it
        with open(folder / ".lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
