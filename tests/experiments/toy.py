"""A small project of its own: one simulation notebook that does what its parameters ask for, one
manifest, and short ways to run them.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from unittest import mock
from uuid import uuid4

from bioplaus.experiments import cluster, execution, jupyter, sweep
from bioplaus.experiments.execution import Settings

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
    record = {"status": status, "epochs": epochs, "diagnostics": {}}
    results.finish(folder, record, seconds={"train": [0.1]})
"""
# the same for several seeds; a mishap "<what> <seed>" befalls that seed
SEEDS_PARAMETERS = PARAMETERS.replace("seed: int = 0", "seeds: list = [0]").replace(
    'folder: str = ""', "folders: list = []"
)
SEEDS_BODY = """
import os, signal, time
from pathlib import Path
import numpy as np
import torch
from bioplaus import results

what, _, unlucky = mishap.partition(" ")
for folder in folders:
    with open(Path(folder, "executed"), "a") as file:
        file.write(f"{len(seeds)} ")
for seed, folder in zip(seeds, folders):
    print("working on", value, "of seed", seed)
    is_unlucky = unlucky == str(seed)
    if what == "raise" and is_unlucky:
        raise RuntimeError("this seed is unlucky")
    if what == "memory" and len(seeds) > int(unlucky):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    if what in ("die", "die-once") and is_unlucky and not Path(folder, "died").exists():
        if what == "die-once":
            Path(folder, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die-together" and len(seeds) > 1 and is_unlucky:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        Path(folder, "asleep").touch()
        time.sleep(60)
    status = "diverged" if what == "diverge" and is_unlucky else "done"
    epochs = {"epoch": np.arange(2), "test_accuracy": np.array([0.5, value + seed])}
    record = {"status": status, "epochs": epochs, "diagnostics": {}}
    results.finish(folder, record, seconds={"train": [0.1]})
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
            {
                "cell_type": "code",
                "execution_count": None,
                "id": f"cell{i}",
                "metadata": {"tags": [tag] if tag else []},
                "outputs": [],
                "source": source.strip(),
            }
            for i, (tag, source) in enumerate(cells)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content))


def add_cells(project, *cells):
    """Append cells (tag, source) to the toy notebook."""
    path = project / "Simulations" / "act.ipynb"
    content = json.loads(path.read_text())
    for number, (tag, source) in enumerate(cells):
        like = content["cells"][-1]
        tags = {"tags": [tag] if tag else []}
        content["cells"].append({**like, "id": f"more{number}", "metadata": tags, "source": source})
    path.write_text(json.dumps(content))


def digests(runs):
    """The sha256 of every run's result, by id."""
    return {
        run.id: hashlib.sha256((run.folder / "result.pkl").read_bytes()).hexdigest() for run in runs
    }


def on_dask(runs, scheduler, workers=1, most=None):
    """Execute runs on Dask, without kernels; (run, outcome) as each ends."""
    return cluster.execute(
        sweep.in_order(runs, most),
        Settings(environment=jupyter.environment(), sweep=uuid4().hex),
        workers=workers,
        scheduler=scheduler,
        retries=0,
    )


def in_this_process(runs):
    """Execute runs without kernels and Dask; (run, outcome) as each ends."""
    return sweep._execute_inline(sweep.in_order(runs), Settings(), silent)


def execute_run(run, kernel=None, retries=0, folder=None):
    """Execute one run in this process or in a kernel; its outcome."""
    settings = Settings(kernel=kernel, retries=retries, environment=jupyter.environment())
    with mock.patch.dict(os.environ):  # a worker would keep it
        return execution.execute(run, str(folder or run.folder), settings)


def silent(line):
    """Report nothing."""


def start(project, *options, preset="smoke"):
    """Start `bioplaus run --preset ...` in a session of its own."""
    command = [sys.executable, "-m", "bioplaus", "run", "--preset", preset, *options]
    return subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what runs in the background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
