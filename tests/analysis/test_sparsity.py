"""Activity of layers, counted by hand, and drawn by rule and layer."""

import types

import pytest
import torch

from bioplaus import activity, analysis, rules
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, sweep
from bioplaus.papers.corinfomax import sparsity


def settled(*layers):
    """A rule that relaxes to these rates, after one iteration at 0 and before a nudged one."""

    def relax(x):
        states = [torch.stack([torch.zeros_like(r), r, torch.ones_like(r)]) for r in layers]
        return types.SimpleNamespace(phases=["free", "free", "nudged"], states={"r": states})

    return types.SimpleNamespace(relax=relax)


def test_activity_is_that_at_the_end_of_the_free_phase_counted_by_hand():
    hidden = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2]])
    output = torch.tensor([[1.0, 0.0], [0.005, 0.0]])
    found = activity.measure(settled(hidden, output), torch.zeros(2, 3))
    assert found["active"] == pytest.approx([6 / 8, 1 / 4])
    assert found["total"] == pytest.approx([(1.0 + 0.8) / 2, 1.005 / 2])
    assert found["spread"] == pytest.approx([(2 / 4 + 1) / 2, 1 / 2])


def test_a_silent_layer_is_spread_over_nothing():
    found = activity.measure(settled(torch.zeros(2, 4)), torch.zeros(2, 3))
    assert found == {"active": [0.0], "total": [0.0], "spread": [0.0]}


def test_a_real_network_is_measured_in_parts_as_at_once(monkeypatch):
    learner = rules.make("corinfomax_sparse", {"n_units": [6, 5, 3]}, seed=1)
    x = torch.rand(7, 6)
    at_once = activity.measure(learner, x)
    monkeypatch.setattr(activity, "CHUNK", 3)
    in_parts = activity.measure(learner, x)
    for name, values in at_once.items():
        assert in_parts[name] == pytest.approx(values, rel=1e-5)


def test_a_rule_without_relaxation_is_refused_before_it_learns():
    activity.check("corinfomax", 10)
    activity.check("bp", 0)
    with pytest.raises(BioplausError, match="rule bp has no rates that relax"):
        activity.check("bp", 10)
    with pytest.raises(BioplausError, match="n_activity is -1"):
        activity.check("ep", -1)


def test_runs_keep_their_activity_and_it_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path))
    planned = manifest.runs("smoke", ["corinfomax"], only="activity/*")
    assert not sweep.execute(planned, inline=True, report=lambda _: None).failed
    drawn = sparsity.table(analysis.load("corinfomax", "activity", "smoke"))
    assert len(drawn) == 2 * 2 * 3 and set(drawn.n_units) == {20, 10}
    assert drawn[drawn.measure == "active"].value.between(0, 1).all()
    assert len(sparsity.draw(drawn).figure.axes) == 3
