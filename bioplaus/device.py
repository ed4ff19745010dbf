"""GPU utilities: which device and dtype, random streams, threads, time and memory meters."""

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import torch

from bioplaus.config import check_seed
from bioplaus.errors import BioplausError, unknown

__all__ = [
    "DEVICES",
    "DTYPES",
    "MOST_THREADS",
    "Meter",
    "check",
    "describe",
    "dtype",
    "float32_default",
    "generator",
    "pick",
    "setup",
    "subnormals_flushed",
    "threads",
]

DTYPES = {"float32": torch.float32, "float64": torch.float64}
DEVICES = ("auto", "cpu", "cuda", "mps")  # and one of several, as in cuda:1
MOST_THREADS = 1024  # of one run


def pick(name: str = "auto") -> torch.device:
    """The device called `name`: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    BioplausError
        If the name is no device, or that device is not in this machine.
    """
    chosen = _named(name)
    if chosen is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(chosen.type, False):
        raise BioplausError(
            f"device {name!r} is not available here; torch {torch.__version__} sees only the CPU"
            f"{' and a GPU' if torch.cuda.is_available() else ''}. Use device='cpu' or 'auto'."
        )
    return chosen


def dtype(name: str) -> torch.dtype:
    """The torch dtype called "float32" or "float64"."""
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def check(
    device: str = "auto", dtype_name: str = "float32", n_threads: int = 1, seed: Any = 0
) -> None:
    """Raise `BioplausError` unless these can be asked for; whether this machine has the device is
    not asked.
    """
    _named(device)
    dtype(dtype_name)
    check_seed(seed)
    if not 1 <= n_threads <= MOST_THREADS:
        raise BioplausError(f"n_threads is {n_threads}, but must be from 1 to {MOST_THREADS}.")


def generator(seed: int, stream: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A random stream of its own for each (seed, stream): "init", "shuffle", "rule", ...

    The generator's seed is the first eight bytes of sha256("<seed>/<stream>"), so no stream depends
    on how much another one draws, nor on the number of seeds in a sweep.

    Raises
    ------
    BioplausError
        If the seed is no whole number from 0 to `config.MOST_SEED`.
    """
    check_seed(seed)
    digest = hashlib.sha256(f"{int(seed)}/{stream}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def setup(
    device: str = "auto", dtype_name: str = "float32", n_threads: int = 1
) -> tuple[torch.device, torch.dtype]:
    """Ready this process for a run: its device, its dtype, and `n_threads` compute threads.

    torch's default dtype becomes float32, whatever a start-up file or a session made it: what names
    no dtype, as a draw before it is converted, is the same everywhere.
    """
    check(device, dtype_name, n_threads)
    torch.set_num_threads(n_threads)
    torch.set_default_dtype(torch.float32)
    return pick(device), dtype(dtype_name)


@contextlib.contextmanager
def float32_default() -> Iterator[None]:
    """What names no dtype is float32 inside the block, whatever torch's default dtype is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` compute threads inside the block; the count changes the last bits of results, so runs
    use one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """What computed here: device type and name, threads, torch version; builtins only."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cores": os.cpu_count() or 1,
    }


@contextlib.contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take subnormal numbers (below 1e-38 in float32) as zero inside the block, where the processor
    can.

    Moments of weights from dead inputs decay into them, and arithmetic on them makes a step of an
    optimiser 5 times slower.
    """
    was_flushed = (torch.tensor(1e-40) * 1.0).item() == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)


class Meter:
    """Seconds of wall time and of process CPU time since the start; on a GPU the queue is drained
    before reading.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.restart()

    def restart(self) -> None:
        """Set both clocks to zero."""
        self._wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(wall, cpu) seconds since the last restart."""
        self._wait()
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _named(name: str) -> torch.device | None:
    """The device of this name, whether it is here or not; None for "auto"."""
    if name == "auto":
        return None
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, DEVICES) from None
    if chosen.type not in DEVICES:
        raise unknown("device", name, DEVICES)
    return chosen


def __dir__() -> list[str]:
    return sorted(__all__)
