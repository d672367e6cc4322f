"""How this process takes memory from glibc and gives it back; with another C library nothing happens."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_LARGE = 8 * 2**20
"""Bytes of a block that is better given back at once: the larger this is, the more lies scattered over the heap."""
_KEPT = 64 * 2**20
"""Bytes that the heap may keep for what comes next."""


def one_arena() -> None:
    """Let all threads take memory from one place: else each keeps for itself what it has freed, which with ALIKED is
    200 MB a thread."""
    _set(_M_ARENA_MAX, 1)


def give_back_large_blocks() -> None:
    """Let large blocks be given back when they are freed: else those of several threads lie scattered over the heap,
    which grows with every image, with ALIKED by half a GB. And let torch take them in huge pages, else it costs a fifth
    of the time; torch asks for that when it begins, so this must come before it is imported."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set(_M_MMAP_THRESHOLD, _LARGE)
    _set(_M_TRIM_THRESHOLD, _KEPT)


def _set(option: int, value: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # as macOS and Windows have it
        ctypes.CDLL(None).mallopt(option, value)
