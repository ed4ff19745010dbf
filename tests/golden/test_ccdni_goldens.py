"""The published code's trajectories, replayed through the package's own rules, tasks and
metrics.
"""

import json
from pathlib import Path

import ccdni_captions
import numpy as np
import pytest

from bioplaus.experiments import conformance

HERE = Path(__file__).parent / "ccdni"
FILES = sorted(path.name for path in HERE.glob("*.npz"))


def expected(name: str, key: str) -> np.ndarray:
    with np.load(HERE / name) as golden:
        return golden[key].copy()


def test_a_training_of_every_rule_is_kept_with_the_tests():
    reports = conformance.conform([HERE])
    assert {report.rule for report in reports} == {"", "bptt", "dni", "caption_bptt", "caption_dni"}


def test_all_26_shared_goldens_are_reproduced(shared):
    reports = conformance.conform([shared / "golden" / "ccdni"])
    assert len(reports) == 26
    assert [str(report) for report in reports if not report.ok] == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("step_dni_sparse_uneven.npz", "expect.batch2.synth_target"),
        ("step_dni_sparse_uneven.npz", "expect.batch1.synth_end"),
        ("step_dni_sparse_uneven.npz", "expect.train_loss"),
        ("step_dni_sparse_uneven.npz", "expect.grad_norm_preclip"),
        ("step_dni_iolesion_epoch2.npz", "expect.batch3.grad_preclip.linear.weight"),
        ("step_dni_recordgrads.npz", "expect.record.truegrads_output"),
        ("step_lstm_xent_last.npz", "expect.eval_xent"),
        ("caption_dni_init.npz", "expect.batch2.trunc_losses"),
        ("metrics.npz", "expect.popcorr"),
        ("stream_linedraw_seed1.npz", "expect.train_inputs_epoch2"),
    ],
)
def test_any_wrong_number_is_found(name, key, changed):
    wrong = expected(name, key)
    wrong.flat[0] += 1e-5
    (report,) = conformance.conform([changed(HERE / name, {key: wrong})])
    assert not report.ok and report.first_key == key


def test_mended_recording_of_gradients_differs_from_the_published_one(changed):
    """Reversed in time the true gradients are others: the golden pins the order."""
    key = "expect.record.truegrads_cell"
    wrong = expected("step_dni_recordgrads.npz", key)[::-1]
    (report,) = conformance.conform([changed(HERE / "step_dni_recordgrads.npz", {key: wrong})])
    assert report.first_key == key


@pytest.mark.parametrize(("name", "value"), [("optimizer", "sgd"), ("pred_last", True)])
def test_a_golden_of_another_training_fails_with_a_sentence(name, value, changed):
    meta = json.loads(str(expected("step_dni_sparse_uneven.npz", "meta")))
    meta["hyperparameters"][name] = value
    path = changed(HERE / "step_dni_sparse_uneven.npz", {"meta": np.array(json.dumps(meta))})
    (report,) = conformance.conform([path])
    assert not report.ok and "unknown" in report.problem and "Allowed" in report.problem


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("rnn_type", ["LSTM", "DNI_LSTM"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"l2": 0.1},
        {"l2": 1e-5, "lr": 0.001, "caption_len": 11, "T": 4, "vocab": 30},
        {"l2": 0.02, "T": 1, "batch": 1, "synth_nlayers": 2},
        {"l2": 0.3, "T": 7, "synth_nlayers": 0, "sg_scale": 0.5},
    ],
    ids=str,
)
def test_a_caption_decoder_learns_as_one_of_torchs_own_layers_and_optimiser(
    tmp_path, rnn_type, changed, plain
):
    path = ccdni_captions.write(tmp_path / "made.npz", rnn_type, **changed)
    (report,) = conformance.conform([path], plain=plain)
    assert report.ok, report
    assert report.largest_error < 1e-13


def test_another_weight_decay_is_found_out(tmp_path):
    path = ccdni_captions.write(tmp_path / "made.npz", "LSTM", l2=0.01)
    meta = json.loads(str(np.load(path)["meta"]))
    meta["hyperparameters"]["l2"] = 0.011
    (tmp_path / "other").mkdir()
    arrays = {**np.load(path), "meta": np.array(json.dumps(meta))}
    np.savez(tmp_path / "other" / "made.npz", **arrays)
    (report,) = conformance.conform([tmp_path / "other"])
    assert not report.ok and report.first_key.startswith("expect.batch1.trunc1.param")
