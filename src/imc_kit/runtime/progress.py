"""Progress of long work: a bar on a terminal or in a notebook; elsewhere a line in the log from time to time."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import TqdmWarning, tqdm

log = logging.getLogger(__name__)

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line in a log, and between lines. Work that takes less than `FIRST` is not mentioned."""
_LOOK = 1.0
"""Seconds between looks at work that cannot count its steps, and between updates in a notebook, which keeps each."""


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar that writes a line into the log instead of drawing itself."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """Write a line; not with `nolock`, when another line has just been written around the bars."""
        if not nolock:
            log.info("%s", self)
            self.mininterval = EVERY

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw nothing."""

    def clear(self, nolock: bool = False) -> None:
        """There is nothing to clear."""


def bar(**settings: Any) -> "tqdm[Any]":
    """A tqdm bar; none if the level of the kit's logger is above INFO (`--quiet`)."""
    quiet = logging.getLogger("imc_kit").level > logging.INFO
    if _in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)  # without ipywidgets it draws text
            from tqdm.auto import tqdm as in_notebook

            shown: tqdm[Any] = in_notebook(disable=quiet, mininterval=_LOOK, **settings)
            return shown
    if sys.stderr.isatty():
        return tqdm(disable=quiet, **settings)
    form = "{desc}: {n_fmt} of {total_fmt} {unit}s after {elapsed}, about {remaining} left"
    timing = {"mininterval": FIRST, "miniters": 0, "delay": FIRST, "bar_format": form}
    return _Lines(disable=quiet, **settings | timing)


@contextmanager
def watching(label: str, state: Callable[[], str]) -> Iterator[None]:
    """Show the state of work that another process does, while the block runs.

    state: returns it in words. A thread calls it about once a second.
    """
    ended = threading.Event()
    shown = bar(total=None, desc=label, delay=2, leave=False, bar_format="{desc}, {elapsed}")
    if isinstance(shown, _Lines):
        shown.bar_format = "{desc}, after {elapsed}"

    def watch() -> None:
        while not ended.wait(_LOOK):
            shown.set_description_str(f"{label}: {state()}", refresh=False)
            shown.update(0 if isinstance(shown, _Lines) else 1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        shown.close()


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules
