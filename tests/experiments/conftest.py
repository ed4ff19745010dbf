"""A small project for every test that asks for it, and a Dask scheduler in this process."""

import os
from unittest import mock

import pytest
from toy import BODY, CHECK, MANIFEST, PARAMETERS, write_notebook


@pytest.fixture(autouse=True)
def _results_folder_restored():
    """A command that runs in this process sets the folder of results for good."""
    before = os.environ.get("BIOPLAUS_RESULTS")
    yield
    os.environ.pop("BIOPLAUS_RESULTS", None)
    if before is not None:
        os.environ["BIOPLAUS_RESULTS"] = before


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


@pytest.fixture
def scheduler():
    """The address of a Dask scheduler with one worker of two threads in this process."""
    from distributed import LocalCluster

    with (
        mock.patch.dict(os.environ),  # this process is its worker
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster.scheduler_address
