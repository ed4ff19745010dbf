"""Runs on Dask: worker processes of this machine, jobs of a queueing system, or a scheduler that
runs already.

A dead worker or a lost node costs at most the time since the last checkpoint: the run is given to
another worker and goes on from there.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from bioplaus import results
from bioplaus.errors import BioplausError, describe, unknown
from bioplaus.experiments import execution, jupyter
from bioplaus.experiments.execution import Outcome
from bioplaus.experiments.run import Run

# runs last minutes: looking every 10 ms and 20 ms, as Dask does, would cost a fifteenth of a core
_LOCAL = {
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


def execute(
    todo: Sequence[tuple[Run, Sequence[Run]]],
    *,
    workers: int,
    scheduler: str,
    kernel: str | None,
    retries: int,
    again: bool = False,
) -> Iterator[tuple[Run, Outcome]]:
    """Execute runs on Dask, and give each with its outcome when it has ended.

    Parameters
    ----------
    todo : each run with those that it needs and that stand before it.
    workers, scheduler, kernel, retries, again : as of `sweep.execute`.
    """
    if not todo:
        return
    from distributed import Client, as_completed

    sweep = uuid4().hex  # two sweeps may share a scheduler: equal keys would be one task
    environment = jupyter.environment()
    is_cpu = all(run.inputs.get("device", "cpu") == "cpu" for run, _ in todo)
    is_warm = kernel is not None and scheduler == "local" and is_cpu
    with (
        jupyter.warm_kernels(len(todo) if is_warm else 0),
        _cluster(workers, len(todo), scheduler) as cluster,
        Client(cluster) as client,
    ):
        submitted: dict[Path, Any] = {}
        runs: dict[Any, tuple[Run, Sequence[Run]]] = {}
        for run, needs in todo:
            folder = run.folder.resolve()
            submitted[run.folder] = client.submit(
                execution.execute,
                run,
                str(folder),
                kernel,
                retries,
                environment,
                [submitted[other.folder] for other in needs],
                again,
                key=f"{folder}-{sweep}",
                pure=False,
                retries=retries,
            )
            runs[submitted[run.folder]] = run, needs
        for future in as_completed(runs):
            run, needs = runs[future]
            lost = [other for other in needs if submitted[other.folder].status == "error"]
            yield run, _outcome(future, run, lost)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcome(future: Any, run: Run, lost: Sequence[Run]) -> Outcome:
    """What came of a submitted run; `lost` are those it needs whose workers died."""
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        outcome = future.result()
    except (KilledWorker, CommClosedError, FutureCancelledError, TimeoutError) as error:
        # a worker was lost more often than Dask allows, or the scheduler was
        message = f"its worker died ({type(error).__name__})"
        return Outcome("failed", execution.why_blocked(lost[0].folder) if lost else message, 0.0)
    except Exception as error:  # it says what it is
        message = execution.why_blocked(lost[0].folder) if lost else describe(error)
        return Outcome("failed", message, 0.0)
    if outcome.status == "failed" or results.is_complete(run.folder):
        return outcome
    message = (
        f"its worker says {outcome.status}, but {run.folder} has no whole result; do both see one"
        " disk?"
    )
    return Outcome("failed", message, outcome.seconds)


@contextlib.contextmanager
def _cluster(workers: int, n_runs: int, scheduler: str) -> Iterator[Any]:
    """A Dask cluster for so many runs, or the address of a running scheduler."""
    if "://" in scheduler:
        yield scheduler
        return
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
                cluster.close(timeout=5)


def _local_cluster(workers: int) -> Any:
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


def _queue_cluster(name: str, workers: int, n_runs: int) -> Any:
    """A cluster of jobs as configured for dask-jobqueue, each of one worker with one thread, for
    one run at a time.

    A job of several worker processes is not replaced when it ends: distributed looks for workers
    called as the job is.
    """
    import dask

    kind = _jobqueue_class(name)
    if not workers:
        raise BioplausError(
            f"SCHEDULER={name} needs WORKERS (--workers), the number of jobs and so of runs at"
            " once; 0, one per core, is known of this machine only."
        )
    section = f"jobqueue.{kind.job_cls.default_config_name()}"
    configured = dask.config.get(f"{section}.worker-extra-args", None) or []
    try:
        # the last --nthreads counts
        cluster = kind(processes=1, worker_extra_args=[*configured, "--nthreads", "1"])
    except ValueError as error:  # no cores or memory, for instance
        raise BioplausError(
            f"SCHEDULER={name}: {str(error).splitlines()[0]} See jobqueue.dask.org."
        ) from None
    cluster.adapt(minimum=0, maximum=min(workers, n_runs))
    return cluster


def _jobqueue_class(name: str) -> Any:
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
