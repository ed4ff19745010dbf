"""Ctrl-C and SIGTERM: a sweep stops within seconds, says so, and leaves no process behind."""

import asyncio
import os
import queue
import signal
import threading
import time

import psutil
import pytest
from toy import start

from bioplaus import results
from bioplaus.experiments import execution, locks, manifest, status
from bioplaus.experiments.execution import Settings


def _wait_for(path, seconds=110):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


@pytest.fixture
def asleep(project, rewrite):
    """Start a sweep whose run sleeps in a kernel; its process and its run."""
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: sleep}}")

    def begin(*options):
        run = manifest.runs("smoke")[0]
        process = start(project, *options)
        _wait_for(run.folder / "asleep")
        assert status.rows([run])[0]["status"] == "running"
        return process, run

    return begin


def _ends(process, run, code, family, started):
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    assert "Interrupted" in err and "Traceback" not in err + out
    assert time.monotonic() - started < 10
    state = status.rows([run])[0]["status"]
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert state == "interrupted" and not results.is_complete(run.folder)


@pytest.mark.parametrize("pause", [None, 0.3])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_stops_within_seconds_in_one_sentence_and_leaves_no_process_behind(
    asleep, stop, pause
):
    """Once, and twice with a pause between; Ctrl-C reaches every process of the terminal."""
    process, run = asleep()
    family = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    for wait in [0.0] if pause is None else [0.0, pause]:
        time.sleep(wait)
        if process.poll() is None:
            os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)
    _ends(process, run, 128 + stop, family, started)


def test_a_sweep_that_does_not_stop_by_itself_is_ended_all_the_same(asleep, tmp_path):
    """A worker that is stopped by SIGSTOP never answers."""
    process, run = asleep()
    family = psutil.Process(process.pid).children(recursive=True)
    for child in family:
        child.suspend()
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _ends(process, run, 130, family, started)


def test_the_kernels_of_a_running_scheduler_stop_with_the_sweep_and_its_workers_stay(
    asleep, tmp_path
):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        workers = psutil.Process().children(recursive=True)
        process, run = asleep("--scheduler", cluster.scheduler_address)
        kernels = set(psutil.Process().children(recursive=True)) - {
            psutil.Process(process.pid),
            *workers,
            *psutil.Process(process.pid).children(recursive=True),
        }
        assert kernels
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _ends(process, run, 130, list(kernels), started)
        assert all(worker.is_running() for worker in workers)


@pytest.fixture
def stubborn(project, monkeypatch):
    """A run of the sweep "mine" that is executed in a thread by a child process and ends some time
    after that was killed: the run, the child and a queue for the outcome.
    """
    run, outcomes, children = manifest.runs("smoke")[0], queue.Queue(), queue.Queue()

    def start(runs, places, kernel):
        child = psutil.Popen(["sleep", "60"])
        # of this process: pytest may have others
        monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [child])
        children.put(child)
        child.wait()
        time.sleep(1)  # as long as nbclient may take to see that its kernel died
        raise RuntimeError("Kernel died, or its messages were not understood")

    def begin():
        outcomes.put(execution.execute(run, str(run.folder), Settings(retries=1, sweep="mine")))

    monkeypatch.setattr(execution, "_start", start)
    monkeypatch.setattr(execution, "_stopped", set())
    threading.Thread(target=begin, daemon=True).start()
    return run, children, outcomes


def test_when_a_sweep_was_stopped_its_runs_lock_is_free_and_nothing_is_tried_again(stubborn):
    run, children, outcomes = stubborn
    children.get(timeout=60)
    asyncio.run(execution.stop("mine"))
    assert status.rows([run])[0]["status"] == "interrupted"
    assert outcomes.get(timeout=60)[:2] == ("failed", "stopped") and children.empty()


def test_stopping_one_sweep_leaves_what_a_worker_executes_of_another(stubborn):
    run, children, outcomes = stubborn
    child = children.get(timeout=60)
    asyncio.run(execution.stop("another's"))
    assert child.is_running() and status.rows([run])[0]["status"] == "running"
    asyncio.run(execution.stop("mine"))
    assert not child.is_running()


def test_a_run_that_waits_for_another_command_is_stopped_too(project, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    monkeypatch.setattr(execution, "_stopped", set())
    run = manifest.runs("smoke")[0]
    is_waiting, outcomes = threading.Event(), queue.Queue()

    def wait():
        tell = lambda text: is_waiting.set()  # noqa: E731
        settings = Settings(sweep="mine")
        outcomes.put(execution.execute(run, str(run.folder), settings, notify=tell))

    run.folder.mkdir(parents=True)
    with locks.locked(run.folder):
        threading.Thread(target=wait, daemon=True).start()
        assert is_waiting.wait(60)
        asyncio.run(execution.stop("mine"))
        assert outcomes.get(timeout=60)[:2] == ("failed", "stopped")
    again = execution.execute(run, str(run.folder), Settings(sweep="mine"))
    assert again[:2] == ("failed", "stopped") and not results.is_complete(run.folder)
