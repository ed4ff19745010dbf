"""Without the packages of an extra: one sentence that names it, wherever they are missed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Hide())
"""
LAB = ["typer", "rich", "platformdirs", "tqdm", "sklearn", "filelock", "PIL", "psutil", "pydantic"]
TRAIN = """
from bioplaus import rules, train
from bioplaus.tasks import images
task = images.load("synthetic")
learner = rules.make("ep", {"n_units": [64, 20, 10]}, task.spec)
train.fit(learner, task, n_epochs=1, batch_size=20, seed=0)
"""


def _run(code, hidden, tmp_path):
    environment = {name: value for name, value in os.environ.items() if "BIOPLAUS" not in name}
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden) + code],
        cwd=ROOT,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("command", ["doctor", "run", "--help"])
def test_a_command_names_the_extra(command, tmp_path):
    code = f"sys.argv = ['bioplaus', {command!r}]\nfrom bioplaus.__main__ import main\nmain()"
    done = _run(code, LAB, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "is not installed" in done.stderr and "pip install -e '.[lab]'" in done.stderr


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("from bioplaus.tasks import images\nimages.load('mnist')", "platformdirs"),
        (TRAIN, "tqdm"),
    ],
    ids=["data", "training"],
)
def test_the_library_names_the_extra(code, package, tmp_path):
    done = _run(code, LAB, tmp_path)
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("bioplaus.errors.BioplausError: This needs the package")
    assert package in last and "[lab]" in last


def test_a_missing_module_of_bioplaus_itself_is_a_fault_and_no_missing_extra():
    from bioplaus.errors import missing_package

    assert missing_package(ModuleNotFoundError("x", name="bioplaus.nothing")) is None
    assert missing_package(ModuleNotFoundError("x", name="zlib")) is None
    assert "[cluster]" in str(missing_package(ModuleNotFoundError("x", name="dask_jobqueue")))
