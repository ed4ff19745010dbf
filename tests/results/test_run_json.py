"""What makes a run complete: run.json is whole, is this run's, and says so; nothing else does."""

import json
import os
import shutil
import stat
import sys
import types

import numpy as np
import pytest

from bioplaus import _files, results, rules
from bioplaus.errors import BioplausError
from bioplaus.results import run_json

RECORD = {"status": "done", "epochs": {"epoch": np.arange(2)}, "diagnostics": {}}
OLD = {**RECORD, "epochs": {"epoch": np.arange(7)}}
IDENTITY = {"id": "run", "entry": "ep", "seed": 0, "parameters": {"rule": "ep", "rate": 0.1}}


@pytest.fixture
def folder(tmp_path):
    """A run that has begun."""
    return results.begin(tmp_path / "run", IDENTITY)


@pytest.fixture
def done(folder):
    """A run that is complete."""
    results.finish(folder, RECORD, seconds={"train": [1.0]})
    return folder


def _tree(folder):
    """Every file under a folder with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _unreadable(monkeypatch, name, error):
    """Reading a file of this name fails, as it does for another user; root may read anything."""
    whole = _files.Path.read_bytes

    def read_bytes(path):
        if path.name == name:
            raise error
        return whole(path)

    monkeypatch.setattr(_files.Path, "read_bytes", read_bytes)


# --- the file


def test_run_json_is_json_that_anybody_can_read(done):
    run = json.loads((done / "run.json").read_text())
    assert run["id"] == "run" and run["status"] == "done" and len(run["sha256"]) == 64


@pytest.mark.parametrize("fixture", ["folder", "done"])
def test_every_single_flipped_bit_and_every_truncation_of_run_json_is_noticed(fixture, request):
    place = request.getfixturevalue(fixture)
    path = place / "run.json"
    whole = path.read_bytes()
    damages = [whole[:length] for length in range(len(whole))]
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(damaged))
    for damaged in damages:
        with pytest.raises(BioplausError, match="run.json"):
            run_json._parse(damaged, path)
    assert run_json._parse(whole, path)["id"] == "run"


@pytest.mark.parametrize(
    "edit",
    [
        lambda run: {**run, "schema": 3},
        lambda run: {**run, "schema": 10**30},
        lambda run: {**run, "schema": True},
        lambda run: {**run, "schema": 2.0},
        lambda run: {**run, "schema": 0},
        lambda run: {name: value for name, value in run.items() if name != "schema"},
    ],
    ids=["newer", "huge", "bool", "float", "zero", "none"],
)
def test_another_schema_is_refused_even_if_it_is_sealed(done, edit):
    run = edit({**results.read_run(done), "schema": 2})
    (done / "run.json").write_bytes(run_json._sealed(run))
    assert results.inspect(done).status == "damaged" and not results.is_complete(done)


def test_a_run_json_of_schema_2_without_its_seal_is_refused(done):
    run = results.read_run(done)
    (done / "run.json").write_bytes(_files.json_bytes(run))
    with pytest.raises(BioplausError, match="does not match the digest"):
        results.read_run(done)


def test_a_run_of_an_earlier_version_is_complete_without_a_seal(done):
    run = {**results.read_run(done), "schema": 1}
    (done / "run.json").write_text(json.dumps(run, indent=1, sort_keys=True) + "\n")
    assert results.is_complete(done) and results.read_run(done) == run
    assert results.load(done / "result.pkl")["status"] == "done"


def test_a_deeply_nested_run_json_is_one_sentence(done):
    for depth in (101, 300, 100_000):
        (done / "run.json").write_text('{"a":' * depth + "1" + "}" * depth)
        with pytest.raises(BioplausError, match="more than 100 lists or tables inside one another"):
            results.read_run(done)
        assert results.inspect(done).status == "damaged"
    deepest = {"schema": 1, "a": json.loads("[" * 99 + "]" * 99)}
    (done / "run.json").write_text(json.dumps(deepest))
    assert results.read_run(done) == deepest


def test_an_identity_that_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, float("nan"), {1, 2}):
        with pytest.raises(BioplausError, match="JSON"):
            results.begin(tmp_path / "run", {**IDENTITY, "parameters": {"a": value}})
    assert not (tmp_path / "run" / "run.json").exists()


# --- what counts as complete


def test_a_run_is_complete_only_in_the_folder_that_is_called_as_it_is(done):
    other = done.rename(done.with_name("other"))
    state = results.inspect(other)
    assert state.status == "damaged" and "'run'" in state.problem and "other" in state.problem
    assert not results.is_complete(other)


@pytest.mark.parametrize("name", ["id", "status", "sha256", "schema"])
@pytest.mark.parametrize("value", [None, "", "other", 3, [], {}, True])
def test_whatever_stands_in_run_json_for_what_must_be_there_it_is_not_complete(done, name, value):
    run = {**results.read_run(done), name: value}
    (done / "run.json").write_bytes(run_json._sealed(run))
    assert results.inspect(done).status == "damaged" and not results.is_complete(done)
    del run[name]
    (done / "run.json").write_bytes(run_json._sealed(run))
    assert not results.is_complete(done)


def test_a_result_without_its_run_json_is_damaged_and_not_missing(done):
    (done / "run.json").unlink()
    assert results.inspect(done).status == "damaged"
    (done / "result.pkl").unlink()
    assert results.inspect(done).status == "missing"
    assert results.inspect(done / "nowhere").status == "missing"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"0"),
    ],
    ids=["gone", "empty", "cut", "changed"],
)
def test_a_damaged_result_is_called_damaged_with_its_name(done, damage):
    damage(done / "result.pkl")
    state = results.inspect(done)
    assert state.status == "damaged" and str(done / "result.pkl") in state.problem
    assert state.problem.endswith(".") and "\n" not in state.problem


def test_a_folder_that_is_a_link_is_no_run(done, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    shutil.move(done, outside / "run")
    done.symlink_to(outside / "run")
    before = _tree(outside)
    assert results.inspect(done).status == "damaged" and not results.is_complete(done)
    for write in (
        lambda: results.begin(done, IDENTITY),
        lambda: results.finish(done, RECORD),
        lambda: results.fail(done, IDENTITY, "it failed"),
    ):
        with pytest.raises(BioplausError, match="is a link"):
            write()
    assert _tree(outside) == before


# --- begin, finish, fail


def test_a_run_begins_only_in_the_folder_that_is_called_as_it_is(tmp_path):
    for run_id in ("other", None, 3, ""):
        with pytest.raises(BioplausError, match="another's"):
            results.begin(tmp_path / "run", {**IDENTITY, "id": run_id})
    assert list(tmp_path.iterdir()) == []


def _moved(folder):
    folder.rename(folder.with_name("moved"))


def _relinked(folder):
    _moved(folder)
    folder.symlink_to(folder.with_name("moved"))


def _replaced(folder):
    _moved(folder)
    folder.mkdir()


def _removed(folder):
    (folder / "run.json").unlink()


def _of_another(folder):
    run_json.write_run(folder, {**results.read_run(folder), "id": "other"})


def _cut(folder):
    (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:-9])


@pytest.mark.parametrize("fault", [_moved, _relinked, _replaced, _removed, _of_another, _cut])
def test_a_run_whose_identity_is_gone_cannot_be_finished_and_leaves_nothing_behind(folder, fault):
    fault(folder)
    before = _tree(folder.parent)
    with pytest.raises(BioplausError, match=r"\.$"):
        results.finish(folder, RECORD)
    assert _tree(folder.parent) == before and not results.is_complete(folder)


def test_nothing_that_is_written_while_a_run_goes_on_makes_its_folder_anew(folder):
    _moved(folder)
    for write in (
        lambda: _files.write_atomic(folder / "checkpoint.pt", b"x"),
        lambda: _files.write_json(folder / "progress.json", {}),
        lambda: results.save(RECORD, folder / "result.pkl"),
        lambda: results.fail(folder, IDENTITY, "it failed"),
    ):
        with pytest.raises(BioplausError, match="its folder is not there"):
            write()
    assert not folder.exists()


@pytest.mark.parametrize("status", ["failed", "running", None, 1, "Done"])
def test_a_record_that_says_neither_done_nor_diverged_completes_nothing(folder, status):
    with pytest.raises(BioplausError, match="must be done or diverged"):
        results.finish(folder, {**RECORD, "status": status})
    assert results.inspect(folder).status == "running" and not (folder / "result.pkl").exists()


def test_the_code_that_was_imported_is_recorded_by_the_process_that_computes(tmp_path, monkeypatch):
    rules.get("ep")
    # whatever the process that began the run read
    folder = results.begin(tmp_path / "run", {**IDENTITY, "rule": "ep", "code": "1" * 64})
    results.finish(folder, RECORD)
    assert results.read_run(folder)["code"] == rules.code(rules.get("ep").Rule)
    # a rule that this process did not import, or that has no file, is not guessed at
    monkeypatch.setitem(sys.modules, "bioplaus.rules.made", types.ModuleType("made"))
    for rule in ("nowhere", "made", None):
        folder = results.begin(tmp_path / f"of-{rule}", {"id": f"of-{rule}", "rule": rule})
        results.finish(folder, RECORD)
        assert "code" not in results.read_run(folder)


def test_a_failure_is_noted_with_the_identity_and_never_over_a_complete_run(folder):
    results.fail(folder, IDENTITY, "it failed", "a traceback")
    run = results.read_run(folder)
    assert (run["status"], run["error"], run["traceback"]) == ("failed", "it failed", "a traceback")
    assert run["entry"] == "ep" and run["started"]
    results.finish(folder, RECORD)
    before = _tree(folder)
    results.fail(folder, IDENTITY, "again")
    assert _tree(folder) == before and results.is_complete(folder)


def test_a_failure_is_noted_where_run_json_was_removed_or_damaged_but_not_over_another_run(folder):
    for damage in (_removed, _cut):
        damage(folder)
        results.fail(folder, IDENTITY, "it failed")
        assert results.inspect(folder).status == "failed"
    _of_another(folder)
    before = _tree(folder)
    with pytest.raises(BioplausError, match="is of run 'other'"):
        results.fail(folder, IDENTITY, "it failed")
    assert _tree(folder) == before


def test_a_remark_is_kept_beside_the_result(done):
    results.remark(done, "a later cell failed")
    assert results.read_run(done)["error"] == "a later cell failed" and results.is_complete(done)


# --- not there, or not readable


ERRORS = [
    PermissionError(13, "Permission denied"),
    OSError(5, "Input/output error"),
    OSError(116, "Stale file handle"),
    NotADirectoryError(20, "Not a directory"),
    IsADirectoryError(21, "Is a directory"),
]


@pytest.mark.parametrize("name", ["run.json", "result.pkl"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.strerror)
def test_a_run_that_cannot_be_read_is_neither_missing_nor_begun_nor_failed(
    done, monkeypatch, name, error
):
    before = _tree(done)
    with monkeypatch.context() as other_user:
        _unreadable(other_user, name, error)
        state = results.inspect(done)
        assert state.status == "unreadable" and error.strerror in state.problem
        for use in (
            lambda: results.is_complete(done),
            lambda: results.begin(done, IDENTITY),
            lambda: results.fail(done, IDENTITY, "it failed"),
            lambda: results.load(done / "result.pkl"),
        ):
            with pytest.raises(BioplausError, match=f"Could not read .*{error.strerror}"):
                use()
    assert _tree(done) == before and results.is_complete(done)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads what nobody may read")
def test_a_run_of_another_user_is_unreadable(done):
    (done / "run.json").chmod(0)
    assert results.inspect(done).status == "unreadable"


def test_a_folder_in_place_of_a_file_is_unreadable(folder):
    (folder / "run.json").unlink()
    (folder / "run.json").mkdir()
    assert results.inspect(folder).status == "unreadable"
    with pytest.raises(BioplausError, match="Could not read"):
        results.begin(folder, IDENTITY)


def test_reading_changes_nothing_not_even_times(done):
    def times():
        return {path: path.stat().st_mtime_ns for path in (done, *done.iterdir())}

    before = times()
    for read in (results.inspect, results.is_complete, results.read_run):
        read(done)
    list(results.outcomes(done.parent))
    assert times() == before


# --- again


def test_a_complete_run_that_is_begun_again_stays_until_the_new_one_is_whole(folder):
    results.finish(folder, OLD)
    before = _tree(folder)
    work = results.begin(folder, IDENTITY)
    assert work != folder and work.parent == folder.parent
    results.fail(work, IDENTITY, "the new code is broken")
    assert not results.adopt(folder) and _tree(folder) == before and results.is_complete(folder)
    assert [outcome.run["id"] for outcome in results.outcomes(folder.parent)] == ["run"]
    assert results.begin(folder, IDENTITY) == work
    results.finish(work, RECORD)
    (work / "network.pt").write_bytes(b"new")
    (work / "readout").mkdir()
    (folder / "readout").mkdir()
    (folder / "readout" / "old").touch()
    assert (
        _tree(folder) != before and results.load(folder / "result.pkl")["epochs"]["epoch"].size == 7
    )
    assert results.adopt(folder) and not work.exists()
    assert results.load(folder / "result.pkl")["epochs"]["epoch"].size == 2
    assert (folder / "network.pt").read_bytes() == b"new" and not (folder / "readout/old").exists()
    assert results.is_complete(folder) and not results.adopt(folder)


def test_what_was_computed_again_counts_only_in_its_place(folder):
    results.finish(folder, OLD)
    work = results.begin(folder, IDENTITY)
    results.finish(work, RECORD)
    problems = []
    (outcome,) = results.outcomes(folder.parent, problems.append)
    assert outcome.record["epochs"]["epoch"].size == 7 and problems == []
    assert not results.is_complete(work)


@pytest.mark.parametrize("n_moves", [0, 1, 2])
def test_adopting_that_was_killed_is_ended_by_adopting_once_more(folder, monkeypatch, n_moves):
    results.finish(folder, OLD)
    work = results.begin(folder, IDENTITY)
    results.finish(work, RECORD)
    (work / "network.pt").write_bytes(b"new")
    replace, moved = os.replace, []

    def dying(source, target):
        if len(moved) == n_moves:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            results.adopt(folder)
    assert results.adopt(folder) and results.is_complete(folder)
    assert results.load(folder / "result.pkl")["epochs"]["epoch"].size == 2
    assert (folder / "network.pt").exists() and not work.exists()


def test_modes_of_the_record_follow_the_umask(folder):
    results.finish(folder, RECORD)
    mask = os.umask(0)
    os.umask(mask)
    for name in ("run.json", "result.pkl"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o666 & ~mask
