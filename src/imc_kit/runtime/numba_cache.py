"""Compile loops that are slow in NumPy, and cache the machine code: the only user of numba.

Compiling takes some seconds, once. The result is cached next to the source, in the user's cache if that is not
writable, or in the folder that NUMBA_CACHE_DIR names. Without any of them, each process compiles.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from imc_kit.errors import KitError
from imc_kit.runtime.weights import expanded

try:
    import numba
    from numba.core import event
except ImportError as error:  # it is missing, or was built for another NumPy
    what = f"numba, which compiles SIFT and the matching, cannot be loaded with NumPy {np.__version__}"
    raise KitError(f'{what}: {error} (pip install "numba>=0.60,<0.69")') from error

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

_MATHS = {"nnan", "nsz", "arcp", "contract", "reassoc"}
"""LLVM's fast-math flags except `ninf`: sums may be reordered, and values are never NaN but may be infinite."""


def compiled(function: F) -> F:
    """Decorator: compiles a function for the types that it is called with. The function releases Python's lock.

    It may only call compiled functions of its own module, because the cache does not notice changes in other modules.
    These are always inlined. Otherwise a fresh and a cached function might call differently compiled versions, which
    round differently.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": _MATHS, "error_model": "numpy", "forceinline": True}
    try:
        dispatcher = numba.njit(function, cache=not _cached_here(function.__code__.co_filename), **options)
    except RuntimeError:  # no folder for the cache is writable
        return cast(F, numba.njit(function, **options))
    save = dispatcher._cache.save_overload

    def save_if_possible(*what: Any) -> None:
        with suppress(OSError):  # if the disk is full, the next process only loses some seconds
            save(*what)

    dispatcher._cache.save_overload = save_if_possible
    return cast(F, dispatcher)


def _cached_here(source: str) -> bool:
    """Whether numba would take machine code from the current folder, where anyone may have put it.

    It does if there is no home folder and the source's is not writable, or if a file in the current folder says so.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return False
    has_home = "XDG_CACHE_HOME" in os.environ or expanded("~") is not None
    return Path(".numba_config.yaml").exists() or not (has_home or os.access(Path(source).parent, os.W_OK))


class _Announcement(event.Listener):
    """Logs once why the first run waits."""

    said = False

    def on_start(self, what: event.Event) -> None:
        function = getattr(what.data["dispatcher"], "py_func", None)
        if not self.said and str(getattr(function, "__module__", "")).startswith("imc_kit."):
            self.said = True
            log.info("compiling SIFT and matching (about ten seconds, once after installation)")

    def on_end(self, _: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())
