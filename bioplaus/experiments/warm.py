"""Warm kernels: forked from one process that has imported torch, pandas and matplotlib, once.

A kernel spends two seconds of a core on such imports; a forked one is ready after 0.3, and has 65
MB of its own instead of 190. What it computes is the same to the byte: a kernel that might differ
(another interpreter, other environment variables) is started as usual, and so are all where forking
is not possible or not safe (another system than Linux, threads, a GPU). `BIOPLAUS_WARM=0` starts
every kernel as usual.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

SWITCH = "BIOPLAUS_WARM"  # 0: every kernel is started as usual
SOCKET = "BIOPLAUS_WARM_SOCKET"  # where the fork server listens; set within `kernels`
FEWEST = 3  # kernels that are worth the imports of a fork server
PATIENCE = 60.0  # seconds a fork server may take for its imports, or for an answer
_NAME, _DEFAULT = "bioplaus-warm", "local-provisioner"
_SCRIPT = Path(__file__).with_name("_forkserver.py")

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def kernels(environment: Mapping[str, str], count: int = FEWEST) -> Iterator[None]:
    """Fork the kernels that are started within, by child processes too, from one fork server.

    Within another `kernels` it does nothing.

    Parameters
    ----------
    environment : variables of the kernels beside those of this process.
    count : how many kernels are going to be started.
    """
    is_possible = sys.platform == "linux" and hasattr(os, "fork") and SOCKET not in os.environ
    is_wanted = count >= FEWEST and os.environ.get(SWITCH) != "0"
    server = _start({**os.environ, **environment}) if is_possible and is_wanted else None
    try:
        yield
    finally:
        if server:
            _stop(server)


def provide() -> None:
    """Ask the fork server, where there is one, for every kernel that this process starts from now
    on.
    """
    factory = KernelProvisionerFactory.instance()
    if factory.default_provisioner_name == _DEFAULT:  # else it is the user's choice, or done
        value = f"{__name__}:{WarmProvisioner.__name__}"
        factory.provisioners[_NAME] = EntryPoint(_NAME, value, factory.GROUP_NAME)
        factory.default_provisioner_name = _NAME


class WarmProvisioner(LocalProvisioner):
    """Asks the fork server for a kernel, and starts it as usual where there is none to be had."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start a kernel with the command `cmd`."""
        try:
            self.process = ForkedKernel(cmd, **self._scrub_kwargs(kwargs))
        except Exception as reason:  # whatever it is, the kernel must start
            _logger.debug("A kernel is started, not forked: %s", reason)
            return await super().launch_kernel(cmd, **kwargs)
        self.pid = self.pgid = self.process.pid
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info


class ForkedKernel:
    """A kernel of the fork server, with as much of `subprocess.Popen` as a provisioner uses.

    Raises
    ------
    ConnectionError
        If there is no fork server, or it refuses.
    """

    stdin = stdout = stderr = None  # no pipes lead to it

    def __init__(
        self,
        command: list[str],
        *,
        env: dict[str, str],
        cwd: str | None = None,
        stdout: Any = None,
        stderr: Any = None,
    ) -> None:
        if SOCKET not in os.environ:
            raise ConnectionError("there is no fork server")
        self.returncode: int | None = None
        request = {"command": command, "environment": env, "folder": os.path.abspath(cwd or "")}
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._connection.settimeout(PATIENCE)
            self._connection.connect(os.environ[SOCKET])
            with open(os.devnull) as nothing:
                streams = [nothing.fileno(), _descriptor(stdout, 1), _descriptor(stderr, 2)]
                socket.send_fds(self._connection, [json.dumps(request).encode()], streams)
            answer = json.loads(self._connection.recv(4096) or "{}")
            if "pid" not in answer:
                raise ConnectionError(answer.get("refusal", "the fork server or the kernel ended"))
            self._connection.settimeout(None)
        except BaseException:
            self._connection.close()  # and what may have been forked is killed
            raise
        self.pid: int = answer["pid"]

    def poll(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self._receive_status(socket.MSG_DONTWAIT)
        return self.returncode

    def wait(self) -> int | None:
        """Its exit status, when it has ended."""
        if self.returncode is None:
            self._receive_status(0)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send it, not its children, a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def _receive_status(self, flags: int) -> None:
        if message := self._connection.recv(4096, flags):
            self.returncode = json.loads(message)["status"]
        else:  # the fork server was killed; its kernel must end before its run is tried again
            self.returncode = -signal.SIGKILL
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        self._connection.close()


def _descriptor(stream: Any, inherited: int) -> int:
    """The descriptor of a standard stream as `subprocess.Popen` takes it (no socket sends the
    negative ones, of pipes).
    """
    if stream is None:
        return inherited
    return stream if isinstance(stream, int) else stream.fileno()


def _start(environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start a fork server and announce its socket; None where it cannot be started.

    It may be asked at once: it answers when its imports are done.
    """
    folder = tempfile.mkdtemp(prefix="bioplaus-kernels-")
    path = os.path.join(folder, "socket")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            server = subprocess.Popen(
                [sys.executable, str(_SCRIPT), str(listener.fileno())],
                stdin=subprocess.PIPE,  # ends with this process, however that ends
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=folder,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # an interrupt from the keyboard is not for it
            )
    except OSError as reason:  # the path is too long, for instance
        _logger.debug("Kernels are started, not forked: %s", reason)
        shutil.rmtree(folder)
        return None
    os.environ[SOCKET] = path
    return server


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a fork server and what is left of its kernels."""
    folder = os.path.dirname(os.environ.pop(SOCKET))
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.communicate(timeout=2)  # closes its standard input, and waits
    server.kill()  # it is still importing, and has no kernels, or it has ended
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)  # the server does it, unless it was killed
