"""The order of runs that lets figures be drawn early, and on which runs a drawing depends."""

import json
import re

import numpy as np
import pytest

from bioplaus import paths
from bioplaus.analysis import drawing
from bioplaus.experiments import manifest

OTHERS = """
  long:
    title: "Long runs"
    simulation: classify
    parameters: {dataset: mnist, n_epochs: 50, batch_size: 20}
    seeds: [0, 1]
    seconds: 100
    presets: {desk: {}}
    entries: {ep: {parameters: {rule: ep}}}
  short:
    title: "Short runs"
    simulation: classify
    parameters: {dataset: mnist, n_epochs: 2, batch_size: 20}
    seeds: [0, 1]
    seconds: 1
    presets: {desk: {}}
    entries: {ep: {parameters: {rule: ep}}}
"""
NAMED = "notebooks: {corinfomax_fig_a: [long], corinfomax_fig_b: [short, mnist]}\nexperiments:"


@pytest.fixture
def notebooks(home):
    """Two notebooks: of experiment long, and of short and mnist, whose nine runs take 60 s each."""
    path = home / "Simulations" / "manifests" / "corinfomax.yaml"
    text = path.read_text().replace("experiments:", NAMED) + OTHERS
    path.write_text(text.replace("seeds: [0, 10, 20]", "seeds: [0, 10, 20]\n    seconds: 60"))
    for letter in "ab":
        cells = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (home / "notebooks" / f"corinfomax_fig_{letter}.ipynb").write_text(json.dumps(cells))
    return drawing.notebooks_of("desk")


def test_runs_come_in_the_order_of_the_notebooks_that_need_the_least_time(notebooks):
    todo = manifest.runs("desk")
    ordered = drawing.early_figures(notebooks, todo)
    names = list(dict.fromkeys(run.experiment for run in ordered))
    assert names == ["long", "mnist", "short"]  # 200 s, then 542 s, as the manifest has them
    assert sorted(run.key for run in ordered) == sorted(run.key for run in todo)
    # what has run costs nothing more, and what no notebook shows comes last
    left = [run for run in todo if run.experiment != "mnist"]
    assert [run.experiment for run in drawing.early_figures(notebooks, left)][0] == "short"
    assert drawing.early_figures([], todo) == todo


def test_a_notebook_is_drawn_after_its_own_runs_and_at_once_where_they_are_there(
    notebooks, write, home
):
    todo = manifest.runs("desk")
    first, second = drawing.followers(notebooks, todo)
    assert {run.experiment for run in first.runs} == {"long"} and len(second.runs) == 11
    assert first.is_urgent and second.is_urgent
    nothing = [run for run in todo if run.experiment == "mnist"]
    assert not drawing.followers(notebooks, nothing)[0].is_urgent  # it has nothing of ours to show
    write("desk", "ep", 0, np.linspace(0.9, 0.95, 50))
    long = [run for run in todo if run.experiment == "long"]
    assert drawing.followers(notebooks, long)[1].is_urgent  # what is there can be shown at once


def test_a_drawing_depends_on_the_experiments_that_it_loaded_alone(notebooks, write):
    notebook = notebooks[1]
    before = notebook.digest(["mnist"]), notebook.digest(["long"])
    write("desk", "ep", 0, np.linspace(0.9, 0.95, 50))
    assert notebook.digest(["mnist"]) != before[0] and notebook.digest(["long"]) == before[1]
    notebook.note({"status": "drawn", "experiments": ["long"]})
    assert drawing.notebooks_of("desk")[1].experiments == ["long"]  # as it was, not as it is named


@pytest.mark.parametrize("paper", ["bilateral", "ccdni", "corinfomax", "hebbian"])
def test_manifests_name_notebooks_experiments_and_figures_that_there_are(paper):
    described = manifest.load(paper)
    folder = paths.project_root() / "notebooks"
    for notebook, experiments in described.notebooks.items():
        source = (folder / f"{notebook}.ipynb").read_text().replace('\\"', '"')
        loaded = set(re.findall(rf'load\("{paper}", "([\w-]+)", preset', source))
        assert loaded <= set(experiments), notebook
        assert set(experiments) <= described.experiments.keys()
    claim = described.claim
    assert claim.experiment in described.experiments
    assert claim.figure.startswith(f"{paper}_fig_")
