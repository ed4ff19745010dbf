"""The engine: skip what is done, record failures, survive kills, and give the same bytes however a
run is executed.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bioplaus import __main__ as command_line
from bioplaus import _files, _sources, results
from bioplaus.analysis import frames
from bioplaus.errors import BioplausError
from bioplaus.experiments import engine, manifest


def _digests(runs):
    return {
        run.id: hashlib.sha256((run.folder / "result.pkl").read_bytes()).hexdigest() for run in runs
    }


def _quiet(line):
    pass


def test_a_sweep_runs_everything_once_and_then_nothing(project):
    runs = manifest.runs("paper")
    first = engine.execute(runs, inline=True, report=_quiet)
    assert len(first.done) == len(runs) and not first.skipped and not first.failed
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.folder.iterdir()}
    again = engine.execute(runs, inline=True, report=_quiet)
    assert again.skipped == [run.id for run in runs] and not again.done
    assert {
        path: path.stat().st_mtime_ns for run in runs for path in run.folder.iterdir()
    } == before


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
    assert (
        about["status"] == "failed"
        and "unlucky" in about["error"]
        and "Traceback" in about["traceback"]
    )
    rows = {row["id"]: row for row in engine.status(runs)}
    assert rows[runs[0].id]["status"] == "failed" and "unlucky" in rows[runs[0].id]["error"]


def test_a_run_that_ends_without_a_result_has_failed(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: save-nothing}}")
    summary = engine.execute(manifest.runs("smoke"), inline=True, report=_quiet)
    assert ["without saving a result" in message for message in summary.failed.values()] == [True]


def _add_cells(project, *cells):
    """Append cells (tag, source) to the toy notebook."""
    path = project / "Simulations" / "act.ipynb"
    content = json.loads(path.read_text())
    for number, (tag, source) in enumerate(cells):
        like = content["cells"][-1]
        tags = {"tags": [tag] if tag else []}
        content["cells"].append({**like, "id": f"more{number}", "metadata": tags, "source": source})
    path.write_text(json.dumps(content))


def test_a_run_whose_show_cell_raises_or_kills_the_kernel_is_done_and_says_so(project):
    show = "if seed: os.kill(os.getpid(), signal.SIGKILL)\nraise RuntimeError('no such colour')"
    _add_cells(project, ("show", show))
    runs = manifest.runs("paper", only="plain")
    for run, sentence in zip(runs, ("no such colour", "kernel died"), strict=True):
        status, message, _ = engine.run_one(
            run, str(run.folder), "python3", 1, engine.environment()
        )
        assert status == "done" and "a later cell failed" in message and sentence in message
        about = results.read_run(run.folder)
        assert (
            about["attempt"] == 1 and sentence in about["error"] and results.is_complete(run.folder)
        )
    assert (
        engine.pending(runs) == []
        and len(frames.epochs(results.outcomes(runs[0].experiment_folder))) == 4
    )
    rows = engine.status(runs)
    assert [row["status"] for row in rows] == ["done", "done"] and "no such colour" in rows[0][
        "error"
    ]


def test_a_failed_run_never_keeps_a_digest(project):
    _add_cells(project, ("", "Path(folder, 'result.pkl').unlink()\nraise RuntimeError('gone')"))
    run = manifest.runs("smoke")[0]
    assert "gone" in engine.execute([run], inline=True, report=_quiet).failed[run.id]
    assert results.read_run(run.folder)["status"] == "failed" and "sha256" not in results.read_run(
        run.folder
    )


@pytest.mark.parametrize("where", ["folder", "run.json", ".lock"])
@pytest.mark.parametrize("is_inline", [True, False])
def test_a_run_whose_own_files_cannot_be_written_fails_alone_with_a_sentence(
    project, where, is_inline, scheduler
):
    runs = manifest.runs("paper")
    if where == "folder":
        runs[0].experiment_folder.mkdir(parents=True)
        runs[0].folder.write_text("in the way")
    else:
        (runs[0].folder / where / "in the way").mkdir(parents=True)
    outcomes = (
        engine._inline(runs, False) if is_inline else engine._on_dask(runs, 1, scheduler, None, 0)
    )
    ended = {run.key: (status, message) for run, status, message, _ in outcomes}
    status, message = ended.pop(runs[0].key)
    assert (
        status == "failed"
        and runs[0].id in message
        and "\n" not in message
        and "worker" not in message
    )
    assert {status for status, _ in ended.values()} == {"done"}


def test_a_failure_that_cannot_be_noted_is_told_all_the_same(project, rewrite, monkeypatch):
    rewrite("plain: {label: Plain}", 'plain: {label: Plain, parameters: {mishap: "raise"}}')
    whole = _files.write_json

    def full_disk(path, value):
        if value["status"] == "failed":
            raise BioplausError("No space left on device.")
        whole(path, value)

    monkeypatch.setattr(_files, "write_json", full_disk)
    (message,) = engine.execute(manifest.runs("smoke"), inline=True, report=_quiet).failed.values()
    assert "unlucky" in message and "No space" in message


def test_an_exit_in_a_cell_is_a_failure_like_any_other(project):
    _add_cells(project, ("", "if seed == 0:\n    raise SystemExit(3)"))
    path = project / "Simulations" / "act.ipynb"
    content = json.loads(path.read_text())
    content["cells"].insert(2, content["cells"].pop())
    path.write_text(json.dumps(content))
    runs = manifest.runs("paper", only="plain")
    summary = engine.execute(runs, inline=True, report=_quiet)
    assert list(summary.failed) == [runs[0].id] and summary.done == [runs[1].id]
    assert summary.failed[runs[0].id].startswith(
        "SystemExit: 3 (act.ipynb cell 2, line 2; traceback in "
    )


def test_run_json_that_is_no_table_is_a_missing_run(project):
    run = manifest.runs("smoke")[0]
    run.folder.mkdir(parents=True)
    for name in ("run.json", "progress.json"):
        (run.folder / name).write_text("[1]")
    assert engine.pending([run]) == [run] and engine.status([run])[0]["status"] == "missing"
    assert engine.forecast([run], 1) is None
    assert engine.execute([run], inline=True, report=_quiet).done == [run.id]


def test_relative_folders_are_the_same_ones_in_a_kernel(project, monkeypatch):
    monkeypatch.chdir(project)
    for name, folder in (
        ("BIOPLAUS_DATA", "data"),
        ("BIOPLAUS_RESULTS", "Results"),
        ("BIOPLAUS_HOME", "."),
    ):
        monkeypatch.setenv(name, folder)
    seen = (
        "from bioplaus import paths\nfrom bioplaus.tasks import datasets\n"
        "Path(folder, 'seen').write_text(f'{datasets.root()} {paths.root()}')"
    )
    _add_cells(project, ("", f"{seen}\nassert paths.project_root().is_absolute()"))
    run = manifest.runs("smoke")[0]
    place = run.folder.resolve()
    assert engine.run_one(run, str(place), "python3", 0, engine.environment())[:2] == ("done", "")
    assert (place / "seen").read_text() == f"{project / 'data'} {project / 'Results'}"


def test_a_diverged_run_counts_as_diverged_and_is_not_tried_again(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: diverge}}")
    runs = manifest.runs("smoke")
    assert engine.execute(runs, inline=True, report=_quiet).diverged == [runs[0].id]
    assert engine.execute(runs, inline=True, report=_quiet).skipped == [runs[0].id]
    assert engine.status(runs)[0]["status"] == "diverged"


def test_a_diverged_run_says_where_counted_from_one(project):
    found = (
        "{'status': 'diverged', 'divergence': {'epoch': 0, 'batch': 5, 'tensor': 'w.0'},"
        " 'epochs': {}}"
    )
    _add_cells(project, ("", f"results.finish(folder, {found})"))
    runs, said = manifest.runs("smoke"), []
    engine.execute(runs, inline=True, report=said.append)
    assert said[0].endswith(": w.0 not finite in epoch 1, batch 6")
    assert engine.status(runs)[0]["error"] == "w.0 not finite in epoch 1, batch 6"


@pytest.mark.parametrize("kernel", [None, "python3"])
def test_a_run_that_did_not_go_on_from_its_checkpoint_says_why(project, kernel):
    reason = "its checkpoint was made with other code of rule toy"
    note = (
        "from bioplaus import _files\n"
        f"_files.write_json(Path(folder, 'progress.json'), {{'passed_over': {reason!r}}})"
    )
    _add_cells(project, ("", note))
    run = manifest.runs("smoke")[0]
    ended = engine.run_one(run, str(run.folder), kernel, 0, engine.environment())
    assert ended[:2] == ("done", f"started anew: {reason}") and "error" not in results.read_run(
        run.folder
    )


def test_everything_is_checked_before_anything_starts(project):
    good, bad = (
        manifest.runs("paper", only="plain")[0],
        manifest.runs("paper", only="plain", overrides={"value": -1.0})[1],
    )
    with pytest.raises(BioplausError, match="at least 0"):
        engine.execute([good, bad], inline=True, report=_quiet)
    assert not (project / "Results").exists()


def test_a_results_folder_that_cannot_be_made_is_one_sentence_before_anything_starts(
    project, monkeypatch
):
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
    assert any(
        "injected-parameters" in cell["metadata"].get("tags", []) for cell in executed["cells"]
    )


def test_a_killed_kernel_is_tried_again_and_a_kernel_that_always_dies_fails_alone(project, rewrite):
    rewrite(
        "plain: {label: Plain}", "plain: {label: Plain, seeds: [0], parameters: {mishap: die-once}}"
    )
    rewrite(
        "grid: {value: [1.0, 3.0], config.depth: [1, 2]}",
        "seeds: [0]\n        parameters: {mishap: die}",
    )
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
        # what runs in the background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _wait_for(path, seconds=110):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_within_seconds_in_one_sentence_and_leaves_no_process_behind(
    project, rewrite, stop
):
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
    assert engine.status([run])[0]["status"] == "interrupted" and not results.is_complete(
        run.folder
    )


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
    holder = (
        "from filelock import FileLock; import os, signal;"
        f" FileLock({str(run.folder / '.lock')!r}).acquire(); "
    )
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
    assert engine.forecast(runs[1:], 1) == pytest.approx(0.1 + engine.KERNEL_SECONDS)
    assert engine.forecast(runs, 2) == pytest.approx(0.1 + engine.KERNEL_SECONDS)  # no run is split


def test_a_forecast_is_in_proportion_to_the_epochs(project):
    path = project / "Simulations" / "act.ipynb"
    path.write_text(path.read_text().replace("seed: int = 0", "seed: int = 0\\nn_epochs: int = 1"))
    # says it took 0.1 s
    engine.execute(manifest.runs("smoke", overrides={"n_epochs": 2}), inline=True, report=_quiet)
    longer = manifest.runs("smoke", overrides={"n_epochs": 200})
    assert engine.forecast(longer, 1) == pytest.approx(10 + engine.KERNEL_SECONDS)


def test_a_notebook_with_the_same_parameters_is_checked_once_whatever_the_seed(
    project, monkeypatch
):
    runs, checked = manifest.runs("paper"), []
    monkeypatch.setattr(manifest.Run, "check", lambda run: checked.append(run))
    engine.check(runs)
    assert len(runs) == 10 and [run.entry for run in checked] == [
        "plain",
        *(f"graded-{i}" for i in range(1, 5)),
    ]
    assert {run.seed for run in checked} == {0}


def test_needed_runs_of_other_seeds_are_no_reason_to_check_again(project, rewrite, monkeypatch):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, needs: {config.other: graded-1}}")
    checked = []
    monkeypatch.setattr(manifest.Run, "check", lambda run: checked.append(run))
    engine.check(manifest.runs("paper", only="plain"))
    assert sorted(run.entry for run in checked) == ["graded-1", "plain"]


def test_a_forecast_reads_each_run_once(project, monkeypatch):
    runs = manifest.runs("paper")
    engine.execute(runs, inline=True, report=_quiet)
    read, about = [], results.read_run
    monkeypatch.setattr(results, "read_run", lambda folder: read.append(folder) or about(folder))
    assert engine.forecast(runs, 1) is not None
    assert sorted(read) == sorted(run.folder for run in runs)


@pytest.fixture
def scheduler():
    """The address of a Dask scheduler with one worker of two threads in this process."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_sweeps_that_share_a_scheduler_do_not_take_one_anothers_runs(
    project, scheduler, monkeypatch
):
    runs = manifest.runs("smoke")
    first = engine._on_dask(runs, 1, scheduler, None, 0)
    assert next(first)[1] == "done"  # and the sweep is still open
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(project / "Others"))
    assert [status for _, status, _, _ in engine._on_dask(runs, 1, scheduler, None, 0)] == ["done"]
    assert results.is_complete(runs[0].folder)
    first.close()


def _says_done(*arguments, **options):
    return "done", "", 0.0


def test_a_worker_that_says_done_where_no_result_is_has_failed(project, scheduler, monkeypatch):
    monkeypatch.setattr(engine, "run_one", _says_done)
    ((run, status, message, _),) = engine._on_dask(manifest.runs("smoke"), 1, scheduler, None, 0)
    assert status == "failed" and str(run.folder) in message


def _worst(*arguments, **options):
    raise ZeroDivisionError("a fault of the engine")


def _killed(*arguments, **options):
    from distributed.scheduler import KilledWorker

    raise KilledWorker("run", SimpleNamespace(address="tcp://host:1"), 3)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [(_worst, "ZeroDivisionError: a fault of the engine"), (_killed, "its worker died")],
)
def test_only_a_lost_worker_is_called_one(project, scheduler, monkeypatch, fault, sentence):
    monkeypatch.setattr(engine, "run_one", fault)
    ((_, status, message, _),) = engine._on_dask(manifest.runs("smoke"), 1, scheduler, None, 0)
    assert status == "failed" and message.startswith(sentence)


def test_threads_of_one_worker_do_not_execute_runs_at_the_same_time(
    project, scheduler, monkeypatch
):
    at_once = []

    def start(run, place, kernel):
        at_once.append(1)
        time.sleep(0.05)
        assert len(at_once) == 1
        at_once.clear()
        results.finish(place, {"status": "done", "epochs": {}, "diagnostics": {}})

    monkeypatch.setattr(engine, "_start", start)
    assert {
        message
        for _, _, message, _ in engine._on_dask(manifest.runs("paper"), 2, scheduler, None, 0)
    } == {""}


@pytest.fixture
def queue(monkeypatch):
    """A queueing system called `fake`: what was asked of dask-jobqueue, and no job."""
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    import dask

    asked = {}

    class FakeJob:
        @staticmethod
        def default_config_name():
            return "fake"

    class FakeCluster:
        job_cls = FakeJob

        def __init__(self, **options):
            asked.update(options)

        def adapt(self, **options):
            asked.update(options, allowed=dask.config.get("distributed.scheduler.allowed-failures"))

        def close(self, timeout):
            asked["closed"] = True

    monkeypatch.setattr(dask_jobqueue, "FakeCluster", FakeCluster, raising=False)
    with dask.config.set(
        {"jobqueue.fake": {"cores": 8, "worker-extra-args": ["--lifetime", "55m"]}}
    ):
        yield asked


def test_a_queue_is_asked_for_one_thread_a_run_and_for_jobs_while_there_are_runs(queue):
    with engine._cluster(3, 10, "fake"):
        assert (queue["minimum"], queue["maximum"], queue["processes"]) == (0, 3, 1)
        assert queue["worker_extra_args"] == ["--lifetime", "55m", "--nthreads", "1"]
        assert queue["allowed"] >= 100
    assert queue["closed"]


def test_no_more_jobs_are_asked_for_than_there_are_runs(queue):
    with engine._cluster(50, 4, "fake"):
        assert queue["maximum"] == 4


def test_a_queue_must_be_told_how_many_runs_at_once(project, queue):
    with pytest.raises(BioplausError, match="SCHEDULER=fake needs WORKERS"):
        engine.execute(manifest.runs("smoke"), scheduler="fake", report=_quiet)
    assert queue == {}


@pytest.mark.slow
def test_a_job_that_ends_at_its_walltime_is_replaced_and_its_run_is_done(project, monkeypatch):
    """dask-jobqueue's own queue, of processes of this machine; the first job is killed while it
    executes the run.
    """
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    import dask
    from dask_jobqueue.local import LocalCluster

    monkeypatch.setattr(dask_jobqueue, "FakeCluster", LocalCluster, raising=False)
    end = "[os.kill(process, signal.SIGKILL) for process in (os.getppid(), os.getpid())]"
    _add_cells(
        project,
        (
            "",
            f"if not Path(folder, 'ended').exists():\n    Path(folder, 'ended').touch()\n    {end}",
        ),
    )
    _add_cells(
        project, ("", "results.finish(folder, {'status': 'done', 'epochs': {}, 'diagnostics': {}})")
    )
    runs = manifest.runs("smoke", overrides={"mishap": "save-nothing"})
    settings = {
        "jobqueue.local.cores": 2,
        "jobqueue.local.memory": "1GB",
        "distributed.deploy.lost-worker-timeout": "1s",
    }
    with dask.config.set(settings):
        ((run, status, message, _),) = engine._on_dask(runs, 1, "fake", None, 0)
    assert (status, message) == ("done", "") and (run.folder / "ended").exists()


def _made_with(monkeypatch, digest):
    monkeypatch.setattr(_sources, "code", lambda rule: digest)


def _said(capsys, *arguments):
    """What a command prints of the toy paper's entry `plain`."""
    with pytest.raises(SystemExit):
        command_line.app([*arguments, "--preset", "paper", "--only", "plain"])
    return capsys.readouterr().out


def test_a_finished_run_made_with_other_code_of_its_rule_is_told_of_and_made_again_only_when_asked(
    project, monkeypatch
):
    runs = manifest.runs("paper", only="plain")
    _made_with(monkeypatch, "1" * 64)
    engine.execute(runs[:1], inline=True, report=_quiet)
    _made_with(monkeypatch, "2" * 64)
    engine.execute(runs[1:], inline=True, report=_quiet)
    assert engine.outdated(runs) == runs[:1] and engine.pending(runs) == []
    assert engine.execute(runs, inline=True, report=_quiet).done == []
    assert engine.execute(runs, inline=True, again=True, report=_quiet).done == [runs[0].id]
    assert results.read_run(runs[0].folder)["code"] == "2" * 64 and engine.outdated(runs) == []
    assert engine.execute(runs, inline=True, again=True, report=_quiet).done == []


def test_a_result_that_does_not_say_its_code_is_never_made_again_and_is_told_of(
    project, monkeypatch, capsys
):
    runs = manifest.runs("paper", only="plain")
    engine.execute(runs, inline=True, report=_quiet)  # there is no rule "toy", so no code of it
    assert "code" not in results.read_run(runs[0].folder)
    sentence = "2 finished runs do not say which code made them"
    commands = (["status"], ["run", "--inline"], ["run", "--inline", "--again"])
    assert not any(sentence in _said(capsys, *command) for command in commands)
    _made_with(monkeypatch, "2" * 64)
    assert engine.outdated(runs) == [] and engine.pending(runs, again=True) == []
    assert all(_said(capsys, *command).count(sentence) == 1 for command in commands)


def test_the_code_of_a_rule_that_only_the_experiment_names_is_recorded(
    project, rewrite, monkeypatch
):
    rewrite("{rule: toy, rate: 1e-4}", "{rate: 1e-4}")
    rewrite("    simulation: act", "    simulation: act\n    rule: toy")
    monkeypatch.setattr(_sources, "code", lambda rule: {"toy": "1" * 64}.get(rule))
    runs = manifest.runs("smoke")
    engine.execute(runs, inline=True, report=_quiet)
    about = results.read_run(runs[0].folder)
    assert (about["code"], about["rule"], "rule" in about["parameters"]) == ("1" * 64, "toy", False)
    monkeypatch.setattr(_sources, "code", lambda rule: {"toy": "2" * 64}.get(rule))
    assert engine.outdated(runs) == runs


def test_status_shows_runs_of_other_parameters_and_seeds(project, capsys):
    engine.execute(
        manifest.runs("paper", only="plain", overrides={"value": 5.0}, seeds=[3]),
        inline=True,
        report=_quiet,
    )
    assert "1 done" in _said(capsys, "status", "--set", "value=5.0", "--seeds", "3")
    assert "1 missing" in _said(capsys, "status", "--seeds", "3")


def test_a_collected_result_is_made_again_only_if_it_carries_another_digest(project, monkeypatch):
    runs = manifest.runs("paper", only="plain")
    engine.execute(runs[:1], inline=True, report=_quiet)
    _made_with(monkeypatch, "1" * 64)
    engine.execute(runs[1:], inline=True, report=_quiet)
    results.collect(runs[0].experiment_folder)
    shutil.rmtree(runs[0].experiment_folder)
    assert engine.outdated(runs) == []
    _made_with(monkeypatch, "2" * 64)
    assert engine.pending(runs) == [] and engine.pending(runs, again=True) == runs[1:]
    assert engine.execute(runs, inline=True, again=True, report=_quiet).done == [runs[1].id]
    assert engine.outdated(runs) == []  # the folder wins over what was collected


def test_the_command_line_says_how_many_finished_runs_other_code_made(project, monkeypatch, capsys):
    _made_with(monkeypatch, "1" * 64)
    engine.execute(manifest.runs("paper", only="plain"), inline=True, report=_quiet)
    sentence = "2 finished runs were made with other code of their rule; --again runs them again."
    assert sentence not in _said(capsys, "status")
    _made_with(monkeypatch, "2" * 64)
    assert sentence in _said(capsys, "status") and sentence in _said(capsys, "run", "--inline")
    assert "2 to do" in _said(capsys, "run", "--inline", "--again")
    assert sentence not in _said(capsys, "status")


def test_no_user_name_host_or_home_is_in_any_artefact_of_a_kernel_run(project):
    run = manifest.runs("smoke")[0]
    engine.execute([run], workers=1, report=_quiet)
    secrets = (str(Path.home()), os.uname().nodename)
    for name in ("run.json", "run.log", "result.pkl"):
        content = (run.folder / name).read_bytes()
        assert not any(secret.encode() in content for secret in secrets if len(secret) > 3)
