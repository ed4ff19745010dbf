"""What every local worker process does first: leave Ctrl-C, which reaches all processes of a
terminal, to the command that started it, which stops its workers in good order.
"""

import signal
import threading
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's process, in its main thread."""
    if threading.current_thread() is threading.main_thread():
        # a handler, not SIG_IGN, which kernels would inherit
        signal.signal(signal.SIGINT, lambda *_: None)
