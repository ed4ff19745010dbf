"""What a run says of code and machine: this project's, and no user, host or path."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bioplaus import results
from bioplaus.results import provenance

ROOT = Path(provenance.__file__).resolve().parents[2]


def _git(folder, *arguments):
    settings = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A folder with a copy of this package's files, which provenance takes for its own."""
    project = tmp_path / "outer" / "project"
    shutil.copytree(ROOT / "bioplaus" / "results", project / "bioplaus" / "results")
    monkeypatch.setattr(
        provenance, "__file__", str(project / "bioplaus" / "results" / "provenance.py")
    )
    monkeypatch.setattr(provenance, "_commit", provenance._commit.__wrapped__)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return project


def _commit_all(folder):
    _git(folder, "init", "-q")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-qm", "x")
    return _git(folder, "rev-parse", "HEAD")


def test_a_checkout_of_this_project_is_believed_with_what_was_changed_in_it(copy):
    commit = _commit_all(copy)
    assert provenance._commit() == (commit, False)
    with open(copy / "bioplaus" / "results" / "run.py", "a") as file:
        file.write("# edited\n")
    assert provenance._commit() == (commit, True)


def test_an_archive_unpacked_in_another_repository_has_no_commit(copy):
    _commit_all(copy.parent)
    assert provenance._commit() == (None, None)


def test_an_archive_that_another_repository_ignores_has_no_commit(copy):
    (copy.parent / ".gitignore").write_text("project\n")
    _commit_all(copy.parent)
    assert provenance._commit() == (None, None)


def test_an_archive_unpacked_over_the_top_of_another_repository_has_no_commit(copy):
    (copy / "theirs").touch()
    (copy / ".gitignore").write_text("bioplaus\n")
    _commit_all(copy)
    assert provenance._commit() == (None, None)


def test_an_installation_in_an_environment_inside_a_repository_has_no_commit(copy, monkeypatch):
    site = copy / ".venv" / "lib" / "python3" / "site-packages"
    shutil.copytree(copy / "bioplaus", site / "bioplaus")
    _commit_all(copy)
    monkeypatch.setattr(
        provenance, "__file__", str(site / "bioplaus" / "results" / "provenance.py")
    )
    assert provenance._commit() == (None, None)


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE"])
def test_a_repository_that_the_environment_names_is_not_taken_for_ours(
    copy, tmp_path, monkeypatch, variable
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    _commit_all(other)
    commit = _commit_all(copy)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv(variable, str(other / ".git" if variable == "GIT_DIR" else copy))
    assert provenance._commit() == (commit, False)


def test_without_git_or_a_repository_there_is_no_commit(copy, monkeypatch):
    assert provenance._commit() == (None, None)
    monkeypatch.setenv("PATH", "")
    assert provenance._commit() == (None, None)


def test_what_the_last_bits_depend_on_is_recorded_and_nobody_is_named(tmp_path):
    folder = results.begin(tmp_path / "run", {"id": "run"})
    results.finish(folder, {"status": "done"})
    text = (folder / "run.json").read_text()
    run = json.loads(text)
    said = {"processor", "instructions", "blas_torch", "blas_numpy", "products", "numba"}
    assert run["machine"].keys() == said
    assert all(run["machine"].values()) and run["device"]["threads"] >= 1
    assert run["versions"]["torch"] and run["versions"]["numpy"] and "commit" in run
    for secret in (os.path.expanduser("~"), os.uname().nodename, str(tmp_path), sys.prefix):
        assert secret not in text


def test_a_record_says_which_library_multiplied(monkeypatch):
    monkeypatch.setenv("BIOPLAUS_PRODUCTS", "mkl")
    provenance._machine.cache_clear()
    try:
        assert provenance._machine()["products"] == "mkl"
    finally:
        provenance._machine.cache_clear()


def test_the_instructions_are_those_that_torch_was_told_to_use():
    code = "from bioplaus.results import provenance as p; print(p._machine()['instructions'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
    )
    assert done.stdout.strip() in ("DEFAULT", "NO AVX")
