"""Forked kernels: they are and do what started kernels are and do, end when these would, and are
started as usual wherever they could differ.
"""

import ast
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from toy import add_cells, silent, write_notebook

from bioplaus import results
from bioplaus.analysis import report
from bioplaus.errors import RunError
from bioplaus.experiments import cluster, jupyter, manifest, notebooks, sweep, warm
from bioplaus.experiments.execution import Settings

COMMAND = [sys.executable, "-m", "ipykernel_launcher"]
pytestmark = pytest.mark.xdist_group("warm kernels")

# what a kernel is made of; the imports set variables in a started kernel, and have set them in a
# forked one
STATE = """
import torch, torch._dynamo, ipykernel.debugger, matplotlib, numpy
import gc, json, locale, os, resource, signal, sys
def state():
    return json.dumps({
        "arguments": sys.argv,
        "folder": os.getcwd(),
        "environment": {name: value for name, value in os.environ.items() if name not in ignored},
        "path": sys.path, "flags": list(sys.flags), "warnings": sys.warnoptions,
        "executable": [sys.executable, sys.prefix],
        "signals": {s.name: str(signal.getsignal(s)).split(" at ")[0] for s in signal.Signals},
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "limits": [resource.getrlimit(i) for i in range(16)],
        "priority": [os.nice(0), os.sched_getaffinity(0)],
        "is_leader": [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
        "backend": matplotlib.get_backend(), "style": dict(matplotlib.rcParams),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "dtype": str(torch.get_default_dtype()), "grad": torch.is_grad_enabled(),
        "numpy": numpy.geterr(), "print": numpy.get_printoptions()["precision"],
        "encodings": [sys.__stdout__.encoding, sys.getfilesystemencoding(), locale.getlocale()],
        "streams": [os.path.realpath(f"/proc/self/fd/{i}").split(":")[0] for i in (1, 2)],
        "main": [__name__, sys.modules["__main__"].__dict__.get("__file__")],
        "collector": [gc.isenabled(), gc.get_threshold()],
    }, default=str)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The environment of sweeps, in which a process that has imported torch has one thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            patch.setenv(name, "1")
        patch.delenv(warm.SWITCH, raising=False)
        patch.delenv(warm.SOCKET, raising=False)
        yield


@pytest.fixture(scope="module", autouse=True)
def provided():
    """Kernels of this process come from the fork server, where there is one."""
    factory = KernelProvisionerFactory.instance()
    before = factory.default_provisioner_name
    warm.provide()
    yield
    factory.default_provisioner_name = before


@pytest.fixture(scope="module")
def server(one_thread):
    """The process that kernels are forked from."""
    with warm.kernels({}):
        kernel = warm.ForkedKernel([*COMMAND, "--version"], env=dict(os.environ), stdout=2)
        parent = psutil.Process(kernel.pid).parent()
        kernel.wait()
        yield parent


@contextlib.contextmanager
def started(**options):
    """A Jupyter kernel as nbclient starts it: its manager and a client."""
    with tempfile.TemporaryDirectory() as sockets:
        manager = KernelManager(transport="ipc", ip=f"{sockets}/kernel")
        manager.start_kernel(**options)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(60)
            yield manager, client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def value(client, expression, code=""):
    """An expression's value in a kernel, after `code`."""
    reply = client.execute(code, user_expressions={"it": expression}, reply=True, timeout=60)
    answer = reply["content"]["user_expressions"]["it"]
    assert answer["status"] == "ok", answer
    return ast.literal_eval(answer["data"]["text/plain"])


@pytest.fixture
def alone(one_thread, monkeypatch):
    """No fork server is running for this test."""
    monkeypatch.delenv(warm.SOCKET, raising=False)


def parent_of_a_kernel(**options):
    with started(**options) as (_, client):
        return value(client, "os.getppid()", "import os")


def gone(pids, seconds=20):
    """Wait until these processes have ended."""
    until = time.monotonic() + seconds
    while alive := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < until, f"{alive} did not end"
        time.sleep(0.05)
    return True


def _is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_kernel_is_forked_from_a_process_that_has_imported_torch(server):
    with started() as (_, client):
        assert value(client, "os.getppid()", "import os") == server.pid
        assert value(client, "'torch' in sys.modules", "import sys")
        assert not value(client, "[m for m in sys.modules if m.startswith('bioplaus')]")


def test_a_forked_kernel_is_in_the_same_state_as_a_started_one(server, tmp_path, monkeypatch):
    ignored = "ignored = {'JPY_PARENT_PID', 'JPY_SESSION_NAME', 'BIOPLAUS_WARM_SOCKET'}"
    options = {"cwd": str(tmp_path), "extra_arguments": ["--IPKernelApp.exec_PYTHONSTARTUP=False"]}
    states: list = []
    for switch in (None, monkeypatch.delenv):
        if switch:
            switch(warm.SOCKET)
        with started(**options) as (_, client):
            states.append(json.loads(value(client, "state()", STATE + ignored)))
            states[-1]["arguments"].pop(2)  # the connection file
    forked, plain = states
    forked_environment, environment = forked.pop("environment"), plain.pop("environment")
    assert forked_environment.items() ^ environment.items() == set()
    assert forked == plain
    assert forked["arguments"][1:] == ["-f", *options["extra_arguments"]]
    assert forked["folder"] == options["cwd"]


def test_every_forked_kernel_has_seeds_of_its_own(server):
    drawn = []
    for _ in range(2):
        with started() as (_, client):
            code = "import torch, numpy, random"
            drawn.append(
                value(client, "(torch.rand(1).item(), numpy.random.rand(), random.random())", code)
            )
    assert all(one != other for one, other in zip(*drawn, strict=True))


def test_a_kernel_reads_files_as_they_are_now(server, tmp_path):
    for number in (1, 2):
        (tmp_path / "edited.py").write_text(f"number = {number}  #{' ' * number}\n")
        (tmp_path / f"new{number}.py").write_text("")
        with started(cwd=str(tmp_path)) as (_, client):
            assert value(client, "edited.number", f"import edited, new{number}") == number


@pytest.mark.parametrize("argument", ["--version", "--no-such-option=1", "--transport=carrier"])
def test_output_and_status_of_a_kernel_are_those_of_a_process(server, tmp_path, argument):
    command, texts = [*COMMAND, argument], []
    statuses = []
    for start in (warm.ForkedKernel, subprocess.Popen):
        with open(tmp_path / "out", "w") as out:
            process = start(command, env=dict(os.environ), stdout=out, stderr=out, cwd=tmp_path)
            statuses.append(process.wait())
        texts.append((tmp_path / "out").read_text().splitlines()[-1:])
    assert statuses[0] == statuses[1] and texts[0] == texts[1]


def test_a_notebook_of_forked_kernels_gives_the_same_bytes(server, tmp_path, monkeypatch):
    source = Path(__file__).parents[2] / "Simulations" / "classify.ipynb"
    records = []
    for folder in (tmp_path / "forked", tmp_path / "started"):
        results.begin(folder, {"id": folder.name})
        notebooks.execute(source, folder / "run.ipynb", {"folders": [str(folder)]})
        records.append((folder / "result.pkl").read_bytes())
        monkeypatch.delenv(warm.SOCKET, raising=False)
    assert records[0] == records[1]


def test_many_kernels_leave_nothing_in_the_server(server):
    def kernel():
        warm.ForkedKernel([*COMMAND, "--version"], env=dict(os.environ), stdout=2).wait()

    kernel()
    time.sleep(0.5)
    n_descriptors = server.num_fds()
    for _ in range(5):
        kernel()
    time.sleep(0.5)
    assert server.num_fds() == n_descriptors and server.children() == []


MISHAPS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "crashed": "import ctypes; ctypes.string_at(0)",
    "exited": "os._exit(3)",
    "terminated": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)",
}


@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_kernel_that_dies_gives_the_sentence_of_a_started_one(server, tmp_path, mishap):
    write_notebook(tmp_path / "dies.ipynb", ("", f"import os, signal, time\n{MISHAPS[mishap]}"))
    with pytest.raises(RunError) as caught:
        notebooks.execute(tmp_path / "dies.ipynb", tmp_path / "out" / "dies.ipynb", {})
    sentence = "its kernel died (Kernel died); it was killed, or memory ran out."
    assert str(caught.value) == f"dies.ipynb: {sentence}"


def test_a_kernel_that_is_interrupted_goes_on(server):
    with started() as (manager, client):
        code = "import time; print('asleep', flush=True); time.sleep(60)"
        message = client.execute(code, stop_on_error=False)  # else what follows may be aborted
        while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=30)
        assert reply["parent_header"]["msg_id"] == message
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert value(client, "1 + 1") == 2


def test_a_kernel_can_be_restarted(server):
    with started() as (manager, client):
        first = value(client, "os.getpid()", "import os")
        manager.restart_kernel(now=True)
        client.wait_for_ready(60)
        assert value(client, "os.getpid()", "import os") != first
        assert gone([first])


def test_the_server_and_its_folder_go_with_the_context(alone):
    with warm.kernels({}):
        folder = Path(os.environ[warm.SOCKET]).parent
        server = psutil.Process(parent_of_a_kernel())
        with warm.kernels({}):  # nothing of its own
            assert Path(os.environ[warm.SOCKET]).parent == folder
        assert server.is_running() and folder.exists()
    assert not server.is_running() and not folder.exists() and warm.SOCKET not in os.environ


# who starts a kernel, and who dies: processes that say the pids of all
DRIVER = """
import os, subprocess, sys, time
from jupyter_client.manager import KernelManager
from bioplaus.experiments import warm
def start():
    warm.provide()
    manager = KernelManager(transport="ipc", ip=sys.argv[0] + "-kernel")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(60)
    return manager.provisioner.process.pid
if sys.argv[1] == "worker":
    print(os.getpid(), start(), flush=True)
    time.sleep(100)
else:
    with warm.kernels({}):
        worker = subprocess.Popen([sys.executable, *sys.argv[:1], "worker"], stdout=-1, text=True)
        print(os.getpid(), worker.stdout.readline().strip(), os.environ[warm.SOCKET], flush=True)
        time.sleep(100)
"""


@pytest.fixture
def family(tmp_path, alone):
    """Pids of a driver, its worker, the fork server and the worker's kernel, and the socket."""
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), "driver"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        driver, worker, kernel, path = process.stdout.readline().split()
        pids = {"driver": int(driver), "worker": int(worker), "kernel": int(kernel)}
        yield {**pids, "server": psutil.Process(int(kernel)).ppid()}, Path(path)
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_kernel_ends_with_the_worker_that_asked_for_it(family):
    pids, _ = family
    os.kill(pids["worker"], signal.SIGKILL)
    assert gone([pids["kernel"]]) and _is_alive(pids["server"])


def test_server_kernels_and_folder_go_with_the_driver(family):
    pids, path = family
    os.kill(pids["driver"], signal.SIGKILL)
    assert gone([pids["server"], pids["kernel"]]) and not path.parent.exists()


def test_kernels_end_with_the_server_and_the_next_are_started(alone):
    with warm.kernels({}), started() as (manager, client):
        pid = value(client, "os.getpid()", "import os")
        psutil.Process(pid).parent().kill()
        assert gone([pid])
        assert not manager.is_alive()
        assert parent_of_a_kernel() == os.getpid()


@pytest.fixture
def reasons(caplog):
    """Why kernels were started, not forked; the text grows."""
    caplog.set_level(logging.DEBUG, logger=warm.__name__)
    return lambda: caplog.text


def assert_is_started(reasons, reason, **options):
    """A kernel of these options works, is this process's own, and the reason is given."""
    assert parent_of_a_kernel(**options) == os.getpid()
    assert f"A kernel is started, not forked: {reason}" in reasons()


@pytest.mark.parametrize(
    ("name", "text"),
    [("MPLBACKEND", "svg"), ("OMP_NUM_THREADS", "2"), ("CUDA_VISIBLE_DEVICES", "0")],
)
def test_a_kernel_with_other_variables_at_import_is_started(server, reasons, name, text):
    assert_is_started(reasons, f"it has other values of {name}", env={**os.environ, name: text})


def test_a_kernel_without_a_variable_of_the_imports_is_started(server, reasons):
    env = {name: text for name, text in os.environ.items() if name != "MKL_NUM_THREADS"}
    assert_is_started(reasons, "it has other values of MKL_NUM_THREADS", env=env)


def test_a_kernel_with_a_matplotlibrc_in_its_folder_is_started(server, reasons, tmp_path):
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 7\n")
    assert_is_started(reasons, f"there is a matplotlibrc in {tmp_path}", cwd=str(tmp_path))


def test_a_kernel_of_another_interpreter_is_started(server, reasons, tmp_path, monkeypatch):
    other = tmp_path / "python"  # the same one, but who knows
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    spec = KernelSpec(argv=[str(other), *COMMAND[1:], "-f", "{connection_file}"])
    monkeypatch.setattr(KernelManager, "kernel_spec", spec)
    with started() as (_, client):
        assert value(client, "os.getppid()", "import os") == os.getpid()
    assert f"A kernel is started, not forked: its command is ['{other}'" in reasons()


@pytest.mark.parametrize("option", [{"stdout": subprocess.PIPE}, {"close_fds": True}])
def test_a_kernel_with_options_that_no_request_has_is_started(server, reasons, option):
    assert_is_started(reasons, "", **option)


def test_a_kernel_is_started_if_the_server_does_not_answer(server, reasons, monkeypatch):
    monkeypatch.setattr(warm, "PATIENCE", 0.5)
    server.suspend()
    try:
        assert_is_started(reasons, "timed out")
    finally:
        server.resume()
    monkeypatch.undo()
    assert parent_of_a_kernel() == server.pid


def site(folder, **modules):
    """The variables of a process that imports these modules, given by their text, first."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_a_process_with_threads_does_not_fork(alone, reasons, tmp_path, monkeypatch):
    text = "import threading, time; threading.Thread(target=time.sleep, args=[9e5], daemon=1)"
    environment = site(tmp_path, sitecustomize=f"{text}.start()")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with warm.kernels({}):
        assert_is_started(reasons, "the fork server has 2 threads")


def test_a_library_that_cannot_be_imported_leaves_kernels_to_be_started(alone, reasons, tmp_path):
    with warm.kernels(site(tmp_path, numpy="raise ImportError")):
        assert_is_started(reasons, "")


def test_a_path_too_long_for_a_socket_leaves_kernels_to_be_started(
    alone, reasons, tmp_path, monkeypatch
):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with warm.kernels({}):
        assert warm.SOCKET not in os.environ and "path too long" in reasons()
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_kernels_are_not_worth_a_server(alone, count):
    with warm.kernels({}, count):
        assert warm.SOCKET not in os.environ


def test_the_switch_starts_every_kernel_as_usual(alone, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_WARM", "0")
    with warm.kernels({}):
        assert warm.SOCKET not in os.environ


@pytest.mark.parametrize("lacking", ["fork", "linux"])
def test_where_no_process_can_fork_kernels_are_started(alone, monkeypatch, lacking):
    if lacking == "fork":
        monkeypatch.delattr(os, "fork")
    else:
        monkeypatch.setattr(sys, "platform", "darwin")
    with warm.kernels({}):
        assert warm.SOCKET not in os.environ


def test_the_provisioner_that_a_user_has_chosen_stays(monkeypatch):
    factory = KernelProvisionerFactory.instance()
    monkeypatch.setattr(factory, "default_provisioner_name", "of-the-user")
    warm.provide()
    assert factory.default_provisioner_name == "of-the-user"


IS_FORKED = "import os, psutil\nforked = '_forkserver' in psutil.Process(os.getppid()).cmdline()[1]"


def test_the_kernels_of_a_sweep_are_forked(alone, project):
    add_cells(project, ("", f"{IS_FORKED}\nprint(f'{{forked=}}')"))
    runs = manifest.runs("quick")[:3]
    assert len(sweep.execute(runs, workers=1, report=silent).done) == 3
    assert all("forked=True" in (run.folder / "run.log").read_text() for run in runs)


class Counted(Exception):
    """So many kernels would be forked."""


@pytest.fixture
def counted(monkeypatch):
    """Nothing is executed: how many kernels would be forked is raised."""

    def raise_count(count):
        raise Counted(count)

    monkeypatch.setattr(jupyter, "warm_kernels", raise_count)


@pytest.mark.parametrize(
    ("count", "device", "scheduler", "kernel"),
    [
        (10, None, "local", "python3"),
        (10, "cpu", "local", "python3"),
        (0, "cuda", "local", "python3"),
        (0, "auto", "local", "python3"),
        (0, None, "slurm", "python3"),
        (0, None, "tcp://127.0.0.1:8786", "python3"),
        (0, None, "local", None),
    ],
)
def test_kernels_of_a_gpu_or_of_another_machine_are_not_forked(
    project, counted, count, device, scheduler, kernel
):
    execution = {"device": device} if device else {}
    runs = sweep.in_order(manifest.runs("quick", execution=execution))
    settings = Settings(kernel=kernel, sweep="this one")
    with pytest.raises(Counted, match=f"^{count}$"):
        next(cluster.execute(runs, settings, workers=1, scheduler=scheduler, retries=0))


def test_the_kernels_of_figure_notebooks_are_forked(counted, tmp_path):
    with pytest.raises(Counted) as caught:
        next(report.draw("smoke", ["hebbian"], results=tmp_path, force=True))
    assert caught.value.args[0] > 3


@pytest.mark.parametrize("processes", ["0", "1"])
def test_nbval_forks_its_kernels(alone, tmp_path, processes):
    for name in ("one", "two"):
        write_notebook(tmp_path / f"{name}.ipynb", ("", f"{IS_FORKED}\nassert forked"))
    plugin = ["-p", "bioplaus.experiments.nbval_plugin", "--nbval-lax", "--nbval-current-env"]
    command = [sys.executable, "-m", "pytest", *plugin, "-n", processes, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout


def test_papermill_is_imported_without_a_grammar_that_nobody_needs():
    pytest.importorskip("rfc3987_syntax")  # comes with JupyterLab
    code = """
import sys
from bioplaus.experiments import jupyter
with jupyter.without_iri_grammar():
    import papermill
assert not [name for name in sys.modules if name.startswith("rfc3987_syntax")]
import rfc3987_syntax
with jupyter.without_iri_grammar():
    assert sys.modules["rfc3987_syntax"] is rfc3987_syntax
"""
    subprocess.run([sys.executable, "-c", code], check=True)
