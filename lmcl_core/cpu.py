"""What the C library is told before large tensors come and go."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next step instead of handing every large tensor back to the kernel.

    Without it, each large activation is mapped, zeroed page by page and unmapped again in every step.

    Returns:
        True where it took effect (glibc), False on other C libraries, where nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
