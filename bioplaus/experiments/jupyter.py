"""Jupyter kernels: what they are started with, and whether the one of a name can do the work.

A kernel inherits nothing that a user configured for other work: its IPython profile is empty, no
startup file is executed, matplotlib has its own defaults. It imports the package of the process
that starts it: a checkout comes first on its path, and `bioplaus` refuses to be imported there from
other code (`_sources.check_package`).
"""

import contextlib
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bioplaus import _sources
from bioplaus.errors import BioplausError, unknown

# of a path to a socket, with room for the name of a folder and of the socket; Linux allows 107
_MAX_SOCKET_FOLDER = 60
_PROBE_SECONDS = 60  # to start a kernel; longer than a cold disk takes
_INLINE = "module://matplotlib_inline.backend_inline"
_FOLDERS = ("BIOPLAUS_DATA", "BIOPLAUS_HOME", "BIOPLAUS_RESULTS")
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
_PROBE = """
import importlib.util, sys
if sys.version_info < (3, 11):
    raise RuntimeError(f"it is Python {sys.version.split()[0]}, but must be 3.11 or newer")
for package in ("numpy", "torch"):
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}")
import bioplaus
"""


def environment() -> dict[str, str]:
    """The environment of processes that execute notebooks, on whatever machine: one compute thread,
    this process's folders, resolved, and which package it runs.

    Kernels start in the run's folder: a relative path would be another one there.
    """
    given = {name: os.environ[name] for name in _FOLDERS if os.environ.get(name)}
    folders = {name: os.path.realpath(os.path.expanduser(path)) for name, path in given.items()}
    return _ONE_THREAD | folders | {_sources.PACKAGE: _sources.package()}


@contextlib.contextmanager
def kernel_options() -> Iterator[dict[str, Any]]:
    """What every kernel is started with: `config` of its manager and `extra_arguments`, a `folder`
    for temporary files, and, while this lasts, the environment of this process, which it inherits.
    """
    with tempfile.TemporaryDirectory(prefix="bp-", dir=_socket_root()) as folder:
        profile = Path(folder, "ipython")
        profile.mkdir()
        with environment_set(_kernel_settings()):
            yield {
                "folder": folder,
                "config": {"KernelManager": {"transport": "ipc", "ip": str(Path(folder, "k"))}},
                "extra_arguments": [
                    "--log-level=50",
                    f"--ipython-dir={profile}",
                    "--IPKernelApp.exec_PYTHONSTARTUP=False",
                ],
            }


@contextlib.contextmanager
def warm_kernels(count: int) -> Iterator[None]:
    """Fork kernels that processes with this `environment` start meanwhile, `count` or so, instead
    of starting each (`warm`).
    """
    from bioplaus.experiments import warm

    with warm.kernels(environment() | _kernel_settings(), count):
        yield


@contextlib.contextmanager
def without_iri_grammar() -> Iterator[None]:
    """Import papermill or nbclient meanwhile, in a third of the time (0.8 s less of a core).

    They import jsonschema, and this `rfc3987_syntax` if it is there, which builds a grammar of
    international web addresses; no notebook has any to check.
    """
    name = "rfc3987_syntax"
    is_first = name not in sys.modules
    if is_first:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        yield
    finally:
        if is_first:
            del sys.modules[name]


def check_kernel(name: str = "python3") -> None:
    """Raise `BioplausError` unless Jupyter knows a kernel of this name, it is Python, it starts,
    and it imports this very package.
    """
    _check_spec(name)
    from jupyter_client.manager import KernelManager
    from traitlets.config import Config

    advice = (
        "mend it with `python -m ipykernel install --sys-prefix --name python3`, or choose another"
        " with --kernel"
    )
    with kernel_options() as options, tempfile.TemporaryFile() as errors:
        manager = KernelManager(kernel_name=name, config=Config(options["config"]))
        try:
            manager.start_kernel(
                extra_arguments=options["extra_arguments"],
                cwd=options["folder"],  # as of a run: another one than that of the command
                stdout=errors,
                stderr=errors,
            )
            client = manager.client()
            client.start_channels()
            try:
                client.wait_for_ready(timeout=_PROBE_SECONDS)
                reply = client.execute(_PROBE, reply=True, timeout=_PROBE_SECONDS)["content"]
            finally:
                client.stop_channels()
        except (OSError, RuntimeError, TimeoutError) as error:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            reason = (lines or str(error).splitlines() or [type(error).__name__])[-1]
            raise BioplausError(
                f"Jupyter kernel {name!r} does not start: {reason.strip().rstrip('.')}; {advice}."
            ) from None
        finally:
            if manager.has_kernel:
                manager.shutdown_kernel(now=True)
    if reply["status"] != "ok":
        reason = str(reply.get("evalue") or reply.get("ename")).rstrip(".")
        raise BioplausError(f"Jupyter kernel {name!r} cannot work: {reason}; {advice}.")


def _check_spec(name: str) -> None:
    """Raise unless there is a description of a Python kernel of this name, whose program exists."""
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    if not known:
        raise BioplausError(
            "Jupyter finds no kernel at all; install one with `pip install ipykernel`."
        )
    if name not in known:
        raise unknown("kernel", name, known)
    advice = f"mend or delete {Path(known[name], 'kernel.json')}, or choose another with --kernel"
    try:
        spec = KernelSpecManager().get_kernel_spec(name)
    except Exception as error:  # a file of another program may hold anything
        raise BioplausError(
            f"Jupyter kernel {name!r} has a description that cannot be read"
            f" ({type(error).__name__}); {advice}."
        ) from None
    if str(spec.language).lower() != "python":
        raise BioplausError(
            f"Jupyter kernel {name!r} is of the language {spec.language!r}, but must be of python;"
            " choose another with --kernel."
        )
    program = spec.argv[0] if spec.argv else "nothing"
    is_own = re.fullmatch(r"python[\d.]*", program)  # Jupyter takes this interpreter for it
    if not is_own and shutil.which(program) is None:
        raise BioplausError(
            f"Jupyter kernel {name!r} starts {program}, which is not there or cannot be executed;"
            f" {advice}."
        )


def _kernel_settings() -> dict[str, str]:
    """Variables of every kernel, on this machine: the package, and nothing of a user's own."""
    path = os.pathsep.join(filter(None, [_checkout(), os.environ.get("PYTHONPATH")]))
    return {
        "MATPLOTLIBRC": os.devnull,
        "MPLBACKEND": _INLINE,
        "PYTHONHASHSEED": "6640",  # what Dask gives its workers, and so their kernels
        "PYTHONPATH": path,
        _sources.PACKAGE: _sources.package(),
    }


def _socket_root() -> str:
    """A folder for sockets whose path is short enough; the usual temporary one if it is."""
    candidates = (tempfile.gettempdir(), "/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm")
    for folder in candidates:
        if folder and len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER and _is_writable(folder):
            return folder
    raise BioplausError(
        f"No temporary folder has a path short enough for the sockets of kernels (at most"
        f" {_MAX_SOCKET_FOLDER} bytes): {tempfile.gettempdir()} is too long; set TMPDIR to another."
    )


def _is_writable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _checkout() -> str:
    """The folder of the checkout that this package is imported from; empty for an installed one."""
    folder = Path(__file__).resolve().parents[2]
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return "" if folder in installed else str(folder)


@contextlib.contextmanager
def environment_set(settings: Mapping[str, str]) -> Iterator[None]:
    """These variables are set in this process inside the block, and what they were after it."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
