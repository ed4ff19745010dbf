"""Worker processes for runs: those of this machine, each with a GPU of its own where there are
several, and jobs of a queueing system.
"""

import contextlib
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from bioplaus import paths
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments import side_by_side, signals
from bioplaus.experiments.run import Run

_VISIBLE = "CUDA_VISIBLE_DEVICES"
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
deaths: dict[str, int] = {}  # exit codes of local worker processes that died, by address


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here, so that the command line need not wait for it

    count = torch.cuda.device_count()
    given = os.environ.get(_VISIBLE)
    names = given.split(",") if given else map(str, range(count))
    return [name.strip() for name in names][:count]


def shared_gpus(runs: Sequence[Run]) -> list[str]:
    """The GPUs of this machine that the workers of these runs share; none where the runs compute
    elsewhere, or their device says which GPU.
    """
    names = {str(run.inputs.get("device", "cpu")) for run in runs if side_by_side.is_on_gpu(run)}
    return visible_gpus() if names and names <= {"cuda", "auto"} else []


def at_once(runs: Sequence[Run], workers: int) -> int:
    """How many workers of this machine execute these runs, of the number asked for: of 0, one a GPU
    where runs compute on one, else one a core.
    """
    if workers:
        return workers
    is_gpu = any(map(side_by_side.is_on_gpu, runs))
    return max(1, len(shared_gpus(runs))) if is_gpu else cores()


@contextlib.contextmanager
def cluster(workers: int, n_tasks: int, scheduler: str, gpus: Sequence[str] = ()) -> Iterator[Any]:
    """A Dask cluster of so many workers at most, for so many tasks.

    Parameters
    ----------
    gpus : those of this machine that its workers share, as `visible_gpus` says them; each worker
        sees one.
    """
    import dask
    import distributed  # noqa: F401  (settings for a while would take later defaults with them)

    is_local = scheduler == "local"
    with dask.config.set(_LOCAL if is_local else _JOBQUEUE):
        if is_local:
            started = _local_cluster(min(workers or cores(), n_tasks), gpus)
        else:
            started = _queue_cluster(scheduler, workers, n_tasks)
        try:
            yield started
        finally:
            # on a busy machine workers are killed instead of leaving
            with contextlib.suppress(TimeoutError):
                started.close(timeout=_CLOSE_SECONDS)


def _local_cluster(workers: int, gpus: Sequence[str]) -> Any:
    from distributed import LocalCluster, Nanny

    class Keeper(Nanny):
        """Gives its worker one GPU, and notes how it ended."""

        def __init__(self, *arguments: Any, name: Any = None, env: Any = None, **options: Any):
            if gpus:
                env = {**(env or {}), _VISIBLE: gpus[int(name) % len(gpus)]}
            super().__init__(*arguments, name=name, env=env, **options)

        def _on_worker_exit_sync(self, exitcode: int) -> None:
            deaths[self.worker_address or ""] = exitcode
            super()._on_worker_exit_sync(exitcode)

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        worker_class=Keeper,
        preload=["bioplaus.experiments._preload"],
        protocol="tls://",
        security=security(),
        scheduler_kwargs=_NO_DASHBOARD,
        host="127.0.0.1",
        memory_limit=None,
        silence_logs=logging.CRITICAL,
    )


def security() -> Any:
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


def _queue_cluster(name: str, workers: int, n_tasks: int) -> Any:
    """A cluster of jobs as configured for dask-jobqueue, each of one worker with one thread, for
    one task at a time.

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
    queue = kind(
        processes=1,
        # the last --nthreads counts
        worker_extra_args=[*configured("worker-extra-args", []), "--nthreads", "1"],
        security=security(),
        shared_temp_directory=configured("shared-temp-directory", str(root.resolve())),
        scheduler_options={**_NO_DASHBOARD, **configured("scheduler-options", {})},
    )
    queue.adapt(minimum=0, maximum=min(workers, n_tasks))
    return queue


def check_queue(name: str, workers: int) -> None:
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
