"""The engine: skip what is done, record failures, survive kills, and give the same bytes however a run is executed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bioplaus import engine, manifest, results
from bioplaus.errors import BioplausError


def _digests(runs):
    return {run.id: hashlib.sha256((run.folder / "result.pkl").read_bytes()).hexdigest() for run in runs}


def _quiet(line):
    pass


def test_a_sweep_runs_everything_once_and_then_nothing(project):
    runs = manifest.runs("paper")
    first = engine.execute(runs, inline=True, report=_quiet)
    assert len(first.done) == len(runs) and not first.skipped and not first.failed
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.folder.iterdir()}
    again = engine.execute(runs, inline=True, report=_quiet)
    assert again.skipped == [run.id for run in runs] and not again.done
    assert {path: path.stat().st_mtime_ns for run in runs for path in run.folder.iterdir()} == before


def test_only_what_is_damaged_or_missing_is_run_again_and_comes_back_the_same(project):
    runs = manifest.runs("paper", only="graded*")
    engine.execute(runs, inline=True, report=_quiet)
    digests = _digests(runs)
    damaged, missing = runs[1].folder / "result.pkl", runs[2].folder / "run.json"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    missing.unlink()
    again = engine.execute(runs, inline=True, report=_quiet)
    assert sorted(again.done) == sorted([runs[1].id, runs[2].id]) and _digests(runs) == digests


def test_collected_runs_need_not_be_run_again(project):
    runs = manifest.runs("paper", only="plain")
    engine.execute(runs, inline=True, report=_quiet)
    results.collect(runs[0].experiment_folder)
    for run in runs:
        for path in run.folder.iterdir():
            path.unlink()
        run.folder.rmdir()
    assert engine.pending(runs) == []
    assert {row["status"] for row in engine.status(runs)} == {"done"}


def test_one_failure_is_recorded_with_its_traceback_and_does_not_stop_the_others(project, rewrite):
    rewrite("plain: {label: Plain}", 'plain: {label: Plain, parameters: {mishap: "raise"}}')
    runs = manifest.runs("paper")
    summary = engine.execute(runs, inline=True, report=_quiet)
    assert len(summary.failed) == 2 and len(summary.done) == len(runs) - 2
    about = json.loads((runs[0].folder / "run.json").read_text())
    assert about["status"] == "failed" and "unlucky" in about["error"] and "Traceback" in about["traceback"]
    rows = {row["id"]: row for row in engine.status(runs)}
    assert rows[runs[0].id]["status"] == "failed" and "unlucky" in rows[runs[0].id]["error"]


def test_a_run_that_ends_without_a_result_has_failed(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: save-nothing}}")
    summary = engine.execute(manifest.runs("smoke"), inline=True, report=_quiet)
    assert ["without saving a result" in message for message in summary.failed.values()] == [True]


def test_a_diverged_run_counts_as_diverged_and_is_not_tried_again(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: diverge}}")
    runs = manifest.runs("smoke")
    assert engine.execute(runs, inline=True, report=_quiet).diverged == [runs[0].id]
    assert engine.execute(runs, inline=True, report=_quiet).skipped == [runs[0].id]
    assert engine.status(runs)[0]["status"] == "diverged"


def test_everything_is_checked_before_anything_starts(project):
    good, bad = (
        manifest.runs("paper", only="plain")[0],
        manifest.runs("paper", only="plain", overrides={"value": -1.0})[1],
    )
    with pytest.raises(BioplausError, match="at least 0"):
        engine.execute([good, bad], inline=True, report=_quiet)
    assert not (project / "Results").exists()


def test_a_results_folder_that_cannot_be_made_is_one_sentence_before_anything_starts(project, monkeypatch):
    (project / "file").write_text("")
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(project / "file"))
    with pytest.raises(BioplausError, match="Results cannot be written"):
        engine.execute(manifest.runs("smoke"), inline=True, report=_quiet)


def test_an_unknown_kernel_or_scheduler_is_refused_before_anything_starts(project):
    runs = manifest.runs("smoke")
    with pytest.raises(BioplausError, match="unknown kernel 'pyhton3'; did you mean 'python3'"):
        engine.execute(runs, kernel="pyhton3", report=_quiet)
    with pytest.raises(BioplausError, match="(?i)scheduler"):
        engine.execute(runs, scheduler="slrum", report=_quiet)
    assert not any(run.folder.exists() for run in runs)


def test_kernels_workers_and_this_process_give_the_same_bytes(project):
    runs = manifest.runs("paper", only="plain")
    engine.execute(runs, inline=True, report=_quiet)
    inline = _digests(runs)
    os.environ["BIOPLAUS_RESULTS"] = str(project / "Others")
    summary = engine.execute(runs, workers=2, report=_quiet)
    assert sorted(summary.done) == sorted(inline) and _digests(runs) == inline
    assert "working on" in (runs[0].folder / "run.log").read_text()
    executed = json.loads((runs[0].folder / "run.ipynb").read_text())
    assert any("injected-parameters" in cell["metadata"].get("tags", []) for cell in executed["cells"])


def test_a_killed_kernel_is_tried_again_and_a_kernel_that_always_dies_fails_alone(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, seeds: [0], parameters: {mishap: die-once}}")
    rewrite("grid: {value: [1.0, 3.0], config.depth: [1, 2]}", "seeds: [0]\n        parameters: {mishap: die}")
    runs = manifest.runs("paper")
    summary = engine.execute(runs, workers=2, retries=1, report=_quiet)
    assert summary.done == [runs[0].id] and list(summary.failed) == [runs[1].id]
    assert "kernel died" in summary.failed[runs[1].id]
    assert json.loads((runs[0].folder / "run.json").read_text())["attempt"] == 2
    assert not results.is_complete(runs[1].folder)


def _start(project, *options):
    command = [sys.executable, "-m", "bioplaus", "run", "--preset", "smoke", *options]
    return subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )


def _wait_for(path, seconds=110):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_within_seconds_in_one_sentence_and_leaves_no_process_behind(project, rewrite, stop):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: sleep}}")
    run = manifest.runs("smoke")[0]
    process = _start(project)
    _wait_for(run.folder / "asleep")
    assert engine.status([run])[0]["status"] == "running"
    family = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130 and "Interrupted" in err and "Traceback" not in err
    assert time.monotonic() - started < 60  # 3 s on an idle machine
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert engine.status([run])[0]["status"] == "interrupted" and not results.is_complete(run.folder)


def test_two_executions_of_one_run_do_it_once(project):
    runs = manifest.runs("smoke")
    processes = [_start(project, "--inline") for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("1 done" in out for out, _ in outputs) == 1
    assert results.is_complete(runs[0].folder)


def test_the_lock_of_a_killed_holder_holds_nobody_up(project):
    run = manifest.runs("smoke")[0]
    run.folder.mkdir(parents=True)
    holder = f"from filelock import FileLock; import os, signal; FileLock({str(run.folder / '.lock')!r}).acquire(); "
    subprocess.run([sys.executable, "-c", holder + "os.kill(os.getpid(), signal.SIGKILL)"])
    assert (run.folder / ".lock").exists()
    assert engine.execute([run], inline=True, report=_quiet).done == [run.id]


def test_a_forecast_uses_what_like_runs_took_and_else_the_manifest(project, rewrite):
    runs = manifest.runs("paper", only="plain")
    assert engine.forecast(runs, 1) is None
    rewrite("plain: {label: Plain}", "plain: {label: Plain, seconds: 30}")
    runs = manifest.runs("paper", only="plain")
    assert engine.forecast(runs, 1) == 2 * (30 + engine.KERNEL_SECONDS)
    engine.execute(runs[:1], inline=True, report=_quiet)  # says it took 0.1 s
    assert engine.forecast(runs[1:], 1) == pytest.approx(max(30, 0.1 + engine.KERNEL_SECONDS))


def test_no_user_name_host_or_home_is_in_any_artefact_of_a_kernel_run(project):
    run = manifest.runs("smoke")[0]
    engine.execute([run], workers=1, report=_quiet)
    secrets = (str(Path.home()), os.uname().nodename)
    for name in ("run.json", "run.log", "result.pkl"):
        content = (run.folder / name).read_bytes()
        assert not any(secret.encode() in content for secret in secrets if len(secret) > 3)
