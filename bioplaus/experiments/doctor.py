"""Is this installation fine? One line a check; a line that is not fine says what to do."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console

from bioplaus import device, paths
from bioplaus.errors import BioplausError

# bytes on the results disk: paper-scale runs and their checkpoints need a few GiB
LEAST_FREE = 5 * 2**30
PACKAGES = (
    "torch",
    "torchvision",
    "jupyterlab",
    "papermill",
    "nbval",
    "matplotlib",
    "seaborn",
    "tqdm",
    "distributed",
)


@dataclass(frozen=True)
class Finding:
    """One checked thing: is it fine, what was found, and what to do where it is not."""

    what: str
    is_fine: bool
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Every check, in the order a newcomer meets them."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield _torchvision()
    yield _kernel()
    yield _project()
    yield _results_folder()
    yield from _data()
    yield _gpu()
    yield _threads()


def show(console: Console) -> bool:
    """Print every finding; True if all are fine."""
    findings = list(examine())
    for finding in findings:
        console.print(
            "ok  " if finding.is_fine else "MEND",
            style="green" if finding.is_fine else "red",
            end=" ",
        )
        console.print(f"{finding.what}: {finding.found}", markup=False)
        if not finding.is_fine:
            console.print(f"     -> {finding.advice}", markup=False)
    return all(finding.is_fine for finding in findings)


def _python() -> Finding:
    is_fine = sys.version_info >= (3, 11) and platform.python_implementation() == "CPython"
    return Finding(
        "Python",
        is_fine,
        platform.python_version(),
        "Use CPython 3.11 or newer: make BOOTSTRAP=python3.11 env",
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", "make env, or pip install -e '.[lab,test]'")


def _torchvision() -> Finding:
    from bioplaus import _torchvision

    try:
        found = _torchvision.datasets.__name__
    except BioplausError as error:
        return Finding("torchvision imports", False, str(error), "rm -rf .venv && make env")
    return Finding("torchvision imports", True, found)


def _kernel() -> Finding:
    advice = "python -m ipykernel install --sys-prefix --name python3"
    if importlib.util.find_spec("ipykernel") is None:
        return Finding(
            "Jupyter kernel python3", False, "ipykernel is not installed", "pip install ipykernel"
        )
    from bioplaus.experiments import notebooks as kernels

    try:
        kernels.check("python3")
    except BioplausError as error:
        return Finding("Jupyter kernel python3", False, str(error), advice)
    return Finding("Jupyter kernel python3", True, "found")


def _project() -> Finding:
    try:
        return Finding("project folder", True, str(paths.project_root()))
    except BioplausError as error:
        return Finding("project folder", False, str(error), "Run inside a clone of the project.")


def _results_folder() -> Finding:
    try:
        folder = paths.root()
    except BioplausError as error:
        return Finding(
            "results folder",
            False,
            str(error),
            "Set BIOPLAUS_RESULTS to a folder you may write to.",
        )
    present = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(present).free
    if not os.access(present, os.W_OK):
        return Finding(
            "results folder",
            False,
            f"{folder} cannot be written",
            "Choose another with BIOPLAUS_RESULTS.",
        )
    advice = (
        f"At least {LEAST_FREE / 2**30:.0f} GiB should be free; choose another disk with"
        " BIOPLAUS_RESULTS."
    )
    return Finding(
        "results folder", free > LEAST_FREE, f"{folder}, {free / 2**30:.0f} GiB free", advice
    )


def _data() -> Iterator[Finding]:
    """Where data sets are; a missing one is no fault, for it is fetched when a run needs it."""
    from bioplaus.tasks import datasets as data

    for row in data.catalogue():
        place = (
            row.found
            or f"not here; a run that needs it fetches it, or: python -m bioplaus data get {row.name}"
        )
        yield Finding(f"data set {row.name}", True, place)


def _gpu() -> Finding:
    if torch.cuda.is_available():
        return Finding(
            "GPU",
            True,
            f"{torch.cuda.get_device_name()}; runs use it with --device cuda, or DEVICE=cuda",
        )
    built = f"torch {torch.__version__} is built {'for' if torch.version.cuda else 'without'} CUDA"
    return Finding(
        "GPU", True, f"none ({built}); everything runs on the CPU, preset paper takes days there"
    )


def _threads() -> Finding:
    about = device.describe()
    found = f"{about['cores']} cores; torch would use {about['threads']} threads, runs use 1 each"
    return Finding("threads", True, found)
