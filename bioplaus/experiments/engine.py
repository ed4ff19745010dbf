"""Run a manifest: validate everything, skip what is done, execute the rest on Dask or in this
process.

A run is idempotent: its folder is its identity, a lock keeps two executions apart, its checkpoint
lets it go on after any kill, and its `run.json` alone says that it is complete. So a dead worker, a
killed driver or a lost node costs at most the time since the last checkpoint, and the same command
again does what is left.
"""

import contextlib
import json
import logging
import os
import re
import signal
import tempfile
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from filelock import FileLock, Timeout

from bioplaus import _files, _sources, paths, results
from bioplaus.errors import BioplausError, RunError, is_library, told, unknown, where
from bioplaus.experiments import simulation
from bioplaus.experiments.manifest import Run

KERNEL_SECONDS = 6.0  # to start a kernel and import torch, for the forecast
# runs last minutes: looking every 10 ms and 20 ms, as Dask does, would cost a fifteenth of a core
_DASK = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
_JOBQUEUE = {
    # jobs end at their walltime; a run goes on from its checkpoint
    "distributed.scheduler.allowed-failures": 100,
    # so that a job is asked for each run, not for every tenth
    "distributed.scheduler.unknown-task-duration": "1h",
}
_FOLDERS = ("BIOPLAUS_DATA", "BIOPLAUS_HOME", "BIOPLAUS_RESULTS")
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
# in a traceback as IPython writes it
_FRAME = re.compile(r"^File (\S+\.py):(\d+), in ([\w.<>]+)", re.MULTILINE)
# runs of one process: each sets environment and standard output of all its threads
_one_at_once = threading.Lock()


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
    """Raise `BioplausError` if any run cannot work, or nothing could be written, before anything is
    started.

    Parameters
    ----------
    kernel : name of the Jupyter kernel that will be used; None where none is.
    """
    alike: dict[str, Run] = {}
    for run in runs:
        alike.setdefault(_without_seed(run), run)
    for run in alike.values():
        run.check()
    if kernel is not None:
        from bioplaus.experiments import notebooks as kernels

        kernels.check(kernel)
    for folder in {run.experiment_folder for run in runs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise BioplausError(
                f"Results cannot be written to {folder}: {error.strerror}."
            ) from error


class Finished(NamedTuple):
    """The `run.json` of complete runs by key: of those with their files in their folder, and of the
    collected ones.
    """

    here: dict[str, dict[str, Any]]
    collected: dict[str, dict[str, Any]]


def finished(runs: Sequence[Run]) -> Finished:
    """Read which of these runs are complete; the functions below read it themselves where it is not
    given.
    """
    held = {folder: results.collected(folder) for folder in {run.experiment_folder for run in runs}}
    folders = {run.key: run.folder for run in runs}
    here = {
        key: results.read_run(folder)
        for key, folder in folders.items()
        if results.is_complete(folder)
    }
    collected = (
        {run.key: held[run.experiment_folder].get(run.id) for run in runs}
        if any(held.values())
        else {}
    )
    return Finished(here, {key: about for key, about in collected.items() if about})


def pending(runs: Sequence[Run], again: bool = False, known: Finished | None = None) -> list[Run]:
    """The runs that are neither complete in their folder nor in their experiment's collected file.

    A run that others of these need must be there with its files: being collected is not enough for
    it. A run that two entries share, as their parameters are the same, is named once.

    Parameters
    ----------
    again : also those that are complete, but were made with other code of their rule (`outdated`).
    """
    known = known or finished(runs)
    folders = [run.folder for run in runs]
    missing = {
        folder: run for folder, run in zip(folders, runs, strict=True) if run.key not in known.here
    }
    todo = [run for run in missing.values() if run.key not in known.collected]
    todo += outdated(runs, known) if again else []
    wanted = {run.folder for run in todo}
    while todo:
        needed = [
            folder
            for run in todo
            for folder in run.needed_folders
            if folder in missing and folder not in wanted
        ]
        wanted |= set(needed)
        todo = [missing[folder] for folder in needed]
    first: dict[Path, Run] = {}
    for folder, run in zip(folders, runs, strict=True):
        if folder in wanted:
            first.setdefault(folder, run)
    return [*first.values()]


def outdated(runs: Sequence[Run], known: Finished | None = None) -> list[Run]:
    """The complete runs that were made with other code of their rule than there is now
    (`_sources.code`), one a folder.

    A result that does not say which code it was made with, as those of earlier versions, is not
    among them (`unsaid`).
    """
    return _of_finished(runs, known, _is_outdated)


def unsaid(runs: Sequence[Run], known: Finished | None = None) -> list[Run]:
    """The complete runs of rules that do not say which code made them, one a folder; nothing makes
    them again.
    """
    return _of_finished(
        runs, known, lambda run, about: "code" not in about and _code(run) is not None
    )


def forecast(runs: Sequence[Run], workers: int) -> float | None:
    """Expected wall seconds of these runs on `workers` processes: what like runs took here, else
    the manifest's figure.

    What a run of another number of epochs took is taken in proportion. None where neither is known
    for some run.
    """
    here = {folder: _like_runs(folder) for folder in {run.experiment_folder for run in runs}}
    each = [_seconds(run, here[run.experiment_folder].get(run.entry)) for run in runs]
    known = [seconds + KERNEL_SECONDS for seconds in each if seconds is not None]
    if len(known) < len(each):
        return None
    return max(sum(known) / max(1, workers), max(known, default=0.0))


def execute(
    runs: Sequence[Run],
    *,
    workers: int = 0,
    scheduler: str = "local",
    inline: bool = False,
    kernel: str = "python3",
    retries: int = 1,
    again: bool = False,
    todo: Sequence[Run] | None = None,
    report: Callable[[str], None] = print,
) -> Summary:
    """Execute the runs that are not done yet; a failure is recorded and never stops the others.

    Parameters
    ----------
    workers : processes at once, one compute thread each; 0 means one per core of this machine.
    scheduler : "local"; the name of a dask-jobqueue system ("slurm", "pbs", "lsf", "sge", ...),
        configured as dask-jobqueue documents, where each job executes one run at a time (configure
        it with one core) and is replaced when it ends while there are runs left; or the address of
        a running Dask scheduler ("tcp://host:8786"), whose worker processes execute one run at a
        time (start them with `--nthreads 1`).
    inline : run one after the other in this process, without papermill, kernels and Dask.
    kernel : Jupyter kernel that executes the notebooks.
    retries : how often a run is tried again whose kernel or worker died; code that raised would
        raise again.
    again : also run again what is complete, but was made with other code of its rule (`outdated`).
    todo : those of `runs` that are to do, from `pending`, after `check`; None: both are asked here.
    report : receives one line for every event.

    Raises
    ------
    BioplausError
        From `check`, and for an unknown scheduler or a queue without `workers`, before anything has
        started.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after the workers have been stopped; checkpoints stay.
    """
    if todo is None:
        check(runs, None if inline else kernel)
        todo = pending(runs, again)
    left = {run.id for run in todo}
    summary = Summary(skipped=[*dict.fromkeys(run.id for run in runs if run.id not in left)])
    outcomes = (
        _inline(todo, again)
        if inline
        else _on_dask(todo, workers, scheduler, kernel, retries, again)
    )
    with contextlib.closing(outcomes), _sigterm_interrupts():
        for number, (run, status, message, seconds) in enumerate(outcomes, start=1):
            summary.add(run.id, status, message)
            detail = f": {message}" if message else ""
            report(
                f"[{number}/{len(todo)}] {status:8} {run.experiment}/{run.entry} seed {run.seed}, "
                f"{seconds:.0f} s ({run.id}){detail}"
            )
    return summary


def status(runs: Sequence[Run], known: Finished | None = None) -> list[dict[str, Any]]:
    """One row a run: experiment, entry, seed, id, status, how far, and the error of a failed one or
    its last cell.

    Status is one of: done, diverged, running (a live process holds its lock), interrupted (killed;
    the same command goes on from its checkpoint), failed, missing.
    """
    known = known or finished(runs)
    return [_status(run, known) for run in runs]


def environment() -> dict[str, str]:
    """The environment of processes that execute notebooks: one compute thread, and this process's
    folders, resolved.

    Kernels start in the run's folder: a relative path would be another one there.
    """
    given = {name: os.environ[name] for name in _FOLDERS if os.environ.get(name)}
    return _ONE_THREAD | {
        name: str(Path(path).expanduser().resolve()) for name, path in given.items()
    }


def _without_seed(run: Run) -> str:
    """What decides whether a run can work: notebook and parameters, but for the seed and the ids of
    needed runs.
    """
    parameters = json.dumps([run.simulation, {**run.parameters, "seed": 0}], sort_keys=True)
    for run_id in run.needs.values():
        parameters = parameters.replace(run_id, "")
    return parameters


def _of_finished(
    runs: Sequence[Run], known: Finished | None, is_wanted: Callable[[Run, Mapping[str, Any]], bool]
) -> list[Run]:
    """The complete runs whose `run.json` is wanted, one a folder."""
    known = known or finished(runs)
    made = known.collected | known.here
    found: dict[Path, Run] = {}
    for run in runs:
        if run.key in made and is_wanted(run, made[run.key]):
            found.setdefault(run.folder, run)
    return [*found.values()]


def _is_outdated(run: Run, about: Mapping[str, Any]) -> bool:
    made = about.get("code")
    return made is not None and _code(run) not in (made, None)


def _code(run: Run) -> str | None:
    return _sources.code(run.rule) if run.rule else None


def _status(run: Run, known: Finished) -> dict[str, Any]:
    folder, key = run.folder, run.key
    about, how_far = known.here.get(key) or known.collected.get(key) or {}, ""
    if about:
        state, how_far = about["status"], _how_far(folder) if key in known.here else ""
    elif not folder.is_dir():
        state = "missing"
    else:
        about = results.read_run(folder)
        ended = {"failed": "failed", "running": "interrupted"}.get(
            str(about.get("status")), "missing"
        )
        state, how_far = "running" if _is_locked(folder) else ended, _how_far(folder)
    return {
        "experiment": f"{run.paper}/{run.experiment}",
        "entry": run.entry,
        "seed": run.seed,
        "id": run.id,
        "status": state,
        "progress": how_far,
        "error": about.get("error", "") if state in ("failed", "done", "diverged") else "",
    }


def _how_far(folder: Path) -> str:
    match _files.read_json(folder / "progress.json"):
        case {"epochs_done": done, "n_epochs": n_epochs}:
            return f"{done}/{n_epochs} epochs"
    return ""


def run_one(
    run: Run,
    folder: str,
    kernel: str | None,
    retries: int,
    environment: dict[str, str],
    needed: Sequence[Any] = (),
    again: bool = False,
) -> tuple[str, str, float]:
    """Execute one run in this process (kernel None) or in a kernel, and return (status, message,
    wall seconds).

    Runs on a Dask worker, so everything it needs comes with its arguments and next to nothing goes
    back. `needed` makes Dask wait for other runs; what came of them is read from their folders, and
    nothing starts if one is not done. Whatever goes wrong with a run is its own failure: nothing
    but an interrupt is raised.
    """
    with _one_at_once:
        started = time.monotonic()
        place = Path(folder)
        try:
            os.environ.update(environment)
            blocked = next(
                filter(None, (_blocked(place.parent / run_id) for run_id in run.needs.values())), ""
            )
            status, message = (
                ("failed", blocked) if blocked else _locked(run, place, kernel, retries, again)
            )
        except Exception as error:
            status, message = "failed", told(error)
        return status, message, time.monotonic() - started


def _locked(
    run: Run, place: Path, kernel: str | None, retries: int, again: bool
) -> tuple[str, str]:
    """Execute a run while holding its lock."""
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):  # a second execution waits here, then finds the run complete
        if results.is_complete(place) and not (
            again and _is_outdated(run, results.read_run(place))
        ):
            return "skipped", ""
        _files.sweep(place)
        for attempt in range(1, retries + 2):
            results.begin(place, {**_identity(run), "attempt": attempt})
            message, trace = _attempt(run, place, kernel)
            if results.is_complete(place) or "kernel died" not in message:
                break
        if not results.is_complete(place):
            message = message or f"{run.simulation}.ipynb ended without saving a result"
            return "failed", _fail(place, message, trace)
        about = results.read_run(place)
        notes = [f"its result is whole, but a later cell failed: {message}"] if message else []
        notes += _divergence(place) if about["status"] == "diverged" else []
        if notes:
            _files.write_json(place / "run.json", {**about, "error": "; ".join(notes)})
    return about["status"], "; ".join([*_anew(place), *notes])


def _attempt(run: Run, place: Path, kernel: str | None) -> tuple[str, str]:
    """Execute a run once; the sentence and the traceback of what it raised, or nothing."""
    try:
        _start(run, place, kernel)
    except (Exception, SystemExit) as error:  # one failure never stops the sweep
        trace = getattr(error, "traceback", "")  # of a kernel
        return told(error) + _pointer(error, trace, run, place), trace or tracebacks.format_exc()
    return "", ""


def _pointer(error: BaseException, trace: str, run: Run, place: Path) -> str:
    """Where a run raised, and where its traceback is; empty for errors that say all there is to
    say.
    """
    if isinstance(error, BioplausError) and (
        not isinstance(error, RunError) or trace in ("", str(error))
    ):
        return ""
    parts = [_where_in(trace) if trace else where(error)]
    if (place / "run.log").is_file():
        log = Path(paths.root().name, run.preset, run.paper, run.experiment, place.name, "run.log")
        parts.append(f"traceback in {log}")
    return f" ({'; '.join(filter(None, parts))})"


def _where_in(trace: str) -> str:
    """What `errors.where` says, of a traceback that a kernel wrote: the last frame outside
    libraries.
    """
    for path, line, function in reversed(_FRAME.findall(trace)):
        if not is_library(os.path.expanduser(path)):
            return f"{Path(path).name}, line {line}, in {function.rpartition('.')[2]}"
    return ""


def _divergence(place: Path) -> list[str]:
    """Where the numbers of a diverged run stopped being finite, epoch and batch counted from 1."""
    match results.load(place / "result.pkl").get("divergence"):
        case {"epoch": epoch, "batch": batch, "tensor": tensor}:
            return [f"{tensor} not finite in epoch {epoch + 1}, batch {batch + 1}"]
    return []


def _anew(place: Path) -> list[str]:
    """Why training began again although there was a checkpoint, if it did."""
    match _files.read_json(place / "progress.json"):
        case {"passed_over": str(reason)} if reason:
            return [f"started anew: {reason}"]
    return []


def _blocked(folder: Path) -> str:
    """Why a run that needs the one in `folder` cannot start; empty if it can."""
    about = results.read_run(folder)
    state = about.get("status", "is missing")
    if state == "done" and results.is_complete(folder):
        return ""
    who = f"{about['entry']} ({folder.name})" if "entry" in about else folder.name
    return (
        f"not started: needs {who}, which"
        f" {'did not end' if state in ('running', 'done') else state}"
    )


def _start(run: Run, place: Path, kernel: str | None) -> None:
    chosen = simulation.load(run.simulation)
    parameters = {**run.inputs, "folder": str(place)}
    if kernel is None:
        from bioplaus import rules  # here, so that the command line need not wait for torch

        if run.rule:
            rules.check_unedited(run.rule)
        with open(place / "run.log", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            try:
                chosen.run(parameters)
            except (Exception, SystemExit):
                tracebacks.print_exc(file=log)
                raise
        return
    from bioplaus.experiments import notebooks as kernels

    kernels.execute(
        chosen.path, place / "run.ipynb", parameters, kernel=kernel, log=place / "run.log"
    )


def _fail(place: Path, message: str, trace: str) -> str:
    """Note in `run.json` that a run failed, and return what to say of it."""
    about = {name: value for name, value in results.read_run(place).items() if name != "sha256"}
    try:
        _files.write_json(
            place / "run.json", {**about, "status": "failed", "error": message, "traceback": trace}
        )
    except BioplausError as error:  # a full disk, say; the first failure is the one to know of
        return f"{message} (and it could not be noted: {error})"
    return message


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
        **({"rule": run.rule} if run.rule else {}),
        **({"code": code} if (code := _code(run)) else {}),
    }


Outcomes = Iterator[tuple[Run, str, str, float]]


def _in_order(todo: Sequence[Run]) -> list[tuple[Run, list[Run]]]:
    """Each run with those of `todo` that it needs, after all of these; else in the order given."""
    by_folder = {run.folder: run for run in todo}
    needs = {
        run.folder: [by_folder[folder] for folder in run.needed_folders if folder in by_folder]
        for run in todo
    }
    placed: dict[str, tuple[Run, list[Run]]] = {}

    def place(run: Run) -> None:
        for needed in needs[run.folder]:
            place(needed)
        placed.setdefault(run.key, (run, needs[run.folder]))

    for run in todo:
        place(run)
    return list(placed.values())


def _inline(todo: Sequence[Run], again: bool) -> Outcomes:
    for run, _ in _in_order(todo):
        yield run, *run_one(run, str(run.folder), None, 0, {}, again=again)


def _on_dask(
    todo: Sequence[Run],
    workers: int,
    scheduler: str,
    kernel: str | None,
    retries: int,
    again: bool = False,
) -> Outcomes:
    if not todo:
        return
    from distributed import Client, as_completed
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    sweep = uuid4().hex  # two sweeps may share a scheduler: equal keys would be one task
    with _cluster(workers, len(todo), scheduler) as cluster, Client(cluster) as client:
        submitted: dict[Path, Any] = {}
        runs: dict[Any, tuple[Run, list[Run]]] = {}
        for run, needs in _in_order(todo):
            submitted[run.folder] = client.submit(
                run_one,
                run,
                str(run.folder.resolve()),
                kernel,
                retries,
                environment(),
                [submitted[other.folder] for other in needs],
                again,
                key=f"{run.folder.resolve()}-{sweep}",
                pure=False,
                retries=retries,
            )
            runs[submitted[run.folder]] = run, needs
        for future in as_completed(runs):
            run, needs = runs[future]
            try:
                outcome = future.result()
            except Exception as error:
                lost = [other for other in needs if submitted[other.folder].status == "error"]
                # a worker was lost more often than Dask allows, or the scheduler was; anything else
                # says what it is
                is_lost = isinstance(
                    error, KilledWorker | CommClosedError | FutureCancelledError | TimeoutError
                )
                message = f"its worker died ({type(error).__name__})" if is_lost else told(error)
                outcome = "failed", _blocked(lost[0].folder) if lost else message, 0.0
            if outcome[0] != "failed" and not results.is_complete(run.folder):
                message = (
                    f"its worker says {outcome[0]}, but {run.folder} has no whole result; do both"
                    " see one disk?"
                )
                outcome = "failed", message, outcome[2]
            yield run, *outcome


@contextlib.contextmanager
def _cluster(workers: int, n_runs: int, scheduler: str) -> Iterator[Any]:
    """A Dask cluster for so many runs, or the address of a running scheduler."""
    if "://" in scheduler:
        yield scheduler
        return
    import dask

    with dask.config.set(_DASK if scheduler == "local" else _JOBQUEUE):
        cluster = (
            _local(min(workers or cores(), n_runs))
            if scheduler == "local"
            else _queue(scheduler, workers, n_runs)
        )
        try:
            yield cluster
        finally:
            with contextlib.suppress(
                TimeoutError
            ):  # on a busy machine workers are killed instead of leaving
                cluster.close(timeout=5)


def _local(workers: int) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
        memory_limit=None,
        silence_logs=logging.CRITICAL,
    )


def _jobqueue(name: str) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise BioplausError(
            f"SCHEDULER={name} needs dask-jobqueue; install it with `pip install -e '.[cluster]'`."
        ) from None
    known = {
        kind.removesuffix("Cluster").lower(): kind
        for kind in dir(dask_jobqueue)
        if kind.endswith("Cluster")
    }
    if name not in known:
        raise unknown("scheduler", name, ["local", "tcp://host:port", *known])
    return getattr(dask_jobqueue, known[name])


def _queue(name: str, workers: int, n_runs: int) -> Any:
    """A cluster of jobs as configured for dask-jobqueue, each of one worker with one thread, for
    one run at a time.

    A job of several worker processes is not replaced when it ends: distributed looks for workers
    called as the job is.
    """
    import dask

    kind = _jobqueue(name)
    if not workers:
        raise BioplausError(
            f"SCHEDULER={name} needs WORKERS (--workers), the number of jobs and so of runs at"
            " once; 0, one per core, is known of this machine only."
        )
    configured = (
        dask.config.get(f"jobqueue.{kind.job_cls.default_config_name()}.worker-extra-args", None)
        or []
    )
    try:
        # the last --nthreads counts
        cluster = kind(processes=1, worker_extra_args=[*configured, "--nthreads", "1"])
    except ValueError as error:  # no cores or memory, for instance
        raise BioplausError(
            f"SCHEDULER={name}: {str(error).splitlines()[0]} See jobqueue.dask.org."
        ) from None
    cluster.adapt(minimum=0, maximum=min(workers, n_runs))
    return cluster


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


def _seconds(run: Run, like: tuple[float, Any] | None) -> float | None:
    """Expected seconds of a run: those of a like one, in proportion to the epochs, else the
    manifest's figure.
    """
    if like is None:
        return run.seconds
    seconds, n_epochs = like
    wanted = run.parameters.get("n_epochs")
    return seconds * wanted / n_epochs if wanted and n_epochs else seconds


def _like_runs(experiment: Path) -> dict[str, tuple[float, Any]]:
    """The first complete run in an experiment's folder, by entry: seconds of training and
    evaluation, and n_epochs.
    """
    found: dict[str, tuple[float, Any]] = {}
    for path in sorted(experiment.glob("*/run.json")):
        about = results.read_run(path.parent)
        if about.get("sha256") and about.get("entry") not in found:
            wall = (
                values
                for name, values in about.get("seconds", {}).items()
                if not name.endswith("_cpu")
            )
            if seconds := sum(map(sum, wall)):
                found[about["entry"]] = seconds, about.get("parameters", {}).get("n_epochs")
    return found


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
