"""What is kept holds no absolute path of the machine."""

import os
import re
import sysconfig
from pathlib import Path

import pytest
from toy import add_cells, execute_run, silent

from bioplaus import paths, results
from bioplaus.experiments import manifest, sweep
from bioplaus.experiments.portable import portable


def test_paths_become_relative_to_what_they_lie_in(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    folder = paths.root() / "smoke" / "run"
    library = Path(sysconfig.get_path("purelib"), "torch", "nn.py")
    text = f"{folder}/run.log, {folder}, {project}/Simulations, {paths.root()}/x, {library}:3"
    assert portable(text, folder) == "run.log, ., Simulations, Results/x, torch/nn.py:3"
    assert portable({"a": ["/home/someone/x.npz", 3, None]}) == {"a": ["~/x.npz", 3, None]}
    coloured = f"File \x1b[38;5;28m{project}/a.py\x1b[39m, \x1b[32m{project}/b.py\x1b[0m"
    assert portable(coloured) == "File \x1b[38;5;28ma.py\x1b[39m, \x1b[32mb.py\x1b[0m"


def test_what_only_looks_like_such_a_path_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for text in ("/home/someone-else/x", "x/home/someone/y", "http://host/home/someone/x", "a b"):
        assert portable(text) == text


@pytest.mark.parametrize("kernel", [None, "python3"])
@pytest.mark.parametrize("mishap", ["", "raise"])
def test_no_file_that_a_run_leaves_holds_a_path_of_this_machine(project, kernel, mishap):
    add_cells(project, ("", "import warnings; warnings.warn('somewhere'); print(1)"))
    run = manifest.runs("smoke", overrides={"mishap": mishap})[0]
    assert execute_run(run, kernel).status == ("failed" if mishap else "done")
    for path in run.folder.iterdir():
        found = re.findall(
            rb"(?<![\w.~])/(?:root|home|work|usr|tmp|opt)/[^\s\"]*", path.read_bytes()
        )
        assert not found, (path.name, found)
    if mishap:
        record = results.read_run(run.folder)
        assert "act.ipynb" in record["error"] and "unlucky" in record["traceback"]


def test_the_path_of_a_file_in_the_home_folder_begins_with_a_tilde(project, monkeypatch):
    monkeypatch.setenv("HOME", str(project / "home"))
    (project / "home").mkdir()
    (project / "home" / "mine.npz").write_bytes(b"numbers")
    monkeypatch.setenv("BIOPLAUS_HOME", str(project))
    runs = manifest.runs("smoke", overrides={"dataset": "~/mine.npz"})
    assert runs[0].parameters["dataset"] == os.path.join(project, "home", "mine.npz")
    sweep.execute(runs, inline=True, report=silent)
    assert str(project) not in str(results.read_run(runs[0].folder)["parameters"])
