"""Tune how glibc's malloc takes and returns memory. No effect with another C library."""

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_LARGE = 8 * 2**20
"""Blocks of this many bytes or more return to the system at once. A larger value leaves memory more fragmented."""
_KEPT = 64 * 2**20
"""Bytes of free memory that the process keeps. With a smaller value it asks the system for memory more often."""


def tune() -> None:
    """Keep the memory of this process small, for good: it cannot be undone. So only commands, workers and notebooks on
    Kaggle do this, never a program that imports the kit.

    Call this before torch is imported, because torch then reads its setting.

    - All threads share one arena. Otherwise each thread keeps its freed memory: 200 MB per thread with ALIKED.
    - Large blocks return to the system when they are freed. Otherwise memory fragments and grows with every image, by
      0.5 GB with ALIKED.
    - torch uses huge pages. Without them, returning blocks costs a fifth of the time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set(_M_ARENA_MAX, 1)
    _set(_M_MMAP_THRESHOLD, _LARGE)
    _set(_M_TRIM_THRESHOLD, _KEPT)


def _set(option: int, value: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # macOS and Windows have no mallopt
        ctypes.CDLL(None).mallopt(option, value)
