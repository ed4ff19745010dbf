"""The doctor: fine here, and for each thing that is broken on purpose a line that says what to
do.
"""

import importlib.metadata
import io
import shutil

import pytest
from rich.console import Console

from bioplaus.errors import BioplausError
from bioplaus.experiments import doctor


def _checks():
    return {check.subject: check for check in doctor.examine()}


def test_a_whole_installation_is_fine_and_says_where_things_are(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path))
    monkeypatch.setattr(doctor, "LEAST_FREE", 0)
    text = io.StringIO()
    assert doctor.show(_console(text).print)
    assert text.getvalue().startswith("All is well.\n")
    assert (
        "torch: " in text.getvalue()
        and str(tmp_path) in text.getvalue()
        and "MEND" not in text.getvalue()
    )


def _console(file):
    return Console(file=file, width=200, markup=False, soft_wrap=True)


def _no_papermill(name):
    if name == "papermill":
        raise importlib.metadata.PackageNotFoundError
    return "1.0"


def _read_only(**options):
    if "dir" in options:
        raise PermissionError(13, "Permission denied")
    return io.BytesIO()


def _no_kernel(name):
    raise BioplausError("unknown kernel 'python3'; Allowed: ir.")


@pytest.mark.parametrize(
    ("subject", "breakage"),
    [
        ("papermill", ("bioplaus.experiments.doctor.importlib.metadata.version", _no_papermill)),
        ("Jupyter kernel python3", ("bioplaus.experiments.jupyter.check_kernel", _no_kernel)),
        (
            "results folder",
            ("bioplaus.experiments.doctor.tempfile.TemporaryFile", _read_only),
        ),
        (
            "results folder",
            (
                "bioplaus.experiments.doctor.shutil.disk_usage",
                lambda path: shutil._ntuple_diskusage(9, 8, 1),
            ),
        ),
    ],
    ids=["package missing", "kernel missing", "folder locked", "disk full"],
)
def test_each_fault_is_found_and_comes_with_advice(tmp_path, monkeypatch, subject, breakage):
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path))
    monkeypatch.setattr(*breakage)
    check = _checks()[subject]
    assert not check.is_fine and check.advice
    text = io.StringIO()
    assert not doctor.show(_console(text).print) and check.advice in text.getvalue()
    first = text.getvalue().splitlines()[0]
    assert first.startswith("Not all is well; to mend: ") and subject in first


def test_what_another_command_installs_when_it_is_needed_is_no_fault(tmp_path, monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("bioplaus.experiments.doctor.importlib.metadata.version", nothing)
    check = _checks()["nbval"]
    assert check.is_fine and check.state == "not installed; make test installs it"


def test_no_advice_deletes_results(monkeypatch):
    def broken():
        raise BioplausError("it does not import")

    monkeypatch.setattr("bioplaus._torchvision.load", broken)
    check = _checks()["torchvision imports"]
    assert not check.is_fine and check.advice == "rm -rf .venv && make env"


def test_data_sets_are_listed_with_their_place_or_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path))
    checks = _checks()
    assert checks["data set digits"].state == "built in"
    assert "data get mnist" in checks["data set mnist"].state


@pytest.mark.parametrize("name", ["file", "file/below", "dangling", "x" * 300])
def test_a_results_folder_that_is_none_is_not_fine(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / name))
    check = doctor._results_folder()
    assert not check.is_fine and check.advice and str(tmp_path) in check.state
