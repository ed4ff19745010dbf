"""Executing one run: its lock, its attempts, and what is noted when it fails.

A run is idempotent: its folder is its identity, a lock keeps two executions apart, its checkpoint
lets it go on after any kill, and its `run.json` alone says that it is complete.
"""

import asyncio
import contextlib
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from bioplaus import _files, _sources, paths, results
from bioplaus.errors import BioplausError, RunError, describe, is_library, location
from bioplaus.experiments import files, jupyter, notebooks, simulation
from bioplaus.experiments.completion import code, is_outdated
from bioplaus.experiments.portable import portable
from bioplaus.experiments.run import Run

PATIENCE = 3.0  # seconds to wait for a lock before saying so
_STOP_SECONDS = 5.0  # that a run may take to end after its kernel was killed
# in a traceback as IPython writes it
_FRAME = re.compile(r"^File (\S+\.py):(\d+), in ([\w.<>]+)", re.MULTILINE)
# of a run that another one needs, by its status
_ENDED = {
    "missing": "is missing",
    "running": "did not end",
    "damaged": "is damaged",
    "unreadable": "cannot be read",
}
# runs of one process: each sets environment and standard output of all its threads
_one_at_once = threading.Lock()
_executing: set[str] = set()  # the sweep, one at most, of the run that this process executes
_stopped: set[str] = set()  # sweeps of which this process executes no more runs


@dataclass(frozen=True)
class Settings:
    """How the runs of a sweep are executed."""

    kernel: str | None = None  # of Jupyter; None: in this process
    retries: int = 0  # after a kernel died
    again: bool = False  # also what is complete, but was made with other code of its rule
    environment: Mapping[str, str] = field(default_factory=dict)  # of the process
    sweep: str = ""  # a key of its own, by which its runs can be stopped


class Outcome(NamedTuple):
    """How the execution of a run ended."""

    status: str  # done, skipped (it was complete), diverged or failed
    message: str  # what to say of it; empty where all is well
    seconds: float  # wall time


class _Stopped(Exception):
    """The sweep of a run was stopped: as after any kill, its checkpoint is the last word."""


def execute(
    run: Run,
    folder: str,
    settings: Settings,
    needed: Sequence[Any] = (),
    notify: Callable[[str], None] = print,
) -> Outcome:
    """Execute one run in this process or in a kernel.

    Runs on a Dask worker, so everything it needs comes with its arguments and next to nothing goes
    back. `needed` makes Dask wait for other runs; what came of them is read from their folders, and
    nothing starts if one is not done. Whatever goes wrong with a run is its own failure: nothing
    but an interrupt is raised. `notify` is told what the run waits for.
    """
    with _one_at_once:
        started = time.monotonic()
        path = Path(folder)
        _executing.add(settings.sweep)
        try:
            _go_on(settings.sweep)
            _sources.check_package(settings.environment.get(_sources.PACKAGE, _sources.package()))
            with jupyter.environment_set(settings.environment):
                reasons = [why_blocked(path.parent / run_id) for run_id in run.needs.values()]
                if reason := next(filter(None, [*reasons, _changed_file(run)]), ""):
                    status, message = "failed", reason
                else:
                    results.check_folder(path, run.id)
                    path.mkdir(parents=True, exist_ok=True)
                    go_on = partial(_go_on, settings.sweep)
                    with locked(path, lambda: notify(_waiting(run)), go_on):
                        status, message = _execute_locked(run, path, settings)
        except _Stopped:
            status, message = "failed", "stopped"
        except Exception as error:
            status, message = "failed", describe(error)
        finally:
            _executing.discard(settings.sweep)
        return Outcome(status, message, time.monotonic() - started)


async def stop(sweep: str) -> None:
    """Stop what this process executes of a sweep, and execute no more of it: its kernel is killed,
    its checkpoint stays. Ends when the lock of its run is free, or after some seconds.
    """
    import psutil

    _stopped.add(sweep)
    until = time.monotonic() + _STOP_SECONDS
    while sweep in _executing and time.monotonic() < until:  # its kernel may be about to start
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.05)


def _go_on(sweep: str) -> None:
    """Raise `_Stopped` if no more runs of a sweep are executed here."""
    if sweep in _stopped:
        raise _Stopped


@contextlib.contextmanager
def locked(
    folder: Path,
    waiting: Callable[[], None] = lambda: None,
    go_on: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock of a run's folder.

    Parameters
    ----------
    waiting : called once, where another process holds the lock for more than some seconds.
    go_on : called now and then while this waits; what it raises ends the waiting.

    Raises
    ------
    BioplausError
        Where the file system has no locks, or the lock cannot be opened.
    """
    lock = FileLock(folder / ".lock")
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            waiting()
            while not lock.is_locked:
                go_on()
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=PATIENCE)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "there are no locks on this file system"
        raise BioplausError(
            f"{folder} cannot be locked ({reason}); choose a folder for results on another disk,"
            " with --results."
        ) from error
    try:
        yield
    finally:
        lock.release()


def why_blocked(folder: Path) -> str:
    """Why a run that needs the one in `folder` cannot start; empty if it can."""
    state = results.inspect(folder)
    if state.status == "done":
        return ""
    entry = state.run.get("entry")
    name = f"{entry} ({folder.name})" if entry else folder.name
    return f"not started: needs {name}, which {_ENDED.get(state.status, state.status)}"


def _changed_file(run: Run) -> str:
    """Which file that a parameter names is not the one the run was planned with; empty if none."""
    now = files.digests(run.parameters)
    for name, sha256 in run.files.items():
        if now.get(name) != sha256:
            state = "was changed since the command began" if name in now else "cannot be read"
            return f"not started: the file that {name} names {state}; run the command again"
    return ""


def _waiting(run: Run) -> str:
    return (
        f"{run.experiment}/{run.entry} seed {run.seed} ({run.id}) is being executed by another"
        " command; waiting until it is done."
    )


def _execute_locked(run: Run, folder: Path, settings: Settings) -> tuple[str, str]:
    """Execute a run whose lock is held; its status and what to say of it."""
    results.adopt(folder)
    if results.is_complete(folder):
        record = results.read_run(folder)
        if settings.sweep and record.get("sweep") == settings.sweep:
            return record["status"], record.get("error", "")  # an earlier worker had done it
        if not (settings.again and is_outdated(run, record)):
            return "skipped", ""
    _files.sweep(folder)
    for attempt in range(1, settings.retries + 2):
        identity = {**_identity(run), "attempt": attempt, "sweep": settings.sweep}
        work = results.begin(folder, identity)  # beside a complete run, which stays meanwhile
        message, trace = _attempt(run, work, settings.kernel)
        is_whole = results.is_complete(folder) if work == folder else results.adopt(folder)
        if is_whole:
            break
        _go_on(settings.sweep)
        if "kernel died" not in message:
            break
    if not is_whole:
        message = message or f"{run.simulation}.ipynb ended without saving a result"
        message = _note_failure(work, identity, message, trace)
        return "failed", message + ("" if work == folder else "; the earlier result is kept")
    record = results.read_run(folder)
    notes = [f"its result is whole, but a later cell failed: {message}"] if message else []
    notes += _divergence(folder) if record["status"] == "diverged" else []
    if notes:
        results.remark(folder, "; ".join(notes))
    return record["status"], "; ".join([*_restart(folder), *notes])


def _attempt(run: Run, folder: Path, kernel: str | None) -> tuple[str, str]:
    """Execute a run once; the sentence and the traceback of what it raised, or nothing."""
    try:
        _start(run, folder, kernel)
    except (Exception, SystemExit) as error:  # one failure never stops the sweep
        trace = getattr(error, "traceback", "")  # of a kernel
        sentence = describe(error) + _pointer(error, trace, run, folder)
        return sentence, trace or traceback.format_exc()
    return "", ""


def _start(run: Run, folder: Path, kernel: str | None) -> None:
    notebook = simulation.load(run.simulation)
    parameters = {**run.inputs, "folder": str(folder)}
    log = folder / "run.log"
    if kernel is not None:
        notebooks.execute(notebook.path, folder / "run.ipynb", parameters, kernel=kernel, log=log)
        return
    from bioplaus import rules  # here, so that the command line need not wait for torch

    if run.rule:
        rules.check_unedited(run.rule)
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        try:
            notebook.run(parameters)
        except (Exception, SystemExit):
            file.write(portable(traceback.format_exc(), folder))
            raise


def _identity(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "paper": run.paper,
        "experiment": run.experiment,
        "entry": run.entry,
        "label": run.label,
        "preset": run.preset,
        "simulation": run.simulation,
        "seed": run.seed,
        "parameters": portable(run.parameters),
        **({"files": run.files} if run.files else {}),
        **({"rule": run.rule} if run.rule else {}),
        **({"code": digest} if (digest := code(run)) else {}),
    }


def _note_failure(folder: Path, identity: Mapping[str, Any], message: str, trace: str) -> str:
    """Note in `run.json` that a run failed, and return what to say of it."""
    try:
        results.fail(folder, identity, portable(message, folder), portable(trace, folder))
    except BioplausError as error:  # a full disk, say; the first failure is the one to know of
        return f"{message} (and it could not be noted: {error})"
    return message


def _pointer(error: BaseException, trace: str, run: Run, folder: Path) -> str:
    """Where a run raised, and where its traceback is; empty for errors that say all there is to
    say.
    """
    if isinstance(error, BioplausError) and (
        not isinstance(error, RunError) or trace in ("", str(error))
    ):
        return ""
    parts = [_kernel_location(trace) if trace else location(error)]
    log = folder / "run.log"
    if log.is_file() and log.stat().st_size:
        names = (paths.root().name, run.preset, run.paper, run.experiment, folder.name, log.name)
        parts.append(f"traceback in {Path(*names)}")
    return f" ({'; '.join(filter(None, parts))})"


def _kernel_location(trace: str) -> str:
    """What `errors.location` says, of a traceback that a kernel wrote: the last frame outside
    libraries.
    """
    for path, line, function in reversed(_FRAME.findall(trace)):
        if not is_library(os.path.expanduser(path)):
            return f"{Path(path).name}, line {line}, in {function.rpartition('.')[2]}"
    return ""


def _divergence(folder: Path) -> list[str]:
    """Where the numbers of a diverged run stopped being finite, epoch and batch counted from 1."""
    match results.load(folder / "result.pkl").get("divergence"):
        case {"epoch": epoch, "batch": batch, "tensor": tensor}:
            return [f"{tensor} not finite in epoch {epoch + 1}, batch {batch + 1}"]
    return []


def _restart(folder: Path) -> list[str]:
    """Why training began at its first epoch although there was a checkpoint, if it did."""
    match _files.read_json(folder / "progress.json"):
        case {"passed_over": str(reason)} if reason:
            return [f"started anew: {reason}"]
    return []
