"""A run from its beginning to its end, as its folder shows it.

A run that is complete is never begun in its folder again: it is computed anew in the folder
`<id>.again` beside it, and takes the place of the old one once it is whole (`adopt`).
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.results.provenance import provenance
from bioplaus.results.record import NAME as RESULT
from bioplaus.results.record import save
from bioplaus.results.run_json import NAME, read_run, write_run

if TYPE_CHECKING:
    import torch

COMPLETE = ("done", "diverged")
AGAIN = ".again"  # ends the name of a folder that is computed in beside a complete run


@dataclass(frozen=True)
class RunState:
    """What a run's folder holds.

    Attributes
    ----------
    status : "done" or "diverged" (complete); "running" or "failed" (begun, and not complete; its
        lock says whether a process still runs it); "missing"; "damaged" (what is there is not
        whole, or not this run's); "unreadable" (it may be whole, but this process cannot read it).
    run : its `run.json`; empty where that cannot be believed.
    problem : what is wrong with a damaged or unreadable one, in a sentence.
    """

    status: str
    run: dict[str, Any]
    problem: str = ""

    @property
    def is_complete(self) -> bool:
        return self.status in COMPLETE


def begin(folder: str | Path, run: Mapping[str, Any]) -> Path:
    """Write the first `run.json` of a run: its identity, with status "running" and no digest.

    Parameters
    ----------
    folder : the run's folder, called as its id; it is made if it is missing.
    run : the identity; "id" at least.

    Returns
    -------
    The folder to compute in: `folder`; or, where that holds a complete run, one beside it, whose
    result `adopt` puts in its place.

    Raises
    ------
    BioplausError
        If the id is not the name of the folder, the folder is a link, or it cannot be read or
        written: then nothing was changed.
    """
    folder = Path(folder)
    check_folder(folder, run.get("id"))
    state = inspect(folder)
    if state.status == "unreadable":
        raise _files.UnreadableError(state.problem)
    if state.is_complete:
        folder = _again(folder)
        check_folder(folder, run["id"])
    _files.make_folder(folder)
    write_run(folder, {**run, "status": "running", "started": _now()})
    return folder


def finish(
    folder: str | Path,
    record: Mapping[str, Any],
    *,
    seconds: Mapping[str, Any] | None = None,
    device: "str | torch.device" = "cpu",
) -> None:
    """Complete a run: save its record as `result.pkl`, then `run.json` with its digest and the full
    provenance.

    Parameters
    ----------
    folder : what `begin` gave; the identity that it wrote there is kept, but for the digest of the
        rule's code, which is that of what this process imported.
    record : its "status" ("done" or "diverged") becomes the run's.
    seconds : wall times, for instance `History.seconds`.

    Raises
    ------
    BioplausError
        If the identity that `begin` wrote is gone, damaged or another run's, or a file cannot be
        written.
    """
    folder = Path(folder)
    run = read_run(folder)
    if not run:
        raise BioplausError(
            f"{folder / NAME} is not there: it was removed, its folder was moved, or the run was"
            " never begun (`bioplaus.results.begin`). No result was saved."
        )
    check_folder(folder, run.get("id"))
    status = record.get("status", "done")
    if status not in COMPLETE:
        raise BioplausError(f"The status of a record is {status!r}, but must be done or diverged.")
    digest = save(record, folder / RESULT)
    write_run(
        folder,
        {
            **run,
            **_imported_code(run.get("rule")),
            **provenance(device),
            "sha256": digest,
            "status": status,
            "seconds": seconds or {},
            "finished": _now(),
        },
    )


def fail(folder: str | Path, run: Mapping[str, Any], error: str, traceback: str = "") -> None:
    """Note in `run.json` that a run failed; a complete run is left as it is.

    Parameters
    ----------
    folder : what `begin` gave.
    run : the identity, for a folder whose `run.json` is gone or damaged.

    Raises
    ------
    BioplausError
        If the folder is gone, a link, or holds another run, or cannot be read or written.
    """
    folder = Path(folder)
    check_folder(folder, run.get("id"))
    state = examine(folder, str(run["id"]))[0]
    if state.status == "unreadable" or state.run.get("id", run["id"]) != run["id"]:
        raise BioplausError(state.problem)
    if not state.is_complete:
        begun = {name: value for name, value in (state.run or run).items() if name != "sha256"}
        write_run(folder, {**begun, "status": "failed", "error": error, "traceback": traceback})


def remark(folder: str | Path, text: str) -> None:
    """Note in the `run.json` of a complete run what is to be said of it."""
    run = read_run(folder)
    write_run(Path(folder), {**run, "error": text})


def adopt(folder: str | Path) -> bool:
    """Put what was computed again beside a complete run (`begin`) in its place, if it is whole.

    A process that is killed meanwhile leaves a folder that is not complete; adopting once more ends
    it. Whoever calls holds the run's lock.

    Returns
    -------
    Whether there was a whole one.
    """
    folder = Path(folder)
    again = _again(folder)
    if again.is_symlink() or not again.is_dir():
        return False
    run = read_run(again)
    if run.get("id") != folder.name or run.get("status") not in COMPLETE:
        return False
    # once result.pkl has moved, the digest of the moved one says that it is this one's
    results = (place / RESULT for place in (again, folder))
    content = next(filter(None, map(_files.read, results)), b"")
    if _files.sha256(content) != run["sha256"]:
        return False
    names = [path.name for path in again.iterdir() if path.name not in (".lock", NAME)]
    try:
        for name in [*names, NAME]:  # run.json last
            if (folder / name).is_dir() and not (folder / name).is_symlink():
                shutil.rmtree(folder / name)
            os.replace(again / name, folder / name)
        shutil.rmtree(again)
    except OSError as error:
        raise BioplausError(f"Could not move {again} to {folder}: {error.strerror}.") from error
    return True


def inspect(folder: str | Path) -> RunState:
    """What a run's folder holds; nothing is raised and nothing changed, whatever it is."""
    return examine(Path(folder), Path(folder).name)[0]


def is_complete(folder: str | Path) -> bool:
    """Whether the run in `folder` is done (or diverged), its own, and whole.

    Raises
    ------
    BioplausError
        Where that cannot be read: it may be complete.
    """
    state = inspect(folder)
    if state.status == "unreadable":
        raise _files.UnreadableError(state.problem)
    return state.is_complete


def examine(folder: Path, run_id: str) -> tuple[RunState, bytes]:
    """What the folder of the run called `run_id` holds, and the bytes of its result if it is
    complete.
    """
    if os.path.islink(folder):
        return RunState("damaged", {}, _link(folder)), b""
    path, run = folder / RESULT, {}
    try:
        run = read_run(folder)
        if not run and os.path.lexists(path):
            return RunState("damaged", {}, f"{folder / NAME} is missing beside a result."), b""
        if not run:
            return RunState("missing", {}), b""
        if problem := _wrong_identity(folder, run, run_id):
            return RunState("damaged", run, problem), b""
        if run["status"] not in COMPLETE:
            return RunState(run["status"], run), b""
        content = _files.read(path)
    except _files.UnreadableError as error:
        return RunState("unreadable", run, str(error)), b""
    except BioplausError as error:
        return RunState("damaged", {}, str(error)), b""
    if content is None:
        return RunState("damaged", run, f"{path} is missing."), b""
    if (computed := _files.sha256(content)) != run.get("sha256"):
        problem = (
            f"{path} is damaged or was changed: its sha256 is {computed[:12]}..., but {NAME} beside"
            f" it says {str(run.get('sha256'))[:12]}...."
        )
        return RunState("damaged", run, problem), b""
    return RunState(run["status"], run), content


def _wrong_identity(folder: Path, run: Mapping[str, Any], run_id: str) -> str:
    """Why `run` cannot be that of its folder, in a sentence; empty if it can."""
    if run.get("id") != run_id:
        return f"{folder / NAME} is of run {run.get('id')!r:.100}, not of {run_id}."
    if run.get("status") not in (*COMPLETE, "running", "failed"):
        return f"{folder / NAME} has the status {run.get('status')!r:.40}, which no run has."
    return ""


def check_folder(folder: Path, run_id: Any) -> None:
    """Raise `BioplausError` unless `folder` may be that of the run called `run_id`: it is called
    so, and is no link, through which files elsewhere would be written.
    """
    if not isinstance(run_id, str) or folder.name.removesuffix(AGAIN) != run_id:
        raise BioplausError(
            f"Run {run_id!r:.100} cannot be in the folder {folder}: it is another's."
        )
    if os.path.islink(folder):
        raise BioplausError(_link(folder))


def _link(folder: Path) -> str:
    return f"{folder} is a link; the folder of a run is a folder of its own."


def _again(folder: Path) -> Path:
    return folder.with_name(folder.name + AGAIN)


def _imported_code(rule: Any) -> dict[str, str]:
    """The digest of a rule's code as this process imported it, as the field "code"; nothing where
    it imported none.
    """
    imported = getattr(sys.modules.get(f"bioplaus.rules.{rule}"), "Rule", None)
    if imported is None:
        return {}
    from bioplaus import rules

    code = rules.code(imported)
    return {"code": code} if code else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
