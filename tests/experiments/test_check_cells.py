"""Simulation notebooks as another program than this one executes them: their check cells, and the
folders that they are given by hand.
"""

import json
from pathlib import Path

import pytest

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import simulation

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("value", [1.0, "3", True, None], ids=repr)
@pytest.mark.parametrize("name", simulation.names())
def test_a_value_of_another_type_than_declared_is_refused_by_the_notebook_itself(name, value):
    chosen = simulation.load(name)
    namespace = {**chosen.parameters().values(), "n_epochs": value}
    cells = [source for tags, source in chosen.cells if "check" in tags]
    with pytest.raises(BioplausError, match="'n_epochs' is .*, but must be a whole number"):
        for source in cells:
            exec(source, namespace)


@pytest.mark.parametrize("name", simulation.names())
def test_the_declared_defaults_pass(name):
    chosen = simulation.load(name)
    chosen.check_types(chosen.parameters().values())


RECORD = {"status": "done", "epochs": {}, "diagnostics": {}}


def test_a_run_by_hand_begins_and_ends_in_its_folder_as_one_of_a_sweep(tmp_path):
    chosen = simulation.load("classify")
    folders = [tmp_path / "one", tmp_path / "two"]
    values = {**chosen.parameters().values(), "seeds": [3, 4], "folders": [*map(str, folders)]}
    chosen.begin(values)
    for seed, folder in zip([3, 4], folders, strict=True):
        begun = results.read_run(folder)
        assert (begun["status"], begun["id"]) == ("running", folder.name)
        assert begun["parameters"]["seed"] == seed and "device" not in begun["parameters"]
        results.finish(folder, RECORD)
        assert results.is_complete(folder) and results.read_run(folder)["seed"] == seed
    with pytest.raises(BioplausError, match="one holds a complete run; choose another folder"):
        chosen.begin(values)
    chosen.begin({**values, "folders": []})


def test_what_a_sweep_has_begun_stays_as_it_is(tmp_path):
    chosen = simulation.load("classify")
    results.begin(tmp_path / "run", {"id": "run", "sweep": "key", "parameters": {}})
    before = (tmp_path / "run" / "run.json").read_bytes()
    chosen.begin({**chosen.parameters().values(), "folders": [str(tmp_path / "run")]})
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[", r"own.ipynb is not JSON"),
        ("\udcff", "own.ipynb is not JSON"),
        ("[1]", "own.ipynb is no Jupyter notebook"),
        ("{}", "own.ipynb is no Jupyter notebook"),
        ("[" * 200 + "]" * 200, "more than 100 lists or tables"),
        ({"source": "a: int = = 3"}, "its cell `parameters` is not Python, line 1"),
        ({"source": "a: int = f(3)"}, r"the default of a must be a literal, not `f\(3\)`"),
        ({"source": "a: int = " + "-" * 10_000 + "1"}, "is not Python|must be a literal"),
        ({"source": "a = 3"}, "a parameter is declared as `name: type = literal`, not `a = 3`"),
    ],
)
def test_a_notebook_of_ones_own_that_is_broken_is_one_sentence(project, content, sentence):
    if isinstance(content, dict):
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, **content}
        content = json.dumps({"cells": [cell]})
    path = project / "Simulations" / "own.ipynb"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BioplausError, match=sentence) as caught:
        simulation.load("own")
    assert "\n" not in str(caught.value)
