"""Runs on Dask: schedulers that are shared, workers that are lost, and queueing systems."""

import time
from types import SimpleNamespace

import pytest
from toy import add_cells, on_dask, silent

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import cluster, execution, manifest, sweep


def test_sweeps_that_share_a_scheduler_do_not_take_one_anothers_runs(
    project, scheduler, monkeypatch
):
    runs = manifest.runs("smoke")
    first = on_dask(runs, scheduler)
    assert next(first)[1].status == "done"  # and the sweep is still open
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(project / "Others"))
    assert [outcome.status for _, outcome in on_dask(runs, scheduler)] == ["done"]
    assert results.is_complete(runs[0].folder)
    first.close()


def _says_done(*arguments, **options):
    return execution.Outcome("done", "", 0.0)


def test_a_worker_that_says_done_where_no_result_is_has_failed(project, scheduler, monkeypatch):
    monkeypatch.setattr(execution, "execute", _says_done)
    ((run, (status, message, _)),) = on_dask(manifest.runs("smoke"), scheduler)
    assert status == "failed" and str(run.folder) in message


def _worst(*arguments, **options):
    raise ZeroDivisionError("a fault of bioplaus")


def _killed(*arguments, **options):
    from distributed.scheduler import KilledWorker

    raise KilledWorker("run", SimpleNamespace(address="tcp://host:1"), 3)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [(_worst, "ZeroDivisionError: a fault of bioplaus"), (_killed, "its worker died")],
)
def test_only_a_lost_worker_is_called_one(project, scheduler, monkeypatch, fault, sentence):
    monkeypatch.setattr(execution, "execute", fault)
    ((_, (status, message, _)),) = on_dask(manifest.runs("smoke"), scheduler)
    assert status == "failed" and message.startswith(sentence)


def test_threads_of_one_worker_do_not_execute_runs_at_the_same_time(
    project, scheduler, monkeypatch
):
    at_once = []

    def start(run, place, kernel):
        at_once.append(1)
        time.sleep(0.05)
        assert len(at_once) == 1
        at_once.clear()
        results.finish(place, {"status": "done", "epochs": {}, "diagnostics": {}})

    monkeypatch.setattr(execution, "_start", start)
    outcomes = on_dask(manifest.runs("paper"), scheduler, workers=2)
    assert {outcome.message for _, outcome in outcomes} == {""}


@pytest.fixture
def queue(monkeypatch):
    """A queueing system called `fake`: what was asked of dask-jobqueue, and no job."""
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    import dask

    asked = {}

    class FakeJob:
        @staticmethod
        def default_config_name():
            return "fake"

    class FakeCluster:
        job_cls = FakeJob

        def __init__(self, **options):
            asked.update(options)

        def adapt(self, **options):
            asked.update(options, allowed=dask.config.get("distributed.scheduler.allowed-failures"))

        def close(self, timeout):
            asked["closed"] = True

    monkeypatch.setattr(dask_jobqueue, "FakeCluster", FakeCluster, raising=False)
    with dask.config.set(
        {"jobqueue.fake": {"cores": 8, "worker-extra-args": ["--lifetime", "55m"]}}
    ):
        yield asked


def test_a_queue_is_asked_for_one_thread_a_run_and_for_jobs_while_there_are_runs(queue):
    with cluster._cluster(3, 10, "fake"):
        assert (queue["minimum"], queue["maximum"], queue["processes"]) == (0, 3, 1)
        assert queue["worker_extra_args"] == ["--lifetime", "55m", "--nthreads", "1"]
        assert queue["allowed"] >= 100
    assert queue["closed"]


def test_no_more_jobs_are_asked_for_than_there_are_runs(queue):
    with cluster._cluster(50, 4, "fake"):
        assert queue["maximum"] == 4


def test_a_queue_must_be_told_how_many_runs_at_once(project, queue):
    with pytest.raises(BioplausError, match="SCHEDULER=fake needs WORKERS"):
        sweep.execute(manifest.runs("smoke"), scheduler="fake", report=silent)
    assert queue == {}


@pytest.mark.slow
def test_a_job_that_ends_at_its_walltime_is_replaced_and_its_run_is_done(project, monkeypatch):
    """dask-jobqueue's own queue, of processes of this machine; the first job is killed while it
    executes the run.
    """
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    import dask
    from dask_jobqueue.local import LocalCluster

    monkeypatch.setattr(dask_jobqueue, "FakeCluster", LocalCluster, raising=False)
    end = "[os.kill(process, signal.SIGKILL) for process in (os.getppid(), os.getpid())]"
    add_cells(
        project,
        (
            "",
            f"if not Path(folder, 'ended').exists():\n    Path(folder, 'ended').touch()\n    {end}",
        ),
    )
    add_cells(
        project, ("", "results.finish(folder, {'status': 'done', 'epochs': {}, 'diagnostics': {}})")
    )
    runs = manifest.runs("smoke", overrides={"mishap": "save-nothing"})
    settings = {
        "jobqueue.local.cores": 2,
        "jobqueue.local.memory": "1GB",
        "distributed.deploy.lost-worker-timeout": "1s",
    }
    with dask.config.set(settings):
        ((run, (status, message, _)),) = on_dask(runs, "fake")
    assert (status, message) == ("done", "") and (run.folder / "ended").exists()
