"""Faults of processes and folders: what is killed, stopped, started twice or moved away."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import psutil
from project import toy_project
from rows import holds, in_child, row
from toy import digests

from bioplaus import results
from bioplaus.experiments import execution, manifest, status, sweep

SECONDS = 10  # a stop takes at most
SLEEPS = {"mishap": "sleep"}


def _silent(line: str) -> None:
    pass


def _command(*arguments: str) -> subprocess.Popen:
    """`python -m bioplaus ...` in a session of its own, which SIGINT reaches."""
    return subprocess.Popen(
        [sys.executable, "-m", "bioplaus", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _words(process: psutil.Process) -> str:
    """The command of a process; empty of one that has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _expected(folder: Path, runs: list) -> dict[str, str]:
    """The digests of the results of an undisturbed sweep."""
    with mock.patch.dict(os.environ, BIOPLAUS_RESULTS=str(folder / "undisturbed")):
        sweep.execute(runs, inline=True, report=_silent)
        return digests(runs)


@row(
    "1 worker killed",
    "a process of a sweep is killed: its run alone fails, and the next command does what is left",
    50,
    n_small=1,
)
def worker_killed(folder: Path, draw: random.Random) -> bool:
    with toy_project(folder):
        runs = manifest.runs("paper", only="graded*")
        expected = _expected(folder, runs)
        driver = _command("run", "--preset", "paper", "--only", "graded*", "--workers", "2")
        time.sleep(2 + 8 * draw.random())
        with contextlib.suppress(psutil.Error, IndexError):
            family = psutil.Process(driver.pid).children(recursive=True)
            # Python's own keeper of semaphores executes nothing, and is missed aloud by Python
            draw.choice([one for one in family if "resource_tracker" not in _words(one)]).kill()
        text, _ = driver.communicate(timeout=200)
        done = [run for run in runs if results.is_complete(run.folder)]
        times = {run.id: (run.folder / "result.pkl").stat().st_mtime_ns for run in done}
        sweep.execute(runs, inline=True, report=_silent)
        kept = all((run.folder / "result.pkl").stat().st_mtime_ns == times[run.id] for run in done)
        return holds(
            kept=kept, equal=digests(runs) == expected, told_in_words="Traceback" not in text
        )


@row(
    "2 kernel killed",
    "a kernel is killed while it computes: failed within seconds, and no result",
    50,
    n_small=1,
)
def kernel_killed(folder: Path, draw: random.Random) -> bool:
    def kill() -> None:
        while not (run.folder / "asleep").exists():
            time.sleep(0.02)
        time.sleep(0.3 * draw.random())
        for child in psutil.Process().children(recursive=True):
            if "ipykernel" in _words(child):
                child.kill()
        killed.append(time.monotonic())

    with toy_project(folder):
        (run,) = manifest.runs("smoke", overrides=SLEEPS)
        killed: list[float] = []
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        outcome = execution.execute(run, str(run.folder), execution.Settings(kernel="python3"))
        ended = time.monotonic()
        killer.join()
        return holds(
            failed=outcome.status == "failed",
            named="act.ipynb" in outcome.message,
            in_time=ended - killed[0] < SECONDS,
            noted=status.rows([run])[0]["status"] == "failed",
            incomplete=not results.is_complete(run.folder),
        )


@row(
    "3-4 stopped",
    "Ctrl-C, twice or once, or SIGTERM: ends within 10 s with its exit code, and leaves no process",
    50,
    n_small=1,
)
def stopped(folder: Path, draw: random.Random) -> bool:
    with toy_project(folder):
        (run,) = manifest.runs("smoke", overrides=SLEEPS)
        driver = _command("run", "--preset", "smoke", "--set", "mishap=sleep", "--workers", "1")
        while not (run.folder / "asleep").exists() and driver.poll() is None:
            time.sleep(0.02)
        family = psutil.Process(driver.pid).children(recursive=True)
        time.sleep(0.5 * draw.random())
        kind = draw.choice(("once", "twice", "SIGTERM"))
        started = time.monotonic()
        if kind == "SIGTERM":
            driver.send_signal(signal.SIGTERM)
        else:
            os.killpg(driver.pid, signal.SIGINT)
            if kind == "twice":
                time.sleep(0.5 * draw.random())
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(driver.pid, signal.SIGINT)
        text, _ = driver.communicate(timeout=100)
        took = time.monotonic() - started
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()
        code = 143 if kind == "SIGTERM" else 130
        state = status.rows([run])[0]["status"]
        return holds(
            **{
                f"exit code {code} but {driver.returncode}": driver.returncode == code,
                f"within {SECONDS} s but {took:.1f} s after {kind}": took < SECONDS,
                "told in words": "Traceback" not in text,
                "without a process left": not alive,
                f"interrupted but {state}": state == "interrupted",
            }
        )


def _unlocked():
    """Locks that keep nobody out."""
    return mock.patch.object(execution, "locked", lambda *arguments: contextlib.nullcontext())


@row(
    "14 started twice",
    "2 to 8 processes start one run at once, one of them may be killed: one computes, all agree",
    200,
    n_small=3,
    guard_off=_unlocked,
    n_guard_off=10,
)
def started_twice(folder: Path, draw: random.Random) -> bool:
    with toy_project(folder) as project:
        path = project / "Simulations" / "act.ipynb"
        count = f"open({str(folder / 'computed')!r}, 'a').write('x'); time.sleep(0.05)\\n"
        path.write_text(path.read_text().replace("print(", f"{count}print(", 1))
        (run,) = manifest.runs("smoke")
        begin = time.monotonic() + 0.05
        processes = []

        def compute() -> int:
            time.sleep(max(0.0, begin - time.monotonic()))
            outcome = execution.execute(run, str(run.folder), execution.Settings())
            return ("done", "skipped").index(outcome.status)

        for _ in range(draw.randint(2, 8)):
            processes.append(in_child(compute))
        is_killed = draw.random() < 0.3
        if is_killed:
            time.sleep(0.1 * draw.random())
            os.kill(processes[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in processes]
        left = codes[1:] if is_killed else codes
        n_computed = len((folder / "computed").read_text())
        once = n_computed == 1 if not is_killed else n_computed <= 2
        return once and set(left) <= {0, 1} and results.is_complete(run.folder)


LOSSES = {
    "moved": lambda folder: folder.rename(folder.with_name("moved")),
    "replaced": lambda folder: (folder.rename(folder.with_name("moved")), folder.mkdir()),
    "linked": lambda folder: (
        folder.rename(folder.with_name("moved")),
        folder.symlink_to(folder.with_name("moved")),
    ),
    "emptied": lambda folder: [path.unlink() for path in folder.iterdir()],
    "removed": shutil.rmtree,
    "another's": lambda folder: results.run.write_run(
        folder, {**results.read_run(folder), "id": "other"}
    ),
}


@contextlib.contextmanager
def _naive_finish():
    """A `finish` that takes the folder as it finds it, and a reader that asks for no identity."""

    def finish(folder: Path, record: dict) -> None:
        folder.mkdir(exist_ok=True)
        digest = results.save(record, folder / "result.pkl")
        run = results.read_run(folder)
        results.run.write_run(folder, {**run, "status": "done", "sha256": digest})

    with (
        mock.patch.object(results, "finish", finish),
        mock.patch.object(results.run, "_wrong_identity", lambda *arguments: ""),
    ):
        yield


@row(
    "7 folder lost",
    "a run's folder is moved, replaced, linked, emptied, removed meanwhile: failed, no result",
    300,
    n_small=12,
    guard_off=_naive_finish,
)
def folder_lost(folder: Path, draw: random.Random) -> bool:
    with toy_project(folder):
        (run,) = manifest.runs("smoke")
        lose = draw.choice([*LOSSES.values()])

        def start(runs, works, kernel):
            lose(works[0])
            results.finish(works[0], {"status": "done", "epochs": {}, "diagnostics": {}})

        with mock.patch.object(execution, "_start", start):
            outcome = execution.execute(run, str(run.folder), execution.Settings())
        return (
            outcome.status == "failed"
            and "\n" not in outcome.message
            and not results.is_complete(run.folder)
            and not list(results.outcomes(run.experiment_folder, _silent))
        )
