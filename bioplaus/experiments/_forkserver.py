"""The process that warm kernels are forked from: it has imported what notebooks import, once.

A script, started by `warm.kernels` and asked by `warm.WarmProvisioner`. It imports libraries only,
so that every kernel reads the files of bioplaus itself, edited or not. One thread may fork safely,
several may not: where an import has started more, it refuses.

A request is one message: command, environment and folder as JSON, with the three standard streams.
The kernel answers `{"pid": ...}`, or this process `{"refusal": ...}`; `{"status": ...}` follows
when the kernel has ended. A kernel whose connection ends is killed. When its standard input ends,
whoever started this process has ended: it kills its kernels, removes its folder and ends too.
"""

import atexit
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

# what simulations (torch.optim imports torch._dynamo), figures, manifests and kernels import; not
# matplotlib_inline, which asks for the shell of its kernel when it is imported
LIBRARIES = (
    *("numpy", "torch", "torch._dynamo", "pandas", "scipy.stats", "matplotlib.pyplot", "seaborn"),
    *("matplotlib.backends.backend_pdf", "pydantic", "ruamel.yaml", "tqdm.auto", "sqlite3"),
    *("psutil", "tornado.platform.asyncio", "ipykernel.kernelapp", "ipykernel.debugger"),
)
KERNEL = [sys.executable, "-m", "ipykernel_launcher"]  # how the command of a kernel begins
# what may differ: bioplaus is not imported here, and no import reads what Jupyter, pytest and Dask
# note, the size of the terminal, or a threshold of the C library, which Dask sets
INDIVIDUAL = (
    *("BIOPLAUS_", "JPY_", "PYTEST_", "__DASK_", "MALLOC_TRIM_THRESHOLD_", "COLUMNS", "LINES"),
)
_MOST_BYTES = 2**20  # of a request; what the system lets through as one message is less


class Request(NamedTuple):
    """A kernel to start."""

    connection: socket.socket
    streams: list[int]
    command: list[str]
    environment: dict[str, str]
    folder: str

    def refusal(self, environment: Mapping[str, str]) -> str:
        """Why a kernel forked here might differ from one that is started; empty if it cannot.

        Parameters
        ----------
        environment : the variables under which the libraries were imported.
        """
        if self.command[: len(KERNEL)] != KERNEL:
            return f"its command is {self.command}, not {KERNEL}"
        different = {name for name, _ in environment.items() ^ self.environment.items()}
        if names := sorted(name for name in different if not name.startswith(INDIVIDUAL)):
            return f"it has other values of {', '.join(names)}"
        if os.path.exists(os.path.join(self.folder, "matplotlibrc")):
            return f"there is a matplotlibrc in {self.folder}"
        n_threads = len(os.listdir("/proc/self/task"))
        return f"the fork server has {n_threads} threads" if n_threads > 1 else ""


class ForkServer:
    """Forks kernels on request until its standard input ends.

    A kernel that has ended stays a zombie until its connection ends too: so its process id, to
    which the other side may send signals, never becomes another process's.
    """

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self.listener, self.environment = listener, environment
        self.kernels: dict[socket.socket, int] = {}  # process ids
        self.children, self.waker = socket.socketpair()  # a byte for every SIGCHLD
        self.waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.selector = selectors.DefaultSelector()
        for source in (sys.stdin, self.listener, self.children):
            self.selector.register(source, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Return a request in the process that is to be its kernel, and None here, at the end."""
        while True:
            for key, _ in self.selector.select():
                source: Any = key.fileobj
                if source is sys.stdin:
                    for connection in [*self.kernels]:
                        self._end(connection)
                    return None
                if source is self.listener:
                    self.selector.register(source.accept()[0], selectors.EVENT_READ)
                elif source is self.children:
                    source.recv(4096)
                    self._report()
                elif not (request := _receive(source)):
                    self._end(source)
                elif self._fork(request) == 0:
                    return request

    def _fork(self, request: Request) -> int | None:
        """The process id of the new kernel, 0 in itself, None if it is refused."""
        pid, refusal = None, request.refusal(self.environment)
        if not refusal:
            try:
                pid = os.fork()
            except OSError as error:
                refusal = str(error)
        if pid == 0:
            self._forget(request.connection)
            return pid
        for stream in request.streams:
            os.close(stream)
        if pid is None:
            _send(request.connection, refusal=refusal)
        else:
            self.kernels[request.connection] = pid
        return pid

    def _forget(self, connection: socket.socket) -> None:
        """In a kernel: close all that is the server's, but for this connection."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sources: list[Any] = [key.fileobj for key in self.selector.get_map().values()]
        for source in (*sources, self.selector, self.waker):
            if source not in (sys.stdin, connection):
                source.close()

    def _report(self) -> None:
        """Send the status of kernels that have ended, as `subprocess.Popen.returncode` has it."""
        for connection, pid in self.kernels.items():
            if ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                is_exit = ended.si_code == os.CLD_EXITED
                _send(connection, status=ended.si_status if is_exit else -ended.si_status)

    def _end(self, connection: socket.socket) -> None:
        """Forget a connection; kill and reap its kernel, with all processes that this started."""
        self.selector.unregister(connection)
        connection.close()
        if pid := self.kernels.pop(connection, None):
            for kill in (os.killpg, os.kill):  # it may have no group of its own yet
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _receive(connection: socket.socket) -> Request | None:
    """A request; None if the connection has ended, or brings something else."""
    with suppress(OSError, ValueError, TypeError):
        message, streams, _, _ = socket.recv_fds(connection, _MOST_BYTES, 3)
        if message:
            return Request(connection, streams, **json.loads(message))
    return None


def _send(connection: socket.socket, **message: Any) -> None:
    with suppress(OSError):  # the other side has gone, as the selector will say, or does not read
        connection.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


def run_kernel(request: Request, imported: Mapping[str, str]) -> None:
    """Become the process that the command of `request` would have started, and run it.

    Parameters
    ----------
    imported : the variables that were set for the imports, and by them.
    """
    os.setsid()
    os.chdir(request.folder)
    for target, stream in enumerate(request.streams):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update({**request.environment, **imported})
    importlib.invalidate_caches()  # files may be newer than the imports
    launcher = importlib.import_module("ipykernel_launcher").__file__
    sys.argv = [str(launcher), *request.command[len(KERNEL) :]]
    # seeds of its own, as for every process that imports these libraries
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()
    # raises if the other side waits no more: it has started the kernel itself
    request.connection.send(json.dumps({"pid": os.getpid()}).encode())
    request.connection.close()
    sys.modules["ipykernel.kernelapp"].launch_new_instance()


def leave() -> None:
    """End this process as the interpreter does, but for freeing its objects (0.25 s)."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Serve, from an empty folder, on the socket whose descriptor is the only argument."""
    listener, folder = socket.socket(fileno=int(sys.argv[1])), os.getcwd()
    environment = dict(os.environ)
    del sys.path[0]  # this script's folder
    # imports read both: ipykernel has set the first before a cell imports matplotlib, and kernels
    # watch the second, their parent
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    os.environ["JPY_PARENT_PID"] = str(os.getpid())
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a kernel would write to, and so copy, the memory it shares
    imported = {name: v for name, v in os.environ.items() if environment.get(name) != v}
    if request := ForkServer(listener, environment).serve():
        run_kernel(request, imported)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    leave()


if __name__ == "__main__":
    main()
