"""Runs on Dask: worker processes of this machine, jobs of a queueing system, or a scheduler that
runs already.

A dead worker or a lost node costs at most the time since the last checkpoint: the run is given to
another worker and goes on from there. Clusters that are started here are encrypted and take orders
from this process alone, by a certificate of their own; their pages are not shown to anybody.
"""

import contextlib
import logging
import os
import shlex
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bioplaus import paths, results
from bioplaus.errors import BioplausError, describe, unknown
from bioplaus.experiments import execution, jupyter, signals
from bioplaus.experiments.execution import Outcome, Settings
from bioplaus.experiments.run import Run

_CONNECT_SECONDS = 10
_CLOSE_SECONDS = 3  # workers that do not leave by then are killed
_QUIET = {f"distributed.{server}.http.routes": [] for server in ("scheduler", "worker", "nanny")}
_NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
# runs last minutes: looking every 10 ms and 20 ms, as Dask does, would cost a fifteenth of a core
_LOCAL = {
    **_QUIET,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
_JOBQUEUE = {
    **_QUIET,
    # jobs end at their walltime; a run goes on from its checkpoint
    "distributed.scheduler.allowed-failures": 100,
    # so that a job is asked for each run, not for every tenth
    "distributed.scheduler.unknown-task-duration": "1h",
}
_deaths: dict[str, int] = {}  # exit codes of local worker processes that died, by address


def check(scheduler: str, workers: int) -> None:
    """Raise `BioplausError` unless runs can be given to this scheduler, as far as can be known
    before it is asked.
    """
    with _one_sentence(scheduler):
        if "://" in scheduler:
            _check_address(scheduler)
            return
        _security()
        if scheduler != "local":
            _check_queue(scheduler, workers)


def execute(
    todo: Sequence[tuple[Run, Sequence[Run]]],
    settings: Settings,
    *,
    workers: int,
    scheduler: str,
    retries: int,
    report: Callable[[str], None] = print,
) -> Iterator[tuple[Run, Outcome]]:
    """Execute runs on Dask, and give each with its outcome when it has ended.

    Parameters
    ----------
    todo : each run with those that it needs and that stand before it.
    settings : how each is executed; its `sweep` must be unique, as two sweeps may share a
        scheduler, where equal keys would be one task.
    workers, scheduler, retries : as of `sweep.execute`.
    report : receives what a run waits for.
    """
    if not todo:
        return
    is_cpu = all(run.inputs.get("device", "cpu") == "cpu" for run, _ in todo)
    is_warm = settings.kernel is not None and scheduler == "local" and is_cpu
    with (
        jupyter.warm_kernels(len(todo) if is_warm else 0),
        _client(scheduler, workers, len(todo)) as client,
    ):
        from distributed import as_completed

        client.subscribe_topic(settings.sweep, lambda event: report(event[1]))
        submitted: dict[Path, Any] = {}
        runs: dict[Any, tuple[Run, Sequence[Run]]] = {}
        for run, needs in todo:
            folder = run.folder.resolve()
            submitted[run.folder] = client.submit(
                _execute_on_worker,
                run,
                str(folder),
                settings,
                [submitted[other.folder] for other in needs],
                key=f"{folder}-{settings.sweep}",
                pure=False,
                retries=retries,
            )
            runs[submitted[run.folder]] = run, needs
        is_over = False
        try:
            for future in as_completed(runs):
                run, needs = runs[future]
                lost = [other for other in needs if submitted[other.folder].status == "error"]
                yield run, _outcome(future, run, lost)
            is_over = True
        finally:
            if not is_over and scheduler != "local":  # its workers outlive this process
                client.cancel(list(runs), force=True)
                client.run(execution.stop, settings.sweep, on_error="ignore")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _execute_on_worker(run: Run, folder: str, settings: Settings, needed: Sequence[Any]) -> Outcome:
    """`execution.execute`; what a run waits for is told to the process that submitted it."""
    from distributed import get_worker

    worker = get_worker()
    return execution.execute(
        run, folder, settings, needed, lambda text: worker.log_event(settings.sweep, text)
    )


def _outcome(future: Any, run: Run, lost: Sequence[Run]) -> Outcome:
    """What came of a submitted run; `lost` are those it needs whose workers died."""
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        outcome = future.result()
    except Exception as error:
        if lost:
            message = execution.why_blocked(lost[0].folder)
        elif isinstance(error, KilledWorker):
            message = _death(error.last_worker.address, error.allowed_failures + 1)
        elif isinstance(error, CommClosedError | FutureCancelledError | TimeoutError):
            message = (
                f"the Dask scheduler was lost ({type(error).__name__}); run the command again, it"
                " goes on from the last checkpoint"
            )
        else:  # it says what it is
            message = describe(error)
        return Outcome("failed", message, 0.0)
    if outcome.status == "failed" or results.inspect(run.folder).is_complete:
        return outcome
    message = (
        f"its worker says {outcome.status}, but {run.folder} has no whole result; do both see one"
        " disk?"
    )
    return Outcome("failed", message, outcome.seconds)


def _death(address: str, n_times: int) -> str:
    """Why workers died that executed a run, and what to do."""
    # the scheduler may lose a worker before its process is known to be dead: then the one before
    code = _deaths.get(address) or next(reversed(_deaths.values()), 0)
    try:
        name = f", killed by {signal.Signals(-code).name}"
    except ValueError:
        name = ""
    return (
        f"its worker died {n_times} times{name}; as a rule memory ran out: use a smaller batch_size"
        " or fewer WORKERS, and run the command again, it goes on from the last checkpoint"
    )


@contextlib.contextmanager
def _client(scheduler: str, workers: int, n_runs: int) -> Iterator[Any]:
    """A client of a Dask cluster for so many runs, or of a running scheduler."""
    with contextlib.ExitStack() as stack:
        with _one_sentence(scheduler):
            from distributed import Client

            if "://" in scheduler:
                client = Client(scheduler, timeout=_CONNECT_SECONDS)
            else:
                client = Client(stack.enter_context(_cluster(workers, n_runs, scheduler)))
        stack.enter_context(client)
        yield client


@contextlib.contextmanager
def _one_sentence(scheduler: str) -> Iterator[None]:
    """Whatever Dask raises while it starts, as from a configuration file, is one sentence."""
    try:
        yield
    except BioplausError:
        raise
    except (TimeoutError, OSError) as error:
        if "://" not in scheduler:
            raise BioplausError(f"SCHEDULER={scheduler} cannot start: {describe(error)}") from error
        raise BioplausError(
            f"No Dask scheduler answers at {scheduler}; start one with `dask scheduler`, and give"
            " the address that it prints."
        ) from error
    except Exception as error:
        sentence = " ".join(str(error).split())[:300].rstrip(". ")
        raise BioplausError(
            f"SCHEDULER={scheduler} cannot start: {sentence or type(error).__name__}."
        ) from error


@contextlib.contextmanager
def _cluster(workers: int, n_runs: int, scheduler: str) -> Iterator[Any]:
    """A Dask cluster for so many runs."""
    import dask

    is_local = scheduler == "local"
    with dask.config.set(_LOCAL if is_local else _JOBQUEUE):
        if is_local:
            cluster = _local_cluster(min(workers or cores(), n_runs))
        else:
            cluster = _queue_cluster(scheduler, workers, n_runs)
        try:
            yield cluster
        finally:
            # on a busy machine workers are killed instead of leaving
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=_CLOSE_SECONDS)


def _local_cluster(workers: int) -> Any:
    from distributed import LocalCluster, Nanny

    class Keeper(Nanny):
        """Notes how its worker ended."""

        def _on_worker_exit_sync(self, exitcode: int) -> None:
            _deaths[self.worker_address or ""] = exitcode
            super()._on_worker_exit_sync(exitcode)

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        worker_class=Keeper,
        protocol="tls://",
        security=_security(),
        scheduler_kwargs=_NO_DASHBOARD,
        host="127.0.0.1",
        memory_limit=None,
        silence_logs=logging.CRITICAL,
    )


def _security() -> Any:
    """A certificate for one cluster: whoever does not have it can neither read nor give orders."""
    try:
        import cryptography  # noqa: F401  (what distributed makes it with)
    except ImportError:
        raise BioplausError(
            "Encrypted workers need the package cryptography; install it with `pip install -e"
            " '.[lab]'`, or run without workers (--inline)."
        ) from None
    from distributed import Security

    return Security.temporary()


def _queue_cluster(name: str, workers: int, n_runs: int) -> Any:
    """A cluster of jobs as configured for dask-jobqueue, each of one worker with one thread, for
    one run at a time.

    A job of several worker processes is not replaced when it ends: distributed looks for workers
    called as the job is. The certificate reaches jobs through files, that only their owner can
    read, in the folder of results or where dask-jobqueue is configured to put them.
    """
    import dask

    kind = _jobqueue_class(name)
    section = f"jobqueue.{kind.job_cls.default_config_name()}"

    def configured(key: str, default: Any) -> Any:
        return dask.config.get(f"{section}.{key}", None) or default

    root = paths.root()
    root.mkdir(parents=True, exist_ok=True)
    cluster = kind(
        processes=1,
        # the last --nthreads counts
        worker_extra_args=[*configured("worker-extra-args", []), "--nthreads", "1"],
        security=_security(),
        shared_temp_directory=configured("shared-temp-directory", str(root.resolve())),
        scheduler_options={**_NO_DASHBOARD, **configured("scheduler-options", {})},
    )
    cluster.adapt(minimum=0, maximum=min(workers, n_runs))
    return cluster


def _check_queue(name: str, workers: int) -> None:
    """Raise unless a queueing system of this name is here and told how many jobs to run."""
    kind = _jobqueue_class(name)
    if not workers:
        raise BioplausError(
            f"SCHEDULER={name} needs WORKERS (--workers), the number of jobs and so of runs at"
            " once; 0, one per core, is known of this machine only."
        )
    command = shlex.split(getattr(kind.job_cls, "submit_command", None) or "")
    if command and shutil.which(command[0]) is None:
        raise BioplausError(
            f"SCHEDULER={name} gives jobs to the command {command[0]}, which is not here; run this"
            " on a machine that submits jobs, or with SCHEDULER=local."
        )


def _check_address(address: str) -> None:
    """Raise unless something that talks like a Dask scheduler answers at an address; distributed
    itself waits for ever for the first word of a server of something else.
    """
    from distributed.comm.addressing import parse_host_port

    scheme, _, rest = address.partition("://")
    try:
        host, port = parse_host_port(rest)
    except ValueError:
        port = None
    if scheme not in ("tcp", "tls") or not port or not host:
        raise BioplausError(
            f"SCHEDULER={address} is no address of a Dask scheduler; it looks like tcp://host:8786"
            " or tls://host:8786."
        )
    with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
        if scheme == "tcp" and not connection.recv(1):  # a scheduler speaks first
            raise ConnectionError("the connection was closed")


def _jobqueue_class(name: str) -> Any:
    try:
        with signals.handlers_kept():  # it would exit on Ctrl-C at once, with code 0
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
