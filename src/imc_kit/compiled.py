"""Loops that NumPy cannot do well, compiled by numba: the only user of numba.

Compiling takes seconds, once: what comes out is kept beside the source, or where that cannot be written in the user's
cache, or in the folder that NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba
from numba.core import event

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

_MATHS = {"nnan", "nsz", "arcp", "contract", "reassoc"}
"""Sums may be taken in another order, as the processor likes it best. Nothing may be NaN; infinity is a number."""


def compiled(function: F) -> F:
    """The same function as machine code, for the types that it is called with. It runs outside of Python's lock.

    It may call others of the same module; of another one it would not notice a change. They become part of it: there
    would be two versions of them, rounding otherwise, and one be run when just compiled and the other from the cache.
    """
    compiler: Any = partial(numba.njit, nogil=True, fastmath=_MATHS, error_model="numpy", forceinline=True)
    try:
        return cast(F, compiler(cache=True)(function))
    except RuntimeError:  # nowhere to keep it
        return cast(F, compiler()(function))


class _Announcement(event.Listener):
    """Says, once, why the first run waits."""

    def on_start(self, _: event.Event) -> None:
        event.unregister("numba:compile", self)
        log.info("compiling what is fast, once after installation: about ten seconds")

    def on_end(self, _: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())
