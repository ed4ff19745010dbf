"""The promise to a newcomer: a learning rule is one file and one manifest entry, and then it is in the results."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bioplaus import results

ROOT = Path(__file__).resolve().parents[2]

RULE = '''
"""Perceptron: the delta rule on one layer, dW = lr (y - softmax(W x)) x^T / N."""

import dataclasses

import torch

from bioplaus.config import Config as _Config
from bioplaus.errors import BioplausError
from bioplaus.rules import LearningRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(_Config):
    n_units: tuple[int, ...] = (64, 10)  # widths, input first
    lr: float = 0.5  # weight step, dimensionless

    def __post_init__(self):
        self.check("lr", low=0)


class Rule(LearningRule):
    def __init__(self, config, generator):
        super().__init__(config, generator)
        n_in, n_out = config.n_units[0], config.n_units[-1]
        self.w = torch.nn.Parameter(0.01 * torch.randn(n_out, n_in, generator=generator), requires_grad=False)

    @classmethod
    def check_task(cls, config, spec):
        if (config.n_units[0], config.n_units[-1]) != (spec.n_in, spec.n_out):
            raise BioplausError("n_units does not fit the task")

    def fit_batch(self, x, y, *, epoch, step):
        target = torch.nn.functional.one_hot(y, self.config.n_units[-1]).to(x.dtype)
        self.w.addmm_((target - torch.softmax(self.predict(x), 1)).t(), x, alpha=self.config.lr / len(x))
        return {}

    def predict(self, x):
        return x @ self.w.t()
'''
ENTRY = """      delta:
        label: Delta rule
        parameters: {rule: delta, config: {lr: 0.5}}
        presets: {smoke: {parameters: {config: {n_units: [64, 10]}}}}
"""


def test_adding_a_toy_rule_touches_exactly_two_paths_and_it_learns(tmp_path, monkeypatch):
    copy = tmp_path / "clone"
    for folder in ("bioplaus", "Simulations"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(copy)]
    (copy / ".gitignore").write_text("Results/\n__pycache__/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "before"]):
        subprocess.run([*git, *command], check=True)

    (copy / "bioplaus" / "rules" / "delta.py").write_text(RULE.lstrip())
    manifest_file = copy / "Simulations" / "manifests" / "corinfomax.yaml"
    text = manifest_file.read_text()
    place = text.index("    entries:\n", text.index("\n  mnist:\n")) + len("    entries:\n")
    manifest_file.write_text(text[:place] + ENTRY + text[place:])

    environment = {**os.environ, "PYTHONPATH": str(copy)}
    environment.pop("BIOPLAUS_HOME", None)
    command = [sys.executable, "-m", "bioplaus", "run", "--preset", "smoke", "--only", "mnist/delta", "--inline"]
    done = subprocess.run([*command, "--set", "n_epochs=5"], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.split("\n")
    assert sorted(line[3:] for line in changed if line) == [
        "Simulations/manifests/corinfomax.yaml",
        "bioplaus/rules/delta.py",
    ]
    table = results.frame(results.outcomes(copy / "Results" / "smoke" / "corinfomax" / "mnist"))
    assert set(table["rule"]) == {"delta"} and table["test_accuracy"].iloc[-1] > 0.5
