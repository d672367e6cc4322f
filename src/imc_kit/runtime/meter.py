"""What stages cost: seconds and, on Linux, the peak of this process's resident memory."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PROCESS = Path("/proc/self")
_lock = threading.Lock()


@dataclass(eq=False)
class _Peak:
    """The peak of the memory since a stage began, in bytes."""

    size: int | None = None


_running: list[_Peak] = []
"""The peaks of all running stages: Linux keeps a single one, which every stage resets when it begins."""


class Meter:
    """`with meter("match"): …` adds to the cost of a stage.

    seconds: by stage.
    memory: the peak in bytes, by stage, of this process without its children; empty where the system does not tell.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        peak = _Peak()
        with _lock:
            _update_running()
            _running.append(peak)
            with suppress(OSError):
                (_PROCESS / "clear_refs").write_text("5")  # resets the peak to what is in use now
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 3)
            with _lock:
                _update_running()
                _running.remove(peak)
            if peak.size is not None:
                self.memory[stage] = max(self.memory.get(stage, 0), peak.size)


def _update_running() -> None:
    """Raise the peaks of all running stages, of any thread, to the system's peak."""
    size = peak_memory()
    if size is not None:
        for peak in _running:
            peak.size = max(peak.size or 0, size)


def peak_memory() -> int | None:
    """The peak of the resident memory in bytes since the last reset; None where the system does not tell."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
