"""What is complete and what is to do: collected runs, other code, and what commands say."""

import os
import shutil

import pytest
from toy import silent

from bioplaus import _sources, results
from bioplaus.cli import app
from bioplaus.errors import BioplausError
from bioplaus.experiments import completion, locks, manifest, status, sweep


def test_collected_runs_need_not_be_run_again(project):
    runs = manifest.runs("paper", only="plain")
    sweep.execute(runs, inline=True, report=silent)
    results.collect(runs[0].experiment_folder)
    for run in runs:
        for path in run.folder.iterdir():
            path.unlink()
        run.folder.rmdir()
    assert completion.pending(runs) == []
    assert {row["status"] for row in status.rows(runs)} == {"done"}


def made_with(monkeypatch, digest):
    monkeypatch.setattr(_sources, "code", lambda rule: digest)


def printed(capsys, *arguments):
    """What a command prints of the toy paper's entry `plain`."""
    with pytest.raises(SystemExit):
        app([*arguments, "--preset", "paper", "--only", "plain"])
    return capsys.readouterr().out


def test_a_finished_run_made_with_other_code_of_its_rule_is_told_of_and_made_again_only_when_asked(
    project, monkeypatch
):
    runs = manifest.runs("paper", only="plain")
    made_with(monkeypatch, "1" * 64)
    sweep.execute(runs[:1], inline=True, report=silent)
    made_with(monkeypatch, "2" * 64)
    sweep.execute(runs[1:], inline=True, report=silent)
    assert completion.outdated(runs) == runs[:1] and completion.pending(runs) == []
    assert sweep.execute(runs, inline=True, report=silent).done == []
    assert sweep.execute(runs, inline=True, again=True, report=silent).done == [runs[0].id]
    assert results.read_run(runs[0].folder)["code"] == "2" * 64 and completion.outdated(runs) == []
    assert sweep.execute(runs, inline=True, again=True, report=silent).done == []


def test_a_result_that_does_not_say_its_code_is_never_made_again_and_is_told_of(
    project, monkeypatch, capsys
):
    runs = manifest.runs("paper", only="plain")
    sweep.execute(runs, inline=True, report=silent)  # there is no rule "toy", so no code of it
    assert "code" not in results.read_run(runs[0].folder)
    sentence = "2 finished runs do not say which code made them"
    commands = (["status"], ["run", "--inline"], ["run", "--inline", "--again"])
    assert not any(sentence in printed(capsys, *command) for command in commands)
    made_with(monkeypatch, "2" * 64)
    assert completion.outdated(runs) == [] and completion.pending(runs, again=True) == []
    assert all(printed(capsys, *command).count(sentence) == 1 for command in commands)


def test_the_code_of_a_rule_that_only_the_experiment_names_is_recorded(
    project, rewrite, monkeypatch
):
    rewrite("{rule: toy, rate: 1e-4}", "{rate: 1e-4}")
    rewrite("    simulation: act", "    simulation: act\n    rule: toy")
    monkeypatch.setattr(_sources, "code", lambda rule: {"toy": "1" * 64}.get(rule))
    runs = manifest.runs("smoke")
    sweep.execute(runs, inline=True, report=silent)
    about = results.read_run(runs[0].folder)
    assert (about["code"], about["rule"], "rule" in about["parameters"]) == ("1" * 64, "toy", False)
    monkeypatch.setattr(_sources, "code", lambda rule: {"toy": "2" * 64}.get(rule))
    assert completion.outdated(runs) == runs


def test_status_shows_runs_of_other_parameters_and_seeds(project, capsys):
    sweep.execute(
        manifest.runs("paper", only="plain", overrides={"value": 5.0}, seeds=[3]),
        inline=True,
        report=silent,
    )
    assert "1 done" in printed(capsys, "status", "--set", "value=5.0", "--seeds", "3")
    assert "1 missing" in printed(capsys, "status", "--seeds", "3")


def test_a_collected_result_is_made_again_only_if_it_carries_another_digest(project, monkeypatch):
    runs = manifest.runs("paper", only="plain")
    sweep.execute(runs[:1], inline=True, report=silent)
    made_with(monkeypatch, "1" * 64)
    sweep.execute(runs[1:], inline=True, report=silent)
    results.collect(runs[0].experiment_folder)
    shutil.rmtree(runs[0].experiment_folder)
    assert completion.outdated(runs) == []
    made_with(monkeypatch, "2" * 64)
    assert completion.pending(runs) == [] and completion.pending(runs, again=True) == runs[1:]
    assert sweep.execute(runs, inline=True, again=True, report=silent).done == [runs[1].id]
    assert completion.outdated(runs) == []  # the folder wins over what was collected


def test_the_command_line_says_how_many_finished_runs_other_code_made(project, monkeypatch, capsys):
    made_with(monkeypatch, "1" * 64)
    sweep.execute(manifest.runs("paper", only="plain"), inline=True, report=silent)
    sentence = "2 finished runs were made with other code of their rule; --again runs them again."
    assert sentence not in printed(capsys, "status")
    made_with(monkeypatch, "2" * 64)
    assert sentence in printed(capsys, "status") and sentence in printed(capsys, "run", "--inline")
    assert "2 to do" in printed(capsys, "run", "--inline", "--again")
    assert sentence not in printed(capsys, "status")


def test_status_of_folders_that_may_not_be_entered_lists_the_rest_and_writes_nothing(
    project, monkeypatch, capsys
):
    runs = manifest.runs("paper")
    sweep.execute(runs, inline=True, report=silent)
    before = {path: path.stat().st_mtime_ns for path in runs[0].experiment_folder.rglob("*")}
    real = os.stat, os.lstat, open
    closed = str(runs[0].folder)

    def denied(call):
        def guarded(path, *arguments, **options):
            if str(path).startswith(closed + "/"):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *arguments, **options)

        return guarded

    with monkeypatch.context() as other_user:
        for name, call in zip(("os.stat", "os.lstat", "io.open"), real, strict=True):
            other_user.setattr(name, denied(call))
        states = [row["status"] for row in status.rows(runs)]
    assert states[0] == "unreadable" and set(states[1:]) == {"done"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_lock_is_asked_for_without_writing_anything(project):
    run = manifest.runs("smoke")[0]
    run.folder.mkdir(parents=True)
    lock = run.folder / ".lock"
    assert not status._is_locked(run.folder)
    with locks.locked(run.folder):
        before = lock.stat()
        assert status._is_locked(run.folder)
    assert not status._is_locked(run.folder)
    assert (lock.stat().st_mtime_ns, lock.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_a_disk_without_locks_is_told_of_before_anything_starts(project, monkeypatch):
    def no_locks(file, flags):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(BioplausError, match="cannot be locked .No locks available.; choose a fold"):
        sweep.execute(manifest.runs("smoke"), inline=True, report=silent)
    assert not manifest.runs("smoke")[0].folder.exists()
