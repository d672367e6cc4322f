"""Measure the cost of stages, and show the one that runs: seconds and, on Linux, this process's peak memory."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imc_kit.runtime import progress

_PROCESS = Path("/proc/self")
_lock = threading.Lock()


_peaks: dict[object, int] = {}
"""For each running stage, the peak in bytes since it began. Linux keeps a single peak, which each new stage resets."""


class Meter:
    """`with meter("match"): …` adds to the cost of a stage.

    seconds: by stage.
    memory: peak bytes by stage, of this process without its children; empty if the system does not report it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        running = object()
        with _lock:
            _update_peaks()
            _peaks[running] = 0
            with suppress(OSError):
                (_PROCESS / "clear_refs").write_text("5")  # resets the peak to the current use
        started = time.monotonic()
        try:
            with progress.bar(f"stage {stage}"):
                yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 3)
            with _lock:
                _update_peaks()
                peak = _peaks.pop(running)
            if peak:
                self.memory[stage] = max(self.memory.get(stage, 0), peak)


def _update_peaks() -> None:
    """Raise the peaks of all running stages, in any thread, to the system's peak."""
    size = peak_memory() or 0
    _peaks.update({stage: max(peak, size) for stage, peak in _peaks.items()})


def peak_memory() -> int | None:
    """Peak resident memory in bytes since the last reset; None if the system does not report it."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
