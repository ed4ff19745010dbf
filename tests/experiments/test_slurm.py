"""A queueing system that is real: SLURM with one node, this machine, where root may start it.

What docs/howto/cluster.md says is what is done here, its `jobqueue.yaml` included.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from toy import digests, in_this_process, start

from bioplaus import results
from bioplaus.experiments import manifest, status

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "cluster.md"
CONFIGURATION = """
ClusterName=bioplaus
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=2
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _missing():
    """Why no SLURM can be started here; empty if it can."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"no {', '.join(missing)} (of Debian's slurm-wlm and munge)"
    return "" if os.getuid() == 0 else "only root may start SLURM's daemons"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_missing()), reason=_missing() or "it can be started"),
]


def _until(condition, seconds, event):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{event} did not come within {seconds} s"
        time.sleep(0.2)
    return value


def _free_ports(n):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [server.getsockname()[1] for server in servers]


def _squeue(*options):
    """What `squeue` says of the jobs there are, word by word."""
    command = ["squeue", "--noheader", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _is_idle():
    command = ["sinfo", "--noheader", "--format=%t"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() == "idle"


@pytest.fixture(scope="module")
def slurm():
    """A cluster of one node while this module is tested; commands find it by their environment."""
    pytest.importorskip("dask_jobqueue")
    host = socket.gethostname().split(".")[0]
    daemons = []
    with (
        pytest.MonkeyPatch.context() as patch,
        # a short path, for sockets
        tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder,
    ):
        configuration = Path(folder, "slurm.conf")
        configuration.write_text(
            CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(2))
        )
        for name in ("state", "spool"):
            Path(folder, name).mkdir()
        key = Path(folder, "munge.key")
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        patch.setenv("SLURM_CONF", str(configuration))
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        commands = [
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-D", "-i", "-f", str(configuration)],
            ["slurmd", "-D", "-f", str(configuration)],
        ]
        try:
            for command in commands:
                with open(Path(folder, f"{command[0]}.out"), "wb") as log:
                    daemons.append(psutil.Popen(command, stdout=log, stderr=log))
                if command[0] == "munged":
                    _until(Path(folder, "munge.socket").exists, 20, "munged")
            _until(_is_idle, 60, "a node that is ready")
            yield
        finally:
            with contextlib.suppress(Exception):
                subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], timeout=20)
            family = [child for daemon in daemons for child in _family(daemon)]
            for process in family[::-1]:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(family, timeout=10)


def _family(daemon):
    with contextlib.suppress(psutil.Error):
        return [daemon, *daemon.children(recursive=True)]
    return []


@pytest.fixture
def cluster(slurm, project, monkeypatch):
    """The small project, on a SLURM as the page on clusters has it; how a sweep is started."""
    (text,) = re.findall(r"```yaml\n(jobqueue:\n.*?)```", PAGE.read_text(), re.DOTALL)
    (project / "dask").mkdir()
    (project / "dask" / "jobqueue.yaml").write_text(text)
    monkeypatch.setenv("DASK_CONFIG", str(project / "dask"))
    yield functools.partial(start, project, "--scheduler", "slurm")
    subprocess.run(["scancel", "--user=root"], timeout=60)
    _until(lambda: not _squeue(), 60, "the end of all jobs")


@pytest.fixture
def asleep_once(cluster, project, rewrite):
    """A sweep whose run sleeps in its first job and not again: its process, run and job."""
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: sleep-once}}")
    notebook = project / "Simulations" / "act.ipynb"
    notebook.write_text(
        notebook.read_text().replace(
            'if mishap == \\"sleep\\":',
            'if mishap == \\"sleep-once\\" and not Path(folder, \\"asleep\\").exists():',
        )
    )
    (run,) = manifest.runs("smoke")
    driver = cluster("--workers", "1")
    _until((run.folder / "asleep").exists, 110, "a run that sleeps")
    (job,) = _squeue("--format=%i")
    assert status.rows([run])[0]["status"] == "running"
    return driver, run, job


def test_a_sweep_on_a_queue_gives_the_results_of_this_process_and_leaves_no_job(cluster, project):
    runs = manifest.runs("paper", only="graded*", seeds=[0])
    process = cluster("--only", "graded*", "--seeds", "0", "--workers", "2", preset="paper")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "4 done" in out and "Traceback" not in err
    computed = digests(runs)
    for run in runs:
        shutil.rmtree(run.folder)
    assert [outcome.status for _, outcome in in_this_process(runs)] == ["done"] * 4
    assert digests(runs) == computed
    _until(lambda: not _squeue(), 30, "the end of all jobs")
    secrets = [path for path in (project / "Results").rglob("*.pem")]
    assert secrets == []


def test_a_job_that_is_cancelled_is_replaced_and_its_run_is_done(asleep_once):
    driver, run, job = asleep_once
    subprocess.run(["scancel", job], check=True)
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0 and "1 done" in out, err
    assert results.is_complete(run.folder) and job not in _squeue("--format=%i")


def test_the_same_command_finishes_what_a_killed_driver_left(asleep_once, cluster):
    driver, run, job = asleep_once
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=20)
    again = cluster("--workers", "1")
    out, err = again.communicate(timeout=250)
    assert again.returncode == 0 and "1 done" in out, err
    assert results.is_complete(run.folder)


def test_ctrl_c_cancels_the_jobs_and_the_run_is_interrupted(asleep_once):
    driver, run, job = asleep_once
    started = time.monotonic()
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "Interrupted" in err and "Traceback" not in err + out
    assert time.monotonic() - started < 10
    assert status.rows([run])[0]["status"] == "interrupted"
    _until(lambda: job not in _squeue("--format=%i"), 30, "the end of the job")
