"""Runs on Dask: schedulers that are shared, workers that are lost, and queueing systems."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import distributed  # here: its defaults must be there before settings for a while
import psutil
import pytest
from toy import add_cells, on_dask, silent

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments import cluster, execution, jupyter, locks, manifest, sweep, workers
from bioplaus.experiments.execution import Settings


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

    def start(runs, folders, kernel):
        at_once.append(1)
        time.sleep(0.05)
        assert len(at_once) == 1
        at_once.clear()
        results.finish(folders[0], {"status": "done", "epochs": {}, "diagnostics": {}})

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
            if fault := asked.get("fault"):
                raise fault
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


def test_a_queue_is_asked_for_one_thread_a_run_and_for_jobs_while_there_are_runs(queue, project):
    with workers.cluster(3, 10, "fake"):
        assert (queue["minimum"], queue["maximum"], queue["processes"]) == (0, 3, 1)
        assert queue["worker_extra_args"] == ["--lifetime", "55m", "--nthreads", "1"]
        assert queue["allowed"] >= 100
    assert queue["closed"]


def test_jobs_are_encrypted_and_no_page_is_shown_to_everybody(queue, project):
    with workers.cluster(3, 10, "fake"):
        assert queue["security"].require_encryption
        assert queue["shared_temp_directory"] == str((project / "Results").resolve())
        assert queue["scheduler_options"]["dashboard"] is False
        assert queue["scheduler_options"]["dashboard_address"].startswith("127.0.0.1:")


def test_no_more_jobs_are_asked_for_than_there_are_runs(queue, project):
    with workers.cluster(50, 4, "fake"):
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


def _listening():
    """(host, port) of every socket on which this process and its children accept connections."""
    every = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [connection for process in every for connection in process.net_connections("inet")]
    return {tuple(one.laddr) for one in found if one.status == psutil.CONN_LISTEN}


def _get_user(scheduler, **options):
    from distributed import Client

    with Client(scheduler, timeout=3, **options) as client:
        return client.run(os.getuid)


def _error(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except Exception as error:
        return error


@pytest.mark.slow
def test_nobody_else_can_give_orders_to_the_workers_of_this_machine_or_look_at_them():
    from distributed import Security

    before = _listening()
    with cluster._client("local", 1, 1) as client:
        assert client.submit(os.getuid).result() == os.getuid()
        addresses = _listening() - before
        assert addresses and {host for host, _ in addresses} == {"127.0.0.1"}
        for host, port in addresses:
            pages = [f"http://{host}:{port}/{path}" for path in ("", "status", "json/counts.json")]
            errors = [_error(urllib.request.urlopen, page, timeout=3) for page in pages]
            assert all(isinstance(error, OSError) for error in errors)  # 404 is one, too
            if not isinstance(errors[0], urllib.error.HTTPError):
                error = _error(_get_user, f"tcp://{host}:{port}")
                assert isinstance(error, OSError | TimeoutError)
        with pytest.raises((OSError, TimeoutError)):
            _get_user(client.scheduler.address, security=Security.temporary())


def test_workers_without_the_package_that_encrypts_are_refused_in_a_sentence(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BioplausError, match="need the package cryptography; install it with"):
        sweep.execute(manifest.runs("smoke"), report=silent)


def test_a_queue_whose_command_is_not_here_is_refused_before_anything_starts(project, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", "")
    for name, command in (("slurm", "sbatch"), ("pbs", "qsub"), ("sge", "qsub"), ("lsf", "bsub")):
        with pytest.raises(BioplausError, match=f"SCHEDULER={name} gives jobs to the.* {command},"):
            sweep.execute(manifest.runs("smoke"), scheduler=name, workers=1, report=silent)
    assert not (project / "Results").exists()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("tcp://127.0.0.1:1", "No Dask scheduler answers at tcp://127.0.0.1:1; start one"),
        ("tls://127.0.0.1:1", "No Dask scheduler answers|cannot start"),
        ("tcp://127.0.0.1:port", "SCHEDULER=tcp://127.0.0.1:port|No Dask scheduler answers at"),
        ("tcp://no-such-host.invalid:8786", "No Dask scheduler answers"),
        ("tcp://", "is no address of a Dask scheduler; it looks like tcp://host:8786"),
        ("http://127.0.0.1:8787", "is no address of a Dask scheduler"),
        ("inproc://x", "is no address of a Dask scheduler"),
        ("://", "is no address of a Dask scheduler"),
    ],
)
def test_an_address_where_no_scheduler_is_is_one_sentence(project, monkeypatch, address, sentence):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(jupyter, "check_kernel", silent)
    with pytest.raises(BioplausError, match=sentence) as caught:
        sweep.execute(manifest.runs("smoke"), scheduler=address, report=silent)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    "content", ["\tdistributed: 1\n", "distributed: [\n", "- a list\n", "distributed: 3\n"]
)
def test_a_dask_configuration_that_cannot_be_read_is_one_sentence(project, tmp_path, content):
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "mine.yaml").write_text(content)
    command = [sys.executable, "-m", "bioplaus", "run", "--preset", "smoke", "--workers", "1"]
    done = subprocess.run(
        command,
        env={**os.environ, "DASK_CONFIG": str(tmp_path / "dask")},
        capture_output=True,
        text=True,
    )
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr
    assert done.returncode in (0, 2) and done.stderr.count("error:") == (done.returncode == 2)


def test_what_a_queue_that_is_not_configured_says_is_one_whole_sentence(project, queue):
    queue["fault"] = ValueError(
        "You must specify how many cores to use per job like ``cores=8``,\nfor example:\n  x"
    )
    with pytest.raises(BioplausError) as caught:
        on_dask = cluster._client("fake", 1, 1)
        on_dask.__enter__()
    assert str(caught.value) == (
        "SCHEDULER=fake cannot start: You must specify how many cores to use per job like"
        " ``cores=8``, for example: x."
    )


def test_a_worker_that_is_killed_again_and_again_is_told_with_its_signal_and_what_to_do(project):
    add_cells(project, ("", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"))
    from dask import config

    with config.set({"distributed.scheduler.allowed-failures": 1}):
        ((_, (status, message, _)),) = on_dask(
            manifest.runs("smoke", overrides={"mishap": "save-nothing"}), "local"
        )
    assert status == "failed" and message.startswith("its worker died 2 times, killed by SIGKILL;")
    assert "smaller batch_size" in message


def test_a_run_whose_worker_died_after_its_result_was_whole_is_done_not_skipped(project):
    end = "marker = Path(folder, 'ended')\nif not marker.exists():\n    marker.touch()\n    "
    add_cells(project, ("", end + "os.kill(os.getpid(), signal.SIGKILL)"))
    ((_, (status, message, _)),) = on_dask(manifest.runs("smoke"), "local")
    assert (status, message) == ("done", "")


def test_a_run_that_another_command_executes_is_waited_for_aloud(project, scheduler, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    run = manifest.runs("smoke")[0]
    told = []
    ways = [
        sweep._execute_inline([([run], [])], Settings(), told.append),
        cluster.execute(
            [([run], [])],
            Settings(sweep="one"),
            workers=1,
            scheduler=scheduler,
            retries=0,
            report=told.append,
        ),
    ]
    run.folder.mkdir(parents=True)
    for number, outcomes in enumerate(ways, start=1):
        with locks.locked(run.folder):
            waiting = threading.Thread(target=list, args=[outcomes])
            waiting.start()
            until = time.monotonic() + 20
            while len(told) < number and time.monotonic() < until:
                time.sleep(0.05)
        waiting.join()
        assert len(told) == number and run.id in told[-1] and "another command" in told[-1]


def test_an_address_of_another_server_is_not_waited_for(project, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # says nothing
        with pytest.raises(BioplausError, match="No Dask scheduler answers at"):
            cluster.check(f"tcp://127.0.0.1:{server.getsockname()[1]}", 1)


def test_workers_leave_ctrl_c_to_the_command_and_kernels_do_not_inherit_that(project):
    def handlers():
        import signal
        import subprocess
        import sys

        code = "import signal; print(signal.getsignal(2) == signal.default_int_handler)"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return signal.getsignal(signal.SIGINT).__module__, child.stdout.strip()

    with workers.cluster(1, 1, "local") as started, distributed.Client(started) as client:
        (told,) = client.run(handlers).values()
    assert told == ("bioplaus.experiments._preload", "True")
