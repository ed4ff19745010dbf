"""Every rule of the CorInfoMax paper, in both forms, against the published code's trajectories."""

from pathlib import Path

import numpy as np
import pytest

from bioplaus.experiments import conformance
from bioplaus.papers.corinfomax import golden as adapter

GOLDENS = sorted((Path(__file__).parent / "corinfomax").glob("*.npz"))


def kept(start):
    return [path for path in GOLDENS if path.stem.startswith(start)]


def test_a_golden_of_every_algorithm_is_kept_with_the_tests():
    assert {conformance.Golden(path).algorithm for path in GOLDENS} == set(adapter.KINDS)


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_kept_golden_conforms(path, dtype, plain):
    (report,) = conformance.conform([path], dtype=dtype, plain=plain)
    assert report.ok, report
    assert report.n_keys == len(conformance.Golden(path).expected())


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_goldens_beside_the_project_conform(shared, dtype, plain):
    reports = conformance.conform([shared / "golden" / "corinfomax"], dtype=dtype, plain=plain)
    assert len(reports) >= 21
    assert [str(report) for report in reports if not report.ok] == []


def test_a_plain_rule_follows_the_published_code_to_a_few_roundings():
    reports = conformance.conform(GOLDENS, dtype="float64", plain=True)
    assert max(report.largest_error for report in reports) < 1e-13


def test_a_variant_that_is_another_rule_is_found_out():
    ep, csm = kept("ep"), kept("csm")
    assert all(report.ok and report.rule == "ep" for report in conformance.conform(ep, rule="ep"))
    for report in conformance.conform(csm, rule="ep"):
        assert not report.ok
        assert "lr_lateral" in report.problem
    for report in conformance.conform(kept("corinfomaxsparse"), rule="corinfomax"):
        assert not report.ok and "sparse_layers" in report.problem


def test_a_nudge_whose_size_changes_is_refused_where_the_rule_does_not_define_it(tmp_path):
    arrays = dict(np.load(kept("csm")[0]))
    arrays["data.beta"] = arrays["data.beta"] * np.array([1, 2, 1])[: len(arrays["data.beta"])]
    np.savez(tmp_path / "changed.npz", **arrays)
    (report,) = conformance.conform([tmp_path / "changed.npz"])
    assert "changes the size of data.beta" in report.problem
