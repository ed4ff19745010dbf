"""Memory that training frees and needs again in every step stays with the process."""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt


@cache
def keep_freed() -> bool:
    """Ask the C library to keep freed memory for the next tensors; True where it can (glibc).

    By default it returns large blocks to the system, which then clears and maps every page of them
    anew: a tenth of the time of a training step whose layers are tens of megabytes. It holds for
    the whole process and changes no result.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library; Windows raises the last
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
