"""How the C library gives memory out: it maps large tensors anew each time, unless it is told to keep freed memory."""

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones, with glibc (Linux).

    glibc maps every block of 32 MB and more anew, and the kernel clears its pages each time: a network on a CPU spends
    a seventh of its time on that (docs/performance.md). Afterwards the process holds the most that it ever needed until
    it ends. It concerns the CPU only, and no number changes. The command `latte` calls it, unless LATTE_KEEP_MEMORY=0
    is set in the environment.

    Returns:
        Whether the C library does it.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  other C libraries have a mallopt that does nothing
        return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
    return False
