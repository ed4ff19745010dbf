"""The promise to a newcomer: what CONTRIBUTING says makes a learning rule that keeps the contract,
learns, is timed, and is in a figure; it is one file and one manifest entry.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bioplaus import results, rules
from bioplaus.analysis import frames
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, new_rule

ROOT = Path(__file__).resolve().parents[2]


def blocks(language):
    """The fenced blocks of one language in CONTRIBUTING, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def clone(tmp_path):
    """A copy of the project under git, with nothing to commit."""
    copy = tmp_path / "clone"
    for folder in ("bioplaus", "Simulations", "tests/rules", "Results/published"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for file in ("tests/conftest.py", "pyproject.toml", "notebooks/corinfomax_fig_curves.ipynb"):
        (copy / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    (copy / ".gitignore").write_text("Results/\n__pycache__/\n.pytest_cache/\n")
    git(copy, "init", "-q")
    git(copy, "add", "-A")
    git(copy, "commit", "-qm", "before")
    return copy


def git(folder, *arguments):
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes one after the other, where others use the cores too
def test_the_commands_of_contributing_make_a_rule_that_is_tested_timed_trained_and_drawn(clone):
    """They are copied from the page and run one after the other, as a reader would."""
    environment_block, rule_block = blocks("sh")
    assert environment_block == "make env\n. .venv/bin/activate\n"  # here: the environment there is
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name in ("BIOPLAUS_HOME", "BIOPLAUS_RESULTS"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-e"],
        input=rule_block,
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)  # the contract
    assert re.search(r"my_rule +784-500-10 +plain", done.stdout)  # the time of a step

    (paths,) = blocks("text")
    changed = git(clone, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(line[3:] for line in changed) == paths.split()

    table = frames.epochs(results.outcomes(clone / "Results" / "smoke" / "corinfomax" / "mnist"))
    assert set(table["rule"]) == {"my_rule"} and table["test_accuracy"].iloc[-1] > 0.5

    (picture,) = re.findall(r"`(Results/smoke/figures/\S+?)\.png`", contributing())
    assert (clone / f"{picture}.png").stat().st_size > 10_000
    assert "my_rule" in (clone / f"{picture}.csv").read_text()


def contributing():
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Ep", "my-rule", "_mine", "1st", "", "class", "x" * 41])
def test_a_name_that_is_none_is_refused_in_one_sentence(name):
    with pytest.raises(BioplausError, match=f"cannot be called {name!r}; a name is of"):
        new_rule.check_name(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ep", "there is a rule ep already"),
        ("corinfomax_slow", "has an entry mnist/corinfomax_slow already"),
        ("make", "is something else in bioplaus.rules"),
    ],
)
def test_a_name_that_is_taken_is_refused_in_one_sentence(name, sentence):
    with pytest.raises(BioplausError, match=sentence):
        new_rule.check_name(name)


def test_a_manifest_that_cannot_take_the_entry_keeps_its_bytes_and_no_rule_is_written(
    tmp_path, monkeypatch
):
    folder = tmp_path / "Simulations" / "manifests"
    folder.mkdir(parents=True)
    text = (ROOT / "Simulations" / "manifests" / "corinfomax.yaml").read_text()
    broken = text.replace("  mnist:\n", "  mnist:  # all rules\n", 1)
    (folder / "corinfomax.yaml").write_text(broken)
    monkeypatch.setenv("BIOPLAUS_HOME", str(tmp_path))
    assert "mnist" in manifest.load("corinfomax").experiments
    before = rules.names()
    with pytest.raises(BioplausError, match="no line `entries:` under `mnist:`"):
        new_rule.new_rule("never_written")
    assert (folder / "corinfomax.yaml").read_text() == broken and rules.names() == before
    assert not (Path(rules.__file__).parent / "never_written.py").exists()


def test_the_template_computes_its_equations():
    """Against automatic differentiation in the last layer, where feedback alignment is exact, and
    against the docstring's formula below it.
    """
    import torch

    from bioplaus import device
    from bioplaus.rules import _template

    config = _template.Config(n_units=(6, 5, 4, 3), lr=0.3)
    rule = _template.Rule(config, device.generator(0, "rule")).double()
    x = torch.rand(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    w, b = [v.clone().requires_grad_() for v in rule.w_ff], [v.clone() for v in rule.w_back]
    h1 = torch.tanh(x @ w[0].T)
    h2 = torch.tanh(h1 @ w[1].T)
    loss = torch.nn.functional.cross_entropy(h2 @ w[2].T, y)
    (gradient,) = torch.autograd.grad(loss, w[2])
    error = torch.nn.functional.one_hot(y, 3) - (h2 @ w[2].T).softmax(1)
    below = [
        ((error @ b[0].T) * (1 - h1 * h1)).T @ x / 7,
        ((error @ b[1].T) * (1 - h2 * h2)).T @ h1 / 7,
    ]
    rule.fit_batch(x, y, epoch=0, step=0)
    for new, old, step in zip(rule.w_ff, w, [*below, -gradient], strict=True):
        torch.testing.assert_close(new, old.detach() + 0.3 * step.detach(), rtol=0, atol=1e-12)
