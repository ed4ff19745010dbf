"""Gradients of the recurrent rules, in both forms, against finite differences of their objectives,
which torch's own recurrent layers compute; closed forms of the synthesiser against autograd.
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from bioplaus import device, metrics, rules
from bioplaus.nets._fast import synthesiser as fast
from bioplaus.nets._fast.lstm import PASSES, fold
from bioplaus.nets.lstm import CELLS
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


def learner(rule, cell, loss, k, s, plain=False, **more):
    values = {
        "n_units": [N_IN, H, N_OUT],
        "cell": cell,
        "loss": loss,
        "n_truncation": k,
        "spars_int": s,
        "clip": 0.0,
    }
    return rules.make(rule, values | more, seed=2, dtype=torch.float64, plain=plain)


def batch(loss):
    stream = torch.Generator().manual_seed(4)
    x = torch.randn(B, T, N_IN, generator=stream, dtype=torch.float64)
    if loss == "xent":
        return x, torch.randint(0, N_OUT, (B,), generator=stream)
    return x, torch.randn(B, T, N_OUT, generator=stream, dtype=torch.float64)


def seen_in_a_batch(rule, x, y):
    """What `watch` sees while the rule learns: by phase and name, a list over t of lists."""
    seen = {}

    def watch(phase, t, state):
        for name, values in state.items():
            seen.setdefault(f"{phase}.{name}", []).append([value.clone() for value in values])

    rule.watch = watch
    rule.fit_batch(x, y, epoch=0, step=0)
    return seen


def run(net, part, z):
    """h after every step of a part of a sequence, and the end state, by torch's own layer."""
    state = tuple(v.contiguous().unsqueeze(0) for v in z.chunk(z.shape[1] // H, 1))
    h, end = net.rnn(part, state if len(state) > 1 else state[0])
    return h, torch.cat([v[0] for v in (end if len(state) > 1 else (end,))], dim=1)


def loss_of(rule, h, y, start):
    """L_k of the truncation that begins with step `start`, from its hidden activity h."""
    c, steps = rule.config, range(start, start + h.shape[1])
    if c.loss == "xent":
        last = functional.cross_entropy(rule.net.linear(h[:, -1]), y)
        return last if steps[-1] == T - 1 else last * 0
    supervised = [t for t in steps if t % c.spars_int == 0]
    errors = [rule.net.linear(h[:, t - start]) - y[:, t] for t in supervised]
    return torch.stack(errors).square().mean() if errors else h.sum() * 0


def starts_of(rule, x):
    """z_k and the first step of every truncation."""
    z = torch.zeros(B, rule.net.n_state, dtype=torch.float64)
    found = []
    for start in range(0, T, rule.config.n_truncation):
        found.append((start, z))
        _, z = run(rule.net, x[:, start : start + rule.config.n_truncation], z)
    return found


def slope(function, tensors, directions, step=1e-4):
    """d function / d epsilon where the tensors move by epsilon times their directions, by central
    differences of fourth order: its error is of order step^4, and of rounding / step.
    """
    before = [tensor.clone() for tensor in tensors]
    values = {}
    for epsilon in (-2 * step, -step, step, 2 * step):
        for tensor, start, direction in zip(tensors, before, directions, strict=True):
            tensor.copy_(start + epsilon * direction)
        values[epsilon] = function()
    for tensor, start in zip(tensors, before, strict=True):
        tensor.copy_(start)
    near, far = (values[e] - values[-e] for e in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def random_like(tensors, seed):
    stream = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=stream, dtype=t.dtype) for t in tensors]


def inner(a, b):
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))


def assert_slopes(function, tensors, gradients):
    """The gradients are those of the function along three random directions."""
    for seed in range(3):
        directions = random_like(tensors, seed)
        expected = slope(function, tensors, directions)
        torch.testing.assert_close(inner(gradients, directions), expected, rtol=1e-8, atol=1e-9)


FORMS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])


@FORMS
@pytest.mark.parametrize(("cell", "loss", "k", "s"), CASES)
@torch.no_grad()
def test_truncated_gradients_are_slopes_of_the_losses_with_the_starts_held_fixed(
    cell, loss, k, s, plain
):
    rule = learner("bptt", cell, loss, k, s, plain=plain, lr=0.0)
    x, y = batch(loss)
    starts = starts_of(rule, x)

    def total():
        return sum(
            loss_of(rule, run(rule.net, x[:, start : start + k], z)[0], y, start)
            for start, z in starts
        )

    with torch.enable_grad():
        (gradients,) = seen_in_a_batch(rule, x, y)["gradient.theta"]
    assert_slopes(total, [p.data for p in rule.net.parameters()], gradients)


@FORMS
@pytest.mark.parametrize("bootstrap_last", [True, False])
@pytest.mark.parametrize("n_layers", [0, 1, 2])
@pytest.mark.parametrize(("cell", "loss", "k", "s"), [c for c in CASES if c[2] in (3, 7)])
@torch.no_grad()
def test_gradients_with_a_cerebellum_are_slopes_of_what_each_network_learns(
    cell, loss, k, s, n_layers, bootstrap_last, plain
):
    more = {
        "synth_last": "random",
        "n_synth_layers": n_layers,
        "n_synth_hidden": 6,
        "bootstrap_last": bootstrap_last,
        "bootstrap_scale": 0.3,
    }
    rule = learner("dni", cell, loss, k, s, plain=plain, lr=0.0, **more)
    x, y = batch(loss)
    starts = starts_of(rule, x)
    foreseen = [rule.synthesiser(run(rule.net, x[:, t : t + k], z)[1]) for t, z in starts]

    def objective(index):
        start, z = starts[index]
        h, end = run(rule.net, x[:, start : start + k], z)
        is_last = index == len(starts) - 1
        scale = 0.0 if is_last and not bootstrap_last else 0.3
        return loss_of(rule, h, y, start) + scale * (foreseen[index] * end).sum()

    with torch.enable_grad():
        seen = seen_in_a_batch(rule, x, y)
    for name, index in itertools.product(("synth_start", "synth_end"), range(len(starts))):
        expected = rule.synthesiser(starts[index][1]) if name == "synth_start" else foreseen[index]
        (given,) = seen[f"truncation.{name}"][index]
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-13)
    targets = [target for (target,) in seen["truncation.synth_target"]]
    for index, target in enumerate(targets):
        assert_slopes(lambda i=index: objective(i), [starts[index][1]], [target])
    (d_theta,), (d_phi,) = seen["gradient.theta"], seen["gradient.phi"]
    theta, phi = ([p.data for p in net.parameters()] for net in (rule.net, rule.synthesiser))
    assert_slopes(lambda: sum(map(objective, range(len(starts)))), theta, d_theta)

    def synth_loss():
        errors = [rule.synthesiser(z) - g for (_, z), g in zip(starts, targets, strict=True)]
        return sum(error.square().sum() for error in errors)

    assert_slopes(synth_loss, phi, d_phi)


@FORMS
@pytest.mark.parametrize("cell", ["lstm", "tanh"])
@pytest.mark.parametrize("k", TRUNCATIONS)
@torch.no_grad()
def test_true_gradients_are_slopes_of_all_losses_to_come(cell, k, plain):
    rule = learner("dni", cell, "mse", k, 2, plain=plain, synth_last="random")
    x, y = batch("mse")
    starts = starts_of(rule, x)
    with torch.enable_grad():
        record = rule.measure(x, y)
        published = rule.measure(x, y, as_published=True)
    for index, (_, z) in enumerate(starts):

        def to_come(index=index, z=z):
            total = 0.0
            for start, _ in starts[index:]:
                h, z = run(rule.net, x[:, start : start + k], z)
                total = total + loss_of(rule, h, y, start)
            return total

        torch.testing.assert_close(record["state"][index], z, rtol=0, atol=1e-13)
        assert_slopes(to_come, [z], [record["true"][index]])
        # the published recording adds what flows back through the synthesiser's input
        target = record["target"][index]
        assert_slopes(
            lambda z=z, target=target: (rule.synthesiser(z) - target).square().sum(),
            [z],
            [published["target"][index] - target],
        )
    assert torch.equal(published["true"], record["true"].flip(0))


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
    with torch.no_grad():
        sent = fast.trace(synthesiser, z)
        ours = [torch.ones_like(p) for p in synthesiser.parameters()]
        fast.add_gradients(synthesiser, sent, weight, ours, keep=2.0)
        for mine, theirs in zip(ours, expected, strict=True):
            kept = 2 * (synthesiser.mask if mine is ours[0] else 1)
            torch.testing.assert_close(mine, theirs + kept, rtol=0, atol=1e-13)
        torch.testing.assert_close(
            fast.input_gradient(synthesiser, sent, weight), d_z, rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("cell", CELLS)
def test_both_forward_passes_of_training_equal_torchs_own(cell):
    net = CELLS[cell](N_IN, H, N_OUT, device.generator(0, "test")).double()
    x, _ = batch("mse")
    with torch.no_grad():
        expected = net.hidden(x)
        states = net(x, net.zero_state(B))
        torch.testing.assert_close(states[..., :H], expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(net.readout(states), net.linear(expected), rtol=0, atol=1e-14)
        for k in TRUNCATIONS:
            folded = PASSES[cell](net).run(x, k).h[1:]
            torch.testing.assert_close(folded, fold(expected, k), rtol=0, atol=1e-14)


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
