"""Trained networks on disk: what comes back is what was saved, and nothing else is let in."""

import io
import os
import pickle

import pytest
import torch

from bioplaus import _files, rules, weights
from bioplaus.errors import BioplausError

VALUES = {
    "n_fine": 4,
    "n_coarse": 2,
    "in_channels": 1,
    "image_size": 8,
    "left": {"widths": [2, 2, 2, 4]},
    "right": {},
}


@pytest.fixture
def saved(tmp_path):
    learner = rules.make("hemispheric_bp", VALUES, seed=3)
    learner.begin_epoch(0, 1)
    x, y = torch.randn(5, 1, 8, 8), torch.randint(2, (5, 2))
    learner.train().fit_batch(x, y, epoch=0, step=0)
    path = tmp_path / "run" / weights.NAME
    path.parent.mkdir()
    weights.save("hemispheric_bp", learner, path)
    return learner, path


def test_a_saved_network_comes_back_with_its_config_and_every_tensor(saved):
    learner, path = saved
    again = weights.load(path)
    assert again.config == learner.config and not again.training
    tensors = {k: v for k, v in learner.state_dict().items() if isinstance(v, torch.Tensor)}
    assert all(torch.equal(again.state_dict()[name], value) for name, value in tensors.items())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(again.predict(x), learner.eval().predict(x))


def test_the_optimiser_is_left_out(saved):
    learner, path = saved
    n_numbers = sum(p.numel() for p in learner.parameters())
    assert path.stat().st_size < 4 * 3 * n_numbers + 60_000  # Adam would add two numbers a weight
    assert not any("exp_avg" in key for key in weights.load(path).get_extra_state())


def test_another_dtype_can_be_asked_for(saved):
    assert (
        weights.load(saved[1], dtype=torch.float64).predict(torch.randn(1, 1, 8, 8).double()).dtype
        == torch.float64
    )


def test_every_truncation_and_a_flipped_bit_are_refused(saved):
    path = saved[1]
    content = path.read_bytes()
    for n in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:n])
        with pytest.raises(BioplausError, match="network.pt"):
            weights.load(path)
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(BioplausError, match="is damaged"):
        weights.load(path)


def test_a_hostile_file_is_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    path = tmp_path / weights.NAME
    path.write_bytes(_files.seal(pickle.dumps(Hostile(), protocol=2)))
    with pytest.raises(BioplausError, match="holds no trained network"):
        weights.load(path)
    assert not (tmp_path / "canary").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        BioplausError, match="Could not read the trained network .*nowhere.*No such file"
    ):
        weights.load(tmp_path / "nowhere" / weights.NAME)


def test_a_file_of_another_version_of_its_rule_is_refused(saved):
    learner, path = saved
    learner.register_buffer("once", torch.zeros(1))
    weights.save("hemispheric_bp", learner, path)
    with pytest.raises(
        BioplausError, match="does not fit rule hemispheric_bp of this version: once differ"
    ):
        weights.load(path)


def _with(path, **changes):
    """The file again, sealed, with some of what it holds changed."""
    saved = torch.load(io.BytesIO(_files.unseal(path.read_bytes(), path)), weights_only=True)
    buffer = io.BytesIO()
    torch.save({**saved, **changes}, buffer)
    path.write_bytes(_files.seal(buffer.getvalue()))


@pytest.mark.parametrize("value", [1e39, torch.nan, -torch.inf])
def test_weights_that_are_not_finite_in_the_dtype_asked_for_are_refused(saved, value):
    learner, path = saved
    state = {k: v.double() for k, v in learner.state_dict().items() if torch.is_tensor(v)}
    name = next(name for name, value in state.items() if value.ndim)
    state[name].view(-1)[0] = value
    _with(path, state=state)
    with pytest.raises(BioplausError, match=f"{name} that is not finite as torch.float32"):
        weights.load(path)
    if value == 1e39:
        weights.load(path, dtype=torch.float64)


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": None},
        {"config": [1]},
        {"state": None},
        {"state": [torch.ones(1)]},
        {"state": {"w": 1.0}},
        {"state": {}},
    ],
    ids=repr,
)
def test_a_sealed_file_that_holds_something_else_is_refused_in_a_sentence(saved, changes):
    _with(saved[1], **changes)
    with pytest.raises(BioplausError, match="network.pt"):
        weights.load(saved[1])


def test_a_tensor_of_another_shape_is_named(saved):
    learner, path = saved
    state = {k: v for k, v in learner.state_dict().items() if torch.is_tensor(v)}
    name = next(name for name, value in state.items() if value.ndim)
    _with(path, state={**state, name: torch.zeros(1, 1)})
    with pytest.raises(BioplausError, match=f"of this version: {name} differ"):
        weights.load(path)


def test_a_run_is_found_beside_another_and_a_file_where_it_is(tmp_path):
    assert (
        weights.find("a-b-s0-12345678", tmp_path / "mine")
        == tmp_path / "a-b-s0-12345678" / "network.pt"
    )
    assert str(weights.find("some/where.pt", tmp_path)) == "some/where.pt"
