"""Memory allocation in the C library: it maps large tensors anew each time, unless it is told to keep freed memory."""

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make this process keep the memory of freed tensors for later ones, with glibc (Linux).

    glibc maps every block of 32 MB or more anew, and the kernel clears its pages each time: a network on a CPU spends a
    seventh of its time on that (docs/performance/fast-form.md). Afterwards the process holds its peak memory until it
    ends. This affects the CPU only, and changes no result. The `latte` command calls it, unless LATTE_KEEP_MEMORY=0 is
    set in the environment.

    Returns:
        Whether the C library accepted the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  other C libraries have a mallopt that does nothing
        return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
    return False
