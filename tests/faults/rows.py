"""The table of faults: what is done to the product, how often, and how often its promise held.

A trial does one thing to a fresh folder and says whether the promise held; what it raises counts
as broken. `guard_off` switches off what the promise rests on: with it a promise must be broken, or
the trials prove nothing.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Trial = Callable[[Path, random.Random], bool]
GuardOff = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Row:
    """One promise."""

    name: str  # as `--only` names it
    fault: str  # what is done, and what must come of it
    target: int  # trials of `make faults`
    trial: Trial
    n_small: int  # trials of `make test`
    guard_off: GuardOff | None
    n_guard_off: int  # trials without the guard, of which one must break the promise


@dataclass
class Count:
    """How a row fared."""

    tried: int = 0
    survived: int = 0
    first_broken: str = ""


ROWS: dict[str, Row] = {}


def row(
    name: str,
    fault: str,
    target: int,
    *,
    n_small: int = 5,
    guard_off: GuardOff | None = None,
    n_guard_off: int = 20,
) -> Callable[[Trial], Trial]:
    """Put a trial into the table."""

    def register(trial: Trial) -> Trial:
        ROWS[name] = Row(name, fault, target, trial, n_small, guard_off, n_guard_off)
        return trial

    return register


def holds(**parts: bool) -> bool:
    """Whether all parts of a promise hold; those that do not are named."""
    if broken := [name for name, is_held in parts.items() if not is_held]:
        raise AssertionError(f"not {', '.join(broken)}")
    return True


def in_child(work: Callable[[], int | None]) -> int:
    """Do `work` in a child process, and give its id; it exits with what `work` gives (nothing: 0),
    and with 99 where that raises.
    """
    child = os.fork()
    if child == 0:
        code = 99  # whatever happens, the child is no second test run
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return child


def count(row: Row, n: int, folder: Path, *, until_broken: bool = False) -> Count:
    """Try `n` times, each time in a folder of its own with a random stream of its own.

    Parameters
    ----------
    until_broken : stop at the first broken promise.
    """
    result = Count()
    for trial, place in zip(range(n), _folders(folder), strict=False):
        result.tried += 1
        try:
            held = row.trial(place, random.Random(f"{row.name}/{trial}"))
            reason = "the promise was broken"
        except Exception as error:  # whatever it is: a promise names its errors
            held, reason = False, f"{type(error).__name__}: {error}"
        result.survived += held
        if not held and not result.first_broken:
            result.first_broken = f"trial {trial}: {reason}"
            if until_broken:
                break
    return result


def _folders(parent: Path) -> Iterator[Path]:
    while True:
        folder = parent / "trial"
        folder.mkdir(parents=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
