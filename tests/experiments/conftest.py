"""A small project of its own: one simulation notebook that does as it is told, and one manifest."""

import json

import pytest

PARAMETERS = """
rule: str = "toy"
dataset: str = "none"
value: float = 1.0
rate: float = 0.1
steps: list = [1, 2]
config: dict = {}
seed: int = 0
mishap: str = ""  # raise, die, save-nothing, diverge, sleep
folder: str = ""
"""
CHECK = """
from bioplaus.errors import BioplausError
if value < 0:
    raise BioplausError(f"value is {value}, but must be at least 0.")
"""
BODY = """
import os, signal, time
from pathlib import Path
import numpy as np
from bioplaus import results

print("working on", value)
if mishap == "raise":
    raise RuntimeError("this seed is unlucky")
if mishap == "die-once" and not Path(folder, "died").exists():
    Path(folder, "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if mishap == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if mishap == "sleep":
    Path(folder, "asleep").touch()
    time.sleep(60)
if folder and mishap != "save-nothing":
    status = "diverged" if mishap == "diverge" else "done"
    epochs = {"epoch": np.arange(2), "test_accuracy": np.array([0.5, value])}
    results.finish(folder, {"status": status, "epochs": epochs, "diagnostics": {}}, seconds={"train": [0.1]})
"""
MANIFEST = """
paper: toy
title: A toy paper
experiments:
  first:
    title: Two entries
    simulation: act
    parameters: {rule: toy, rate: 1e-4}
    seeds: [0, 10]
    presets:
      quick: {parameters: {value: 2.0}}
      smoke: {seeds: [0]}
    entries:
      plain: {label: Plain}
      graded:
        grid: {value: [1.0, 3.0], config.depth: [1, 2]}
        presets: {smoke: false}
"""


def write_notebook(path, *cells):
    """A notebook of code cells given as (tag, source)."""
    content = {
        "cells": [
            {"cell_type": "code", "execution_count": None, "id": f"cell{i}", "metadata": {"tags": [tag] if tag else []},
             "outputs": [], "source": source.strip()}
            for i, (tag, source) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip
    path.write_text(json.dumps(content))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project's folder; its manifest toy.yaml may be rewritten, results go to its Results."""
    (tmp_path / "Simulations" / "manifests").mkdir(parents=True)
    write_notebook(
        tmp_path / "Simulations" / "act.ipynb",
        ("parameters", PARAMETERS),
        ("check", CHECK),
        ("", BODY),
    )
    (tmp_path / "Simulations" / "manifests" / "toy.yaml").write_text(MANIFEST)
    monkeypatch.setenv("BIOPLAUS_HOME", str(tmp_path))
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / "Results"))
    return tmp_path


@pytest.fixture
def rewrite(project):
    """Replace a piece of the manifest's text."""

    def replace(old, new):
        path = project / "Simulations" / "manifests" / "toy.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return replace
