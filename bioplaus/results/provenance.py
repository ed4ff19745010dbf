"""What made a result: code, versions and machine; no user, host or path."""

import contextlib
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.version import __version__

if TYPE_CHECKING:
    import torch


def provenance(device: "str | torch.device") -> dict[str, Any]:
    """Code, versions and machine type of this process, for `run.json`."""
    import torch

    from bioplaus import device as _device

    commit, is_dirty = _commit()
    return {
        "commit": commit,
        "dirty": is_dirty,
        "device": _device.describe(device),
        "machine": _machine(),
        "versions": {
            "bioplaus": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "system": f"{sys.platform} {platform.machine()}",
        },
    }


@cache
def _commit() -> tuple[str | None, bool | None]:
    """The source's git commit, and whether tracked files differ from it; (None, None) outside a
    checkout.

    A repository is believed only if its top level is the folder that holds this package, and this
    file is one of its files: one further up, as of a project whose environment this package is
    installed in, or one that a copy was unpacked into, is another's.
    """
    file = Path(__file__).resolve()
    root = file.parents[2]
    top, _, head = (_git(root, "rev-parse", "--show-toplevel", "HEAD") or "").partition("\n")
    with contextlib.suppress(OSError):
        if head and Path(top).samefile(root) and _git(root, "ls-files", "--", str(file)):
            state = _git(root, "status", "--porcelain", "--untracked-files=no")
            return head, None if state is None else bool(state)
    return None, None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder, whatever repository the environment names; None where it cannot,
    or not in time.
    """
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _machine() -> dict[str, str | None]:
    """What else the last bits of a result depend on: the processor, the instructions that torch
    uses of it, the libraries that multiply matrices (those that torch and numpy were built with,
    and the one that the rules' large products take), and the numba that compiled the rules'
    kernels.
    """
    import torch

    from bioplaus import _products
    from bioplaus.rules._fast import _compiled

    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    shown = [line.removeprefix("  - ") for line in torch.__config__.show().splitlines()]
    libraries = [line for line in shown if "Math Kernel" in line or line.startswith("LAPACK")]
    info = next((part for line in shown for part in line.split(", ") if "BLAS_INFO=" in part), "")
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas_torch": "; ".join([*libraries[:1], info.rpartition("BLAS_INFO=")[2]]).strip("; "),
        "products": _products.library(),
        "numba": _compiled.version() or "none",
        "blas_numpy": f"{blas.get('name', '')} {blas.get('version', '')}".strip(),
    }


def _processor() -> str:
    """The name of the processor's model; of its architecture where the system does not say it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
    return platform.machine()
