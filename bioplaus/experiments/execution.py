"""Executing one run: its lock, its attempts, and what is noted when it fails.

A run is idempotent: its folder is its identity, a lock keeps two executions apart, its checkpoint
lets it go on after any kill, and its `run.json` alone says that it is complete. `side_by_side`
executes several at once with what is here.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bioplaus import _files, _sources, paths, results
from bioplaus.errors import BioplausError, RunError, describe, is_library, location
from bioplaus.experiments import files, jupyter, notebooks, simulation
from bioplaus.experiments.completion import code, is_outdated
from bioplaus.experiments.locks import locked
from bioplaus.experiments.portable import portable
from bioplaus.experiments.run import Run

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
_executing: set[str] = set()  # the sweep, one at most, of which this process executes runs now
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
    seconds: float  # wall time; of a run that was executed with others, its share


class _Stopped(Exception):
    """The sweep of a run was stopped: as after any kill, its checkpoint is the last word."""


def execute(
    run: Run,
    folder: str,
    settings: Settings,
    notify: Callable[[str], None] = print,
) -> Outcome:
    """Execute one run in this process or in a kernel.

    Runs on a Dask worker, so everything it needs comes with its arguments and next to nothing goes
    back. What came of the runs that it needs is read from their folders, and nothing starts if one
    is not done. Whatever goes wrong with a run is its own failure: nothing but an interrupt is
    raised. `notify` is told what the run waits for.
    """
    started = time.monotonic()
    path = Path(folder)
    try:
        with ready(settings):
            reasons = [why_blocked(path.parent / run_id) for run_id in run.needs.values()]
            if reason := next(filter(None, [*reasons, changed_file(run)]), ""):
                status, message = "failed", reason
            else:
                make_folder(run, path)
                with locked(path, lambda: notify(_waiting(run)), partial(_go_on, settings)):
                    status, message = _execute_locked(run, path, settings)
    except _Stopped:
        status, message = "failed", "stopped"
    except Exception as error:
        status, message = "failed", describe(error)
    return Outcome(status, message, time.monotonic() - started)


@contextlib.contextmanager
def ready(settings: Settings) -> Iterator[None]:
    """This process executes runs inside the block, in no other thread, with their environment.

    Raises
    ------
    BioplausError
        Where it has imported another package than the command that planned the runs.
    """
    with _one_at_once:
        _executing.add(settings.sweep)
        try:
            _go_on(settings)
            _sources.check_package(settings.environment.get(_sources.PACKAGE, _sources.package()))
            with jupyter.environment_set(settings.environment):
                yield
        finally:
            _executing.discard(settings.sweep)


async def stop(sweep: str) -> None:
    """Stop what this process executes of a sweep, and execute no more of it: its kernel is killed,
    its checkpoint stays. Ends when the locks of its runs are free, or after some seconds.
    """
    import psutil

    _stopped.add(sweep)
    until = time.monotonic() + _STOP_SECONDS
    while sweep in _executing and time.monotonic() < until:  # its kernel may be about to start
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.05)


def is_stopped(settings: Settings) -> bool:
    """Whether this process executes no more runs of a sweep."""
    return settings.sweep in _stopped


def _go_on(settings: Settings) -> None:
    if is_stopped(settings):
        raise _Stopped


def make_folder(run: Run, folder: Path) -> None:
    """Make the folder of a run, if it is missing and may be that run's."""
    results.check_folder(folder, run.id)
    folder.mkdir(parents=True, exist_ok=True)


def why_blocked(folder: Path) -> str:
    """Why a run that needs the one in `folder` cannot start; empty if it can."""
    state = results.inspect(folder)
    if state.status == "done":
        return ""
    entry = state.run.get("entry")
    name = f"{entry} ({folder.name})" if entry else folder.name
    return f"not started: needs {name}, which {_ENDED.get(state.status, state.status)}"


def changed_file(run: Run) -> str:
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
    if ended := ended_before(run, folder, settings):
        return ended
    _files.sweep(folder)
    for attempt in range(1, settings.retries + 2):
        known = identity(run, settings, attempt)
        work = results.begin(folder, known)  # beside a complete run, which stays meanwhile
        message, trace = execute_once([run], [work], settings.kernel)
        is_whole = is_complete_now(folder, work)
        if is_whole:
            break
        _go_on(settings)
        if "kernel died" not in message:
            break
    if not is_whole:
        message = message or f"{run.simulation}.ipynb ended without saving a result"
        message = _note_failure(work, known, message, trace)
        return "failed", message + ("" if work == folder else "; the earlier result is kept")
    return conclusion(folder, message)


def ended_before(run: Run, folder: Path, settings: Settings) -> tuple[str, str] | None:
    """How a run ended that need not be executed, and what to say of it; None for any other. Its
    lock is held.
    """
    results.adopt(folder)
    if results.is_complete(folder):
        record = results.read_run(folder)
        if settings.sweep and record.get("sweep") == settings.sweep:
            return record["status"], record.get("error", "")  # an earlier worker had done it
        if not (settings.again and is_outdated(run, record)):
            return "skipped", ""
    return None


def is_complete_now(folder: Path, work: Path) -> bool:
    """Whether what was computed in `work` is whole; it is then in `folder`."""
    return results.is_complete(folder) if work == folder else results.adopt(folder)


def conclusion(folder: Path, message: str = "") -> tuple[str, str]:
    """How a run ended whose result is whole, and what to say of it, which is noted.

    Parameters
    ----------
    message : what was raised after that.
    """
    record = results.read_run(folder)
    notes = [f"its result is whole, but a later cell failed: {message}"] if message else []
    notes += _divergence(folder) if record["status"] == "diverged" else []
    if notes:
        results.remark(folder, "; ".join(notes))
    return record["status"], "; ".join([*_restart(folder), *notes])


def execute_once(
    runs: Sequence[Run], folders: Sequence[Path], kernel: str | None
) -> tuple[str, str]:
    """Execute a notebook once, for one run or for several that differ in their seed; the sentence
    and the traceback of what it raised, or nothing.

    Parameters
    ----------
    folders : what `results.begin` gave, one each.
    """
    try:
        _start(runs, folders, kernel)
    except (Exception, SystemExit) as error:  # one failure never stops the sweep
        trace = getattr(error, "traceback", "")  # of a kernel
        sentence = describe(error) + _pointer(error, trace, runs[0], folders[0])
        return sentence, trace or traceback.format_exc()
    return "", ""


def _start(runs: Sequence[Run], folders: Sequence[Path], kernel: str | None) -> None:
    """Execute a notebook in this process or in a kernel. Its log, and what a kernel made of the
    notebook, are in the first folder and, when it has ended, in the others too.
    """
    (run, *_), (first, *others) = runs, folders
    notebook = simulation.load(run.simulation)
    parameters = notebook.inputs([one.inputs for one in runs], [*map(str, folders)])
    log, executed = first / "run.log", first / "run.ipynb"
    inside = None if others else first  # what paths are relative to: of several, the results
    try:
        if kernel is not None:
            notebooks.execute(
                notebook.path, executed, parameters, kernel=kernel, log=log, inside=inside
            )
        else:
            _run_here(run, notebook, parameters, log, inside)
    finally:
        for folder, file in itertools.product(others, (log, executed)):
            with contextlib.suppress(OSError):  # a folder that is gone, as its run will say
                shutil.copyfile(file, folder / file.name)


def _run_here(
    run: Run,
    notebook: simulation.Simulation,
    parameters: Mapping[str, Any],
    log: Path,
    inside: Path | None,
) -> None:
    from bioplaus import rules  # here, so that the command line need not wait for torch

    if run.rule:
        rules.check_unedited(run.rule)
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        try:
            notebook.run(parameters)
        except (Exception, SystemExit):
            file.write(portable(traceback.format_exc(), inside))
            raise


def identity(run: Run, settings: Settings, attempt: int) -> dict[str, Any]:
    """What the `run.json` of a run says from its beginning."""
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
        "attempt": attempt,
        "sweep": settings.sweep,
    }


def _note_failure(folder: Path, known: Mapping[str, Any], message: str, trace: str) -> str:
    """Note in `run.json` that a run failed, and return what to say of it."""
    try:
        results.fail(folder, known, portable(message, folder), portable(trace, folder))
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
