"""A sweep: everything is checked before it starts, every run is done once, and one failure stops no
other.
"""

import json
import os
from pathlib import Path

import pytest
from toy import digests, silent

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, status, sweep


def test_a_sweep_runs_everything_once_and_then_nothing(project):
    runs = manifest.runs("paper")
    first = sweep.execute(runs, inline=True, report=silent)
    assert len(first.done) == len(runs) and not first.skipped and not first.failed
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.folder.iterdir()}
    again = sweep.execute(runs, inline=True, report=silent)
    assert again.skipped == [run.id for run in runs] and not again.done
    assert {
        path: path.stat().st_mtime_ns for run in runs for path in run.folder.iterdir()
    } == before


def test_only_what_is_damaged_or_missing_is_run_again_and_comes_back_the_same(project):
    runs = manifest.runs("paper", only="graded*")
    sweep.execute(runs, inline=True, report=silent)
    before = digests(runs)
    damaged, missing = runs[1].folder / "result.pkl", runs[2].folder / "run.json"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    missing.unlink()
    again = sweep.execute(runs, inline=True, report=silent)
    assert sorted(again.done) == sorted([runs[1].id, runs[2].id]) and digests(runs) == before


def test_one_failure_is_recorded_with_its_traceback_and_does_not_stop_the_others(project, rewrite):
    rewrite("plain: {label: Plain}", 'plain: {label: Plain, parameters: {mishap: "raise"}}')
    runs = manifest.runs("paper")
    summary = sweep.execute(runs, inline=True, report=silent)
    assert len(summary.failed) == 2 and len(summary.done) == len(runs) - 2
    about = json.loads((runs[0].folder / "run.json").read_text())
    assert (
        about["status"] == "failed"
        and "unlucky" in about["error"]
        and "Traceback" in about["traceback"]
    )
    rows = {row["id"]: row for row in status.rows(runs)}
    assert rows[runs[0].id]["status"] == "failed" and "unlucky" in rows[runs[0].id]["error"]


def test_everything_is_checked_before_anything_starts(project):
    good, bad = (
        manifest.runs("paper", only="plain")[0],
        manifest.runs("paper", only="plain", overrides={"value": -1.0})[1],
    )
    with pytest.raises(BioplausError, match="at least 0"):
        sweep.execute([good, bad], inline=True, report=silent)
    assert not (project / "Results").exists()


def test_a_results_folder_that_cannot_be_made_is_one_sentence_before_anything_starts(
    project, monkeypatch
):
    (project / "file").write_text("")
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(project / "file"))
    with pytest.raises(BioplausError, match="Results cannot be written"):
        sweep.execute(manifest.runs("smoke"), inline=True, report=silent)


def test_an_unknown_kernel_or_scheduler_is_refused_before_anything_starts(project):
    runs = manifest.runs("smoke")
    with pytest.raises(BioplausError, match="unknown kernel 'pyhton3'; did you mean 'python3'"):
        sweep.execute(runs, kernel="pyhton3", report=silent)
    with pytest.raises(BioplausError, match="(?i)scheduler"):
        sweep.execute(runs, scheduler="slrum", report=silent)
    assert not any(run.folder.exists() for run in runs)


def test_a_notebook_with_the_same_parameters_is_checked_once_whatever_the_seed(
    project, monkeypatch
):
    runs, checked = manifest.runs("paper"), []
    monkeypatch.setattr(manifest.Run, "check", lambda run: checked.append(run))
    sweep.check(runs)
    assert len(runs) == 10 and [run.entry for run in checked] == [
        "plain",
        *(f"graded-{i}" for i in range(1, 5)),
    ]
    assert {run.seed for run in checked} == {0}


def test_needed_runs_of_other_seeds_are_no_reason_to_check_again(project, rewrite, monkeypatch):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, needs: {config.other: graded-1}}")
    checked = []
    monkeypatch.setattr(manifest.Run, "check", lambda run: checked.append(run))
    sweep.check(manifest.runs("paper", only="plain"))
    assert sorted(run.entry for run in checked) == ["graded-1", "plain"]


def test_kernels_workers_and_this_process_give_the_same_bytes(project):
    runs = manifest.runs("paper", only="plain")
    sweep.execute(runs, inline=True, report=silent)
    inline = digests(runs)
    os.environ["BIOPLAUS_RESULTS"] = str(project / "Others")
    summary = sweep.execute(runs, workers=2, report=silent)
    assert sorted(summary.done) == sorted(inline) and digests(runs) == inline
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
    summary = sweep.execute(runs, workers=2, retries=1, report=silent)
    assert summary.done == [runs[0].id] and list(summary.failed) == [runs[1].id]
    assert "kernel died" in summary.failed[runs[1].id]
    assert json.loads((runs[0].folder / "run.json").read_text())["attempt"] == 2
    assert not results.is_complete(runs[1].folder)


def test_no_user_name_host_or_home_is_in_any_artefact_of_a_kernel_run(project):
    run = manifest.runs("smoke")[0]
    sweep.execute([run], workers=1, report=silent)
    secrets = (str(Path.home()), os.uname().nodename)
    for name in ("run.json", "run.log", "result.pkl"):
        content = (run.folder / name).read_bytes()
        assert not any(secret.encode() in content for secret in secrets if len(secret) > 3)
