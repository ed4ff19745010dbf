"""The published code's trajectories, replayed through the package's own rules and preprocessing."""

import json
from pathlib import Path

import numpy as np
import pytest

from bioplaus.experiments import conformance

HERE = Path(__file__).parent / "hebbian"
FILES = sorted(path.name for path in HERE.glob("*.npz"))


@pytest.mark.parametrize("name", FILES)
def test_golden_is_reproduced_in_single_precision(name):
    (report,) = conformance.conform([HERE / name], dtype="float32")
    assert report.ok, str(report)


def test_all_28_shared_goldens_are_reproduced(shared):
    reports = conformance.conform([shared / "golden" / "hebbian"])
    assert len(reports) == 28
    assert [str(report) for report in reports if not report.ok] == []


@pytest.mark.parametrize("key", ["current", "g", "ds", "nc", "eps", "synapses"])
def test_any_wrong_number_of_the_rule_is_found(key, changed):
    with np.load(HERE / "rule_p3_k7_d0.2.npz") as golden:
        wrong = golden[f"expect.{key}"].copy()
    wrong.flat[0] += 1e-6
    (report,) = conformance.conform(
        [changed(HERE / "rule_p3_k7_d0.2.npz", {f"expect.{key}": wrong})]
    )
    assert not report.ok and report.first_key == f"expect.{key}"


def test_other_choice_among_equal_currents_conforms_and_an_unequal_one_does_not(changed):
    """In a batch of zeros all currents are 0, so any two units may be first and k-th; elsewhere
    there is one right choice."""
    with np.load(HERE / "rule_zero_batch.npz") as golden:
        ranks = golden["expect.g"]
    swapped = ranks.copy()
    swapped[0] = np.roll(ranks[0], 1, axis=0)
    (report,) = conformance.conform([changed(HERE / "rule_zero_batch.npz", {"expect.g": swapped})])
    assert report.ok, str(report)
    swapped[1] = np.roll(ranks[1], 1, axis=0)
    (report,) = conformance.conform([changed(HERE / "rule_zero_batch.npz", {"expect.g": swapped})])
    assert report.first_key == "expect.g"


def test_two_winners_in_one_tied_sample_do_not_conform(changed):
    with np.load(HERE / "rule_zero_batch.npz") as golden:
        ranks = golden["expect.g"].copy()
    ranks[0, :, 0] = 1.0
    (report,) = conformance.conform([changed(HERE / "rule_zero_batch.npz", {"expect.g": ranks})])
    assert report.first_key == "expect.g"


def test_control_with_an_optimiser_of_its_own_does_not_conform(changed):
    """The published control went on with the readout's optimiser at step 225000; a fresh one learns
    differently.
    """
    name = "readout_control_reused_adam.npz"
    with np.load(HERE / name) as golden:
        meta = json.loads(str(golden["meta"]))
    meta["hyperparameters"]["start_iteration"] = 0
    (report,) = conformance.conform([changed(HERE / name, {"meta": np.array(json.dumps(meta))})])
    assert not report.ok and report.first_key == "expect.hidden.kernel"


def test_golden_of_an_unknown_algorithm_fails_with_its_name(changed):
    meta = json.dumps({"paper": "hebbian", "algorithm": "competing_hidden_unitz"})
    (report,) = conformance.conform(
        [changed(HERE / "rule_zero_batch.npz", {"meta": np.array(meta)})]
    )
    assert not report.ok and "did you mean 'competing_hidden_units'" in report.problem
