"""The promise to a newcomer: a learning rule is one file and one manifest entry, and then it is in
the results.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bioplaus import results
from bioplaus.analysis import frames

ROOT = Path(__file__).resolve().parents[2]


def blocks(language):
    """The fenced blocks of one language under "Add a learning rule" in the README."""
    section = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("## Add a learning rule")[1]
        .split("\n## ")[0]
    )
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_rule_of_the_readme_touches_exactly_two_paths_keeps_the_contract_and_learns(
    tmp_path, monkeypatch
):
    copy = tmp_path / "clone"
    for folder in ("bioplaus", "Simulations"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(copy)]
    (copy / ".gitignore").write_text("Results/\n__pycache__/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "before"]):
        subprocess.run([*git, *command], check=True)

    (rule,), (entry,) = blocks("python"), blocks("yaml")
    (copy / "bioplaus" / "rules" / "dfa.py").write_text(rule, encoding="utf-8")
    manifest_file = copy / "Simulations" / "manifests" / "corinfomax.yaml"
    text = manifest_file.read_text()
    place = text.index("    entries:\n", text.index("\n  mnist:\n")) + len("    entries:\n")
    manifest_file.write_text(text[:place] + entry + text[place:])

    environment = {**os.environ, "PYTHONPATH": str(copy)}
    environment.pop("BIOPLAUS_HOME", None)
    command = [
        sys.executable,
        "-m",
        "bioplaus",
        "run",
        "--preset",
        "smoke",
        "--only",
        "mnist/dfa",
        "--inline",
    ]
    done = subprocess.run(
        [*command, "--set", "n_epochs=5"], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True
    ).stdout.split("\n")
    assert sorted(line[3:] for line in changed if line) == [
        "Simulations/manifests/corinfomax.yaml",
        "bioplaus/rules/dfa.py",
    ]
    table = frames.epochs(results.outcomes(copy / "Results" / "smoke" / "corinfomax" / "mnist"))
    assert set(table["rule"]) == {"dfa"} and table["test_accuracy"].iloc[-1] > 0.5

    contract = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests" / "rules" / "test_contract.py"),
    ]
    kept = subprocess.run(
        [sys.executable, *contract, "-k", "dfa"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert kept.returncode == 0, kept.stdout
    benchmark = [sys.executable, "-m", "bioplaus", "benchmark", "dfa", "--rounds", "1"]
    timed = subprocess.run(benchmark, cwd=copy, env=environment, capture_output=True, text=True)
    assert "default parameters" in timed.stdout, timed.stderr
