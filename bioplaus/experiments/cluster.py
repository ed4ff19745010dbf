"""Runs on Dask: worker processes of this machine, jobs of a queueing system, or a scheduler that
runs already.

A dead worker or a lost node costs at most the time since the last checkpoint: the run is given to
another worker and goes on from there. Clusters that are started here are encrypted and take orders
from this process alone, by a certificate of their own; their pages are not shown to anybody.
"""

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioplaus import results
from bioplaus.errors import BioplausError, describe
from bioplaus.experiments import execution, jupyter, side_by_side
from bioplaus.experiments import workers as processes
from bioplaus.experiments.execution import Outcome, Settings
from bioplaus.experiments.run import Run

_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Follower:
    """What a worker does when some runs have ended, in place of the next run.

    It waits for no runs but those that are executed. What comes of it is no business of the runs:
    an error of its own, or the death of its worker, is told to nobody.
    """

    name: str  # unique among those of a sweep
    call: Callable[[], Any]  # can be sent to another process
    runs: Sequence[Run]  # after which it is called
    is_urgent: bool = True  # else when nothing else is left to do


def check(scheduler: str, workers: int) -> None:
    """Raise `BioplausError` unless runs can be given to this scheduler, as far as can be known
    before it is asked.
    """
    with _one_sentence(scheduler):
        if "://" in scheduler:
            _check_address(scheduler)
            return
        processes.security()
        if scheduler != "local":
            processes.check_queue(scheduler, workers)


def execute(
    todo: Sequence[tuple[Sequence[Run], Sequence[Run]]],
    settings: Settings,
    *,
    workers: int,
    scheduler: str,
    retries: int,
    followers: Sequence[Follower] = (),
    report: Callable[[str], None] = print,
    followed: Callable[[Follower, Any], None] = lambda *_: None,
) -> Iterator[tuple[Run, Outcome]]:
    """Execute runs on Dask, and give each with its outcome when it has ended.

    Parameters
    ----------
    todo : each group of runs (`side_by_side.group`) with those that it needs and that stand before
        it; a group is one task.
    settings : how each is executed; its `sweep` must be unique, as two sweeps may share a
        scheduler, where equal keys would be one task.
    workers, scheduler, retries : as of `sweep.execute`.
    followers : what is called meanwhile, as runs end; `followed` receives each with what it
        returned, or None where it ended otherwise.
    report : receives what a run waits for.
    """
    if not todo:
        return
    every = [run for runs, _ in todo for run in runs]
    is_cpu = all(run.inputs.get("device", "cpu") == "cpu" for run in every)
    is_warm = settings.kernel is not None and scheduler == "local" and is_cpu
    gpus = processes.shared_gpus(every) if scheduler == "local" else []
    n_workers = processes.at_once(every, workers) if scheduler == "local" else workers
    with (
        jupyter.warm_kernels(len(todo) + len(followers) if is_warm else 0),
        _client(scheduler, n_workers, len(todo) + len(followers), gpus) as client,
    ):
        from distributed import as_completed

        client.subscribe_topic(settings.sweep, lambda event: report(event[1]))
        submitted: dict[Path, Any] = {}
        tasks: dict[Any, tuple[Sequence[Run], Sequence[Run]]] = {}

        def submit(runs: Sequence[Run], needs: Sequence[Run]) -> Any:
            folders = [str(run.folder.resolve()) for run in runs]
            future = client.submit(
                _execute_on_worker,
                runs,
                folders,
                settings,
                [submitted[other.folder] for other in needs],
                key="-".join([folders[0], str(len(folders)), settings.sweep]),
                pure=False,
                retries=retries,
            )
            submitted.update({run.folder: future for run in runs})
            tasks[future] = runs, needs
            return future

        for runs, needs in todo:
            submit(runs, needs)
        following = {
            client.submit(
                _follow,
                follower.call,
                settings,
                list({submitted[r.folder] for r in follower.runs if r.folder in submitted}),
                key=f"{follower.name}-{settings.sweep}",
                pure=False,
                priority=1 if follower.is_urgent else -1,
            ): follower
            for follower in followers
        }
        is_over = False
        try:
            for future in (completed := as_completed([*tasks, *following])):
                if future in following:
                    is_done = future.status == "finished"
                    followed(following[future], future.result() if is_done else None)
                    continue
                runs, needs = tasks[future]
                if len(runs) > 1 and _is_lost(future):  # what may have been too much for a worker
                    for run in runs:
                        completed.add(submit([run], ()))
                    continue
                lost = [other for other in needs if submitted[other.folder].status == "error"]
                yield from zip(runs, _outcomes(future, runs, lost), strict=True)
            is_over = True
        finally:
            if not is_over and scheduler != "local":  # its workers outlive this process
                client.cancel([*tasks, *following], force=True)
                client.run(execution.stop, settings.sweep, on_error="ignore")


def _execute_on_worker(
    runs: Sequence[Run], folders: Sequence[str], settings: Settings, needed: Sequence[Any]
) -> list[Outcome]:
    """`side_by_side.execute`; what a run waits for is told to the process that submitted it.

    `needed` makes Dask wait for other runs; what came of them is read from their folders.
    """
    from distributed import get_worker

    worker = get_worker()
    return side_by_side.execute(
        runs, folders, settings, lambda text: worker.log_event(settings.sweep, text)
    )


def _follow(call: Callable[[], Any], settings: Settings, needed: Sequence[Any]) -> Any:
    """What `call` returns, in the environment of the runs, or None where it raises; `needed` makes
    Dask wait for them.
    """
    try:
        with execution.ready(settings):
            return call()
    except Exception:  # Dask would log it
        return None


def _is_lost(future: Any) -> bool:
    """Whether every worker died that executed a task."""
    from distributed.scheduler import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _outcomes(future: Any, runs: Sequence[Run], lost: Sequence[Run]) -> list[Outcome]:
    """What came of submitted runs; `lost` are those they need whose workers died."""
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        outcomes = future.result()
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
        return [Outcome("failed", message, 0.0) for _ in runs]
    return [_seen_here(run, outcome) for run, outcome in zip(runs, outcomes, strict=True)]


def _seen_here(run: Run, outcome: Outcome) -> Outcome:
    """The outcome of a run as its worker says it, if its result is seen here, too."""
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
    code = processes.deaths.get(address) or next(reversed(processes.deaths.values()), 0)
    try:
        name = f", killed by {signal.Signals(-code).name}"
    except ValueError:
        name = ""
    return (
        f"its worker died {n_times} times{name}; as a rule memory ran out: use a smaller batch_size"
        " or fewer WORKERS, and run the command again, it goes on from the last checkpoint"
    )


@contextlib.contextmanager
def _client(scheduler: str, workers: int, n_tasks: int, gpus: Sequence[str] = ()) -> Iterator[Any]:
    """A client of a Dask cluster for so many tasks, or of a running scheduler."""
    with contextlib.ExitStack() as stack:
        with _one_sentence(scheduler):
            from distributed import Client

            if "://" in scheduler:
                client = Client(scheduler, timeout=_CONNECT_SECONDS)
            else:
                cluster = processes.cluster(workers, n_tasks, scheduler, gpus)
                client = Client(stack.enter_context(cluster))
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
