"""Progress of long work: a bar on a terminal or in a notebook; elsewhere a line in the log from time to time."""

import logging
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tqdm import TqdmWarning, tqdm

log = logging.getLogger(__name__)

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line in a log, and between lines. Work that takes less than `FIRST` is not mentioned."""
_BAR, _LOOK = 2.0, 1.0
"""Seconds until the first bar, and between looks at the work. A notebook without widgets keeps what each look shows."""
_BESIDES = 40
"""Columns of a terminal for what is not a bar's label."""


@dataclass(eq=False)
class Work:
    """Work in progress. As text, it is a line in a log.

    label: what it is and belongs to, in words. total, unit: what it counts; 0 if it cannot count. done: how many so
    far. step: in words, what it does now, if it cannot count. outer: what it is a part of. inside: its parts that are
    shown now, instead of it. shown: when it or one of its parts was shown; at first, when that was true of `outer`.
    """

    label: str
    total: int = 0
    unit: str = ""
    done: int = 0
    step: str = ""
    outer: "Work | None" = None
    started: float = field(init=False)
    inside: "set[Work]" = field(default_factory=set)
    shown: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.shown = self.outer.shown if self.outer else self.started

    def update(self, count: int = 1) -> None:
        """Count what has been done."""
        self.done += count

    def reset(self) -> None:
        """Begin to count again, as `pooch` does."""
        self.done = 0

    def close(self) -> None:
        """Nothing is open; `pooch` calls it."""

    def __str__(self) -> str:
        seconds, done, total = time.monotonic() - self.started, self.done, self.total
        how_far, left = self.step and f"{self.step},", ""
        if total:
            how_far = f"{done} of {total} {self.unit}s"
            if self.unit == "B":
                how_far = f"{tqdm.format_sizeof(done)}B of {tqdm.format_sizeof(total)}B"
        if 0 < done < total:
            left = f", about {duration(seconds * (total - done) / done)} left"
        return f"{self.label}{how_far and ': '}{how_far} after {duration(seconds)}{left}"


def duration(seconds: float) -> str:
    """A duration in words, such as 40 s, 12 min or 8.5 h."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


_title: ContextVar[str] = ContextVar("title", default="")
_outer: ContextVar[Work | None] = ContextVar("outer", default=None)


@contextmanager
def titled(title: str) -> Iterator[None]:
    """Begin the labels of all work in the block with a title. Titles in titles are joined.

    A thread that the block starts has the title only if it runs in a copy of this context (`contextvars`).
    """
    token = _title.set(_joined(title))
    try:
        yield
    finally:
        _title.reset(token)


@contextmanager
def bar(label: str, total: int = 0, unit: str = "", look: Callable[[Work], None] | None = None) -> Iterator[Work]:
    """Show progress while the block runs, unless the level of the kit's logger is above INFO (`--quiet`).

    The block counts what it has done with `update`. Work that begins inside the block is shown instead.

    look: called before each look at work in another process; it sets `done`, `total`, `unit` or `step`.
    """
    outer = _outer.get()
    work = Work(_joined(label), total, unit, outer=outer)
    if logging.getLogger("imc_kit").level > logging.INFO:
        yield work
        return
    ended, token = threading.Event(), _outer.set(work)
    if outer:
        outer.inside.add(work)
    thread = threading.Thread(target=_show, args=(work, look, ended), daemon=True)
    thread.start()
    try:
        yield work
    finally:
        ended.set()
        thread.join()
        _outer.reset(token)
        if outer:
            outer.inside.discard(work)


def _joined(label: str) -> str:
    return ", ".join(filter(None, (_title.get(), label)))


def _show(work: Work, look: Callable[[Work], None] | None, ended: threading.Event) -> None:
    """Show the work from time to time until it has ended."""
    drawn: tqdm[Any] | None = None
    draws = _in_notebook() or sys.stderr.isatty()
    pause = _BAR if draws else FIRST
    while not ended.wait(_LOOK):
        if work.inside:
            _close(drawn)
            drawn = None
        elif time.monotonic() >= work.shown + pause:
            if look:
                look(work)
            if draws:
                drawn = _draw(work, drawn)
            else:
                log.info("%s", work)
            pause = 0.0 if draws else EVERY
            part: Work | None = work
            while part:
                part.shown = time.monotonic()
                part = part.outer
    _close(drawn)


def _close(drawn: "tqdm[Any] | None") -> None:
    if drawn is not None:
        drawn.n = drawn.total or 0  # in a notebook, an incomplete bar would stay
        drawn.close()


def _draw(work: Work, drawn: "tqdm[Any] | None") -> "tqdm[Any]":
    """Draw a bar, or draw it again; only text for work that could not count when it began."""
    counts = work.total > 0 if drawn is None else bool(drawn.total)
    columns = sys.maxsize if _in_notebook() else shutil.get_terminal_size().columns
    if drawn is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)  # without ipywidgets it draws text, as on a terminal
            from tqdm.auto import tqdm as bars
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} [{elapsed}<{remaining}]"
        settings: dict[str, Any] = {"leave": False, "delay": 1e-9, "unit_scale": work.unit == "B"}
        drawn = bars(total=work.total or None, bar_format=form if counts else "{desc}", **settings)
        drawn.start_t -= time.monotonic() - work.started
    label, room = (work.label, max(1, columns - _BESIDES)) if counts else (str(work), columns - 1)
    drawn.set_description_str(label if len(label) <= room else f"…{label[1 - room :]}", refresh=False)
    drawn.n = work.done
    drawn.refresh()
    return drawn


def _in_notebook() -> bool:
    """Whether a person may look at a notebook. Nobody looks at one that Kaggle runs as a batch, but its log is kept."""
    return "ipykernel" in sys.modules and os.environ.get("KAGGLE_KERNEL_RUN_TYPE") != "Batch"
