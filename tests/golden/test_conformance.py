"""The conformance tool itself: it misses nothing, runs nothing, and says what is wrong."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from bioplaus.experiments import conformance

HERE = Path(__file__).parent
GOLDEN = HERE / "corinfomax" / "ep_12-9-5_signed_lr0.3_beta0.5.npz"


@pytest.fixture
def arrays():
    return dict(np.load(GOLDEN))


def report_of(tmp_path, arrays, **options):
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    (report,) = conformance.conform([path], **options)
    return report


@pytest.mark.parametrize(
    "path", sorted(HERE.glob("*/*.npz")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
def test_golden_is_reproduced_in_every_key(path, plain):
    (report,) = conformance.conform([path], plain=plain)
    with np.load(path) as golden:
        assert report.n_keys == sum(key.startswith("expect.") for key in golden.files) > 0
    assert report.ok, str(report)


def test_a_changed_value_fails_and_is_named_with_its_error(tmp_path, arrays):
    arrays["expect.batch1.W0"][0, 0] += 1e-6
    report = report_of(tmp_path, arrays)
    assert not report.ok
    assert report.first_key == "expect.batch1.W0"
    assert report.largest_error == pytest.approx(1e-6, rel=1e-3)
    assert "expect.batch1.W0" in str(report) and str(report).startswith("FAIL")


def test_the_tolerance_follows_the_dtype(tmp_path, arrays):
    arrays["expect.batch2.W0"][0, 0] += 1e-5
    assert report_of(tmp_path, arrays, dtype="float32").ok
    assert not report_of(tmp_path, arrays, dtype="float64").ok
    arrays["expect.batch2.W0"][0, 0] += 1e-4
    assert not report_of(tmp_path, arrays, dtype="float32").ok


def test_a_key_that_the_rule_does_not_compute_fails(tmp_path, arrays):
    arrays["expect.batch0.Wfb1"] = np.zeros((2, 2))
    report = report_of(tmp_path, arrays)
    assert (
        not report.ok
        and report.first_key == "expect.batch0.Wfb1"
        and "Never computed" in report.problem
    )


def test_a_file_that_lacks_what_its_algorithm_expects_fails(tmp_path, arrays):
    del arrays["expect.batch1.b0"]
    report = report_of(tmp_path, arrays)
    assert not report.ok and "expect.batch1.b0" in report.problem


def test_a_file_that_expects_nothing_fails(tmp_path, arrays):
    report = report_of(tmp_path, {k: v for k, v in arrays.items() if not k.startswith("expect.")})
    assert not report.ok


@pytest.mark.parametrize("key", ["init.W0", "data.x", "data.beta", "data.y_eval"])
def test_a_file_without_its_inputs_fails_and_names_them(tmp_path, arrays, key):
    del arrays[key]
    assert repr(key) in report_of(tmp_path, arrays).problem


def test_a_nan_or_a_wrong_shape_in_either_place_fails(tmp_path, arrays):
    with_nan = {**arrays, "expect.batch0.W1": np.full_like(arrays["expect.batch0.W1"], np.nan)}
    assert report_of(tmp_path, with_nan).first_key == "expect.batch0.W1"
    nan_computed = {**arrays, "init.W1": np.full_like(arrays["init.W1"], np.nan)}
    assert not report_of(tmp_path, nan_computed).ok
    cut = {**arrays, "expect.eval_out": arrays["expect.eval_out"][:-1]}
    assert "has shape" in report_of(tmp_path, cut).problem


def test_a_wrong_prediction_fails_although_it_is_an_integer(tmp_path, arrays):
    arrays["expect.eval_pred"][0] += 1
    report = report_of(tmp_path, arrays)
    assert report.first_key == "expect.eval_pred" and "1 of 16 places" in report.problem


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("paper", "corinfomay", "did you mean 'corinfomax'"),
        ("algorithm", "EQ", "did you mean 'EP'"),
        ("dtype", "float16", "unknown dtype 'float16'"),
    ],
)
def test_an_unknown_paper_algorithm_or_dtype_fails_with_a_suggestion(
    tmp_path, arrays, field, value, part
):
    arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | {field: value}))
    report = report_of(tmp_path, arrays)
    assert not report.ok and part in report.problem


def test_a_missing_hyperparameter_fails_and_is_named(tmp_path, arrays):
    meta = json.loads(str(arrays["meta"]))
    del meta["hyperparameters"]["T2"]
    arrays["meta"] = np.array(json.dumps(meta))
    assert "'T2'" in report_of(tmp_path, arrays).problem


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_a_pickle_in_a_file_is_refused_and_never_run(tmp_path, arrays, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays["data.x"] = np.array([Hostile()], dtype=object)
    assert not report_of(tmp_path, arrays).ok
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Hostile()))
    assert not conformance.conform([tmp_path / "plain.npz"])[0].ok
    assert not (tmp_path / "ran").exists()


def test_files_that_cannot_be_read_fail_each_by_itself(tmp_path):
    whole = GOLDEN.read_bytes()
    (tmp_path / "a_whole.npz").write_bytes(whole)
    for n in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"cut_{n}.npz").write_bytes(whole[:n])
    (tmp_path / "text.npz").write_text("not a golden")
    np.savez(tmp_path / "no_meta.npz", x=np.zeros(1))
    np.savez(tmp_path / "bad_meta.npz", meta=np.array("[1, 2]"))
    np.save(tmp_path / "single.npy", np.zeros(2))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    reports = conformance.conform([tmp_path])
    assert [Path(report.path).name for report in reports if report.ok] == ["a_whole.npz"]
    assert len(reports) == 10
    assert all("no golden file" in report.problem for report in reports if not report.ok)


def test_a_missing_path_and_a_folder_without_goldens_fail(tmp_path):
    (tmp_path / "empty").mkdir()
    reports = conformance.conform([tmp_path / "empty", tmp_path / "absent.npz"])
    assert [report.ok for report in reports] == [False, False]
    assert "no golden" in reports[0].problem and "absent.npz" in reports[1].problem


def test_folders_are_searched_through(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep.npz").write_bytes(GOLDEN.read_bytes())
    (report,) = conformance.conform([tmp_path])
    assert report.ok and report.path.endswith("deep.npz")


def test_the_text_has_a_line_a_file_and_a_total_and_the_json_says_the_same(tmp_path, arrays):
    arrays["expect.batch0.W0"] += 1
    reports = [*conformance.conform([GOLDEN]), report_of(tmp_path, arrays)]
    lines = conformance.render(reports).splitlines()
    assert [line[:4] for line in lines[:2]] == ["ok  ", "FAIL"] and lines[
        2
    ] == "1 of 2 files conform."
    data = json.loads(conformance.render(reports, as_json=True))
    assert (data["n_files"], data["n_ok"]) == (2, 1)
    assert data["files"][1]["first_key"] == "expect.batch0.W0"


def test_every_paper_with_an_adapter_can_be_asked_for():
    for paper in conformance.adapters():
        module = conformance.adapter(paper)
        assert callable(module.replay) and callable(module.rule_of)
