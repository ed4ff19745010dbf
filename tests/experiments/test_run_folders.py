"""The folder of a run under the engine: what is moved, replaced, damaged or cannot be read is never
taken for a result, hides no other run, and a good result is not lost.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from toy import digests, silent

from bioplaus import _sources, results
from bioplaus.cli import app
from bioplaus.errors import BioplausError
from bioplaus.experiments import completion, manifest, status, sweep

FAULTS = {
    "moved": "os.rename(folder, folder + '-moved')",
    "replaced": "os.rename(folder, folder + '-moved'); os.mkdir(folder)",
    "linked": "os.rename(folder, folder + '-moved'); os.symlink(folder + '-moved', folder)",
    "run.json removed": "os.unlink(folder + '/run.json')",
    "run.json emptied": "open(folder + '/run.json', 'w').close()",
    "run.json of another": (
        "run_json.write_run(Path(folder), {**results.read_run(folder), 'id': 'other'})"
    ),
}


@pytest.fixture
def runs(project):
    """Two runs that differ in their seed."""
    return manifest.runs("paper", only="plain")


def _before_saving(project, code):
    """Execute `code` in the first run, once, after its training and before it saves."""
    path = project / "Simulations" / "act.ipynb"
    content = json.loads(path.read_text())
    source = (
        "import os\nfrom pathlib import Path\nfrom bioplaus import results\n"
        "from bioplaus.results import run_json\n"
        f"once = Path({str(project / 'once')!r})\n"
        f"if seed == 0 and not once.exists():\n    once.touch()\n    {code}\n"
    )
    cell = {**content["cells"][-1], "id": "fault", "source": source, "metadata": {"tags": []}}
    content["cells"].insert(len(content["cells"]) - 1, cell)
    path.write_text(json.dumps(content))


def _states(runs):
    return [row["status"] for row in status.rows(runs)]


def _command(capsys, *arguments):
    """What a command prints of the runs, and its exit code."""
    with pytest.raises(SystemExit) as ended:
        app([*arguments, "--preset", "paper"])
    return ended.value.code or 0, capsys.readouterr().out


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_loses_its_folder_or_its_identity_fails_and_the_next_command_makes_it(
    project, runs, fault, capsys
):
    _before_saving(project, FAULTS[fault])
    summary = sweep.execute(runs, inline=True, report=silent)
    assert summary.done == [runs[1].id] and list(summary.failed) == [runs[0].id]
    (sentence,) = summary.failed.values()
    assert "\n" not in sentence and "Error" not in sentence
    assert completion.pending(runs) == [runs[0]]
    assert _command(capsys, "status")[0] == 0 and _command(capsys, "collect")[0] == 0
    assert [*results.collected(runs[0].experiment_folder)] == [runs[1].id]
    if fault == "linked":
        again = sweep.execute(runs, inline=True, report=silent)
        assert "is a link" in again.failed[runs[0].id]
        runs[0].folder.unlink()
    assert sweep.execute(runs, inline=True, report=silent).done == [runs[0].id]
    assert _states(runs) == ["done", "done"]


def test_a_folder_that_leads_out_of_the_results_is_written_nothing_into(project, runs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    runs[0].experiment_folder.mkdir(parents=True)
    runs[0].folder.symlink_to(outside)
    summary = sweep.execute(runs, inline=True, report=silent)
    assert "is a link" in summary.failed[runs[0].id] and summary.done == [runs[1].id]
    shutil.rmtree(runs[0].experiment_folder)
    runs[0].experiment_folder.symlink_to(outside)
    with pytest.raises(BioplausError, match="leads out of"):
        sweep.execute(runs, inline=True, report=silent)
    assert list(outside.iterdir()) == []


def _drop_result(folder):
    (folder / "result.pkl").unlink()


def _cut_result(folder):
    (folder / "result.pkl").write_bytes((folder / "result.pkl").read_bytes()[:-1])


def _change_run(folder):
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


def _rename(folder):
    os.rename(folder, folder.with_name("other"))
    shutil.copytree(folder.with_name("other"), folder)
    run = (folder / "run.json").read_text()
    (folder / "run.json").write_text(run.replace(folder.name, "other"))


@pytest.mark.parametrize("damage", [_drop_result, _cut_result, _change_run, _rename])
def test_a_damaged_run_is_called_damaged_and_why_and_comes_back_the_same(
    project, runs, damage, capsys
):
    sweep.execute(runs, inline=True, report=silent)
    before = digests(runs)
    damage(runs[0].folder)
    first, second = status.rows(runs)
    assert (first["status"], second["status"]) == ("damaged", "done")
    assert runs[0].id in first["error"] and first["error"].endswith(".")
    assert "1 damaged" in _command(capsys, "status", "--only", "plain")[1]
    assert sweep.execute(runs, inline=True, report=silent).done == [runs[0].id]
    assert digests(runs) == before


@pytest.mark.parametrize("name", ["run.json", "result.pkl"])
def test_a_run_that_cannot_be_read_is_left_alone_and_named(
    project, runs, name, monkeypatch, capsys
):
    sweep.execute(runs, inline=True, report=silent)
    before = {path: path.read_bytes() for path in runs[0].folder.iterdir()}
    whole = Path.read_bytes

    def denied(path):
        if path == runs[0].folder / name:
            raise PermissionError(13, "Permission denied")
        return whole(path)

    with monkeypatch.context() as other_user:
        other_user.setattr(Path, "read_bytes", denied)
        assert _states(runs) == ["unreadable", "done"]
        code, text = _command(capsys, "status", "--only", "plain")
        assert code == 0 and "1 unreadable" in text and "1 done" in text
        summary = sweep.execute(runs, inline=True, report=silent)
        assert "Could not read" in summary.failed[runs[0].id] and summary.skipped == [runs[1].id]
        assert _command(capsys, "collect")[0] == 0
    assert {path: path.read_bytes() for path in runs[0].folder.iterdir()} == before


def test_a_damaged_collection_stops_a_sweep_and_neither_status_nor_the_next_experiment(
    project, runs, capsys
):
    sweep.execute(runs, inline=True, report=silent)
    path = results.collect(runs[0].experiment_folder)
    path.write_bytes(path.read_bytes()[:-1])
    code, text = _command(capsys, "status", "--only", "plain")
    assert code == 0 and "2 done" in text and path.name in text.replace("\n", "")
    with pytest.raises(BioplausError, match=path.name):
        sweep.execute(runs, inline=True, report=silent)


def test_running_again_with_broken_code_keeps_the_good_result(project, runs, monkeypatch):
    monkeypatch.setattr(_sources, "code", lambda rule: "1" * 64)
    sweep.execute(runs, inline=True, report=silent)
    before, kept = digests(runs), (runs[0].folder / "run.json").read_bytes()
    monkeypatch.setattr(_sources, "code", lambda rule: "2" * 64)
    _before_saving(project, "raise RuntimeError('the new code is broken')")
    summary = sweep.execute(runs, inline=True, again=True, report=silent)
    assert summary.done == [runs[1].id]
    assert summary.failed[runs[0].id].endswith("the earlier result is kept")
    assert _states(runs) == ["done", "done"] and digests(runs) == before
    assert (runs[0].folder / "run.json").read_bytes() == kept
    assert completion.outdated(runs) == [runs[0]]
    summary = sweep.execute(runs, inline=True, again=True, report=silent)
    assert summary.done == [runs[0].id] and completion.outdated(runs) == []
    assert sorted(path.name for path in runs[0].experiment_folder.iterdir()) == sorted(
        run.id for run in runs
    )


def test_what_was_whole_when_the_command_was_killed_takes_its_place_at_the_next_one(
    project, runs, monkeypatch
):
    monkeypatch.setattr(_sources, "code", lambda rule: "1" * 64)
    sweep.execute(runs, inline=True, report=silent)
    monkeypatch.setattr(_sources, "code", lambda rule: "2" * 64)
    with monkeypatch.context() as killed:
        killed.setattr(results, "adopt", lambda folder: False)
        sweep.execute(runs, inline=True, again=True, report=silent)
    assert completion.outdated(runs) == runs
    assert sweep.execute(runs, inline=True, again=True, report=silent).done == []
    assert completion.outdated(runs) == [] and _states(runs) == ["done", "done"]
