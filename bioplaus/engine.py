"""Run a manifest: validate everything, skip what is done, execute the rest on Dask or in this process.

A run is idempotent: its folder is its identity, a lock keeps two executions apart, its checkpoint lets it go on after
any kill, and its `run.json` alone says that it is complete. So a dead worker, a killed driver or a lost node costs at
most the time since the last checkpoint, and the same command again does what is left.
"""

import contextlib
import logging
import os
import signal
import tempfile
import time
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bioplaus import _files, results, simulation
from bioplaus.errors import BioplausError, RunError, unknown
from bioplaus.manifest import Run

KERNEL_SECONDS = 6.0  # to start a kernel and import torch, for the forecast
_DASK = {  # runs last minutes: looking every 10 ms and 20 ms, as Dask does, would cost a fifteenth of a core
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class SweepError(RunError):
    """Some runs of a sweep failed; the others are kept."""


@dataclass
class Summary:
    """What came of a sweep: run ids by outcome, and the sentence for each failure."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, run_id: str, status: str, message: str) -> None:
        """File one outcome."""
        if status == "failed":
            self.failed[run_id] = message
        else:
            getattr(self, status).append(run_id)

    def __str__(self) -> str:
        parts = [f"{len(self.done)} done", f"{len(self.skipped)} already there"]
        parts += [f"{len(self.diverged)} diverged"] if self.diverged else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return ", ".join(parts)


def check(runs: Sequence[Run], kernel: str | None = None) -> None:
    """Raise `BioplausError` if any run cannot work, or nothing could be written, before anything is started.

    Parameters
    ----------
    kernel : name of the Jupyter kernel that will be used; None where none is.
    """
    for run in runs:
        run.check()
    if kernel is not None:
        from bioplaus import kernels

        kernels.check(kernel)
    for folder in {run.experiment_folder for run in runs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise BioplausError(f"Results cannot be written to {folder}: {error.strerror}.") from error


def pending(runs: Sequence[Run]) -> list[Run]:
    """The runs that are neither complete in their folder nor in their experiment's collected file.

    A run that others of these need must be there with its files: being collected is not enough for it.
    """
    collected = _collected(runs)
    missing = {run.folder: run for run in runs if not results.is_complete(run.folder)}
    todo = [run for run in missing.values() if run.key not in collected]
    wanted = {run.folder for run in todo}
    while todo:
        needed = [folder for run in todo for folder in run.needed_folders if folder in missing and folder not in wanted]
        wanted |= set(needed)
        todo = [missing[folder] for folder in needed]
    return [run for run in runs if run.folder in wanted]


def forecast(runs: Sequence[Run], workers: int) -> float | None:
    """Expected wall seconds of these runs on `workers` processes: what like runs took here, else the manifest's figure.

    None where neither is known for some run.
    """
    total = 0.0
    for run in runs:
        seconds = next((s for s in _seconds_here(run) if s), run.seconds)
        if seconds is None:
            return None
        total += seconds + KERNEL_SECONDS
    longest = max((run.seconds or 0 for run in runs), default=0)
    return max(total / max(1, workers), longest)


def execute(
    runs: Sequence[Run],
    *,
    workers: int = 0,
    scheduler: str = "local",
    inline: bool = False,
    kernel: str = "python3",
    retries: int = 1,
    report: Callable[[str], None] = print,
) -> Summary:
    """Execute the runs that are not done yet; a failure is recorded and never stops the others.

    Parameters
    ----------
    workers : processes at once, one compute thread each; 0 means one per core.
    scheduler : "local"; the name of a dask-jobqueue system ("slurm", "pbs", "lsf", "sge", ...), configured as
        dask-jobqueue documents; or the address of a running Dask scheduler ("tcp://host:8786").
    inline : run one after the other in this process, without papermill, kernels and Dask.
    kernel : Jupyter kernel that executes the notebooks.
    retries : how often a run is tried again whose kernel or worker died; code that raised would raise again.
    report : receives one line for every event.

    Raises
    ------
    BioplausError
        From `check`, before anything has started.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after the workers have been stopped; checkpoints stay.
    """
    check(runs, None if inline else kernel)
    todo = pending(runs)
    left = {run.key for run in todo}
    summary = Summary(skipped=[run.id for run in runs if run.key not in left])
    outcomes = _inline(todo) if inline else _on_dask(todo, workers or cores(), scheduler, kernel, retries)
    with contextlib.closing(outcomes), _sigterm_interrupts():
        for number, (run, status, message, seconds) in enumerate(outcomes, start=1):
            summary.add(run.id, status, message)
            detail = f": {message}" if message else ""
            report(
                f"[{number}/{len(todo)}] {status:8} {run.experiment}/{run.entry} seed {run.seed}, "
                f"{seconds:.0f} s ({run.id}){detail}"
            )
    return summary


def status(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run: experiment, entry, seed, id, status, how far, and the error of a failed one.

    Status is one of: done, diverged, running (a live process holds its lock), interrupted (killed; the same command
    goes on from its checkpoint), failed, missing.
    """
    collected = _collected(runs)
    return [_status(run, collected) for run in runs]


def _collected(runs: Sequence[Run]) -> dict[str, str]:
    """How the runs that their experiments' collected files hold ended, by key."""
    states = {folder: results.collected_status(folder) for folder in {run.experiment_folder for run in runs}}
    return {run.key: states[run.experiment_folder][run.id] for run in runs if run.id in states[run.experiment_folder]}


def _status(run: Run, collected: Mapping[str, str]) -> dict[str, Any]:
    about = _files.read_json(run.folder / "run.json") or {}
    progress = _files.read_json(run.folder / "progress.json") or {}
    if results.is_complete(run.folder):
        state = about["status"]
    elif run.key in collected:
        state, progress = collected[run.key], {}
    elif _is_locked(run.folder):
        state = "running"
    else:
        state = {"failed": "failed", "running": "interrupted"}.get(about.get("status", ""), "missing")
    how_far = f"{progress['epochs_done']}/{progress['n_epochs']} epochs" if progress else ""
    return {
        "experiment": f"{run.paper}/{run.experiment}",
        "entry": run.entry,
        "seed": run.seed,
        "id": run.id,
        "status": state,
        "progress": how_far,
        "error": about.get("error", "") if state == "failed" else "",
    }


def run_one(
    run: Run,
    folder: str,
    kernel: str | None,
    retries: int,
    environment: dict[str, str],
    needed: Sequence[Any] = (),
) -> tuple[str, str, float]:
    """Execute one run in this process (kernel None) or in a kernel, and return (status, message, wall seconds).

    Runs on a Dask worker, so everything it needs comes with its arguments and next to nothing goes back. `needed`
    makes Dask wait for other runs; what came of them is read from their folders, and nothing starts if one is not done.
    """
    os.environ.update(environment)
    started = time.monotonic()
    place = Path(folder)
    blocked = next(filter(None, (_blocked(place.parent / run_id) for run_id in run.needs.values())), "")
    status, message = ("failed", blocked) if blocked else _locked(run, place, kernel, retries)
    return status, message, time.monotonic() - started


def _locked(run: Run, place: Path, kernel: str | None, retries: int) -> tuple[str, str]:
    """Execute a run while holding its lock."""
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):  # a second execution waits here, then finds the run complete
        if results.is_complete(place):
            return "skipped", ""
        _files.sweep(place)
        for attempt in range(1, retries + 2):
            results.begin(place, {**_identity(run), "attempt": attempt})
            try:
                _start(run, place, kernel)
            except BioplausError as error:
                trace = getattr(error, "traceback", tracebacks.format_exc())
                _fail(place, str(error), trace)
                if "kernel died" not in str(error) or attempt > retries:
                    return "failed", str(error)
            except Exception as error:  # one failure never stops the sweep
                message = f"{type(error).__name__}: {error}".splitlines()[0]
                _fail(place, message, tracebacks.format_exc())
                return "failed", message
            else:
                break
        if not results.is_complete(place):
            message = f"{run.simulation}.ipynb ended without saving a result"
            _fail(place, message, "")
            return "failed", message
    return _files.read_json(place / "run.json")["status"], ""


def _blocked(folder: Path) -> str:
    """Why a run that needs the one in `folder` cannot start; empty if it can."""
    about = _files.read_json(folder / "run.json") or {}
    state = about.get("status", "is missing")
    if state == "done" and results.is_complete(folder):
        return ""
    who = f"{about['entry']} ({folder.name})" if "entry" in about else folder.name
    return f"not started: needs {who}, which {'did not end' if state in ('running', 'done') else state}"


def _start(run: Run, place: Path, kernel: str | None) -> None:
    chosen = simulation.load(run.simulation)
    parameters = {**run.inputs, "folder": str(place)}
    if kernel is None:
        with open(place / "run.log", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            chosen.run(parameters)
        return
    from bioplaus import kernels

    kernels.execute(chosen.path, place / "run.ipynb", parameters, kernel=kernel, log=place / "run.log")


def _fail(place: Path, message: str, trace: str) -> None:
    about = _files.read_json(place / "run.json") or {}
    _files.write_json(place / "run.json", {**about, "status": "failed", "error": message, "traceback": trace})


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
        "parameters": run.parameters,
    }


Outcomes = Iterator[tuple[Run, str, str, float]]


def _in_order(todo: Sequence[Run]) -> list[tuple[Run, list[Run]]]:
    """Each run with those of `todo` that it needs, after all of these; else in the order given."""
    by_folder = {run.folder: run for run in todo}
    needs = {run.folder: [by_folder[folder] for folder in run.needed_folders if folder in by_folder] for run in todo}
    placed: dict[str, tuple[Run, list[Run]]] = {}

    def place(run: Run) -> None:
        for needed in needs[run.folder]:
            place(needed)
        placed.setdefault(run.key, (run, needs[run.folder]))

    for run in todo:
        place(run)
    return list(placed.values())


def _inline(todo: Sequence[Run]) -> Outcomes:
    for run, _ in _in_order(todo):
        yield run, *run_one(run, str(run.folder), None, 0, {})


def _on_dask(todo: Sequence[Run], workers: int, scheduler: str, kernel: str, retries: int) -> Outcomes:
    if not todo:
        return
    from distributed import Client, as_completed

    environment = ONE_THREAD | {
        name: os.environ[name] for name in ("BIOPLAUS_DATA", "BIOPLAUS_HOME") if name in os.environ
    }
    with _cluster(min(workers, len(todo)), scheduler) as cluster, Client(cluster) as client:
        submitted: dict[Path, Any] = {}
        runs: dict[Any, tuple[Run, list[Run]]] = {}
        for run, needs in _in_order(todo):
            submitted[run.folder] = client.submit(
                run_one,
                run,
                str(run.folder.resolve()),
                kernel,
                retries,
                environment,
                [submitted[other.folder] for other in needs],
                key=run.key,
                pure=False,
                retries=retries,
            )
            runs[submitted[run.folder]] = run, needs
        for future in as_completed(runs):
            run, needs = runs[future]
            try:
                outcome = future.result()
            except Exception as error:  # a worker itself was lost, more often than Dask allows
                lost = [other for other in needs if submitted[other.folder].status == "error"]
                died = f"its worker died ({type(error).__name__})"
                outcome = "failed", _blocked(lost[0].folder) if lost else died, 0.0
            yield run, *outcome


@contextlib.contextmanager
def _cluster(workers: int, scheduler: str) -> Iterator[Any]:
    """A Dask cluster, or the address of a running scheduler."""
    if "://" in scheduler:
        yield scheduler
        return
    if scheduler == "local":
        import dask
        from distributed import LocalCluster

        dask.config.set(_DASK)
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        )
    else:
        cluster = _jobqueue(scheduler)
        cluster.scale(workers)
    try:
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError):  # on a busy machine workers are killed instead of leaving by themselves
            cluster.close(timeout=5)


def _jobqueue(name: str) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise BioplausError(
            f"SCHEDULER={name} needs dask-jobqueue; install it with `pip install 'bioplaus[cluster]'`."
        ) from None
    known = {kind.removesuffix("Cluster").lower(): kind for kind in dir(dask_jobqueue) if kind.endswith("Cluster")}
    if name not in known:
        raise unknown("scheduler", name, ["local", "tcp://host:port", *known])
    return getattr(dask_jobqueue, known[name])()


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM stops a sweep the way Ctrl-C does (only possible in the main thread)."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _seconds_here(run: Run) -> Iterator[float]:
    """Training and evaluation seconds of complete runs of the same entry, at the same preset."""
    for path in sorted(run.experiment_folder.glob("*/run.json")):
        about = _files.read_json(path) or {}
        if about.get("entry") == run.entry and about.get("sha256"):
            wall = {name: values for name, values in about.get("seconds", {}).items() if not name.endswith("_cpu")}
            yield sum(sum(values) for values in wall.values())


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
