"""What stages cost: seconds, and on Linux the peak of this process's resident memory."""

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
    """Of the memory since a stage began. The system keeps one, and each stage that begins lets it start anew."""

    size: int | None = None


_open: list[_Peak] = []


class Meter:
    """`with meter("match"): …` adds to the stage's cost.

    seconds: by stage. memory: the peak in bytes, of this process alone, by stage; empty where the system does not say.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        peak = _Peak()
        with _lock:
            _look()
            _open.append(peak)
            with suppress(OSError):
                (_PROCESS / "clear_refs").write_text("5")  # the peak starts anew from what is held now
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 3)
            with _lock:
                _look()
                _open.remove(peak)
            if peak.size is not None:
                self.memory[stage] = max(self.memory.get(stage, 0), peak.size)


def _look() -> None:
    """Tell all stages that go on, in whatever thread, what the peak has been."""
    size = peak_memory()
    if size is not None:
        for peak in _open:
            peak.size = max(peak.size or 0, size)


def peak_memory() -> int | None:
    """The peak of the resident memory in bytes since it was last reset, or None where the system does not say."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
