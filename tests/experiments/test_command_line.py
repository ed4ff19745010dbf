"""Bad input at the command line: one plain sentence, exit code 2, no traceback, nothing left
behind.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from bioplaus import __main__ as command_line
from bioplaus import device
from bioplaus.experiments import execution, sweep
from bioplaus.tasks import captions, datasets

SMOKE = ["run", "--preset", "smoke", "--inline"]
EP = [*SMOKE, "--only", "mnist/ep"]


@pytest.fixture
def bioplaus(tmp_path, monkeypatch, capsys):
    """Run a command on this very project, results to a temporary folder; (exit code, standard
    error).
    """
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path / "Results"))
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BIOPLAUS_HOME", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bioplaus", *arguments])
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        run.out, error = capsys.readouterr()
        return stop.value.code or 0, error

    return run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*EP, "--set", "rule=epp"], "unknown rule 'epp'; did you mean 'ep'?"),
        ([*EP, "--set", "dataset=minst"], "unknown data set 'minst'; did you mean 'mnist'?"),
        (["run", "--preset", "smok"], "unknown preset 'smok'; did you mean 'smoke'?"),
        (
            [*SMOKE, "--paper", "corinfomaxx"],
            "unknown paper 'corinfomaxx'; did you mean 'corinfomax'?",
        ),
        ([*SMOKE, "--only", "minst"], "'minst'; did you mean 'mnist'?"),
        ([*EP, "--set", "n_epoch=2"], "'n_epoch'; did you mean 'n_epochs'?"),
        ([*EP, "--set", "config.lr_neurall=0.5"], "'lr_neurall'; did you mean 'lr_neural'?"),
        ([*EP, "--set", "config.lr_neural=fast"], "'lr_neural' is 'fast', but must be a number"),
        ([*EP, "--set", "config.n_units=[10, 5, 10]"], "'digits' has 64 inputs"),
        ([*EP, "--set", "config.n_free_steps=-3"], "n_free_steps is -3, but must be"),
        ([*EP, "--set", "config.lr_neural=.nan"], "lr_neural is nan, but must be"),
        ([*EP, "--set", "n_epochs=0"], "n_epochs is 0, but must be at least 1"),
        ([*EP, "--set", "n_epochs=1e99"], "must be a whole number"),
        ([*EP, "--set", "n_train=100000000"], "digits has 1440"),
        ([*EP, "--set", "dataset=no/such/file.npz"], "no/such/file.npz"),
        ([*EP, "--set", "nonsense"], "must be name=value"),
        ([*EP, "--set", "n_epochs=[1"], "--set n_epochs, line 1 is not valid YAML"),
        ([*EP, "--set", "config={a: 1, a: 2}"], "--set config, line 1: the key a is given twice"),
        ([*EP, "--set", "n_epochs=2020-13-45"], "--set n_epochs is not valid YAML: month must be"),
        ([*EP, "--seeds", "1,two"], "must be whole numbers"),
        ([*EP, "--seeds", "-1"], "seed is -1, but must be a whole number from 0 to 2147483646"),
        (
            [*EP, "--set", "seed=3"],
            "seed is not given as a parameter; give seeds in the manifest, or with --seeds",
        ),
        ([*EP, "--set", "folder=here"], "choose it with --results"),
        ([*EP, "--set", "device=cuda"], "choose it with --device"),
        ([*EP, "--set", "n_threads=2"], "choose them with --threads"),
        ([*EP, "--device", "cudaa"], "unknown device 'cudaa'; did you mean 'cuda'?"),
        ([*EP, "--device", "meta"], "unknown device 'meta'"),
        ([*EP, "--threads", "2000"], "n_threads is 2000, but must be from 1 to 1024"),
        ([*EP, "--set", "dtype=float16"], "unknown dtype 'float16'"),
        ([*EP, "--set", "n_epochs=2020-01-01"], "--set n_epochs is 2020-01-01 (date), but must be"),
        (
            [*EP, "--set", "n_epochs=&loop [*loop]"],
            "line 1: it is inside itself, through the alias",
        ),
        ([*EP, "--set", "n_epochs=1", "--set", "n_epochs.x=3"], "sets n_epochs.x inside it"),
        ([*EP, "--set", "n_epochs=1", "--set", "n_epochs=2"], "--set gives n_epochs twice"),
        ([*EP, "--seeds", "1", "--seeds", "2"], "--seeds is given twice; leave one"),
        ([*EP, "--preset", "quick"], "--preset is given twice; leave one"),
        ([*EP, "--results", "a", "--results", "b"], "--results is given twice; leave one"),
        (["data", "get", "--preset", "smoke", "--preset", "quick"], "--preset is given twice"),
        ([*EP, "--only", "nothing"], "'nothing'"),
        ([*EP, "--only", ""], "unknown experiment, entry or run at preset smoke ''"),
        ([*EP, "--results", "/dev/null/x"], "Results cannot be written to /dev/null/x"),
        ([*EP, "--results", "/" + "x" * 300], "Results cannot be written to"),
        ([*EP, "--results", "/tmp/" + "y/" * 2500], "Results cannot be written to"),
        (
            [*SMOKE, "--only", "captions", "--set", "dataset=scene"],
            "unknown data set 'scene'; did you mean 'scenes'?",
        ),
        ([*SMOKE, "--only", "captions", "--set", "dataset=some/folder"], "'some/folder'"),
        (
            ["run", "--preset", "smoke", "--only", "mnist/ep", "--kernel", "pythn3"],
            "unknown kernel 'pythn3'",
        ),
        (["data", "get", "mnst"], "unknown data set 'mnst'; did you mean 'mnist'?"),
        pytest.param(
            [*EP, "--device", "cuda"],
            "device 'cuda' is not available here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (["report", "--preset", "smokey"], "unknown preset 'smokey'; did you mean 'smoke'?"),
        (["collect", "--preset", "dsk"], "unknown preset 'dsk'; did you mean 'desk'?"),
        (["collect", "--from", "/no/such"], "There is no folder '/no/such' of runs."),
        (["status", "--only", "nothing"], "'nothing'"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_exit_2_and_nothing_left_behind(
    bioplaus, tmp_path, arguments, sentence
):
    code, error = bioplaus(*arguments)
    assert code == 2 and sentence in error
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_data_set_names_set_folder_and_command(bioplaus, tmp_path):
    code, error = bioplaus(
        *EP, "--set", "dataset=cifar10-jpeg", "--set", "config.n_units=[3072, 5, 10]"
    )
    assert (
        code == 1
        and "cifar10-jpeg" in error
        and str(tmp_path / "data") in error
        and "Traceback" not in error
    )


def test_the_data_of_a_preset_are_fetched_and_what_must_be_fetched_by_hand_is_named(
    bioplaus, tmp_path, monkeypatch
):
    fetched = []
    monkeypatch.setattr(datasets, "get", lambda name: fetched.append(name) or "here")
    weights = SimpleNamespace(build=lambda: fetched.append("weights") or "a network")
    monkeypatch.setitem(captions.ENCODERS, "resnet152", weights)
    code, _ = bioplaus("data", "get", "--preset", "paper", "--paper", "ccdni")
    assert code == 1 and fetched[-1] == "weights" and "mnist" in fetched
    *_, last = bioplaus.out.splitlines()
    assert (
        last.startswith("missing coco: ")
        and "annotations_trainval2014.zip" in last
        and str(tmp_path) in last
    )
    assert bioplaus("data", "get", "--preset", "quick")[0] == 0


def test_debug_shows_the_traceback_too(bioplaus):
    code, error = bioplaus("status", "--preset", "smok", "--debug")
    assert code == 2 and "Traceback" in error and "did you mean 'smoke'" in error


@contextlib.contextmanager
def _without_override():
    """Root obeys the modes of folders for a while, and may still read everything: the project may
    lie in a home folder that no other user can enter.
    """
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root ignores modes, and only Linux can forbid it that")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 bits each
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~(1 << 1)  # CAP_DAC_OVERRIDE
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


def test_a_read_only_results_folder_is_one_sentence_before_anything_starts(bioplaus, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    with _without_override():
        code, error = bioplaus(*EP, "--results", str(folder))
    assert code == 2 and error.startswith("error: Results cannot be written to")
    assert "Permission denied" in error and os.listdir(folder) == []


def test_ctrl_c_is_one_sentence_and_exit_130(bioplaus, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "execute", interrupted)
    code, error = bioplaus(*EP)
    assert code == 130 and error.strip().startswith("Interrupted.") and "Traceback" not in error


def test_a_failed_run_is_exit_1(bioplaus, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("something broke")

    monkeypatch.setattr(execution, "_start", fail)
    code, error = bioplaus(*EP)
    assert code == 1 and "something broke" in error and error.count("\n") == 1


def test_the_device_and_threads_asked_for_reach_the_run_and_its_record_and_change_no_id(
    bioplaus, tmp_path
):
    for number, options in enumerate([[], ["--device", "auto", "--threads", "2"]]):
        folder = tmp_path / str(number)
        assert (
            bioplaus(
                *EP, "--set", "n_epochs=1", "--seeds", "1", "--results", str(folder), *options
            )[0]
            == 0
        )
    first, second = (next(tmp_path.glob(f"{n}/smoke/corinfomax/mnist/*/run.json")) for n in (0, 1))
    assert first.parent.name == second.parent.name
    about, moved = json.loads(first.read_text()), json.loads(second.read_text())
    assert about["parameters"] == moved["parameters"]
    assert (about["device"]["device"], about["device"]["threads"]) == ("cpu", 1)
    assert (moved["device"]["device"], moved["device"]["threads"]) == (device.pick("auto").type, 2)


def test_overrides_reach_the_run_with_their_yaml_types(bioplaus, tmp_path):
    code, _ = bioplaus(
        *EP, "--set", "n_epochs=1", "--set", "config.lr_ff=[1e-4, 0]", "--seeds", "7"
    )
    (folder,) = (tmp_path / "Results" / "smoke" / "corinfomax" / "mnist").iterdir()
    run = (folder / "run.json").read_text()
    assert code == 0 and "-s7-" in folder.name and "0.0001" in run


def test_every_only_counts(bioplaus, tmp_path):
    code, _ = bioplaus(*EP, "--only", "mnist/bp", "--set", "n_epochs=1", "--seeds", "0")
    folders = sorted(path.name for path in tmp_path.glob("Results/smoke/*/mnist/*"))
    assert code == 0 and [name.split("-")[0] for name in folders] == ["bp", "bp_batchnorm", "ep"]


def test_a_notebook_that_cannot_be_drawn_is_exit_1_and_the_page_is_written(bioplaus, monkeypatch):
    from bioplaus.analysis import report

    lines = ["[1/2] drawn  one", "[2/2] failed two: no such colour"]
    monkeypatch.setattr(report, "draw", lambda *arguments, **options: iter(lines))
    monkeypatch.setattr(report, "render", lambda preset: "page.html")
    monkeypatch.setattr(sweep, "check", lambda *arguments, **options: None)
    monkeypatch.setattr(sweep, "execute", lambda *arguments, **options: sweep.Summary())
    for command in ("report", "reproduce"):
        code, error = bioplaus(command, "--preset", "smoke")
        assert code == 1 and bioplaus.out.endswith("Report: page.html\n")
        assert error == "error: 1 of 2 notebooks failed, first two: no such colour\n"


@pytest.mark.parametrize("target", ["full", "closed"])
def test_a_broken_standard_output_stops_no_sweep(tmp_path, target):
    arguments = [*EP, "--only", "mnist/bp", "--set", "n_epochs=1", "--seeds", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bioplaus", *arguments, "--results", str(tmp_path)],
        stdout=open("/dev/full", "w") if target == "full" else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if target == "closed":
        process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 0 and "rror" not in error
    assert len(list(tmp_path.glob("smoke/*/mnist/*/result.pkl"))) == 3


@pytest.mark.parametrize(
    "folder", ["file", "dangling", "loop", "~nobody-at-all/x", "x" * 300], ids=lambda f: f[:9]
)
@pytest.mark.parametrize("command", [[*EP], ["status", "--preset", "smoke"], ["collect"]], ids=str)
def test_a_results_folder_that_is_none_is_never_unexpected(bioplaus, tmp_path, folder, command):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing" / "there")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = folder if folder.startswith("~") else str(tmp_path / folder)
    code, error = bioplaus(*command, "--results", path)
    assert code in (0, 2) and "unexpected" not in error and "Traceback" not in error


def test_hidden_files_are_no_manifests_simulations_or_rules(tmp_path, monkeypatch):
    from bioplaus import rules
    from bioplaus.experiments import manifest, simulation

    (tmp_path / "Simulations" / "manifests").mkdir(parents=True)
    (tmp_path / "Simulations" / "manifests" / "._corinfomax.yaml").write_bytes(b"\0\x05\x16")
    (tmp_path / "Simulations" / "._classify.ipynb").write_bytes(b"\0\x05\x16")
    (tmp_path / "._ep.py").write_bytes(b"\0\x05\x16")
    monkeypatch.setenv("BIOPLAUS_HOME", str(tmp_path))
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    assert manifest.papers() == [] and simulation.names() == []
    assert all(name.isidentifier() for name in rules.names())


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "Unable to allocate 7.45 GiB for an array with shape (1000000000,)",
        "std::bad_alloc",
        "[Errno 12] Cannot allocate memory",
    ],
)
def test_memory_that_ran_out_is_told_with_what_to_do(text):
    from bioplaus.errors import describe

    assert "use a smaller batch_size or network, or fewer WORKERS" in describe(RuntimeError(text))
    assert "WORKERS" in describe(MemoryError()) and "WORKERS" not in describe(ValueError("all"))
