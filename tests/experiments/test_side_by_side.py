"""Runs that differ only in their seed, executed by one worker at the same time: which they are,
that each ends as it does alone, and that none takes another with it.
"""

import multiprocessing
import os
import signal
import time

import pytest
from toy import CHECK, SEEDS_BODY, SEEDS_PARAMETERS, digests, on_dask, silent, start, write_notebook

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import execution, locks, manifest, side_by_side, simulation, status, sweep

SEEDS = [0, 1, 2]


@pytest.fixture
def several(project):
    """The toy notebook, for several seeds."""
    cells = (("parameters", SEEDS_PARAMETERS), ("check", CHECK), ("", SEEDS_BODY))
    write_notebook(project / "Simulations" / "act.ipynb", *cells)
    return project


def _runs(mishap="", seeds=SEEDS, **options):
    return manifest.runs(
        "paper", only="plain", seeds=seeds, overrides={"mishap": mishap}, **options
    )


def _executed(run):
    """How many seeds each execution had that a run was in."""
    return [int(n) for n in (run.folder / "executed").read_text().split()]


def _ids(runs):
    return [run.id for run in runs]


def _alone(runs, monkeypatch, project):
    """The digests of runs executed alone, elsewhere."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("BIOPLAUS_RESULTS", str(project / "Alone"))
        summary = sweep.execute(runs, inline=True, report=silent)
        assert sorted(summary.done) == sorted(_ids(runs))
        assert all(_executed(run) == [1] for run in runs)
        return digests(runs)


def test_a_group_is_of_runs_that_differ_in_their_seed_and_nothing_else(several):
    runs = manifest.runs("paper", seeds=[0, 1])
    groups = side_by_side.group(runs, 16)
    assert [len(one) for one in groups] == [2] * 5
    for one in groups:
        assert len({run.entry for run in one}) == 1 and [run.seed for run in one] == [0, 1]


def test_groups_are_as_even_as_they_can_be_and_no_larger_than_asked_for(several):
    runs = _runs(seeds=range(20))
    for most, sizes in ((16, [10, 10]), (7, [6, 7, 7]), (1, [1] * 20), (20, [20]), (99, [20])):
        groups = side_by_side.group(runs, most)
        assert [len(one) for one in groups] == sizes
        assert sorted(run.seed for one in groups for run in one) == [*range(20)]


def test_by_default_runs_are_grouped_on_a_gpu_only(several):
    on_gpu = _runs(seeds=range(20), execution={"device": "cuda"})
    assert [len(one) for one in side_by_side.group(on_gpu)] == [10, 10]
    for name in ("cuda:1", "cpu"):
        groups = side_by_side.group(_runs(execution={"device": name}))
        assert [len(one) for one in groups] == ([3] if name == "cuda:1" else [1, 1, 1])
    assert [len(one) for one in side_by_side.group(_runs())] == [1, 1, 1]


def test_a_notebook_of_one_seed_and_a_run_that_needs_others_are_executed_alone(project, rewrite):
    assert [len(one) for one in side_by_side.group(_runs(), 16)] == [1, 1, 1]
    cells = (("parameters", SEEDS_PARAMETERS), ("check", CHECK), ("", SEEDS_BODY))
    write_notebook(project / "Simulations" / "act.ipynb", *cells)
    rewrite("plain: {label: Plain}", "plain: {label: Plain, needs: {config.other: graded-1}}")
    groups = sweep.in_order(_runs(), 16)
    needed, *needing = [runs for runs, _ in groups]
    assert {run.entry for run in needed} == {"graded-1"} and len(needed) == 3
    assert [[run.entry for run in one] for one in needing] == [["plain"]] * 3
    # each waits for the group that holds what it needs
    assert [[other.seed for other in needs] for _, needs in groups[1:]] == [[0], [1], [2]]
    summary = sweep.execute(_runs(), inline=True, most=16, report=silent)
    assert len(summary.done) == 6


def test_a_changed_file_is_another_run_and_not_of_the_group(several, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"a")
    (tmp_path / "b.npy").write_bytes(b"a")
    runs = []
    for name in ("a.npy", "b.npy"):
        overrides = {"dataset": str(tmp_path / name)}
        runs += manifest.runs("paper", only="plain", seeds=SEEDS, overrides=overrides)
    assert [len(one) for one in side_by_side.group(runs, 16)] == [3, 3]
    (tmp_path / "a.npy").write_bytes(b"changed")
    outcomes = side_by_side.execute(
        runs[:3], [str(run.folder) for run in runs[:3]], execution.Settings()
    )
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert all("was changed since" in outcome.message for outcome in outcomes)


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_group_is_executed_once_and_gives_each_run_what_it_has_alone(
    several, monkeypatch, is_inline
):
    runs = _runs()
    alone = _alone(runs, monkeypatch, several)
    summary = sweep.execute(runs, inline=is_inline, workers=1, most=16, report=silent)
    assert summary.done == _ids(runs) and digests(runs) == alone
    elsewhere = several / "Alone"
    for run in runs:
        assert _executed(run) == [3]
        assert (run.folder / "run.log").read_text().count("working on") == 3
        mine = results.read_run(run.folder)
        other = results.read_run(elsewhere / run.folder.relative_to(several / "Results"))
        for changing in ("sweep", "started", "finished"):
            del mine[changing], other[changing]
        assert mine == other and mine["seed"] == run.seed and mine["id"] == run.id
    if not is_inline:
        for run in runs:
            text = (run.folder / "run.ipynb").read_text()
            assert str(several) not in text and f"Results/paper/toy/first/{run.id}" in text


def test_a_group_on_dask_without_kernels_gives_the_same_bytes(several, monkeypatch, scheduler):
    runs = _runs()
    alone = _alone(runs, monkeypatch, several)
    ended = list(on_dask(runs, scheduler, most=2))
    assert {outcome.status for _, outcome in ended} == {"done"} and len(ended) == 3
    assert digests(runs) == alone
    assert sorted(n for run in runs for n in _executed(run)) == [1, 2, 2]


@pytest.mark.parametrize("kernel", [None, "python3"])
def test_one_seed_that_raises_fails_alone_and_with_its_own_sentence(several, kernel):
    runs = _runs("raise 1")
    summary = sweep.execute(runs, inline=kernel is None, workers=1, most=16, report=silent)
    assert sorted(summary.done) == sorted([runs[0].id, runs[2].id])
    assert list(summary.failed) == [runs[1].id] and "unlucky" in summary.failed[runs[1].id]
    # the first was whole when the second raised; the other two were then executed alone
    assert [_executed(run) for run in runs] == [[3], [3, 1], [3, 1]]
    assert "error" not in results.read_run(runs[0].folder)
    assert [row["status"] for row in status.rows(runs)] == ["done", "failed", "done"]


def test_one_seed_that_diverges_is_diverged_and_the_others_are_done(several):
    runs = _runs("diverge 1")
    summary = sweep.execute(runs, inline=True, most=16, report=silent)
    assert summary.diverged == [runs[1].id] and summary.done == [runs[0].id, runs[2].id]
    assert [_executed(run) for run in runs] == [[3]] * 3


def test_a_show_cell_that_raises_after_all_is_whole_is_noted_for_each(several):
    cells = (("parameters", SEEDS_PARAMETERS), ("check", CHECK), ("", SEEDS_BODY))
    show = ("", "raise RuntimeError('no such colour')")
    write_notebook(several / "Simulations" / "act.ipynb", *cells, show)
    runs = _runs()
    assert sweep.execute(runs, inline=True, most=16, report=silent).done == _ids(runs)
    for row in status.rows(runs):
        assert "a later cell failed" in row["error"] and "no such colour" in row["error"]


@pytest.mark.parametrize("where", ["folder", "run.json", ".lock"])
def test_a_seed_whose_own_files_cannot_be_written_fails_alone_and_the_others_stay_together(
    several, where
):
    runs = _runs()
    if where == "folder":
        runs[1].experiment_folder.mkdir(parents=True)
        runs[1].folder.write_text("in the way")
    else:
        (runs[1].folder / where / "in the way").mkdir(parents=True)
    summary = sweep.execute(runs, inline=True, most=16, report=silent)
    assert summary.done == [runs[0].id, runs[2].id]
    assert runs[1].id in summary.failed[runs[1].id] and "\n" not in summary.failed[runs[1].id]
    assert _executed(runs[0]) == _executed(runs[2]) == [2]


def test_a_run_that_is_complete_drops_out_of_the_group_and_keeps_its_files(several):
    runs = _runs()
    sweep.execute(runs[1:2], inline=True, report=silent)
    before = {path: path.stat().st_mtime_ns for path in runs[1].folder.iterdir()}
    # as when another command completed it after this one had planned it
    summary = sweep.execute(runs, inline=True, most=16, todo=runs, report=silent)
    assert summary.skipped == [runs[1].id] and sorted(summary.done) == sorted(
        [runs[0].id, runs[2].id]
    )
    after = {path: path.stat().st_mtime_ns for path in runs[1].folder.iterdir()}
    assert {**after, runs[1].folder / ".lock": 0} == {**before, runs[1].folder / ".lock": 0}
    assert [_executed(run) for run in runs] == [[2], [1], [2]]


def _hold(folder, is_held, may_end):
    with locks.locked(folder):
        is_held.set()
        may_end.wait(60)


def test_a_run_that_another_process_executes_is_waited_for_after_the_others(several, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    runs, told = _runs(), []
    runs[1].folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    is_held, may_end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(runs[1].folder, is_held, may_end))
    other.start()
    assert is_held.wait(60)

    def report(line):
        told.append(line)
        if "another command" in line:
            # those that are free did not wait
            assert results.is_complete(runs[0].folder) and results.is_complete(runs[2].folder)
            may_end.set()

    summary = sweep.execute(runs, inline=True, most=16, report=report)
    other.join()
    assert summary.done == _ids(runs) and any("another command" in line for line in told)
    assert [_executed(run) for run in runs] == [[2], [1], [2]]


def test_all_runs_of_a_group_are_locked_and_running_meanwhile(several):
    process = start(several, "--inline", "--side-by-side", "3", "--set", "mishap=sleep", "--seeds",
                    "0,1,2", "--only", "plain")  # fmt: skip
    runs = manifest.runs("smoke", only="plain", seeds=SEEDS, overrides={"mishap": "sleep"})
    try:
        until = time.monotonic() + 60
        while not (runs[0].folder / "asleep").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert [row["status"] for row in status.rows(runs)] == ["running"] * 3
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert [row["status"] for row in status.rows(runs)] == ["interrupted"] * 3


def test_memory_that_runs_out_is_answered_with_half_the_group(several, monkeypatch):
    runs = _runs("memory 2", seeds=range(7))
    alone = _alone(runs, monkeypatch, several)
    summary = sweep.execute(runs, inline=True, most=16, report=silent)
    assert sorted(summary.done) == sorted(_ids(runs)) and digests(runs) == alone
    assert [_executed(run)[-1] for run in runs] == [2, 2, 2, 2, 2, 2, 1]
    assert all(_executed(run)[0] == 7 for run in runs)


def test_a_group_whose_kernel_dies_once_is_executed_again_without_what_is_complete(several):
    runs = _runs("die-once 1")
    summary = sweep.execute(runs, workers=1, most=16, report=silent)
    assert sorted(summary.done) == sorted(_ids(runs))
    assert [_executed(run) for run in runs] == [[3], [3, 2], [3, 2]]
    assert [results.read_run(run.folder)["attempt"] for run in runs] == [1, 2, 2]


def test_a_group_whose_kernel_always_dies_is_executed_one_by_one(several):
    runs = _runs("die-together 2")
    summary = sweep.execute(runs, workers=1, most=16, report=silent)
    assert sorted(summary.done) == sorted(_ids(runs))
    assert [_executed(run)[-1] for run in runs] == [3, 3, 1]


def test_a_seed_that_always_kills_its_kernel_fails_alone(several):
    runs = _runs("die 1")
    summary = sweep.execute(runs, workers=1, most=16, report=silent)
    assert sorted(summary.done) == sorted([runs[0].id, runs[2].id])
    assert "kernel died" in summary.failed[runs[1].id]


@pytest.mark.timeout(300)  # four workers start, each as slow as the machine is busy
def test_a_group_whose_workers_always_die_is_executed_one_by_one(several):
    from dask import config

    runs = _runs("die-together 1")
    with config.set({"distributed.scheduler.allowed-failures": 1}):
        ended = dict((run.id, outcome) for run, outcome in on_dask(runs, "local", most=16))
    assert {run_id: outcome[:2] for run_id, outcome in ended.items()} == {
        run.id: ("done", "") for run in runs
    }
    # the first was whole at once: the group was then of the two others
    assert _executed(runs[0]) == [3] and _executed(runs[1])[-1] == 1


def test_a_killed_group_goes_on_with_what_is_not_complete(several, monkeypatch):
    runs = _runs()
    finish, n_finished = results.finish, []

    def finish_and_die(folder, *rest, **options):
        finish(folder, *rest, **options)
        n_finished.append(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(results, "finish", finish_and_die)
        with pytest.raises(KeyboardInterrupt):
            sweep.execute(runs, inline=True, most=16, report=silent)
    assert [row["status"] for row in status.rows(runs)] == ["done", "interrupted", "interrupted"]
    summary = sweep.execute(runs, inline=True, most=16, report=silent)
    assert summary.skipped == [runs[0].id] and summary.done == _ids(runs[1:])
    assert [_executed(run) for run in runs] == [[3], [3, 2], [3, 2]]


def test_nothing_of_a_sweep_that_was_stopped_is_executed_alone(several, monkeypatch):
    runs = _runs("die 0")
    settings = execution.Settings(kernel="python3", retries=1, sweep="stopped")
    stopped: set[str] = set()
    monkeypatch.setattr(execution, "_stopped", stopped)
    execute_once = execution.execute_once

    def executed_then_stopped(*arguments):
        told = execute_once(*arguments)
        stopped.add("stopped")
        return told

    monkeypatch.setattr(execution, "execute_once", executed_then_stopped)
    folders = [str(run.folder) for run in runs]
    for _ in range(2):  # the second time it is stopped before it begins
        outcomes = side_by_side.execute(runs, folders, settings)
        assert [outcome[:2] for outcome in outcomes] == [("failed", "stopped")] * 3
        assert [_executed(run) for run in runs] == [[3]] * 3


def test_a_sweep_that_is_stopped_while_one_is_executed_alone_executes_no_other(
    several, monkeypatch
):
    runs, executed = _runs("raise 0"), []
    settings = execution.Settings(sweep="stopped")
    monkeypatch.setattr(execution, "_stopped", set())
    whole = execution.execute

    def execute(run, *rest, **options):
        executed.append(run.id)
        execution._stopped.add("stopped")
        return whole(run, *rest, **options)

    monkeypatch.setattr(execution, "execute", execute)
    outcomes = side_by_side.execute(runs, [str(run.folder) for run in runs], settings)
    assert executed == [runs[0].id]
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert [outcome.message for outcome in outcomes[1:]] == ["stopped"] * 2


def test_running_again_keeps_the_good_results_until_the_new_ones_are_whole(several, monkeypatch):
    from bioplaus import _sources

    runs = _runs()
    monkeypatch.setattr(_sources, "code", lambda rule: "1" * 64)
    sweep.execute(runs, inline=True, most=16, report=silent)
    before = digests(runs)
    monkeypatch.setattr(_sources, "code", lambda rule: "2" * 64)
    summary = sweep.execute(runs, inline=True, most=16, again=True, report=silent)
    assert summary.done == _ids(runs) and digests(runs) == before
    assert {results.read_run(run.folder)["code"] for run in runs} == {"2" * 64}
    assert sorted(path.name for path in runs[0].experiment_folder.iterdir()) == sorted(_ids(runs))


def test_a_notebook_is_given_the_form_that_it_declares(several):
    notebook = simulation.load("act")
    values = [{"value": 1.0, "seed": seed} for seed in (3, 4)]
    given = notebook.inputs(values, ["a", "b"])
    assert given == {"value": 1.0, "seeds": [3, 4], "folders": ["a", "b"]}
    write_notebook(
        several / "Simulations" / "one.ipynb",
        ("parameters", 'value: float = 1.0\nseed: int = 0\nfolder: str = ""'),
    )
    one = simulation.load("one")
    assert one.inputs(values[:1], ["a"]) == {"value": 1.0, "seed": 3, "folder": "a"}
    with pytest.raises(BioplausError, match="one.ipynb declares `seed`, not `seeds`"):
        one.inputs(values, ["a", "b"])


@pytest.mark.parametrize("name", simulation.names())
def test_every_notebook_gives_each_seed_the_bytes_that_it_has_alone(name, tmp_path):
    notebook, digests_of = simulation.load(name), {}
    for seeds in ([3, 5], [5], [3]):
        folders = [tmp_path / f"{len(seeds)}" / f"s{seed}" for seed in seeds]
        for folder in folders:
            results.begin(folder, {"id": folder.name})
        values = {"seeds": seeds, "folders": [str(folder) for folder in folders], "n_epochs": 2}
        notebook.run(values)
        for folder in folders:
            assert results.is_complete(folder)
            digests_of[folder.parent.name, folder.name] = results.read_run(folder)["sha256"]
    assert digests_of["2", "s3"] == digests_of["1", "s3"] != digests_of["1", "s5"]
    assert digests_of["2", "s5"] == digests_of["1", "s5"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seeds": []}, "seeds is .., but must hold at least one"),
        ({"seeds": [-1]}, "seed is -1, but must be a whole number"),
        ({"seeds": ["0"]}, "seed is '0', but must be a whole number"),
        ({"seeds": [True]}, "seed is True, but must be a whole number"),
        ({"seeds": [0, 1], "folders": ["a"]}, "must be empty or a list of texts, one for each of"),
        ({"folders": [1]}, "must be empty or a list of texts"),
    ],
)
def test_seeds_and_folders_that_cannot_be_are_one_sentence(several, given, sentence):
    notebook = simulation.load("act")
    for check in (notebook.check, notebook.check_types):
        with pytest.raises(BioplausError, match=sentence):
            check(given)


@pytest.mark.parametrize("name", ["seeds", "folders"])
def test_seeds_and_folders_are_no_parameters_of_a_manifest(several, name):
    with pytest.raises(BioplausError, match=f"{name} is not given as a parameter"):
        manifest.runs("paper", overrides={name: [1]})


def test_every_worker_of_a_machine_with_several_gpus_sees_one(several, monkeypatch):
    from distributed import Client

    from bioplaus.experiments import workers

    with workers.cluster(3, 3, "local", ["0", "GPU-b"]) as cluster, Client(cluster) as client:
        client.wait_for_workers(3)
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(seen.values()) == ["0", "0", "GPU-b"]


def test_there_is_a_worker_for_each_gpu_unless_told(several, monkeypatch):
    import torch

    from bioplaus.experiments import workers

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    on_gpu = _runs(execution={"device": "cuda"})
    assert workers.shared_gpus(on_gpu) == ["0", "1"] and workers.at_once(on_gpu, 0) == 2
    assert workers.at_once(on_gpu, 5) == 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert workers.shared_gpus(on_gpu) == ["3", "5"]
    one = _runs(execution={"device": "cuda:1"})
    assert workers.shared_gpus(one) == [] and workers.at_once(one, 0) == 1
    assert workers.shared_gpus(_runs()) == [] and workers.at_once(_runs(), 0) == workers.cores()
