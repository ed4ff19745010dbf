"""Locks of run folders: a run is executed by one process at a time."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bioplaus.errors import BioplausError

PATIENCE = 3.0  # seconds to wait for a lock before saying so


@contextlib.contextmanager
def locked(
    folder: Path,
    waiting: Callable[[], None] = lambda: None,
    go_on: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock of a run's folder.

    Parameters
    ----------
    waiting : called once, where another process holds the lock for more than some seconds.
    go_on : called now and then while this waits; what it raises ends the waiting.

    Raises
    ------
    BioplausError
        Where the file system has no locks, or the lock cannot be opened.
    """
    lock = FileLock(folder / ".lock")
    with _one_sentence(folder):
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            waiting()
            while not lock.is_locked:
                go_on()
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run's folder if nobody else does; whether it is held.

    Raises
    ------
    BioplausError
        As `locked`.
    """
    lock = FileLock(folder / ".lock")
    with _one_sentence(folder), contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextlib.contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """A lock that cannot be had on this file system is an error that says what to do."""
    try:
        yield
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "there are no locks on this file system"
        raise BioplausError(
            f"{folder} cannot be locked ({reason}); choose a folder for results on another disk,"
            " with --results."
        ) from error
