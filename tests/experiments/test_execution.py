"""One run: what is recorded when it fails, diverges, starts again, or cannot write its files."""

import json
import subprocess
import sys

import pytest
from toy import add_cells, execute_run, in_this_process, on_dask, silent, start

from bioplaus import results
from bioplaus.analysis import frames
from bioplaus.errors import BioplausError
from bioplaus.experiments import completion, manifest, status, sweep
from bioplaus.experiments.forecast import forecast
from bioplaus.results import run as results_run


def test_a_run_that_ends_without_a_result_has_failed(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: save-nothing}}")
    summary = sweep.execute(manifest.runs("smoke"), inline=True, report=silent)
    assert ["without saving a result" in message for message in summary.failed.values()] == [True]


def test_a_run_whose_show_cell_raises_or_kills_the_kernel_is_done_and_says_so(project):
    show = "if seed: os.kill(os.getpid(), signal.SIGKILL)\nraise RuntimeError('no such colour')"
    add_cells(project, ("show", show))
    runs = manifest.runs("paper", only="plain")
    for run, sentence in zip(runs, ("no such colour", "kernel died"), strict=True):
        outcome = execute_run(run, "python3", 1)
        assert outcome.status == "done"
        assert "a later cell failed" in outcome.message and sentence in outcome.message
        record = results.read_run(run.folder)
        assert record["attempt"] == 1 and sentence in record["error"]
        assert results.is_complete(run.folder)
    assert completion.pending(runs) == []
    assert len(frames.epochs(results.outcomes(runs[0].experiment_folder))) == 4
    rows = status.rows(runs)
    assert [row["status"] for row in rows] == ["done", "done"]
    assert "no such colour" in rows[0]["error"]


def test_a_failed_run_never_keeps_a_digest(project):
    add_cells(project, ("", "Path(folder, 'result.pkl').unlink()\nraise RuntimeError('gone')"))
    run = manifest.runs("smoke")[0]
    assert "gone" in sweep.execute([run], inline=True, report=silent).failed[run.id]
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
    outcomes = in_this_process(runs) if is_inline else on_dask(runs, scheduler)
    ended = {run.key: outcome for run, outcome in outcomes}
    failed = ended.pop(runs[0].key)
    assert failed.status == "failed" and runs[0].id in failed.message
    assert "\n" not in failed.message and "worker" not in failed.message
    assert {outcome.status for outcome in ended.values()} == {"done"}


def test_a_failure_that_cannot_be_noted_is_told_all_the_same(project, rewrite, monkeypatch):
    rewrite("plain: {label: Plain}", 'plain: {label: Plain, parameters: {mishap: "raise"}}')
    whole = results_run.write_run

    def full_disk(folder, run):
        if run["status"] == "failed":
            raise BioplausError("No space left on device.")
        whole(folder, run)

    monkeypatch.setattr(results_run, "write_run", full_disk)
    (message,) = sweep.execute(manifest.runs("smoke"), inline=True, report=silent).failed.values()
    assert "unlucky" in message and "No space" in message


def test_an_exit_in_a_cell_is_a_failure_like_any_other(project):
    add_cells(project, ("", "if seed == 0:\n    raise SystemExit(3)"))
    path = project / "Simulations" / "act.ipynb"
    content = json.loads(path.read_text())
    content["cells"].insert(2, content["cells"].pop())
    path.write_text(json.dumps(content))
    runs = manifest.runs("paper", only="plain")
    summary = sweep.execute(runs, inline=True, report=silent)
    assert list(summary.failed) == [runs[0].id] and summary.done == [runs[1].id]
    assert summary.failed[runs[0].id].startswith(
        "SystemExit: 3 (act.ipynb cell 2, line 2; traceback in "
    )


def test_run_json_that_is_no_table_is_a_damaged_run_and_is_made_again(project):
    run = manifest.runs("smoke")[0]
    run.folder.mkdir(parents=True)
    for name in ("run.json", "progress.json"):
        (run.folder / name).write_text("[1]")
    assert completion.pending([run]) == [run] and status.rows([run])[0]["status"] == "damaged"
    assert forecast([run], 1) is None
    assert sweep.execute([run], inline=True, report=silent).done == [run.id]


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
    add_cells(project, ("", f"{seen}\nassert paths.project_root().is_absolute()"))
    run = manifest.runs("smoke")[0]
    place = run.folder.resolve()
    assert execute_run(run, "python3", folder=place)[:2] == (
        "done",
        "",
    )
    assert (place / "seen").read_text() == f"{project / 'data'} {project / 'Results'}"


def test_a_diverged_run_counts_as_diverged_and_is_not_tried_again(project, rewrite):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: diverge}}")
    runs = manifest.runs("smoke")
    assert sweep.execute(runs, inline=True, report=silent).diverged == [runs[0].id]
    assert sweep.execute(runs, inline=True, report=silent).skipped == [runs[0].id]
    assert status.rows(runs)[0]["status"] == "diverged"


def test_a_diverged_run_says_where_counted_from_one(project):
    found = (
        "{'status': 'diverged', 'divergence': {'epoch': 0, 'batch': 5, 'tensor': 'w.0'},"
        " 'epochs': {}}"
    )
    add_cells(project, ("", f"results.finish(folder, {found})"))
    runs, said = manifest.runs("smoke"), []
    sweep.execute(runs, inline=True, report=said.append)
    assert said[0].endswith(": w.0 not finite in epoch 1, batch 6")
    assert status.rows(runs)[0]["error"] == "w.0 not finite in epoch 1, batch 6"


@pytest.mark.parametrize("kernel", [None, "python3"])
def test_a_run_that_did_not_go_on_from_its_checkpoint_says_why(project, kernel):
    reason = "its checkpoint was made with other code of rule toy"
    note = (
        "from bioplaus import _files\n"
        f"_files.write_json(Path(folder, 'progress.json'), {{'passed_over': {reason!r}}})"
    )
    add_cells(project, ("", note))
    run = manifest.runs("smoke")[0]
    ended = execute_run(run, kernel, 0)
    assert ended[:2] == ("done", f"started anew: {reason}") and "error" not in results.read_run(
        run.folder
    )


def test_two_executions_of_one_run_do_it_once(project):
    runs = manifest.runs("smoke")
    processes = [start(project, "--inline") for _ in range(3)]
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
    assert sweep.execute([run], inline=True, report=silent).done == [run.id]
