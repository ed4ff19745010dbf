"""When a fast form lets a compiled kernel (`_kernels`) run its relaxation: where numba is
installed, for float32 on a CPU.

The environment variable BIOPLAUS_NUMBA=0 switches kernels off. numba is imported when a kernel is
first wanted. What it compiles is kept in the user's cache folder (BIOPLAUS_CACHE in its place), for
this kind of processor; where it cannot be written, each process compiles anew, in a second or two.
Kernels use no threads: processes are forked from one that may have run some.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bioplaus.errors import BioplausError

VARIABLE = "BIOPLAUS_NUMBA"


def kernel(name: str, like: Tensor) -> Callable[..., None] | None:
    """The kernel of this name if it is to be used for tensors like this one."""
    if like.dtype != torch.float32 or not like.is_cpu or not _is_wanted():
        return None
    return _kernel(name)


def version() -> str | None:
    """The version of numba whose kernels compute here; None where none does."""
    return importlib.metadata.version("numba") if _is_wanted() else None


def _is_wanted() -> bool:
    return _decide(os.environ.get(VARIABLE, "1"))


@cache
def _decide(said: str) -> bool:
    if said not in ("0", "1"):
        raise BioplausError(f"{VARIABLE} is {said!r}, but must be 0 or 1, or not be set at all.")
    with contextlib.suppress(ImportError):
        return said == "1" and importlib.util.find_spec("numba") is not None
    return False


@cache
def _kernel(name: str) -> Callable[..., None]:
    return getattr(_kernels(), name)


@cache
def _kernels() -> ModuleType:
    """The module of the kernels, kept in the user's folder whatever numba's own setting is."""
    import numba

    settings: Any = numba.config
    given, settings.CACHE_DIR = settings.CACHE_DIR, str(folder() or "")
    try:
        module = importlib.import_module("bioplaus.rules._fast._kernels")
    finally:
        settings.CACHE_DIR = given
    for function in vars(module).values():
        if kept := getattr(function, "_cache", None):
            _forgive(kept)
    return module


def _forgive(kept: Any) -> None:
    """Compile anew where what numba keeps is damaged, and go on where it cannot be written."""
    load, save = kept.load_overload, kept.save_overload

    def load_overload(*arguments: Any) -> Any:
        with contextlib.suppress(Exception):
            return load(*arguments)

    def save_overload(*arguments: Any) -> None:
        with contextlib.suppress(Exception):
            save(*arguments)

    kept.load_overload, kept.save_overload = load_overload, save_overload


@cache
def folder() -> Path | None:
    """Where compiled kernels are kept; None where that cannot be written."""
    given = os.environ.get("BIOPLAUS_CACHE")
    with contextlib.suppress(ImportError, OSError):
        if given:
            path = Path(os.path.expanduser(given))
        else:
            import platformdirs

            path = platformdirs.user_cache_path("bioplaus", appauthor=False)
        path = path / "kernels"
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    return None
