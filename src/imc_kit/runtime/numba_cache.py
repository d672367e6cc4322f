"""Loops that NumPy cannot do well, compiled by numba: the only user of numba.

Compiling takes seconds, once: what comes out is kept beside the source, or where that cannot be written in the user's
cache, or in the folder that NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from imc_kit.errors import KitError

try:
    import numba
    from numba.core import event
except ImportError as error:  # missing, or made for another NumPy
    raise KitError(
        f"numba, which compiles SIFT and the matching, cannot be loaded beside NumPy {np.__version__}: {error}"
        ' (pip install "numba>=0.60,<0.69")'
    ) from error

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

_MATHS = {"nnan", "nsz", "arcp", "contract", "reassoc"}
"""Sums may be taken in another order, as the processor likes it best. Nothing may be NaN; infinity is a number."""


def compiled(function: F) -> F:
    """The same function as machine code, for the types that it is called with. It runs outside of Python's lock.

    It may call others of the same module; of another one it would not notice a change. Those are always inlined: else
    a function that was just compiled and the same one from the cache may call different versions of them, which round
    differently.
    """
    compiler: Any = partial(numba.njit, nogil=True, fastmath=_MATHS, error_model="numpy", forceinline=True)
    try:
        dispatcher = compiler(cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        return cast(F, compiler()(function))
    save = dispatcher._cache.save_overload

    def save_if_possible(*what: Any) -> None:
        with suppress(OSError):  # a full disk costs the next process some seconds, not this one its work
            save(*what)

    dispatcher._cache.save_overload = save_if_possible
    return cast(F, dispatcher)


class _Announcement(event.Listener):
    """Says, once, why the first run waits."""

    said = False

    def on_start(self, what: event.Event) -> None:
        function = getattr(what.data["dispatcher"], "py_func", None)
        if not self.said and str(getattr(function, "__module__", "")).startswith("imc_kit."):
            self.said = True
            log.info("compiling the loops of SIFT and of matching, once after installation: about ten seconds")

    def on_end(self, _: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())
