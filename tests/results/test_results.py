"""Records: canonical bytes, digests, safe loading, completion, collection, tidy frames."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bioplaus import _files, _sources, paths, results
from bioplaus.analysis import frames
from bioplaus.errors import BioplausError
from bioplaus.results import record as record_file
from bioplaus.results import run_json

RECORD = {
    "status": "done",
    "epochs": {"epoch": np.arange(3), "test_accuracy": np.array([0.5, 0.75, 1.0])},
    "diagnostics": {},
    "divergence": None,
}
arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_, "U3"]),
    hnp.array_shapes(max_side=3),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _ended(experiment):
    """How each run of an experiment's collected file ended, by id."""
    return {run_id: run["status"] for run_id, run in results.collected(experiment).items()}


def _same(a, b):
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


@given(st.dictionaries(st.text().filter(lambda key: key != "schema"), values, max_size=4))
def test_any_record_of_builtins_and_arrays_comes_back_as_it_was(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("r") / "result.pkl"
    results.save(record, path)
    loaded = results.load(path)
    assert loaded.pop("schema") == results.SCHEMA
    assert _same(loaded, record)


def test_equal_records_give_equal_bytes_however_they_were_built(tmp_path):
    text = "shared"
    one = {"b": [text, text], "a": np.arange(6.0).reshape(2, 3), "c": (1, 2)}
    other = {
        "c": [1, 2],
        "a": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "b": ["sha" + "red", "".join("shared")],
    }
    assert results.save(one, tmp_path / "1") == results.save(other, tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_bytes_do_not_depend_on_hash_seed_or_locale(tmp_path):
    code = (
        "import sys, numpy as np; from bioplaus import results; "
        "print(results.save({k: np.float32(1.5) for k in {'x', 'y', 'zeta', 'a'}}, sys.argv[1]))"
    )
    digests = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": f"UTC+{seed}"},
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1 and "" not in digests


def test_plain_pickle_can_read_a_record_too(tmp_path):
    results.save(RECORD, tmp_path / "r.pkl")
    with open(tmp_path / "r.pkl", "rb") as file:
        assert pickle.load(file)["status"] == "done"


@pytest.mark.parametrize(
    "bad",
    [
        {"a": object()},
        {"a": {1: 2}},
        {"a": {0: 1}},
        {"a": {None: 1}},
        {"a": {"": 1, (): 2}},
        {"a": np.array([object()])},
        {"a": [{"b": set()}]},
    ],
)
def test_what_is_no_record_is_refused_naming_the_place_and_nothing_is_written(tmp_path, bad):
    with pytest.raises(BioplausError, match=r"record\.a"):
        results.save(bad, tmp_path / "r.pkl")
    assert list(tmp_path.iterdir()) == []


class _Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def _hostile(canary):
    """Pickles that run code when loaded carelessly: directly, nested, through numpy, through
    builtins.
    """
    shell = f"touch {canary}"
    yield "posix.system", pickle.dumps(_Evil(canary))
    yield "posix.system", pickle.dumps({"schema": 1, "deep": [{"x": _Evil(canary)}]})
    yield "numpy.dtype\\('O8'\\)", pickle.dumps(np.array([_Evil(canary)], dtype=object))
    yield (
        "builtins.eval",
        b"cbuiltins\neval\n(V__import__('os').system('" + shell.encode() + b"')\ntR.",
    )
    yield "builtins.getattr", b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93."
    yield "numpy.loads", b"\x80\x04\x8c\x05numpy\x8c\x05loads\x93."
    yield "numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."


def test_a_malicious_pickle_is_refused_by_name_and_nothing_is_executed(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pkl"
    for name, content in _hostile(canary):
        for sealed in (content, _files.seal(content)):  # a digest does not make it trusted
            path.write_bytes(sealed)
            with pytest.raises(BioplausError, match=name) as caught:
                results.load(path)
            assert str(path) in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({"schema": 1})]
)
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "f.pkl").write_bytes(content)
    with pytest.raises(BioplausError, match="f.pkl"):
        results.load(tmp_path / "f.pkl")


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(BioplausError, match="No such file"):
        results.load(tmp_path / "none.pkl")


def test_every_truncation_and_a_thousand_flipped_bits_are_seen(tmp_path):
    path = tmp_path / "result.pkl"
    results.save(RECORD, path)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    damages = [whole[:length] for length in range(len(whole))]
    for bit in random.integers(0, 8 * len(whole), 1000):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(damaged))
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(BioplausError):
            results.load(path)


def test_a_record_of_a_newer_bioplaus_is_refused_saying_so(tmp_path):
    content = _files.seal(record_file.dump({"schema": results.SCHEMA + 1}))
    (tmp_path / "new.pkl").write_bytes(content)
    with pytest.raises(BioplausError, match="update"):
        results.load(tmp_path / "new.pkl")


def _complete(folder, seed=0, record=RECORD, **about):
    parameters = {"rule": "ep", "dataset": "digits", "seed": seed}
    results.begin(
        folder, {"id": folder.name, "entry": "ep", "seed": seed, "parameters": parameters, **about}
    )
    results.finish(folder, record, seconds={"train": [1.0]})


def test_a_run_is_complete_only_while_run_json_names_the_very_bytes_of_the_result(tmp_path):
    folder = tmp_path / "run"
    results.begin(folder, {"id": "run"})
    assert not results.is_complete(folder)
    results.save(RECORD, folder / "result.pkl")
    assert not results.is_complete(folder)  # killed between result.pkl and run.json
    results.finish(folder, RECORD)
    assert results.is_complete(folder)
    # a whole file, but another one
    results.save({**RECORD, "status": "diverged"}, folder / "result.pkl")
    assert not results.is_complete(folder)
    with pytest.raises(BioplausError, match="run.json"):
        results.load(folder / "result.pkl")


@pytest.mark.parametrize("status", ["failed", "running", None])
def test_a_run_that_says_it_failed_or_runs_is_not_complete_whatever_digest_it_has(tmp_path, status):
    _complete(tmp_path / "run")
    run_json.write_run(tmp_path / "run", {**results.read_run(tmp_path / "run"), "status": status})
    problems = []
    assert not results.is_complete(tmp_path / "run")
    assert list(results.outcomes(tmp_path, problems.append)) == []
    assert len(problems) == (status is None)  # which no run has


@pytest.mark.parametrize("content", ["[1]", "3", "null", '"done"', "{", "", "{}", "\ufeff{}"])
def test_a_run_json_of_another_program_makes_a_run_damaged_and_can_be_begun_anew(tmp_path, content):
    folder = tmp_path / "run"
    _complete(folder)
    (folder / "run.json").write_text(content)
    state = results.inspect(folder)
    assert (state.status, state.run) == ("damaged", {}) and str(
        folder / "run.json"
    ) in state.problem
    for read in (
        lambda: results.load(folder / "result.pkl"),
        lambda: results.finish(folder, RECORD),
        lambda: results.read_run(folder),
    ):
        with pytest.raises(BioplausError, match="run.json"):
            read()
    assert (folder / "run.json").read_text() == content
    _complete(folder)
    assert results.is_complete(folder)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of rules and nets in place of bioplaus; files by name, and a function that rewrites
    one.
    """
    files = {
        "rules/plain.py": "from bioplaus.rules._base import Base",
        "rules/built.py": (
            "import torch\nfrom bioplaus.rules import plain\nfrom bioplaus.nets.deep import Net"
        ),
        "rules/near.py": "from . import plain\nfrom ..nets.layer import Layer\nfrom .... import x",
        "rules/swift.py": "from bioplaus.rules import plain",
        "rules/_fast/swift.py": "from bioplaus.rules import swift\nfrom bioplaus.nets import fused",
        "rules/_fast/plain.py": "from bioplaus.rules import plain",
        "rules/_base.py": "from bioplaus.config import Config",
        "rules/__init__.py": "",
        "rules/other.py": "x = 1",
        "nets/deep.py": "from bioplaus.nets.layer import Layer",
        "nets/layer.py": "from bioplaus.nets.deep import helper",
        "nets/fused.py": "x = 1",
        "config.py": "x = 1",
    }

    def write(name, text):
        path = tmp_path / "bioplaus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(0, time.monotonic_ns()))  # a clock that is coarse must not hide a change

    for name, text in files.items():
        write(name, text)
    monkeypatch.setattr(_sources, "__file__", str(tmp_path / "bioplaus" / "_sources.py"))
    return files, write


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("plain", {"rules/plain.py", "rules/_fast/plain.py", "rules/_base.py"}),
        (
            "swift",
            {
                "rules/swift.py",
                "rules/_fast/swift.py",
                "rules/plain.py",
                "rules/_base.py",
                "nets/fused.py",
            },
        ),
        (
            "built",
            {"rules/built.py", "rules/plain.py", "rules/_base.py", "nets/deep.py", "nets/layer.py"},
        ),
        (
            "near",
            {"rules/near.py", "rules/plain.py", "rules/_base.py", "nets/deep.py", "nets/layer.py"},
        ),
    ],
)
def test_the_code_of_a_rule_is_its_own_file_and_what_it_is_built_from_in_rules_and_nets(
    package, rule, parts
):
    files, write = package
    before = _sources.code(rule)
    for name, text in files.items():
        write(name, text + "  # a remark")
        assert (_sources.code(rule) != before) == (name in parts), name
        write(name, text)
        assert _sources.code(rule) == before


def test_a_rule_that_is_no_file_has_no_code(package):
    assert _sources.code("none") is None and _sources.code("../rules/plain") is None
    package[1]("rules/half.py", "def (")
    assert _sources.code("half") != _sources.code("plain")


def test_provenance_names_code_versions_and_machine_but_no_user_host_or_path(tmp_path):
    _complete(tmp_path / "run")
    text = (tmp_path / "run" / "run.json").read_text()
    run = json.loads(text)
    assert (
        run["status"] == "done"
        and run["versions"]["torch"]
        and run["device"]["threads"] >= 1
        and "commit" in run
    )
    assert (
        os.path.expanduser("~") not in text
        and os.uname().nodename not in text
        and str(tmp_path) not in text
    )


def test_outcomes_reads_folders_and_the_collected_file_alike(tmp_path):
    experiment = tmp_path / "mnist"
    for seed in (0, 10):
        _complete(experiment / f"ep-s{seed}", seed)
    (experiment / "half").mkdir()
    before = frames.epochs(results.outcomes(experiment))
    path = results.collect(experiment)
    assert path == tmp_path / "mnist.pkl"
    assert _ended(experiment) == {"ep-s0": "done", "ep-s10": "done"}
    for folder in experiment.iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    after = frames.epochs(results.outcomes(experiment))
    assert before.equals(after) and len(after) == 6 and list(after["epoch"])[:3] == [1, 2, 3]


def test_collecting_again_adds_new_runs_keeps_old_ones_and_is_byte_equal_when_nothing_changed(
    tmp_path,
):
    experiment = tmp_path / "mnist"
    _complete(experiment / "ep-s0", 0)
    first = results.collect(experiment).read_bytes()
    assert results.collect(experiment).read_bytes() == first
    for file in (experiment / "ep-s0").iterdir():
        file.unlink()
    _complete(experiment / "ep-s10", 10)
    results.collect(experiment)
    assert _ended(experiment) == {"ep-s0": "done", "ep-s10": "done"}


def test_a_run_that_diverged_is_still_said_to_when_only_its_collected_copy_is_left(tmp_path):
    _complete(tmp_path / "mnist" / "ep-s0", 0, {**RECORD, "status": "diverged"})
    results.collect(tmp_path / "mnist")
    assert _ended(tmp_path / "mnist") == {"ep-s0": "diverged"}


def test_a_split_that_records_call_val_is_read_as_validation_and_its_bytes_stay(tmp_path):
    epochs = {"epoch": np.arange(2), "val_mse": np.array([3.0, 2.0]), "value": np.zeros(2)}
    run = tmp_path / "linedraw" / "dni-s0"
    _complete(run, 0, {**RECORD, "epochs": epochs})
    for _ in range(2):  # from its folder, and from the collected file
        (outcome,) = results.outcomes(tmp_path / "linedraw")
        assert set(outcome.record["epochs"]) == {"epoch", "validation_mse", "value"}
        assert list(outcome.record["epochs"]["validation_mse"]) == [3.0, 2.0]
        if run.is_dir():
            assert "val_mse" in results.load(run / "result.pkl")["epochs"]
            results.collect(tmp_path / "linedraw")
            shutil.rmtree(run)


def test_collecting_nothing_writes_nothing(tmp_path):
    assert results.collect(tmp_path / "none") is None and list(tmp_path.iterdir()) == []


def test_a_frame_says_the_rule_that_ran_where_the_parameters_name_none(tmp_path):
    for name, (record, run) in {
        "a": ({"rule": "x"}, {}),
        "b": ({}, {"rule": "x"}),
        "c": ({}, {}),
    }.items():
        results.begin(
            tmp_path / "mnist" / name,
            {"id": name, "parameters": {"rule": "x"} if name == "c" else {}, **run},
        )
        results.finish(tmp_path / "mnist" / name, {**RECORD, **record})
    assert set(frames.epochs(results.outcomes(tmp_path / "mnist"))["rule"]) == {"x"}


@pytest.mark.parametrize("name", ["BIOPLAUS_RESULTS", "BIOPLAUS_HOME"])
def test_a_tilde_in_a_folder_of_the_environment_is_the_home_folder(tmp_path, monkeypatch, name):
    (tmp_path / "work" / "Simulations").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "~/work")
    found = paths.root() if name == "BIOPLAUS_RESULTS" else paths.project_root()
    assert found == tmp_path / "work"
