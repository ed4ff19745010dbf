"""Properties of the CorInfoMax paper's rules that have closed forms or an independent oracle."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bioplaus import rules
from bioplaus.errors import BioplausError
from bioplaus.rules._layered import neural_steps, schedule_factor
from bioplaus.tasks import Spec

F64 = torch.float64
LAYERED = ("bp", "fa", "ep", "csm", "pc", "pc_nudge", "corinfomax", "corinfomax_sparse")
RELAXING = LAYERED[2:]
widths = st.lists(st.integers(2, 6), min_size=3, max_size=5).map(tuple)


def make(name, n_units, seed=0, plain=False, **values):
    """A rule in float64 for any depth: the lists by layer are made to fit where they are not
    given.
    """
    n, fields = len(n_units) - 1, rules.get(name).Config.__dataclass_fields__
    lists = {
        "lr_ff": [0.1] * n,
        "lr_fb": [0.05] * (n - 1),
        "lr_lateral": [-0.01] * (n - 1),
        "lr_sparse": [0.1] * n,
    }
    lists["sparse_layers"] = [1]
    fitting = {key: value for key, value in lists.items() if key in fields}
    values = {"n_units": n_units, **fitting, **values}
    return rules.make(name, values, seed=seed, dtype=F64, plain=plain)


def batch(n_units, n=6, seed=1):
    stream = torch.Generator().manual_seed(seed)
    x = torch.rand(n, n_units[0], generator=stream, dtype=F64)
    return x, torch.randint(0, n_units[-1], (n,), generator=stream)


def learn(rule, x, y, epoch=0):
    rule.begin_epoch(epoch, 1)
    return rule.fit_batch(x, y, epoch=epoch, step=0)


# --- backpropagation and feedback alignment
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_backprop_follows_torch_through_epochs_with_decay(loss):
    rule = make("bp", (7, 6, 5, 4), loss=loss, lr=0.01, lr_decay=0.5, n_decay_epochs=2)
    layers = [torch.nn.Linear(a, b, dtype=F64) for a, b in ((7, 6), (6, 5), (5, 4))]
    net = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    with torch.no_grad():
        for layer, w, b in zip(layers, rule.w_ff, rule.bias, strict=True):
            layer.weight.copy_(w)
            layer.bias.copy_(b)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.5)
    for epoch in range(5):
        x, y = batch((7, 6, 5, 4), seed=epoch)
        found = learn(rule, x, y, epoch)["loss"]
        output = net(x)
        targets = torch.nn.functional.one_hot(y, 4).double()
        expected = {
            "mse": torch.nn.functional.mse_loss,
            "cross_entropy": torch.nn.functional.cross_entropy,
        }[loss]
        value = expected(output, targets)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        torch.testing.assert_close(found, value.detach(), rtol=0, atol=1e-14)
    for layer, w, b in zip(layers, rule.w_ff, rule.bias, strict=True):
        torch.testing.assert_close(w.data, layer.weight.data, rtol=0, atol=1e-13)
        torch.testing.assert_close(b.data, layer.bias.data, rtol=0, atol=1e-13)


def test_feedback_alignment_by_sgd_follows_torch_with_momentum_and_weight_decay():
    """One layer has no feedback, so feedback alignment is plain gradient descent there."""
    rule = make("fa", (5, 3), optimiser="sgd", lr=0.1)
    net = torch.nn.Linear(5, 3, dtype=F64)
    with torch.no_grad():
        net.weight.copy_(rule.w_ff[0])
        net.bias.copy_(rule.bias[0])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.001)
    for seed in range(4):
        x, y = batch((5, 3), seed=seed)
        learn(rule, x, y)
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(net(x), torch.nn.functional.one_hot(y, 3).double()).backward()
        optimiser.step()
    torch.testing.assert_close(rule.w_ff[0].data, net.weight.data, rtol=0, atol=1e-14)


@settings(max_examples=20)
@given(n_units=widths, seed=st.integers(0, 10**6), loss=st.sampled_from(["mse", "cross_entropy"]))
def test_feedback_alignment_is_backprop_where_its_feedback_is_the_forward_weights(
    n_units, seed, loss
):
    fa, bp = make("fa", n_units, seed, loss=loss), make("bp", n_units, seed, loss=loss)
    for back, w in zip(fa.w_back, fa.w_ff[1:], strict=True):
        back.data.copy_(w)
    x, y = batch(n_units, seed=seed)
    learn(fa, x, y)
    learn(bp, x, y)
    for a, b in zip((*fa.w_ff, *fa.bias), (*bp.w_ff, *bp.bias), strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=0, atol=1e-13)


def test_feedback_weights_of_feedback_alignment_never_change_and_the_rate_is_a_tenth_where_asked():
    x, y = batch((5, 6, 4, 3))
    plain, tenth = make("fa", (5, 6, 4, 3)), make("fa", (5, 6, 4, 3), use_tenth_lr=True)
    before = [b.clone() for b in plain.w_back]
    learn(plain, x, y)
    learn(tenth, x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, plain.w_back, strict=True))
    start = make("fa", (5, 6, 4, 3)).w_ff[0]
    torch.testing.assert_close(
        (plain.w_ff[0] - start) / 10, tenth.w_ff[0] - start, rtol=1e-9, atol=0
    )


def test_a_rectified_output_that_is_silent_stops_learning():
    rule = make("fa", (5, 4, 3), use_output_relu=True)
    rule.bias[-1].data.fill_(-100)
    before = [w.clone() for w in rule.w_ff]
    learn(rule, *batch((5, 4, 3)))
    assert all(torch.equal(a, b) for a, b in zip(before, rule.w_ff, strict=True))


# --- equilibrium propagation and contrastive similarity matching
# ------------------------------------------------------


def interior(name, n_units, **values):
    """A network whose free states stay inside (0, 1), where the equations are smooth, and long
    phases.
    """
    phases = {
        "n_free_steps": 400,
        "n_nudged_steps": 400,
        "use_random_sign": False,
        "beta_nudge": 1e-5,
    }
    rule = make(name, n_units, lr_neural=0.4, **phases, **values)
    for w in rule.w_ff:
        w.data.mul_(0.15)
    for b in rule.bias:
        b.data.fill_(0.4)
    return rule


@pytest.mark.parametrize("name", ["ep", "csm"])
@pytest.mark.parametrize("n_units", [(4, 5, 3), (4, 5, 4, 3), (4, 3, 5, 4, 2)])
def test_a_small_nudge_gives_the_gradient_of_the_squared_error_at_the_fixed_point(name, n_units):
    rule = interior(
        name, n_units, **({"lr_lateral": [0.0] * (len(n_units) - 2)} if name == "csm" else {})
    )
    if name == "csm":
        for m in rule.m_lateral:
            m.data.mul_(0.1)
    x, y = batch(n_units)
    w = [v.detach().clone().requires_grad_() for v in rule.w_ff]
    b = [v.detach().clone().requires_grad_() for v in rule.bias]
    lateral = [m.detach() for m in getattr(rule, "m_lateral", [])]
    s = [torch.zeros(len(x), n, dtype=F64) for n in n_units[1:]]
    for _ in range(400):
        drive = []
        for k in range(len(s)):
            total = torch.addmm(b[k], x if k == 0 else s[k - 1], w[k].t())
            if k + 1 < len(s):
                total = total + s[k + 1] @ w[k + 1]
                if lateral:
                    total = total - s[k] @ lateral[k]
            drive.append(total)
        s = [(0.6 * old + 0.4 * new).clamp(0, 1) for old, new in zip(s, drive, strict=True)]
    assert all(((v > 0.01) & (v < 0.99)).all() for v in s)
    loss = (s[-1] - torch.nn.functional.one_hot(y, n_units[-1])).square().sum(1).mean()
    gradients = torch.autograd.grad(loss, [*w, *b])
    before = [v.detach().clone() for v in (*rule.w_ff, *rule.bias)]
    learn(rule, x, y)
    for old, new, gradient in zip(before, (*rule.w_ff, *rule.bias), gradients, strict=True):
        torch.testing.assert_close((new - old) / 0.1, -gradient, rtol=1e-3, atol=1e-6)


@settings(max_examples=15)
@given(n_units=widths, seed=st.integers(0, 10**6), name=st.sampled_from(["ep", "csm"]))
def test_a_free_relaxation_with_small_steps_never_raises_the_energy(n_units, seed, name):
    rule = make(name, n_units, seed, lr_neural=0.02, n_free_steps=40)
    found = rule.relax(*batch(n_units, seed=seed)[:1])
    assert found.objective_name == "energy" and found.phases == ["free"] * 40
    assert (found.objective.diff() <= 1e-12).all()


def test_without_lateral_matrices_contrastive_similarity_matching_is_equilibrium_propagation():
    n_units, values = (5, 6, 4, 3), {"lr_ff": [0.1, 0.2, 0.3]}
    csm, ep = make("csm", n_units, lr_lateral=[0.0, 0.0], **values), make("ep", n_units, **values)
    for m in csm.m_lateral:
        m.data.zero_()
    for a, b in zip((*csm.w_ff, *csm.bias), (*ep.w_ff, *ep.bias), strict=True):
        a.data.copy_(b)
    for epoch in range(3):
        csm.begin_epoch(epoch, 1)
        ep.begin_epoch(epoch, 1)
        csm.signs = ep.signs
        for rule in (csm, ep):
            rule.fit_batch(*batch(n_units, seed=epoch), epoch=epoch, step=0)
    for a, b in zip((*csm.w_ff, *csm.bias), (*ep.w_ff, *ep.bias), strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=0, atol=1e-13)


def test_the_lateral_step_follows_the_sign_as_published_or_the_size_where_asked():
    """M <- (1 + alpha/2)(M - alpha/(2 beta) s s^T / N): the sign of beta flips the Hebbian part, or
    does not.
    """
    n_units, changes = (5, 4, 3), {}
    for is_signed in (True, False):
        for sign in (1, -1):
            rule = make(
                "csm", n_units, n_nudged_steps=1, lr_lateral=[-0.1], use_signed_lateral=is_signed
            )
            seen = {}
            rule.watch = lambda phase, t, state, seen=seen: seen.update(
                {phase: state["s"][0].clone()}
            )
            m = rule.m_lateral[0].clone()
            rule.begin_epoch(0, 1)
            rule.signs.fill_(sign)
            rule.fit_batch(*batch(n_units), epoch=0, step=0)
            hebbian = seen["nudged"].t() @ seen["nudged"] / 6
            change = rule.m_lateral[0] / 0.95 - m
            changes[is_signed, sign] = (change * hebbian).sum() / (hebbian * hebbian).sum()
            torch.testing.assert_close(
                change, changes[is_signed, sign] * hebbian, rtol=0, atol=1e-12
            )
    torch.testing.assert_close(changes[True, 1], torch.tensor(0.05, dtype=F64))
    torch.testing.assert_close(changes[True, -1], torch.tensor(-0.05, dtype=F64))
    torch.testing.assert_close(changes[False, 1], changes[False, -1])


def test_evaluation_uses_its_own_neural_step():
    x, _ = batch((5, 4, 3))
    default = make("ep", (5, 4, 3), n_free_steps=2)
    other = make("ep", (5, 4, 3), n_free_steps=2, lr_neural_evaluate=0.3)
    learned = make("ep", (5, 4, 3), n_free_steps=2, lr_neural=0.3, lr_neural_evaluate=0.5)
    assert torch.equal(default.predict(x), learned.predict(x)) and not torch.equal(
        default.predict(x), other.predict(x)
    )


# --- predictive coding
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pc", "pc_nudge"])
def test_the_relaxation_climbs_its_objective(name):
    x, y = batch((5, 6, 4, 3))
    found = make(name, (5, 6, 4, 3), lr_neural=0.02, n_steps=30).relax(x, y)
    assert found.phases == ["forward"] + ["relaxed"] * 30
    assert (found.objective[1:].diff() >= -1e-12).all()
    assert [s.shape for s in found.states["x"]] == [(31, 6, n) for n in (6, 4, 3)]


def test_a_weak_pull_gives_the_gradient_of_the_summed_squared_error():
    n_units = (5, 7, 6, 3)
    rule = make(
        "pc_nudge",
        n_units,
        lambda_nudge=1e-6,
        n_steps=600,
        lr_neural=0.1,
        use_random_sign=False,
        lr=0.01,
    )
    x, y = batch(n_units)
    w = [v.detach().clone().requires_grad_() for v in rule.w_ff]
    b = [v.detach().clone().requires_grad_() for v in rule.bias]
    h = torch.addmm(b[0], x, w[0].t())
    for weight, bias in zip(w[1:], b[1:], strict=True):
        h = torch.addmm(bias, h.relu(), weight.t())
    loss = (h - torch.nn.functional.one_hot(y, 3)).square().sum()
    gradients = torch.autograd.grad(loss, [*w, *b])
    before = [v.detach().clone() for v in (*rule.w_ff, *rule.bias)]
    learn(rule, x, y)
    for old, new, gradient in zip(before, (*rule.w_ff, *rule.bias), gradients, strict=True):
        torch.testing.assert_close((new - old) / 0.01, -gradient, rtol=1e-4, atol=1e-4)


def test_at_a_fixed_point_of_predictive_coding_no_state_is_pushed():
    rule = make("pc", (4, 5, 6, 3), n_steps=1500)
    x, y = batch((4, 5, 6, 3))
    states = [s[-1].clone().requires_grad_() for s in rule.relax(x, y).states["x"]]
    objective = torch.zeros((), dtype=F64)
    for k, (w, b, here) in enumerate(zip(rule.w_ff, rule.bias, states, strict=True)):
        below = x if k == 0 else torch.sigmoid(states[k - 1])
        objective = objective - (here - torch.addmm(b, below, w.t())).square().sum()
    for gradient in torch.autograd.grad(objective, states[:-1]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_the_rate_of_nudged_predictive_coding_falls_by_batches_counted_through_epochs():
    rule = make("pc_nudge", (4, 3, 2), lr=1.0, lr_decay=0.5, n_decay_batches=3)
    rates = []
    for epoch in range(2):
        rule.begin_epoch(epoch, 4)
        rates += rule.lr_steps.tolist()
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_predictive_coding_by_torch_adam_differs_from_the_published_form_only_by_epsilon():
    x, y = batch((5, 4, 3))
    found = {}
    for use_paper_adam in (True, False):
        rule = make("pc", (5, 4, 3), use_paper_adam=use_paper_adam)
        start = rule.w_ff[1].clone()
        learn(rule, x, y)
        found[use_paper_adam] = (rule.w_ff[1] - start) / 0.001
    # g / (|g| + eps) is what the first step of torch makes
    gradient = found[False] / (1 - found[False].abs()) * 1e-8
    c = math.sqrt(0.001)  # of the published form: c g / (c |g| + eps)
    torch.testing.assert_close(
        found[True], c * gradient / (c * gradient.abs() + 1e-8), rtol=1e-3, atol=1e-9
    )


# --- CorInfoMax -----------------------------------------------------------------------------------
# --------------------


@settings(max_examples=20)
@given(
    n_units=widths,
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["corinfomax", "corinfomax_sparse"]),
)
def test_feedback_weights_do_not_change_when_lr_fb_is_zero(n_units, seed, name):
    rule = make(name, n_units, seed, lr_fb=[0.0] * (len(n_units) - 2))
    before = [v.clone() for v in rule.w_fb]
    learn(rule, *batch(n_units, seed=seed))
    assert all(torch.equal(a, b) for a, b in zip(before, rule.w_fb, strict=True))


def test_forward_weights_do_not_change_when_lr_ff_is_zero_and_the_lateral_ones_still_do():
    rule = make("corinfomax", (5, 4, 3), lr_ff=[0.0, 0.0])
    w, b = [v.clone() for v in rule.w_ff], [v.clone() for v in rule.b_lateral]
    learn(rule, *batch((5, 4, 3)))
    assert all(torch.equal(a, c) for a, c in zip(w, rule.w_ff, strict=True))
    assert not any(torch.equal(a, c) for a, c in zip(b, rule.b_lateral, strict=True))


def test_the_lateral_matrix_stays_the_inverse_of_the_correlation_up_to_second_order_in_gamma():
    """With one sample and z = B r, (lambda R + (1 - lambda) r r^T)^-1 = (B - gamma z z^T / (1 +
    gamma r^T z)) / lambda: the published step leaves out the denominator, so B' R' - I shrinks with
    gamma^2."""
    errors = []
    for forget in (0.99, 0.999):
        rule = make("corinfomax", (4, 5, 3), lambda_forget=forget)
        stream = torch.Generator().manual_seed(3)
        for b in rule.b_lateral:
            a = torch.randn(len(b), len(b), generator=stream, dtype=F64)
            b.data.copy_(a @ a.t() / len(b) + torch.eye(len(b), dtype=F64))
        correlation = [torch.linalg.inv(b) for b in rule.b_lateral]
        seen = {}
        rule.watch = lambda phase, t, state, seen=seen: seen.update(
            {phase: [r.clone() for r in state["r"]]}
        )
        learn(rule, *batch((4, 5, 3), n=1))
        worst = 0.0
        for b, old, r in zip(rule.b_lateral, correlation, seen["nudged"], strict=True):
            new = forget * old + (1 - forget) * r.t() @ r
            worst = max(worst, (b @ new - torch.eye(len(b), dtype=F64)).abs().max().item())
        errors.append(worst)
    assert errors[0] < 1e-2 and errors[1] == pytest.approx(errors[0] / 100, rel=0.2)


@pytest.mark.parametrize("plain", [False, True])
def test_what_a_unit_spreads_to_others_is_its_column_of_the_lateral_matrix(plain):
    """By hand, two hidden units, W_1 = (1, 0), V = 0, gamma = eps = eta = 1 and g = 0: from rest
    comes u = (x, 0), and then u = (x, 0) + (0 - x, 0) + 2 B (x, 0) = 2 x B[:, 0].
    """
    rule = make(
        "corinfomax", (1, 2, 1), plain=plain, epsilon=1.0, g_leak=0.0, lambda_forget=0.5,
        lr_neural=1.0, n_free_steps=2,
    )  # fmt: skip
    for part in (*rule.w_ff, *rule.w_fb, *rule.b_lateral):
        part.data.zero_()
    rule.w_ff[0].data[0] = 1
    rule.b_lateral[0].data[:] = torch.tensor([[0.5, 9.0], [1.0, 9.0]], dtype=F64)
    x = torch.tensor([[0.25]], dtype=F64)
    states = rule.relax(x).states["r"][0]
    assert states[0].tolist() == [[0.25, 0.0]]
    assert states[1].tolist() == [[0.25, 0.5]]


def test_correlations_average_the_rates_of_their_phase_and_can_be_left_out():
    rule = make("corinfomax", (4, 5, 3), lambda_forget=0.9, is_three_phase=True)
    seen = {}
    rule.watch = lambda phase, t, state: seen.update({phase: [r.clone() for r in state["r"]]})
    learn(rule, *batch((4, 5, 3), n=7))
    for matrices, phase in ((rule.r_free, "free"), (rule.r_nudged, "nudged")):
        for matrix, r in zip(matrices, seen[phase], strict=True):
            expected = 0.9 * torch.eye(len(matrix), dtype=F64) + 0.1 * r.t() @ r / 7
            torch.testing.assert_close(matrix.data, expected, rtol=0, atol=1e-14)
    without = make(
        "corinfomax", (4, 5, 3), lambda_forget=0.9, is_three_phase=True, use_correlations=False
    )
    learn(without, *batch((4, 5, 3), n=7))
    assert len(without.r_free) == 0 and torch.equal(without.w_ff[0], rule.w_ff[0])


def test_the_gradient_of_each_layers_information_drives_it():
    """An iteration from rates inside (0, 1) moves u_k by eta (gradient of layer k's terms +
    leaks).
    """
    rule = make(
        "corinfomax", (4, 5, 6, 3), lr_neural=1e-3, n_free_steps=2, g_leak=0.0, lambda_forget=0.9
    )
    for w in rule.w_ff:
        w.data.abs_()  # so that all rates rise from 0
    x, _ = batch((4, 5, 6, 3))
    found = rule.relax(x)
    first, second = ([layer[t] for layer in found.states["r"]] for t in (0, 1))
    assert found.objective_name == "information"
    for k in range(3):
        r = [*second[:k], *first[k:]]  # layers are updated in turn, newest values first
        r[k] = r[k].clone().requires_grad_()
        terms = rule._objective_of(x, None, "free", {"r": r})
        gradient = torch.autograd.grad(terms * len(x), r[k])[0]
        if k < 2:  # the gradient of the layer above's own error is not felt, as published
            above = r[k + 1] - r[k] @ rule.w_ff[k + 1].t()
            gradient = gradient - above @ rule.w_ff[k + 1] / rule.config.epsilon
        if k > 0:
            below = r[k - 1] - r[k] @ rule.w_fb[k - 1].t()
            gradient = gradient - below @ rule.w_fb[k - 1] / rule.config.epsilon
        leak = first[k] if k == 2 else 0
        torch.testing.assert_close(
            second[k], first[k] + 1e-3 * (gradient - leak).detach(), rtol=0, atol=1e-12
        )


def test_the_angle_is_zero_where_feedback_is_the_transpose_and_180_where_it_is_the_opposite():
    rule = make("corinfomax", (4, 5, 6, 3))
    rule.w_fb[0].data.copy_(2 * rule.w_ff[1].t())
    rule.w_fb[1].data.copy_(-rule.w_ff[2].t())
    found = rule.diagnostics()
    assert list(found) == ["angle_2_deg", "angle_3_deg"]
    assert found["angle_2_deg"] == pytest.approx(0, abs=1e-5) and found[
        "angle_3_deg"
    ] == pytest.approx(180, abs=1e-5)


def test_a_multiplier_holds_the_sum_of_the_rates_down():
    """At rest q = sum r - 1 + l, so a layer whose rates sum to more than 1 is pushed, and only
    it.
    """
    free = make(
        "corinfomax_sparse", (6, 8, 3), lr_sparse=[0.0, 0.0], sparse_layers=[1], n_free_steps=300
    )
    held = make(
        "corinfomax_sparse", (6, 8, 3), lr_sparse=[0.5, 0.5], sparse_layers=[1], n_free_steps=300
    )
    for rule in (free, held):
        rule.w_ff[0].data.abs_()
    x, _ = batch((6, 8, 3))
    sums = [rule.relax(x).states["r"][0][-1].sum(1) for rule in (free, held)]
    assert (sums[0] > 1.2).all() and (sums[1] < sums[0]).all()
    multipliers = held.relax(x).states["multiplier"]
    assert (multipliers[0][-1] > 0).all() and (multipliers[1] == 0).all()


def test_three_phases_cancel_the_first_order_bias_of_a_one_sided_nudge():
    """The one-sided step differs from the two-sided one by O(beta): halving beta halves the
    difference.
    """
    differences = []
    for beta in (0.02, 0.01):
        steps = []
        for is_three_phase in (False, True):
            values = {
                "n_free_steps": 300,
                "n_nudged_steps": 300,
                "use_random_sign": False,
                "beta_nudge": beta,
            }
            rule = make(
                "corinfomax", (4, 5, 3), is_three_phase=is_three_phase, lr_neural=0.03, **values
            )
            start = rule.w_ff[1].clone()
            learn(rule, *batch((4, 5, 3)))
            steps.append(rule.w_ff[1] - start)
        differences.append((steps[0] - steps[1]).norm().item())
    assert differences[1] == pytest.approx(differences[0] / 2, rel=0.15)


# --- what they share
# --------------------------------------------------------------------------------------------------


def test_the_nudge_signs_are_fair_depend_on_the_seed_only_and_can_be_left_out():
    signs = []
    for seed in (0, 0, 1):
        rule = make("ep", (4, 3, 2), seed)
        rule.begin_epoch(0, 4000)
        signs.append(rule.signs.clone())
    assert torch.equal(signs[0], signs[1]) and not torch.equal(signs[0], signs[2])
    assert set(signs[0].tolist()) == {-1.0, 1.0} and abs(signs[0].mean()) < 5 / math.sqrt(4000)
    fixed = make("ep", (4, 3, 2), use_random_sign=False)
    fixed.begin_epoch(0, 5)
    assert fixed.signs.tolist() == [1.0] * 5


@pytest.mark.parametrize("name", LAYERED)
def test_a_learner_saved_inside_an_epoch_goes_on_bit_for_bit(name):
    n_units = (6, 5, 4, 3)
    data = [batch(n_units, seed=seed) for seed in range(6)]

    def run(rule, steps):
        for step in steps:
            rule.fit_batch(*data[step], epoch=1, step=step)
        return rule

    whole = make(name, n_units)
    whole.begin_epoch(1, 6)
    half = copy.deepcopy(run(whole, range(3)).state_dict())
    run(whole, range(3, 6))
    resumed = make(name, n_units, seed=5)
    resumed.load_state_dict(half)
    run(resumed, range(3, 6))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", LAYERED)
def test_a_change_of_dtype_between_batches_leaves_no_stale_memory(name):
    n_units = (6, 5, 4, 3)
    x, y = batch(n_units)
    there_and_back, plain = make(name, n_units), make(name, n_units)
    for rule in (there_and_back, plain):
        learn(rule, x, y)
    there_and_back.float()
    there_and_back.predict(x.float())
    there_and_back.double()
    for a, b in zip(there_and_back.parameters(), plain.parameters(), strict=True):
        a.data.copy_(b)
    torch.testing.assert_close(there_and_back.predict(x), plain.predict(x), rtol=0, atol=1e-6)
    learn(there_and_back, x, y, epoch=0)
    assert all(torch.isfinite(v).all() for v in there_and_back.parameters())


@pytest.mark.parametrize("name", RELAXING)
def test_watching_and_relaxing_change_nothing_that_is_learned(name):
    n_units = (6, 5, 4, 3)
    watched, plain = make(name, n_units), make(name, n_units)
    events = []
    watched.watch = lambda phase, t, state: events.append((phase, t))
    x, y = batch(n_units, n=150)
    for epoch in range(2):
        learn(watched, x, y, epoch)
        watched.relax(x, y)
        learn(plain, x, y, epoch)
    assert events and all(
        torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", RELAXING)
def test_a_trajectory_ends_where_the_evaluation_does(name):
    n_units = (6, 5, 4, 3)
    rule = make(name, n_units)
    x, y = batch(n_units)
    found = rule.relax(x)
    states = next(iter(found.states.values()))
    torch.testing.assert_close(states[-1][-1], rule.predict(x), rtol=0, atol=1e-12)
    assert len(found.phases) == len(found.objective) and not found.objective.is_inference()
    assert len(rule.relax(x, y).phases) > len(found.phases)


def test_a_rule_that_does_not_relax_says_so():
    with pytest.raises(BioplausError, match="bp does not relax"):
        make("bp", (4, 3, 2)).relax(batch((4, 3, 2))[0])


class Products(TorchDispatchMode):
    """Counts the operations of every matrix product inside the block: two for each of m k n."""

    flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.addmm_,
        ):
            (m, k), (_, n) = args[-2].shape, args[-1].shape
            self.flops += 2 * m * k * n
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("n_units", [(784, 500, 10), (300, 400, 350, 10)])
@pytest.mark.parametrize("name", LAYERED)
def test_useful_operations_are_what_a_step_multiplies(name, n_units):
    """A step may leave out products with zeros and fold small matrices into large ones: within 5
    %.
    """
    rule = make(name, n_units)
    x, y = batch(n_units, n=20)
    rule.begin_epoch(0, 1)
    with Products() as counted, torch.no_grad():
        rule.fit_batch.__wrapped__(rule, x, y, epoch=0, step=0)
    assert counted.flops == pytest.approx(rule.useful_flops(20), rel=0.05)


@pytest.mark.parametrize(
    ("pieces", "epoch", "expected"),
    [
        (((0, 0.95), (15, 0.9)), 0, 1.0),
        (((0, 0.95), (15, 0.9)), 14, 0.95**14),
        (((0, 0.95), (15, 0.9)), 15, 0.9**15),
        (((0, 0.95), (20, 0.9), (25, 0.8)), 24, 0.9**24),
        (((0, 0.95), (20, 0.9), (25, 0.8)), 30, 0.8**30),
    ],
)
def test_a_schedule_of_pieces_restarts_from_the_power_of_the_epoch(pieces, epoch, expected):
    assert schedule_factor(pieces, epoch) == pytest.approx(expected, rel=1e-15)


def test_neural_steps_follow_their_rule_and_stop_at_the_least():
    assert neural_steps("constant", 0.1, 0.05, 0.01, 3) == [0.1] * 3
    assert neural_steps("loop_index", 0.1, 0.03, 0.01, 4) == pytest.approx(
        [0.1, 0.05, 0.1 / 3, 0.03]
    )
    assert neural_steps("slow", 0.1, 0.0, 0.5, 3) == pytest.approx([0.1, 0.1 / 1.5, 0.05])


# --- errors ---------------------------------------------------------------------------------------
# --------------------


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("ep", {"n_units": [4, 3]}, "at least 3 layers"),
        ("bp", {"n_units": [4]}, "at least 2 layers"),
        ("ep", {"n_units": [4, 0, 2]}, "n_units .* at least 1"),
        (
            "ep",
            {"n_units": [4, 3, 3, 2]},
            r"lr_ff .* 2 entries, but n_units \[4, 3, 3, 2\] needs 3: .* weight layer",
        ),
        ("ep", {"lr_ff": [0.1, -0.1]}, "lr_ff .* at least 0"),
        ("ep", {"beta_nudge": 0.0}, "beta_nudge is 0.0, but must be finite and above 0"),
        ("ep", {"n_free_steps": 0}, "n_free_steps .* at least 1"),
        ("ep", {"lr_neural": 2.5}, "lr_neural .* above 0 to 2"),
        ("ep", {"lr_decay": 0.0}, "lr_decay .* above 0 to 1"),
        ("csm", {"lr_lateral": [0.1]}, "lr_lateral .* from -2 to 0"),
        ("csm", {"lr_lateral": []}, "lr_lateral .* hidden layer"),
        ("corinfomax", {"lr_fb": [0.1, 0.1]}, "lr_fb .* pair of neighbouring layers"),
        ("corinfomax", {"lambda_forget": 1.0}, "lambda_forget .* above 0 and below 1"),
        ("corinfomax", {"epsilon": 0.0}, "epsilon .* above 0"),
        ("corinfomax", {"epsilon": math.nan}, "epsilon .* above 0"),
        ("corinfomax", {"g_leak": -1.0}, "g_leak .* at least 0"),
        ("corinfomax", {"lr_neural_rule": "slwo"}, "did you mean 'slow'"),
        ("corinfomax", {"lr_schedule": []}, "lr_schedule .* pairs"),
        ("corinfomax", {"lr_schedule": [[1, 0.9]]}, "lr_schedule .* rise from 0"),
        ("corinfomax", {"lr_schedule": [[0, 0.9], [0, 0.8]]}, "lr_schedule .* rise from 0"),
        ("corinfomax", {"lr_schedule": [[0, 0.9, 1]]}, "lr_schedule.* pair of numbers"),
        ("corinfomax", {"lr_schedule": [0, 0.9]}, "lr_schedule.* must be a pair"),
        ("corinfomax_sparse", {"sparse_layers": [3]}, "sparse_layers .* from 1 to 2"),
        ("corinfomax_sparse", {"sparse_layers": [1, 1]}, "sparse_layers .* different layers"),
        ("corinfomax_sparse", {"lr_sparse": [0.1]}, "lr_sparse .* layer above the input"),
        ("pc", {"target_margin": 0.5}, "target_margin .* below 0.5"),
        ("pc", {"optimiser": "adm"}, "did you mean 'adam'"),
        ("pc", {"n_steps": 0}, "n_steps .* at least 1"),
        ("pc_nudge", {"lambda_nudge": 0.0}, "lambda_nudge .* above 0"),
        ("pc_nudge", {"n_decay_batches": 0}, "n_decay_batches .* at least 1"),
        ("bp", {"loss": "huber"}, "loss"),
        ("fa", {"lr": "1e-4"}, "'lr' is '1e-4', but must be a number"),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_range_named(name, values, words):
    with pytest.raises(BioplausError, match=words):
        rules.config(name, values)


@pytest.mark.parametrize("name", ["corinfomax", "corinfomax_sparse", "pc", "pc_nudge"])
def test_steps_that_fall_end_at_most_where_they_start(name):
    values = {"lr_neural": 0.05, "lr_neural_stop": 0.06}
    for rule in ("loop_index", "slow"):
        with pytest.raises(
            BioplausError,
            match="lr_neural_stop is 0.06, but must be at most lr_neural, 0.05, .*" + rule,
        ):
            rules.config(name, {**values, "lr_neural_rule": rule})
        assert (
            rules.config(
                name, {**values, "lr_neural_stop": 0.05, "lr_neural_rule": rule}
            ).lr_neural_stop
            == 0.05
        )
    # not used there
    assert rules.config(name, {**values, "lr_neural_rule": "constant"}).lr_neural_stop == 0.06


def test_a_network_that_does_not_fit_the_data_is_refused_with_both_sizes_named():
    spec = Spec(name="digits", kind="classification", n_in=64, n_out=10)
    with pytest.raises(
        BioplausError,
        match=r"n_units is \[784, 500, 10\], but data set 'digits' has 64 inputs and 10 cl",
    ):
        rules.config("ep", {}, spec)
    in_time = Spec(name="rows", kind="classification", n_in=784, n_out=10, n_steps=28)
    with pytest.raises(BioplausError, match="ep learns to classify still inputs, but task 'rows'"):
        rules.config("ep", {}, in_time)
