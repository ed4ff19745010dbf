"""Closed forms of the recurrent rules against autograd, walking truncation by truncation as the
papers describe.
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from bioplaus import device, metrics, rules
from bioplaus.nets.lstm import CELLS, fold
from bioplaus.nets.synthesiser import Synthesiser

B, T, N_IN, H, N_OUT = 3, 7, 4, 5, 2
TRUNCATIONS = (1, 2, 3, 7)
CASES = [
    (cell, loss, k, s)
    for cell, loss, k, s in itertools.product(
        ("lstm", "tanh"), ("mse", "xent"), TRUNCATIONS, (1, 3)
    )
    if loss == "mse" or s == 1
]


def learner(rule, cell, loss, k, s, **more):
    values = {
        "n_units": [N_IN, H, N_OUT],
        "cell": cell,
        "loss": loss,
        "n_truncation": k,
        "spars_int": s,
        "clip": 0.0,
    }
    return rules.make(rule, values | more, seed=2, dtype=torch.float64)


def batch(loss):
    stream = torch.Generator().manual_seed(4)
    x = torch.randn(B, T, N_IN, generator=stream, dtype=torch.float64)
    if loss == "xent":
        return x, torch.randint(0, N_OUT, (B,), generator=stream)
    return x, torch.randn(B, T, N_OUT, generator=stream, dtype=torch.float64)


def literal(rule, x, y, alpha, bootstrap_last=True):
    """Steps 1 to 7 of the training step with autograd: gradients of theta and phi, predictions,
    targets.
    """
    c, net = rule.config, rule.net
    k, s = c.n_truncation, c.spars_int
    synthesiser = getattr(rule, "synthesiser", None)
    z = torch.zeros(B, net.n_state, dtype=torch.float64)
    theta, phi = list(net.parameters()), list(synthesiser.parameters()) if synthesiser else []
    sums = [torch.zeros_like(p) for p in (*theta, *phi)]
    predicted, targets = [], []
    for start in range(0, T, k):
        z_in = z.detach().requires_grad_()
        part = x[:, start : start + k]
        state = (
            tuple(v.contiguous().unsqueeze(0) for v in z_in.chunk(2, 1))
            if c.cell == "lstm"
            else z_in.unsqueeze(0)
        )
        h, end = net.rnn(part, state)
        z = torch.cat([v[0] for v in end], 1) if c.cell == "lstm" else end[0]
        is_last = start + k >= T
        supervised = [t for t in range(start, min(start + k, T)) if t % s == 0]
        objective = torch.zeros((), dtype=torch.float64)
        if c.loss == "xent" and is_last:
            objective = functional.cross_entropy(net.linear(h[:, -1]), y)
        elif c.loss == "mse" and supervised:
            errors = torch.stack([net.linear(h[:, t - start]) - y[:, t] for t in supervised])
            objective = errors.square().mean()
        if synthesiser and (bootstrap_last or not is_last):
            objective = objective + alpha * (synthesiser(z).detach() * z).sum()
        if (
            not objective.requires_grad
        ):  # nothing is supervised and nothing foreseen in this truncation
            found = [None] * (len(theta) + 1)
        else:
            found = torch.autograd.grad(objective, [*theta, z_in], allow_unused=True)
        target = torch.zeros_like(z_in) if found[-1] is None else found[-1]
        for i, g in enumerate(found[:-1]):
            sums[i] += 0 if g is None else g
        if synthesiser:
            f = synthesiser(z_in.detach())
            for i, g in enumerate(
                torch.autograd.grad((f - target).square().sum(), phi), start=len(theta)
            ):
                sums[i] += g
            predicted.append(f.detach())
        targets.append(target)
    return sums, predicted, targets


@pytest.mark.parametrize(("cell", "loss", "k", "s"), CASES)
def test_truncated_gradients_equal_autograd_truncation_by_truncation(cell, loss, k, s):
    rule, seen = learner("bptt", cell, loss, k, s), {}
    rule.watch = seen.update
    x, y = batch(loss)
    expected, _, _ = literal(rule, x, y, 0.0)
    rule.fit_batch(x, y, epoch=0, step=0)
    for ours, theirs in zip(seen["grads"], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bootstrap_last", [True, False])
@pytest.mark.parametrize("n_layers", [0, 1, 2])
@pytest.mark.parametrize(("cell", "loss", "k", "s"), [c for c in CASES if c[2] in (3, 7)])
def test_gradients_with_a_cerebellum_equal_autograd_truncation_by_truncation(
    cell, loss, k, s, n_layers, bootstrap_last
):
    more = {
        "synth_last": "random",
        "n_synth_layers": n_layers,
        "n_synth_hidden": 6,
        "bootstrap_last": bootstrap_last,
    }
    rule, seen = learner("dni", cell, loss, k, s, bootstrap_scale=0.3, **more), {}
    rule.watch = seen.update
    x, y = batch(loss)
    expected, predicted, targets = literal(rule, x, y, 0.3, bootstrap_last)
    rule.fit_batch(x, y, epoch=0, step=0)
    for ours, theirs in zip(seen["grads"], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen["synth_start"], torch.stack(predicted), rtol=0, atol=1e-13)
    torch.testing.assert_close(seen["synth_target"], torch.stack(targets), rtol=0, atol=1e-13)


@pytest.mark.parametrize("cell", ["lstm", "tanh"])
@pytest.mark.parametrize("k", TRUNCATIONS)
def test_true_gradients_equal_autograd_through_the_whole_sequence(cell, k):
    rule = learner("dni", cell, "mse", k, 2, synth_last="random")
    x, y = batch("mse")
    leaf = torch.zeros(B, rule.net.n_state, dtype=torch.float64, requires_grad=True)
    z, states, total = leaf, [], torch.zeros((), dtype=torch.float64)
    for start in range(0, T, k):
        states.append(z)
        state = (
            tuple(v.contiguous().unsqueeze(0) for v in z.chunk(2, 1))
            if cell == "lstm"
            else z.unsqueeze(0)
        )
        h, end = rule.net.rnn(x[:, start : start + k], state)
        z = torch.cat([v[0] for v in end], 1) if cell == "lstm" else end[0]
        supervised = [t for t in range(start, min(start + k, T)) if t % 2 == 0]
        if supervised:
            total = (
                total
                + torch.stack([rule.net.linear(h[:, t - start]) - y[:, t] for t in supervised])
                .square()
                .mean()
            )
    found = torch.autograd.grad(total, states, allow_unused=True)
    expected = torch.stack([torch.zeros_like(leaf) if g is None else g for g in found])
    record = rule.measure(x, y)
    torch.testing.assert_close(record["true"], expected, rtol=0, atol=1e-13)
    published = rule.measure(x, y, as_published=True)
    torch.testing.assert_close(published["true"], expected.flip(0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_synthesiser_gradients_equal_autograd_and_add_up(n_layers):
    synthesiser = Synthesiser(
        6, n_layers, 9, device.generator(1, "test"), last="random", n_fibres=4
    ).double()
    stream = torch.Generator().manual_seed(0)
    z, weight = (torch.randn(8, 6, generator=stream, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    *expected, d_z = torch.autograd.grad(
        (synthesiser(z) * weight).sum(), [*synthesiser.parameters(), z]
    )
    expected[0] = expected[0] * synthesiser.mask
    with torch.no_grad():
        sent = synthesiser.trace(z)
        ours = [torch.ones_like(p) for p in synthesiser.parameters()]
        synthesiser.add_gradients(sent, weight, ours, keep=2.0)
        for mine, theirs in zip(ours, expected, strict=True):
            kept = 2 * (synthesiser.mask if mine is ours[0] else 1)
            torch.testing.assert_close(mine, theirs + kept, rtol=0, atol=1e-13)
        torch.testing.assert_close(
            synthesiser.input_gradient(sent, weight), d_z, rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("cell", CELLS)
def test_the_forward_pass_of_training_equals_torchs_own(cell):
    net = CELLS[cell](N_IN, H, N_OUT, device.generator(0, "test")).double()
    x, _ = batch("mse")
    with torch.no_grad():
        for k in TRUNCATIONS:
            folded = net.run(x, k).h[1:]
            torch.testing.assert_close(folded, fold(net.hidden(x), k), rtol=0, atol=1e-14)


def test_folding_puts_every_step_into_its_truncation_and_zeros_behind_the_last():
    x = torch.arange(2 * 5, dtype=torch.float64).view(2, 5, 1)
    folded = fold(x, 2)
    assert folded.shape == (2, 3, 2, 1)
    assert folded[:, :, 1, 0].tolist() == [[5, 7, 9], [6, 8, 0]]


def test_population_measures_of_one_direction_and_of_independent_equal_units():
    wave = torch.sin(torch.arange(200, dtype=torch.float64))
    one = metrics.population(torch.stack([wave, -2 * wave, 3 * wave]))
    assert one["correlation"].item() == pytest.approx(1.5 - 1 / 3)  # published: not normalised to 1
    assert one["pearson"].item() == pytest.approx(1)
    assert one["coding_space"].item() == pytest.approx(14 * wave.var().item())
    steps = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]], dtype=torch.float64)
    even = metrics.population(steps)
    assert even["correlation"].item() == pytest.approx(2 * 0.5 - 0.5)
    assert even["pearson"].item() == pytest.approx(0, abs=1e-12)
    assert even["sparsity"].item() == pytest.approx(0, abs=1e-12)
    assert metrics.population(torch.eye(4))["sparsity"].item() == pytest.approx(1)


def test_dysmetria_ignores_offset_and_drift_and_measures_a_zigzag():
    target = torch.zeros(2, 6, 2, dtype=torch.float64)
    t = torch.arange(6, dtype=torch.float64)[:, None]
    assert metrics.dysmetria(target + 3 - 2 * t, target).item() == pytest.approx(0, abs=1e-12)
    zigzag = torch.stack([(-1) ** torch.arange(6), torch.zeros(6)], dim=1).double()
    assert metrics.dysmetria(target + zigzag, target).item() == pytest.approx(4)


def test_cosine_is_one_for_one_direction_and_zero_for_a_zero_row():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[6.0, 8.0], [1.0, 0.0], [1.0, 1.0]])
    assert metrics.cosine(a, b).tolist() == pytest.approx([1, 0, math.sqrt(0.5)])


def test_certainty_is_the_mean_probability_of_the_likeliest_class():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    assert metrics.certainty(logits).item() == pytest.approx(0.65)
