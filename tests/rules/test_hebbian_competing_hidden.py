"""Competing hidden units: the update against closed forms and against the published loop in NumPy,
resume, bad input."""

import numpy as np
import pytest
import torch

from bioplaus import rules, train
from bioplaus.errors import BioplausError
from bioplaus.rules._fast.competing_hidden import ranked
from bioplaus.tasks import Spec, features

N_IN, N_HIDDEN = 12, 30
FORMS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])


def make(n_units=(N_IN, N_HIDDEN), dtype=torch.float64, plain=False, **values):
    values = {"n_units": list(n_units), **values}
    rule = rules.make("competing_hidden", values, dtype=dtype, plain=plain)
    rule.begin_epoch(0, 1)
    return rule


def random_inputs(n: int, n_in: int = N_IN, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, n_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_update(
    w: np.ndarray, x: np.ndarray, p: float, k: int, delta: float, eps: float
) -> np.ndarray:
    """The author's loop, one batch: samples in columns, all units sorted, a dense matrix of
    ranks.
    """
    v, n = x.T, len(x)
    current = np.dot(np.sign(w) * np.absolute(w) ** (p - 1), v)
    order = np.argsort(current, axis=0)
    g = np.zeros_like(current)
    g[order[-1], np.arange(n)] = 1.0
    g[order[-k], np.arange(n)] = -delta
    change = np.dot(g, v.T) - np.sum(g * current, axis=1)[:, None] * w
    return w + eps * change / max(np.amax(np.absolute(change)), 1e-30)


def inputs(n: int = 60, n_in: int = N_IN) -> features.Inputs:
    spec = Spec(name="made-up", kind="classification", n_in=n_in, n_out=2)
    x = random_inputs(n, n_in).float()
    return features.Inputs(
        spec=spec, x={"train": x}, y={"train": (x[:, 0] > 0).long()}, fingerprint="none"
    )


# 2 x 4 < 30 units: rows gathered by the fast form; 2 x 20 > 30: the whole matrix
@FORMS
@pytest.mark.parametrize("batch_size", [4, 20])
@pytest.mark.parametrize(
    ("p", "k", "delta"), [(2.0, 2, 0.4), (3.0, 7, 0.4), (2.5, 3, 0.2), (4.0, 2, 0.0), (1.5, 5, 1.0)]
)
def test_updates_are_those_of_the_published_loop(batch_size, p, k, delta, plain):
    rule = make(p=p, k=k, delta=delta, lr=0.03, plain=plain)
    expected = rule.weight.numpy().copy()
    for step in range(6):
        x = random_inputs(batch_size, seed=step)
        rule.fit_batch(x)
        expected = published_update(expected, x.numpy(), p, k, delta, 0.03)
        # rounding of sums of about 20 terms
        assert np.allclose(rule.weight.numpy(), expected, rtol=0, atol=1e-13)


@FORMS
def test_update_of_one_sample_is_the_closed_form(plain):
    rule = make((2, 3), k=2, delta=0.5, lr=0.1, plain=plain)
    rule.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64))
    rule.fit_batch(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    # Currents 2, 1, -2: unit 0 wins, unit 1 is second. D_0 = v - 2 W_0 = (0, 1);
    # D_1 = -v/2 + W_1/2 = (-1, 0); the largest entry is 1, so each moves by 0.1 D and unit 2 stays.
    expected = [[1.0, 0.1], [-0.1, 1.0], [-1.0, 0.0]]
    assert torch.allclose(
        rule.weight, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("batch_size", [4, 20])
def test_largest_change_of_a_weight_is_the_rate(batch_size):
    rule = make(p=3.0, k=7, lr=0.025)
    before = rule.weight.clone()
    rule.fit_batch(random_inputs(batch_size))
    assert (rule.weight - before).abs().max().item() == pytest.approx(0.025, rel=1e-12)


@pytest.mark.parametrize("batch_size", [4, 20])
def test_only_units_that_won_or_were_kth_move(batch_size):
    rule, x = make(k=3), random_inputs(batch_size)
    order = rule.currents(x).argsort(dim=1, descending=True)
    chosen = set(order[:, 0].tolist()) | set(order[:, 2].tolist())
    before = rule.weight.clone()
    rule.fit_batch(x)
    moved = set((rule.weight != before).any(1).nonzero()[:, 0].tolist())
    assert 0 < len(moved) < N_HIDDEN
    assert moved == chosen


@FORMS
@pytest.mark.parametrize("batch_size", [4, 20])
def test_batch_of_zeros_changes_no_bit(batch_size, plain):
    rule = make(p=3.0, plain=plain)
    before = rule.weight.clone()
    rule.fit_batch(torch.zeros(batch_size, N_IN, dtype=torch.float64))
    assert torch.equal(rule.weight, before)


def test_float32_chooses_the_units_that_float64_chooses():
    single, double = make(p=3.0, k=7, dtype=torch.float32), make(p=3.0, k=7)
    for step in range(20):
        x = random_inputs(10, seed=step)
        single.fit_batch(x.float())
        double.fit_batch(x)
    # 20 updates of rounding at 6e-8
    assert torch.allclose(single.weight.double(), double.weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", [2.0, 3.0, 4.5])
def test_weights_of_a_winner_tend_to_unit_p_norm(p):
    rule = make((5, 2), p=p, delta=0.0, n_epochs=1000, lr=0.05)
    x = torch.tensor([[1.0, 0.2, -0.4, 0.7, 0.1]], dtype=torch.float64)
    winner = rule.currents(x).argmax().item()
    for epoch in range(1000):
        rule.begin_epoch(epoch, 1)
        rule.fit_batch(x)
    norm = rule.weight[winner].abs().pow(p).sum().item()
    # the last rates are below 1e-3, and it oscillates by about one rate
    assert norm == pytest.approx(1, abs=2e-3)


def test_rate_falls_linearly_over_the_epochs_and_ends_at_nothing():
    rule = make(lr=0.02, n_epochs=4)
    rates = []
    for epoch in range(6):
        rule.begin_epoch(epoch, 1)
        rates.append(rule.lr_now.item())
    assert rates == pytest.approx([0.02, 0.015, 0.01, 0.005, 0, 0], abs=1e-15)


@pytest.mark.parametrize("k", [2, 3, 5, 12])
def test_ranked_names_the_largest_and_the_kth_largest_and_leaves_the_currents(k):
    current = random_inputs(50, 40)
    before = current.clone()
    (top, low), (first, kth) = ranked(current, k)
    ordered = before.sort(dim=1, descending=True)
    assert torch.equal(current, before)
    assert torch.equal(first, ordered.indices[:, 0]) and torch.equal(kth, ordered.indices[:, k - 1])
    assert torch.equal(top, ordered.values[:, 0]) and torch.equal(low, ordered.values[:, k - 1])


def test_initial_weights_have_the_mean_and_deviation_asked_for():
    weight = make((400, 500), init_mean=0.1, init_std=0.5).weight
    # five standard errors
    assert weight.mean().item() == pytest.approx(0.1, abs=5 * 0.5 / 200000**0.5)
    assert weight.std().item() == pytest.approx(0.5, rel=0.01)


@FORMS
def test_prediction_is_the_rectified_current_to_the_power(plain):
    rule, x = make(p=3.0, power=4.5, plain=plain), random_inputs(7)
    weight = rule.weight.numpy()
    current = x.numpy() @ (np.sign(weight) * weight**2).T
    assert np.allclose(rule.currents(x).numpy(), current, rtol=0, atol=1e-13)
    assert np.allclose(rule.predict(x).numpy(), np.maximum(current, 0) ** 4.5, rtol=1e-11, atol=0)


@pytest.mark.parametrize("batch_size", [4, 20])
def test_weights_changed_from_outside_are_used_at_once(batch_size):
    """A, derived from the weights, is kept between batches when p is not 2; it must not outlive a
    change of them.
    """
    rule, other, x = make(p=3.0), make(p=3.0), random_inputs(batch_size)
    rule.fit_batch(x)
    fresh = random_inputs(N_HIDDEN, seed=9)
    rule.weight.copy_(fresh)
    other.weight.copy_(fresh)
    assert torch.equal(rule.currents(x), other.currents(x))
    rule.fit_batch(x)
    other.fit_batch(x)
    assert torch.equal(rule.weight, other.weight)


@FORMS
@pytest.mark.parametrize(("p", "k"), [(2.0, 2), (3.0, 7)])
@pytest.mark.parametrize("batch_size", [4, 20])
def test_update_asks_the_host_for_nothing(batch_size, p, k, plain):
    """On the meta device tensors have no values: anything that copies one to the host, or a shape
    that depends on one, fails."""
    rule = make(p=p, k=k, dtype=torch.float32, plain=plain).to("meta")
    rule.fit_batch(torch.empty(batch_size, N_IN, device="meta"))
    rule.fit_batch(torch.empty(batch_size, N_IN, device="meta"))
    with pytest.raises(RuntimeError, match="meta"):
        rule.weight.max().item()


@FORMS
def test_watching_changes_nothing_and_sees_what_is_learned(plain):
    watched, alone, seen = make(p=3.0, plain=plain), make(p=3.0, plain=plain), []
    watched.watch = lambda phase, t, state: seen.append(
        (phase, t, {name: value.clone() for name, (value,) in state.items()})
    )
    x = random_inputs(4)
    before = watched.weight.clone()
    for rule in (watched, alone):
        rule.fit_batch(x)
    assert torch.equal(watched.weight, alone.weight)
    ((phase, t, state),) = seen
    assert (phase, t) == ("update", 0)
    step = state["lr"] * state["change"] / state["normaliser"]
    assert torch.allclose(watched.weight, before + step, rtol=0, atol=1e-15)


def test_interrupted_training_ends_with_the_same_bits(tmp_path):
    values = {"n_units": [N_IN, N_HIDDEN], "p": 3.0, "n_epochs": 6, "snapshot_epochs": [0, 2, 5]}

    def fit(folder, n_stop=None):
        rule = rules.make("competing_hidden", values, seed=3)

        def stop(epoch, metrics):
            if epoch == n_stop:
                raise KeyboardInterrupt

        task = features.FeatureTask(inputs())
        history = train.fit(
            rule,
            task,
            n_epochs=6,
            batch_size=5,
            seed=3,
            folder=folder,
            progress=False,
            on_epoch=stop,
        )
        return rule, history

    whole, history = fit(tmp_path / "whole")
    train.CHECKPOINT_SECONDS, before = 0.0, train.CHECKPOINT_SECONDS
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", n_stop=3)
    finally:
        train.CHECKPOINT_SECONDS = before
    resumed, its_history = fit(tmp_path / "cut")
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.snapshots, whole.snapshots)
    assert its_history.epochs == history.epochs and len(history.epochs) == 6


def test_snapshots_are_the_weights_after_so_many_epochs():
    rule = make(n_epochs=3, snapshot_epochs=(0, 2), n_snapshot_units=4)
    start, x = rule.weight.clone(), random_inputs(5)
    for epoch in range(2):
        rule.begin_epoch(epoch, 1)
        rule.fit_batch(x)
    after_two = rule.weight.clone()
    rule.begin_epoch(2, 1)
    rule.fit_batch(x)
    assert torch.equal(rule.snapshots, torch.stack([start[:4], after_two[:4]]))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"k": 1}, "k is 1, but must be finite and at least 2"),
        (
            {"k": 101},
            "k is 101, but there are only 100 hidden units to rank: it must be from 2 to 100",
        ),
        ({"p": 0.5}, "p is 0.5, but must be finite and at least 1"),
        ({"p": float("nan")}, "p is nan"),
        ({"delta": -0.1}, "delta is -0.1, but must be finite and at least 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"n_units": [784, 100, 10]}, "must be two numbers: inputs and hidden units"),
        ({"n_units": [784, 0]}, "n_units is"),
        (
            {"n_units": [784, 1]},
            "n_units is [784, 1], but hidden units compete: there must be at least 2, not 1",
        ),
        ({"power": 0.0}, "power is 0.0, but must be finite and above 0"),
        ({"snapshot_epochs": [200]}, "snapshot_epochs is"),
        ({"kk": 2}, "unknown parameter of rule competing_hidden"),
    ],
)
def test_value_that_cannot_work_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(BioplausError) as refused:
        rules.config("competing_hidden", values)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_classification_is_refused_and_the_way_to_it_named():
    spec = Spec(name="mnist", kind="classification", n_in=784, n_out=10)
    with pytest.raises(BioplausError, match="learns features without labels.*simulation hebbian"):
        rules.config("competing_hidden", {}, spec)


def test_inputs_of_another_size_are_refused():
    spec = Spec(name="digits", kind="features", n_in=64, n_out=10)
    with pytest.raises(BioplausError, match="'digits' has 64 inputs: n_units must start with 64"):
        rules.config("competing_hidden", {}, spec)
