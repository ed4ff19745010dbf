"""What is shown of a relaxation: the numbers against plain numpy, the pictures against the
numbers.
"""

import sys

import numpy as np
import pytest
import torch

from bioplaus import rules
from bioplaus.papers.corinfomax import dynamics, dynamics_figures
from bioplaus.rules._layered import Trajectory

F64 = torch.float64
SIZES = (6, 7, 5, 3)


def network(name, **values):
    """A rule in float64 on SIZES, its first weights positive so that rates rise from 0."""
    lists = {"lr_ff": [0.1] * 3, "lr_fb": [0.05] * 2}
    fitting = {
        key: value
        for key, value in lists.items()
        if key in rules.get(name).Config.__dataclass_fields__
    }
    found = rules.make(name, {"n_units": SIZES, **fitting, **values}, seed=0, dtype=F64)
    found.w_ff[0].data.abs_()
    return found


def batch(n=8, seed=1):
    stream = torch.Generator().manual_seed(seed)
    return torch.rand(n, SIZES[0], generator=stream, dtype=F64), torch.randint(
        0, 3, (n,), generator=stream
    )


def as_numpy(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


# --- numbers --------------------------------------------------------------------------------------
# --------------------


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (6, 9)])
def test_information_is_what_the_best_linear_prediction_leaves_seen_from_either_side(sizes):
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, (40, sizes[0]))
    b = np.clip(a @ rng.normal(0, 1, sizes) + 0.1 * rng.normal(0, 1, (40, sizes[1])), 0, 1)
    epsilon = 0.15

    def by_prediction(x, y):
        r_x, r_y, r_xy = (p.T @ q / len(x) for p, q in ((x, x), (y, y), (x, y)))
        left = r_y - r_xy.T @ np.linalg.inv(r_x + epsilon * np.eye(len(r_x))) @ r_xy
        size = np.eye(len(r_y))
        return (
            np.linalg.slogdet(r_y + epsilon * size)[1] - np.linalg.slogdet(left + epsilon * size)[1]
        ) / 2

    found = float(dynamics.correlative_information(torch.tensor(a), torch.tensor(b), epsilon))
    assert found == pytest.approx(by_prediction(a, b), rel=1e-10)
    assert found == pytest.approx(by_prediction(b, a), rel=1e-10)


def test_information_between_uncorrelated_layers_is_zero_and_of_two_units_in_closed_form():
    a = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    b = torch.tensor([[1.0], [-1.0], [0.5], [0.5]])
    assert float(dynamics.correlative_information(a, b, 0.1)) == pytest.approx(0, abs=1e-12)
    c = torch.tensor([[1.0], [0.5], [0.0], [0.0]])  # R_a = 0.5, R_c = 0.3125, R_ac = 0.375
    expected = -0.5 * np.log(1 - 0.375**2 / (0.6 * 0.4125))
    assert float(dynamics.correlative_information(a, c, 0.1)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("is_three_phase", [False, True])
def test_information_that_corinfomax_climbs_is_that_of_the_specification_at_every_iteration(
    is_three_phase,
):
    """Written out for one image and one layer at a time, from the weights and the recorded
    rates.
    """
    rule = network(
        "corinfomax",
        is_three_phase=is_three_phase,
        lambda_forget=0.9,
        n_free_steps=4,
        n_nudged_steps=3,
    )
    x, y = batch()
    found = rule.relax(x, y)
    assert found.phases == ["free"] * 4 + ["nudged"] * 3 + ["anti"] * 3 * is_three_phase
    w, v, b = (as_numpy(part) for part in (rule.w_ff, rule.w_fb, rule.b_lateral))
    gamma, epsilon = 0.1 / 0.9, rule.config.epsilon
    for t in range(len(found.phases)):
        total = 0.0
        for n in range(len(x)):
            r = [x[n].numpy(), *(layer[t, n].numpy() for layer in found.states["r"])]
            for k in (1, 2, 3):
                total += (gamma if k < 3 else gamma / 2) * r[k] @ b[k - 1] @ r[k]
                total -= np.sum((r[k] - w[k - 1] @ r[k - 1]) ** 2) / (2 * epsilon)
                if k < 3:
                    total -= np.sum((r[k] - v[k - 1] @ r[k + 1]) ** 2) / (2 * epsilon)
        assert float(found.objective[t]) == pytest.approx(total / len(x), rel=1e-12)


def test_energy_of_equilibrium_propagation_is_that_of_the_specification_and_falls_in_each_phase():
    rule = network("ep", lr_neural=0.05, n_free_steps=12, n_nudged_steps=9, beta_nudge=0.7)
    x, y = batch()
    found = rule.relax(x, y)
    w, bias = as_numpy(rule.w_ff), as_numpy(rule.bias)
    for t, phase in enumerate(found.phases):
        total = 0.0
        for n in range(len(x)):
            s = [x[n].numpy(), *(layer[t, n].numpy() for layer in found.states["s"])]
            total += sum(
                s[k] @ s[k] / 2 - s[k] @ (w[k - 1] @ s[k - 1] + bias[k - 1]) for k in (1, 2, 3)
            )
            total += 0.7 * np.sum((s[3] - np.eye(3)[y[n]]) ** 2) * (phase == "nudged")
        assert float(found.objective[t]) == pytest.approx(total / len(x), rel=1e-12)
    for phase in ("free", "nudged"):
        inside = found.objective[[name == phase for name in found.phases]]
        assert (inside.diff() < 0).all()


def test_information_of_a_trajectory_is_between_the_rates_of_neighbouring_layers():
    rule = network("corinfomax", n_free_steps=3, n_nudged_steps=2)
    x, y = batch()
    found = rule.relax(x, y)
    drawn = dynamics.information({("corinfomax", "after"): found}, x, 0.15)
    assert list(dict.fromkeys(drawn.pair)) == [
        "input, layer 1",
        "layer 1, layer 2",
        "layer 2, layer 3",
    ]
    assert drawn.phase.tolist() == [phase for phase in found.phases for _ in range(3)]
    value = drawn[(drawn.pair == "layer 1, layer 2") & (drawn.iteration == 4)].value.item()
    low, high = (layer[3] for layer in found.states["r"][:2])
    assert value == float(dynamics.correlative_information(low, high, 0.15))


def test_least_decided_image_has_its_own_class_nearest_to_another_when_the_free_phase_ends():
    # margins 0.8, -0.05, -0.6
    free = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.45], [0.0, 0.6, 0.3]])
    nudged = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    found = Trajectory(
        ["free", "nudged"], {"r": [torch.stack([free, nudged])]}, torch.zeros(2), "information"
    )
    assert dynamics.least_decided(found, torch.tensor([0, 2, 0])) == 1


def test_table_holds_the_objective_before_and_after_and_every_unit_after_learning():
    rule = network("corinfomax", n_free_steps=3, n_nudged_steps=2)
    x, y = batch()
    found = rule.relax(x, y)
    drawn = dynamics.table(
        {("corinfomax", "before"): found, ("corinfomax", "after"): found}, image=5
    )
    objective = drawn[drawn.quantity == "information"]
    assert objective.groupby("when").value.apply(list).to_dict() == dict.fromkeys(
        ("before", "after"), found.objective.tolist()
    )
    units = drawn[drawn.unit.notna()]
    assert set(units.when) == {"after"} and len(units) == 5 * sum(SIZES[1:])
    one = units[(units.quantity == "layer 2") & (units.unit == 4)]
    assert one.value.tolist() == found.states["r"][1][
        :, 5, 4
    ].tolist() and one.iteration.tolist() == [1, 2, 3, 4, 5]


def test_histograms_of_weights_are_densities_over_the_same_bins():
    before, after = (
        network("corinfomax", use_correlations=False),
        network("corinfomax", use_correlations=False),
    )
    after.w_ff[0].data.mul_(2)
    drawn = dynamics.weights({"before": before, "after": after})
    assert list(dict.fromkeys(drawn.matrix)) == [
        *(f"w_ff.{k}" for k in range(3)),
        *(f"w_fb.{k}" for k in range(2)),
        *(f"b_lateral.{k}" for k in range(3)),
    ]
    drawn = drawn.assign(mass=drawn.density * (drawn.high - drawn.low))
    assert drawn.groupby(["matrix", "when"]).mass.sum().to_numpy() == pytest.approx(1)
    for _, bars in drawn.groupby("matrix"):
        old, new = (bars[bars.when == when] for when in dynamics.WHEN)
        assert old.low.tolist() == new.low.tolist() and old.high.tolist() == new.high.tolist()
    largest = float(after.w_ff[0].max())
    assert drawn[drawn.matrix == "w_ff.0"].high.max() == pytest.approx(largest)
    assert (
        dynamics_figures.draw_weights(drawn, "corinfomax").figure.axes[3].get_title()
        == "feedback, V$_1$"
    )


def test_nearest_neighbour_is_another_image_in_the_space_of_all_units_and_the_plane_repeats():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 8)
    rates = rng.uniform(0, 1, (24, 5)) + 0.3 * y[:, None]
    distance = np.linalg.norm(rates[:, None] - rates[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    expected = y[distance.argmin(1)] == y
    hidden = dict.fromkeys(dynamics.WHEN, torch.tensor(rates))
    first, second = (dynamics.plane(hidden, torch.tensor(y), seed=3) for _ in range(2))
    assert first.equals(second)
    for _, of_when in first.groupby("when"):
        assert (
            of_when.is_near_its_own.tolist() == expected.tolist()
            and of_when.label.tolist() == y.tolist()
        )
    title = dynamics_figures.draw_plane(first).figure.axes[0].get_title()
    assert (
        title
        == f"Before learning: nearest neighbour of the same class {100 * expected.mean():.1f} %"
    )


# --- pictures -------------------------------------------------------------------------------------
# --------------------


def test_picture_of_a_relaxation_names_its_phases_and_thickens_the_image_s_class():
    rule = network("corinfomax", is_three_phase=True, n_free_steps=4, n_nudged_steps=3)
    x, y = batch()
    found = rule.relax(x, y)
    drawn = dynamics.table(
        {("corinfomax", "before"): found, ("corinfomax", "after"): found}, image=2
    )
    figure = dynamics_figures.draw(drawn, int(y[2])).figure
    objective, *hidden, outputs = figure.axes[:4]
    for axes in (objective, *hidden, outputs):
        assert [text.get_text() for text in axes.texts][-3:] == ["free", "nudged", "nudged away"]
    assert len(hidden) == 2 and hidden[0].images[0].get_array().shape == (7, 10)
    widths = [line.get_linewidth() for line in outputs.lines[:3]]
    assert int(np.argmax(widths)) == int(y[2])
    assert (
        outputs.lines[int(y[2])].get_ydata().tolist()
        == found.states["r"][2][:, 2, int(y[2])].tolist()
    )


@pytest.mark.parametrize(
    ("name", "rate", "phase"),
    [("pc", torch.sigmoid, "clamped"), ("pc_nudge", lambda x: x.clamp(min=0), "nudged")],
)
def test_predictive_coding_is_shown_by_its_rates_and_by_what_is_done_to_its_outputs(
    name, rate, phase
):
    x, y = batch()
    found = network(name, n_steps=5).relax(x, y)
    *hidden, output = dynamics.layers(found)
    for layer, state in zip(hidden, found.states["x"][:-1], strict=True):
        torch.testing.assert_close(layer, rate(state), rtol=0, atol=1e-15)
    assert torch.equal(output, found.states["x"][-1])  # it is compared with the target as it is
    drawn = dynamics.table({(name, "before"): found, (name, "after"): found}, image=2)
    assert dynamics_figures.draw(drawn, int(y[2])).figure.axes[0].texts[-1].get_text() == phase


class Shown:
    """Stands in for IPython's display: keeps what was shown and what replaced it."""

    def __init__(self):
        self.things, self.updates = [], []

    def __call__(self, thing, display_id=None):
        self.things.append(thing)
        return self if display_id else None

    def update(self, thing):
        self.updates.append(thing)


@pytest.fixture
def shown(monkeypatch):
    import IPython.display

    found = Shown()
    monkeypatch.setattr(IPython.display, "display", found)
    return found


def explored():
    x, y = batch()
    trajectories = {
        "corinfomax": network("corinfomax", n_free_steps=4, n_nudged_steps=3).relax(x, y),
        "ep": network("ep", n_free_steps=2, n_nudged_steps=1).relax(x, y),
    }
    dynamics_figures.explore(trajectories, x, y, (1, 2, 3))
    return y


def said(figure):
    return [figure.axes[0].get_title(), figure.axes[3].get_title(), figure.axes[3].get_xlabel()]


def test_controls_replace_the_picture_of_an_ordinary_output(shown):
    y = explored()
    figure, box = shown.things
    assert said(figure) == [
        f"Image 0: a {int(y[0])}",
        "CorInfoMax: information",
        "Iteration 7, nudged",
    ]
    rule, image, together = box.children
    image.value = 3
    together.children[0].value = 2
    assert said(shown.updates[-1]) == [
        f"Image 3: a {int(y[3])}",
        "CorInfoMax: information",
        "Iteration 2, free",
    ]
    together.children[0].value = 6
    rule.value = "ep"  # which has only three iterations
    assert said(shown.updates[-1]) == [
        f"Image 3: a {int(y[3])}",
        "EP: energy",
        "Iteration 3, nudged",
    ]


def test_without_ipywidgets_the_picture_stays_and_the_way_to_controls_is_said(
    shown, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    explored()
    assert len(shown.things) == 1 and "pip install ipywidgets" in capsys.readouterr().out
