"""Is this installation fine? One line a check; a line that is not fine says what to do."""

import errno
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bioplaus import device, paths
from bioplaus.errors import BioplausError

# bytes on the results disk: paper-scale runs and their checkpoints need a few GiB
LEAST_FREE = 5 * 2**30
PACKAGES = (
    "torch",
    "torchvision",
    "papermill",
    "matplotlib",
    "seaborn",
    "tqdm",
    "distributed",
)
LATER = {"jupyterlab": "make lab", "nbval": "make test"}  # what installs it when it is needed


@dataclass(frozen=True)
class Check:
    """One checked thing: is it fine, what state it is in, and what to do where it is not."""

    subject: str
    is_fine: bool
    state: str
    advice: str = ""


def examine() -> Iterator[Check]:
    """Every check, in the order a newcomer meets them."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield from (_later(name, command) for name, command in LATER.items())
    yield _torchvision()
    yield _kernel()
    yield _project()
    yield _results_folder()
    yield from _data()
    yield _gpu()
    yield _threads()


def show(say: Callable[..., None]) -> bool:
    """Say every check with `say(text, style=, end=)`, as rich prints, and first whether all are
    fine; True if so.
    """
    checks = list(examine())
    if wrong := [check.subject for check in checks if not check.is_fine]:
        say(f"Not all is well; to mend: {', '.join(wrong)}.", style="red")
    else:
        say("All is well.", style="green")
    for check in checks:
        word, colour = ("ok  ", "green") if check.is_fine else ("MEND", "red")
        say(word, style=colour, end=" ")
        say(f"{check.subject}: {check.state}")
        if not check.is_fine:
            say(f"     -> {check.advice}")
    return all(check.is_fine for check in checks)


def _python() -> Check:
    is_fine = sys.version_info >= (3, 11) and platform.python_implementation() == "CPython"
    return Check(
        "Python",
        is_fine,
        platform.python_version(),
        "Use CPython 3.11 or newer: make BOOTSTRAP=python3.11 env",
    )


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", "make env, or pip install -e '.[lab]'")


def _later(name: str, command: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, True, f"not installed; {command} installs it")


def _torchvision() -> Check:
    from bioplaus import _torchvision

    try:
        module = _torchvision.datasets.__name__
    except BioplausError as error:
        return Check("torchvision imports", False, str(error), "rm -rf .venv && make env")
    return Check("torchvision imports", True, module)


def _kernel() -> Check:
    advice = "python -m ipykernel install --sys-prefix --name python3"
    if importlib.util.find_spec("ipykernel") is None:
        return Check(
            "Jupyter kernel python3", False, "ipykernel is not installed", "pip install ipykernel"
        )
    from bioplaus.experiments import jupyter

    try:
        jupyter.check_kernel("python3")
    except BioplausError as error:
        return Check("Jupyter kernel python3", False, str(error), advice)
    return Check("Jupyter kernel python3", True, "found")


def _project() -> Check:
    try:
        return Check("project folder", True, str(paths.project_root()))
    except BioplausError as error:
        return Check("project folder", False, str(error), "Run inside a clone of the project.")


def _results_folder() -> Check:
    try:
        folder = paths.root()
    except BioplausError as error:
        return Check(
            "results folder",
            False,
            str(error),
            "Set BIOPLAUS_RESULTS to a folder you may write to.",
        )
    other = "Choose another with BIOPLAUS_RESULTS."
    try:
        present = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not os.path.isdir(present):
            return Check("results folder", False, f"{present} is no folder", other)
        with tempfile.TemporaryFile(dir=present):
            free = shutil.disk_usage(present).free
        if len(os.fsencode(folder.name)) > os.pathconf(present, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except OSError as error:
        state = f"{folder} cannot be written: {error.strerror}"
        return Check("results folder", False, state, other)
    advice = (
        f"At least {LEAST_FREE / 2**30:.0f} GiB should be free; choose another disk with"
        " BIOPLAUS_RESULTS."
    )
    return Check(
        "results folder", free > LEAST_FREE, f"{folder}, {free / 2**30:.0f} GiB free", advice
    )


def _data() -> Iterator[Check]:
    """Where data sets are; a missing one is no fault, for it is fetched when a run needs it."""
    from bioplaus.tasks import datasets

    for row in datasets.catalogue():
        command = f"python -m bioplaus data get {row.name}"
        state = row.found or f"not here; a run that needs it fetches it, or: {command}"
        yield Check(f"data set {row.name}", True, state)


def _gpu() -> Check:
    if torch.cuda.is_available():
        return Check(
            "GPU",
            True,
            f"{torch.cuda.get_device_name()}; runs use it with --device cuda, or DEVICE=cuda",
        )
    built = f"torch {torch.__version__} is built {'for' if torch.version.cuda else 'without'} CUDA"
    return Check(
        "GPU", True, f"none ({built}); everything runs on the CPU, preset paper takes days there"
    )


def _threads() -> Check:
    machine = device.describe()
    state = f"{machine['cores']} cores; torch would use {machine['threads']} threads, runs use 1"
    return Check("threads", True, f"{state} each")
