"""Many runs read together: a bad one is named, hides none of the others and loses nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bioplaus import _files, paths, results
from bioplaus.errors import BioplausError
from bioplaus.results import listing, record, run_json

IDS = ["ep-s0", "ep-s1", "ep-s2"]


@pytest.fixture
def experiment(tmp_path):
    """Three complete runs."""
    for i, run_id in enumerate(IDS):
        folder = results.begin(tmp_path / "mnist" / run_id, {"id": run_id, "seed": i})
        results.finish(folder, {"status": "done", "value": np.array([i])})
    return tmp_path / "mnist"


def _unseal(path):
    run = run_json._parse(path.read_bytes(), path)
    path.write_bytes(_files.json_bytes(run))


DAMAGES = {
    "no id": lambda folder: run_json.write_run(folder, {"status": "done", "sha256": "0" * 64}),
    "another's": lambda folder: run_json.write_run(
        folder, {**results.read_run(folder), "id": "other"}
    ),
    "no seal": lambda folder: _unseal(folder / "run.json"),
    "no run.json": lambda folder: (folder / "run.json").unlink(),
    "no JSON": lambda folder: (folder / "run.json").write_text("{"),
    "no result": lambda folder: (folder / "result.pkl").unlink(),
    "cut result": lambda folder: (folder / "result.pkl").write_bytes(b"x"),
    "a link": lambda folder: (
        shutil.move(folder, folder.parents[1] / "elsewhere"),
        folder.symlink_to(folder.parents[1] / "elsewhere"),
    ),
    "a folder for run.json": lambda folder: (
        (folder / "run.json").unlink(),
        (folder / "run.json").mkdir(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_bad_run_is_named_and_the_others_are_read_and_collected(experiment, damage):
    DAMAGES[damage](experiment / IDS[1])
    said = []
    read = [outcome.run["id"] for outcome in results.outcomes(experiment, said.append)]
    assert read == [IDS[0], IDS[2]]
    assert len(said) == 1 and IDS[1] in said[0] and said[0].endswith(".") and "\n" not in said[0]
    said = []
    assert results.collect(experiment, said.append) == experiment.with_name("mnist.pkl")
    assert sorted(results.collected(experiment)) == [IDS[0], IDS[2]] and len(said) == 1


def test_a_bad_run_is_warned_of_where_nobody_asks_for_the_sentences(experiment):
    DAMAGES["no id"](experiment / IDS[0])
    with pytest.warns(UserWarning, match=IDS[0]):
        assert len(list(results.outcomes(experiment))) == 2


def test_a_whole_copy_in_the_collection_stands_in_for_a_run_that_is_damaged_since(experiment):
    results.collect(experiment)
    DAMAGES["cut result"](experiment / IDS[1])
    said = []
    assert [o.run["id"] for o in results.outcomes(experiment, said.append)] == IDS
    assert len(said) == 1


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_damaged_collection_is_not_written_over_and_hides_no_folder(experiment, length):
    path = results.collect(experiment)
    path.write_bytes(path.read_bytes()[:length])
    before = path.read_bytes()
    with pytest.raises(BioplausError, match="mnist.pkl"):
        results.collect(experiment)
    with pytest.raises(BioplausError, match="mnist.pkl"):
        results.collected(experiment)
    assert path.read_bytes() == before
    said = []
    assert [o.run["id"] for o in results.outcomes(experiment, said.append)] == IDS
    assert len(said) == 1 and "mnist.pkl" in said[0]


def test_a_collection_that_cannot_be_read_is_not_taken_for_none(experiment, monkeypatch):
    path = results.collect(experiment)
    shutil.rmtree(experiment)
    before, whole = path.read_bytes(), Path.read_bytes

    def denied(file):
        if file == path:
            raise PermissionError(13, "Permission denied")
        return whole(file)

    with monkeypatch.context() as other_user:
        other_user.setattr(Path, "read_bytes", denied)
        for use in (results.collect, results.collected):
            with pytest.raises(BioplausError, match="Could not read .*Permission denied"):
                use(experiment)
    assert path.read_bytes() == before


def test_an_experiment_that_cannot_be_listed_is_named_and_not_taken_for_empty(
    experiment, monkeypatch
):
    def denied(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    said = []
    assert list(results.outcomes(experiment, said.append)) == []
    assert len(said) == 1 and "Permission denied" in said[0] and "mnist" in said[0]


RUN = {"id": "a", "status": "done", "schema": 2}
ENTRIES = [
    None,
    {},
    {"run": {}, "result": np.zeros(1, np.uint8)},
    {"run": {**RUN, "sha256": "0" * 64}, "result": np.zeros(1, np.uint8)},
    {"run": {**RUN, "sha256": _files.sha256(b"")}, "result": "text"},
    {"run": {**RUN, "schema": 9, "sha256": _files.sha256(b"a")}, "result": np.array([97], "u1")},
    {"run": {**RUN, "status": "failed", "sha256": _files.sha256(b"a")}, "result": np.array([97])},
]


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_an_entry_of_a_collection_that_is_no_whole_run_is_refused_in_a_sentence(tmp_path, entry):
    results.save({"runs": [entry]}, tmp_path / "mnist.pkl")
    with pytest.raises(BioplausError, match="mnist.pkl"):
        results.collected(tmp_path / "mnist")


def test_a_record_in_a_whole_run_that_is_none_of_ours_is_named(experiment):
    folder = experiment / IDS[0]
    content = _files.seal(record.dump({"schema": 7}))
    (folder / "result.pkl").write_bytes(content)
    run_json.write_run(folder, {**results.read_run(folder), "sha256": _files.sha256(content)})
    said = []
    assert len(list(results.outcomes(experiment, said.append))) == 2
    assert len(said) == 1 and "schema 7" in said[0]


COMMITTED = sorted((paths.project_root() / "Results").glob("*/*/*.pkl"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: "/".join(path.parts[-3:]))
def test_every_committed_record_loads_and_collecting_it_again_changes_no_byte(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    said = []
    found = list(results.outcomes(tmp_path / path.stem, said.append))
    assert found and not said and all(outcome.record["epochs"] is not None for outcome in found)
    assert results.collect(tmp_path / path.stem).read_bytes() == path.read_bytes()


def test_the_listing_counts_commits_machines_and_data_of_each_collected_file(tmp_path):
    new = {
        "commit": "a" * 40,
        "dirty": False,
        "device": {"device": "cpu", "name": "x86_64"},
        "machine": {"processor": "A processor"},
    }
    gpu = {"device": {"device": "cuda", "name": "A card"}, "commit": None, "code": "c" * 64}
    old = {**new, "commit": "b" * 40, "dirty": True, "machine": None}
    experiment = tmp_path / "desk" / "paper" / "mnist"
    for i, made in enumerate((new, new, gpu, old)):
        run = results.begin(experiment / f"ep-s{i}", {"id": f"ep-s{i}", "simulation": "classify"})
        task = {"name": "mnist", "fingerprint": "f" * 64}
        results.finish(run, {"status": "done", "task": task})
        run_json.write_run(run, {**results.read_run(run), "code": None, **made})
    results.collect(experiment)
    *_, row = listing.listing(tmp_path / "desk").splitlines()
    assert row == (
        "| paper/mnist.pkl | 4 | 2 x aaaaaaaaaa; 1 x bbbbbbbbbb, with changes; 1 x rule cccccccccc"
        " | 2 x A processor; 1 x A card; 1 x x86_64, model not recorded | mnist ffffffffff |"
    )


def test_what_made_the_committed_results_is_listed_beside_them():
    """`python -m bioplaus collect` writes it."""
    for preset in ("desk", "paper"):
        folder = paths.project_root() / "Results" / preset
        if any(folder.glob("*/*.pkl")):
            assert (folder / listing.NAME).read_text(encoding="utf-8") == listing.listing(folder)
