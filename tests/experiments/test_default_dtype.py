"""torch's default dtype, which a session or a start-up file may have changed, changes no result."""

import pytest
import torch
from toy import digests, silent

from bioplaus import rules
from bioplaus.experiments import manifest, sweep


@pytest.fixture
def float64_default():
    """Make float64 the default dtype when asked to; float32 is it again after the test."""
    yield lambda: torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


def test_a_rule_draws_the_same_weights(float64_default):
    for name in rules.names():
        values, spec = rules.example(name)
        expected = rules.make(name, values, spec, seed=3).state_dict()
        float64_default()
        drawn = rules.make(name, values, spec, seed=3).state_dict()
        torch.set_default_dtype(torch.float32)
        tensors = {key: one for key, one in expected.items() if isinstance(one, torch.Tensor)}
        for key, value in tensors.items():
            assert torch.equal(drawn[key], value) and drawn[key].dtype == value.dtype, (name, key)


def test_runs_in_this_process_give_the_same_bytes(float64_default, tmp_path, monkeypatch):
    monkeypatch.delenv("BIOPLAUS_HOME", raising=False)
    every = [run for run in manifest.runs("smoke", seeds=[0]) if not run.needs]
    runs = list({(run.simulation, run.rule): run for run in every}.values())
    made = []
    for change in (lambda: None, float64_default):
        monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / str(len(made))))
        change()
        assert not sweep.execute(runs, inline=True, report=silent).failed
        made.append(digests(runs))
    assert made[0] == made[1]
