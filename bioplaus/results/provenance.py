"""What made a result: code, versions and machine; no user, host or path."""

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
    """Code, versions and machine type; no user, host or path."""
    import torch

    from bioplaus import device as _device

    commit, is_dirty = _commit()
    return {
        "commit": commit,
        "dirty": is_dirty,
        "device": _device.describe(device),
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
    """
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10
        )
        state = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    return (
        (head.stdout.strip(), bool(state.stdout.strip())) if head.returncode == 0 else (None, None)
    )
