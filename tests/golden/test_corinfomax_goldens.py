"""Every rule of the CorInfoMax paper against the published code's trajectories, and against its
equations.
"""

from pathlib import Path

import corinfomax_synthetic as synthetic
import numpy as np
import pytest

from bioplaus.experiments import conformance

GOLDENS = sorted((Path(__file__).parent / "corinfomax").glob("*.npz"))
CHAINS = {"two layers": (7, 6, 4), "three layers": (6, 5, 7, 3), "four layers": (5, 6, 4, 7, 3)}


def test_a_golden_of_every_algorithm_is_kept_with_the_tests():
    assert {conformance.Golden(path).meta["algorithm"] for path in GOLDENS} == set(synthetic.RUN)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_kept_golden_conforms(path, dtype):
    (report,) = conformance.conform([path], dtype=dtype)
    assert report.ok, report
    assert report.n_keys == len(conformance.Golden(path).expected())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_goldens_beside_the_project_conform(shared, dtype):
    reports = conformance.conform([shared / "golden" / "corinfomax"], dtype=dtype)
    assert len(reports) >= 21
    assert [str(report) for report in reports if not report.ok] == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("algorithm", synthetic.RUN)
def test_a_rule_follows_the_equations_at_any_depth_and_setting(tmp_path, algorithm, chain, seed):
    """Settings at random: depth, schedules, three phases, weight decay, sizes of nudge, matrices
    without symmetry.
    """
    path = synthetic.write(
        tmp_path / "made.npz", algorithm, CHAINS[chain], seed=1000 * seed + len(CHAINS[chain])
    )
    (report,) = conformance.conform([path])
    assert report.ok, report
    assert report.largest_error < 1e-11


def test_blocks_of_rows_and_parts_of_an_evaluation_do_not_change_predictive_coding(tmp_path):
    for algorithm in ("PC", "PCNudge"):
        path = synthetic.write(
            tmp_path / "made.npz", algorithm, (5, 6, 4, 3), seed=5, batch_size=150, n_eval=2300
        )
        (report,) = conformance.conform([path])
        assert report.ok, report


@pytest.mark.parametrize("algorithm", ["CorInfoMax", "EP", "CSM", "CorInfoMaxSparse"])
def test_an_evaluation_of_more_rows_than_one_part_takes_is_the_same(tmp_path, algorithm):
    path = synthetic.write(
        tmp_path / "made.npz", algorithm, (5, 6, 3), seed=6, n_batches=1, n_eval=2300
    )
    (report,) = conformance.conform([path])
    assert report.ok, report


def test_a_variant_that_is_another_rule_is_found_out():
    csm = [path for path in GOLDENS if path.stem.startswith("csm")]
    ep = [path for path in GOLDENS if path.stem.startswith("ep")]
    assert all(report.ok and report.rule == "ep" for report in conformance.conform(ep, rule="ep"))
    for report in conformance.conform(csm, rule="ep"):
        assert not report.ok
        assert "lr_lateral" in report.problem
    for path in GOLDENS:
        if path.stem.startswith("corinfomaxsparse"):
            (report,) = conformance.conform([path], rule="corinfomax")
            assert not report.ok and "sparse_layers" in report.problem


def test_a_nudge_whose_size_changes_is_followed_where_the_rule_defines_it(tmp_path):
    path = synthetic.write(tmp_path / "made.npz", "CSM", (5, 4, 3), seed=1)
    arrays = dict(np.load(path))
    arrays["data.beta"] = arrays["data.beta"] * np.array([1, 2, 1])
    np.savez(path, **arrays)
    (report,) = conformance.conform([path])
    assert "changes the size of data.beta" in report.problem
