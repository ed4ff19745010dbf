"""Runs made elsewhere come among ours only if they are what they say; a bad one is named, and
hides none of the others.
"""

import shutil

import pytest

from bioplaus import _sources, paths, results
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, merging, sweep
from bioplaus.results import run_json
from bioplaus.results.collection import collect

SEEDS = (0, 10, 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three small runs of EP on digits, made in a folder of results elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOPLAUS_RESULTS", str(tmp_path_factory.mktemp("there")))
        summary = sweep.execute(planned(), inline=True, report=lambda _: None)
        assert not summary.failed
        for run in planned():  # as on a machine whose checkout is clean
            edit(run.folder, dirty=False)
        return paths.root()


@pytest.fixture
def elsewhere(made, tmp_path, monkeypatch):
    """A copy of them; ours is an empty folder."""
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / "here"))
    return shutil.copytree(made, tmp_path / "elsewhere")


def planned():
    return manifest.runs("smoke", ["corinfomax"], only="mnist/ep", seeds=SEEDS)


def edit(folder, **changes):
    run = {**results.read_run(folder), **changes}
    run_json.write_run(folder, {name: value for name, value in run.items() if value != "gone"})


def folder_of(root, run):
    return next(root.rglob(run.id))


def ids():
    return sorted(results.collected(planned()[0].experiment_folder))


def test_whole_runs_come_into_the_collected_file_byte_for_byte_and_once(elsewhere):
    merged = merging.merge(elsewhere, planned())
    first = planned()[0]
    assert merged.n_runs == {first.experiment_folder.with_suffix(".pkl"): 3} and not merged.refused
    outcomes = list(results.outcomes(first.experiment_folder))
    for run, outcome in zip(sorted(planned(), key=lambda run: run.id), outcomes, strict=True):
        stored = folder_of(elsewhere, run)
        assert outcome.run == results.read_run(stored)
        assert outcome.run["sha256"] == results.inspect(stored).run["sha256"]
    content = first.experiment_folder.with_suffix(".pkl").read_bytes()
    again = merging.merge(elsewhere, planned())
    assert sorted(again.kept) == ids() and not again.n_runs
    assert first.experiment_folder.with_suffix(".pkl").read_bytes() == content


def test_a_collected_file_from_elsewhere_is_as_good_as_folders(elsewhere, tmp_path):
    path = collect(elsewhere / "smoke" / "corinfomax" / "mnist")
    (tmp_path / "sent").mkdir()
    shutil.move(path, tmp_path / "sent" / "any name.pkl")
    assert sum(merging.merge(tmp_path / "sent", planned()).n_runs.values()) == 3


BAD = {
    "cut result": (
        lambda folder: (folder / "result.pkl").write_bytes(b"x"),
        "is damaged or was changed",
    ),
    "an edited run.json": (
        lambda folder: (folder / "run.json").write_text(
            (folder / "run.json").read_text().replace('"seed": 10', '"seed": 11')
        ),
        "does not match the digest",
    ),
    "not finished": (lambda folder: edit(folder, status="running"), "not complete: running"),
    "other parameters": (
        lambda folder: edit(
            folder, parameters={**results.read_run(folder)["parameters"], "n_epochs": 11}
        ),
        "its parameters are those of ep-digits-s10-",
    ),
    "no parameters": (lambda folder: edit(folder, parameters="gone"), "does not say what it is"),
    "dirty": (lambda folder: edit(folder, dirty=True), "changes that no commit has"),
    "no code": (lambda folder: edit(folder, code="gone"), "does not say which code made it"),
    "unknown code": (lambda folder: edit(folder, code="0" * 64), "code of its rule (000000"),
    "another's": (
        lambda folder: folder.rename(folder.with_name("ep-digits-s10-00000000")),
        "is of run",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_run_is_refused_by_name_and_the_others_are_merged(elsewhere, fault):
    bad, *others = sorted(planned(), key=lambda run: run.seed != 10)
    damage, sentence = BAD[fault]
    damage(folder_of(elsewhere, bad))
    said = []
    merged = merging.merge(elsewhere, planned(), said.append)
    assert ids() == sorted(run.id for run in others)
    assert len(merged.refused) == 1 and merged.refused == said
    assert sentence in said[0] and "ep-digits-s10" in said[0]


def test_a_run_that_nobody_plans_is_counted_and_left_out(elsewhere):
    merged = merging.merge(elsewhere, planned()[:1])
    assert len(ids()) == 1 and len(merged.unplanned) == 2 and not merged.refused


def test_a_run_that_says_its_code_takes_the_place_of_one_that_does_not_and_of_no_other(elsewhere):
    first, second, _ = planned()
    old = {run.id: stored(folder_of(elsewhere, run)) for run in (first, second)}
    old[first.id].run.pop("code")
    for one in old.values():
        one.run["label"] = "old"
    results.merge(first.experiment_folder, old)
    assert merging.merge(elsewhere, planned()).kept == [second.id]
    now = results.collected(first.experiment_folder)
    assert now[first.id]["label"] != "old" and now[second.id]["label"] == "old"


def stored(folder):
    return next(results.complete_runs(folder))


def test_code_is_known_by_the_history_of_the_repository(elsewhere, monkeypatch):
    now = _sources.code("ep")
    if merging._git("rev-parse", "HEAD") is None:
        pytest.skip("not in a checkout")
    here = merging._code_at.__wrapped__
    commits = list(merging._commits(None))
    assert commits and here(commits[0], "ep")
    assert here(commits[0], "no_such_rule") is None
    monkeypatch.setattr(
        merging._sources, "code", lambda rule, package=None: now if package else "changed since"
    )
    assert merging._is_known.__wrapped__("ep", now, None)
    assert not merging._is_known.__wrapped__("ep", "0" * 64, None)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(BioplausError, match="There is no folder .*nowhere"):
        merging.merge(tmp_path / "nowhere", planned())
