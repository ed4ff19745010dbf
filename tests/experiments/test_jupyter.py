"""Kernels: they run the package of the command that starts them, inherit nothing of a user's own
configuration, and are known to work before a sweep starts.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy import add_cells, digests, execute_run, silent

from bioplaus import _sources, results
from bioplaus.errors import BioplausError
from bioplaus.experiments import execution, jupyter, manifest, sweep
from bioplaus.experiments.execution import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kernelspec(tmp_path, monkeypatch):
    """Describe a kernel called `other`; what is not given is as in a working description."""
    folder = tmp_path / "jupyter" / "kernels" / "other"
    folder.mkdir(parents=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    def describe(text=None, **changes):
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Other", "language": "python"} | changes
        (folder / "kernel.json").write_text(json.dumps(spec) if text is None else text)

    return describe


def _clone(folder, rule_line=""):
    """A copy of the package and its notebooks, with a line put at the end of rules/ep.py."""
    for name in ("bioplaus", "Simulations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "bioplaus" / "rules" / "ep.py"
    path.write_text(path.read_text() + rule_line)
    return folder


def test_a_kernel_runs_the_checkout_that_the_command_is_run_in(tmp_path):
    witness = tmp_path / "witness"
    clone = _clone(tmp_path / "clone", f"open({str(witness)!r}, 'a').write(__file__ + chr(10))\n")
    other = _clone(tmp_path / "other")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # what an editable installation of the other checkout is to the interpreter
    environment |= {"PYTHONPATH": str(other)}
    command = [sys.executable, "-m", "bioplaus", "run", "--preset", "smoke", "--workers", "1"]
    done = subprocess.run(
        [*command, "--only", "mnist/ep", "--set", "n_epochs=1"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (clone / "Results" / "smoke" / "corinfomax" / "mnist").iterdir()
    loaded = set(witness.read_text().split())
    assert loaded == {str(clone / "bioplaus" / "rules" / "ep.py")}
    assert results.read_run(folder)["code"] != _sources.code("ep")


def test_a_kernel_that_imports_other_code_is_refused_before_anything_starts(
    project, kernelspec, tmp_path
):
    other = _clone(tmp_path / "other", "# edited\n")
    kernelspec(env={"PYTHONPATH": str(other)})
    with pytest.raises(BioplausError, match="imported from .*other.* the other code in"):
        sweep.execute(manifest.runs("smoke"), kernel="other", report=silent)
    assert not manifest.runs("smoke")[0].folder.exists()


def test_a_copy_of_the_same_code_is_the_same_package(kernelspec, tmp_path):
    kernelspec(env={"PYTHONPATH": str(_clone(tmp_path / "same"))})
    jupyter.check_kernel("other")


def test_a_worker_that_has_other_code_fails_the_run_in_a_sentence(project):
    run = manifest.runs("smoke")[0]
    environment = {_sources.PACKAGE: f"{'0' * 64}:/elsewhere/bioplaus"}
    outcome = execution.execute(run, str(run.folder), Settings(environment=environment))
    assert outcome.status == "failed" and "the other code in /elsewhere/bioplaus" in outcome.message


def test_the_code_in_a_record_is_that_of_what_the_process_imported(tmp_path, monkeypatch):
    from bioplaus import rules

    rules.get("ep")
    results.begin(tmp_path, {"id": tmp_path.name, "rule": "ep", "code": "0" * 64})
    results.finish(tmp_path, {"status": "done", "epochs": {}, "diagnostics": {}})
    assert results.read_run(tmp_path)["code"] == _sources.code("ep")


def test_nothing_of_a_users_configuration_reaches_a_kernel(project, tmp_path, monkeypatch):
    run = manifest.runs("smoke")[0]
    sweep.execute([run], inline=True, report=silent)
    plain = digests([run])
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    change = "import torch; torch.set_default_dtype(torch.float64)\n"
    (startup / "00.py").write_text(change)
    configuration = "c.InlineBackend.rc = {'figure.facecolor': 'black'}\n"
    configuration += "c.IPKernelApp.exec_lines = ['inherited = 1']\n"
    (startup.parent / "ipython_kernel_config.py").write_text(configuration)
    (tmp_path / "start.py").write_text(change)
    (tmp_path / "matplotlibrc").write_text("figure.facecolor: black\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(project / "Others"))
    look = (
        "import torch\nfrom matplotlib import pyplot\nassert 'inherited' not in globals()\n"
        "assert torch.get_default_dtype() == torch.float32\n"
        "assert pyplot.figure().get_facecolor() == (1.0, 1.0, 1.0, 1.0)"
    )
    add_cells(project, ("", look))
    outcome = execute_run(run, "python3", 0)
    assert outcome[:2] == ("done", "") and digests([run]) == plain


def test_the_environment_is_as_it_was_after_a_kernel(monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    before = dict(os.environ)
    with jupyter.kernel_options():
        assert os.environ["MPLBACKEND"]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"language": "R"}, "of the language 'R', but must be of python"),
        ({"argv": ["/deleted/environment/bin/python", "-m", "x"]}, "/deleted/environment"),
        ({"argv": []}, "starts nothing"),
        ({"text": '{"argv": ["python"'}, "cannot be read (JSONDecodeError)"),
        ({"text": "[1]"}, "cannot be read"),
        ({"argv": [sys.executable, "-m", "no_such_launcher"]}, "No module named no_such_launcher"),
        ({"argv": ["/bin/false"]}, "does not start"),
        ({"env": {"PYTHONPATH": "", "PYTHONHOME": "/nowhere"}}, "does not start"),
    ],
    ids=["R", "deleted", "empty", "broken", "list", "without ipykernel", "false", "broken Python"],
)
def test_a_kernel_that_cannot_work_is_refused_in_one_sentence(kernelspec, spec, sentence):
    kernelspec(**spec)
    with pytest.raises(BioplausError) as caught:
        jupyter.check_kernel("other")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_python_without_bioplaus_or_torch_is_refused(kernelspec, tmp_path):
    (tmp_path / "empty").mkdir()
    hide = (
        "import sys, runpy\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "runpy.run_module('ipykernel_launcher', run_name='__main__')\n"
    )
    (tmp_path / "launch.py").write_text(hide)
    argv = [sys.executable, str(tmp_path / "launch.py"), "-f", "{connection_file}"]
    kernelspec(argv=argv)
    with pytest.raises(BioplausError, match="cannot work: No module named 'torch'"):
        jupyter.check_kernel("other")


def test_sockets_of_kernels_lie_under_a_short_path(project, tmp_path, monkeypatch):
    long = tmp_path / ("x" * (100 - len(str(tmp_path))))
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    run = manifest.runs("smoke")[0]
    outcome = execute_run(run, "python3", 0)
    assert outcome[:2] == ("done", "")


def test_where_no_short_path_is_writable_the_folder_is_named(monkeypatch):
    monkeypatch.setattr(jupyter, "_is_writable", lambda folder: False)
    with pytest.raises(BioplausError, match="set TMPDIR"):
        jupyter.check_kernel("python3")
