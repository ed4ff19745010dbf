"""What Ctrl-C and SIGTERM do to a command: it stops in good order, and within seconds."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

GRACE = 8.0  # seconds that a command has to stop; then its processes are killed


class Interruption:
    """Whether a command was interrupted, and by what."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as in a shell: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """What SIGINT and SIGTERM do is after the block what it was before it, whatever a library that
    is imported inside does to them.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:  # so in the main thread
                signal.signal(number, handler)


@contextlib.contextmanager
def orderly_stop(at_last: Callable[[], None] = lambda: None) -> Iterator[Interruption]:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt; later ones change nothing, as stopping
    takes no longer than `GRACE` seconds: then all child processes are killed, `at_last` is called,
    and this process exits.

    Only possible in the main thread; a signal that is ignored (in the background of a shell) stays
    so.
    """
    interruption = Interruption()

    def give_up() -> None:
        import psutil  # here, as it comes with the extra `lab`

        at_last()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        os._exit(interruption.exit_code)

    def interrupt(number: int, frame: Any) -> None:
        if interruption.number is None:
            interruption.number = number
            timer = threading.Timer(GRACE, give_up)
            timer.daemon = True
            timer.start()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interrupt)
    yield interruption
