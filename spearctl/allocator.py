"""Settings of the C library and of oneDNN that trade a little time for memory. Both are per process and for good."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BYTES = 1 << 20
_KERNELS = "32"  # one training pass has some 34 shapes; with 16 each was made anew whenever it was met again


def return_large_blocks() -> None:
    """Has glibc give blocks of a megabyte and more back when they are freed; it would rather keep some tens of them.

    Other C libraries do not know the call.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_few_kernels() -> None:
    """Has oneDNN keep the kernels of the last few shapes only. It asks once, when it is used first."""
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = _KERNELS
