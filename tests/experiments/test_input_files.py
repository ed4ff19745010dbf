"""Files that parameters name: another content is another run, wherever the command is given."""

import os
from pathlib import Path

import pytest
from toy import execute_run, silent

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import completion, files, manifest, simulation, sweep


def _runs(**overrides):
    return manifest.runs("smoke", only="plain", overrides=overrides)


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("dataset", "mine.npz"),
        ("dataset", "MINE.NPZ"),
        ("config.synapses", "layer.npy"),
        ("config.checkpoints.left", "network.pt"),
        ("config.members", "network.pth"),
        ("dataset", "folder/of/captions"),
    ],
)
def test_a_file_of_the_same_name_with_another_content_is_run_again(project, parameter, name):
    path = project / name
    file = path if path.suffix else path / "annotations" / "captions.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"first")
    (first,) = _runs(**{parameter: str(path)})
    assert sweep.execute([first], inline=True, report=silent).done == [first.id]
    assert results.read_run(first.folder)["files"] == {parameter: files.digest(path)}
    (same,) = _runs(**{parameter: str(path)})
    assert same.id == first.id and completion.pending([same]) == []
    before = os.stat(file)
    file.unlink()
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (second,) = _runs(**{parameter: str(path)})
    assert second.id != first.id and completion.pending([second]) == [second]
    assert sweep.execute([second], inline=True, report=silent).done == [second.id]


def test_a_file_that_is_changed_while_a_sweep_waits_fails_the_run_in_a_sentence(project):
    path = project / "mine.npz"
    path.write_bytes(b"first")
    (run,) = _runs(dataset=str(path))
    folder = run.folder
    path.write_bytes(b"another")
    assert execute_run(run, folder=folder)[:2] == (
        "failed",
        "not started: the file that dataset names was changed since the command began; run the"
        " command again",
    )
    path.unlink()
    assert "cannot be read" in execute_run(run, folder=folder).message


def test_a_relative_path_is_the_one_of_the_current_folder_in_a_kernel_too(project, monkeypatch):
    monkeypatch.chdir(project)
    Path("ok.npy").write_bytes(b"numbers")
    (relative,) = _runs(**{"config.synapses": "ok.npy"})
    (absolute,) = _runs(**{"config.synapses": str(project / "ok.npy")})
    assert relative.parameters == absolute.parameters and relative.id == absolute.id
    assert relative.parameters["config"] == {"synapses": str(project / "ok.npy")}
    monkeypatch.setenv("HOME", str(project))
    (home,) = _runs(**{"config.synapses": "~/ok.npy"})
    assert home.parameters == absolute.parameters


def test_a_path_in_a_manifest_is_relative_to_the_project(project, rewrite, monkeypatch, tmp_path):
    rewrite("{label: Plain}", "{label: Plain, parameters: {dataset: data/mine.npz}}")
    (project / "data").mkdir()
    (project / "data" / "mine.npz").write_bytes(b"numbers")
    ids = set()
    for folder in (project, project / "Simulations"):
        monkeypatch.chdir(folder)
        (run,) = _runs()
        assert run.parameters["dataset"] == str(project / "data" / "mine.npz")
        ids.add(run.id)
    assert len(ids) == 1


def test_a_path_that_is_relative_to_the_data_folder_stays_so_and_its_content_counts(
    project, monkeypatch, tmp_path
):
    monkeypatch.setenv("BIOPLAUS_DATA", str(project / "data"))
    (project / "data").mkdir()
    (project / "data" / "mine.npz").write_bytes(b"first")
    (run,) = _runs(dataset="mine.npz")
    assert run.parameters["dataset"] == "mine.npz" and run.files == {
        "dataset": files.digest(project / "data" / "mine.npz")
    }


def test_the_same_file_elsewhere_is_the_same_run(project):
    ids = set()
    for folder in ("here", "there"):
        (project / folder).mkdir()
        (project / folder / "mine.npz").write_bytes(b"numbers")
        (run,) = _runs(dataset=str(project / folder / "mine.npz"))
        ids.add(run.id)
    assert len(ids) == 1


def test_a_name_is_no_path_whatever_lies_in_the_current_folder(project, monkeypatch):
    monkeypatch.chdir(project)
    (before,) = _runs(dataset="digits")
    Path("digits").mkdir()
    (after,) = _runs(dataset="digits")
    assert before.id == after.id and after.files == {} and after.parameters["dataset"] == "digits"


def test_a_large_folder_is_known_by_its_annotations_and_by_size_and_time_of_all_else(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "_MAX_FOLDER", 3)
    (tmp_path / "image.jpg").write_bytes(b"picture")
    (tmp_path / "captions.json").write_bytes(b"{}")
    first = files.digest(tmp_path)
    os.utime(tmp_path / "image.jpg", ns=(1, 1))
    second = files.digest(tmp_path)
    os.utime(tmp_path / "captions.json", ns=(1, 1))
    assert first != second == files.digest(tmp_path)


@pytest.mark.timeout(60)
def test_a_pipe_or_a_device_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    assert files.digest(tmp_path / "pipe.npz") is None and files.digest(Path("/dev/zero")) is None
    for dataset in (tmp_path / "pipe.npz", "/dev/zero"):
        values = {**simulation.load("classify").parameters().values(), "dataset": str(dataset)}
        with pytest.raises(BioplausError):
            simulation.load("classify").check(values)
