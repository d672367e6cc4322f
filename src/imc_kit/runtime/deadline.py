"""When a run must end, and fractions of the time until then.

A deadline is a value of `time.monotonic()` in seconds, or infinity for none: setting the machine's time moves none.
"""

import math
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RAN_OUT = "time ran out"
"""Every note on work skipped for lack of time contains this."""
STOPPED = "was stopped at its time limit"
"""Every note on work stopped for taking too long contains this."""


class _Deadline(float):
    """All processes of one machine count alike. On its way to another machine, whose count began at another moment, a
    deadline is a time of day."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (float(self), _machine(), time.time() + self - time.monotonic())


def _arrived(until: float, machine: str, time_of_day: float) -> _Deadline:
    return _Deadline(until if machine == _machine() else time_of_day - time.time() + time.monotonic())


def _machine() -> str:
    """The same in all processes of this machine until it starts again; its name where the system has nothing better."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        return platform.node()


def after(seconds: float | None) -> float:
    """The deadline in `seconds` from now; infinity for None."""
    return _Deadline(math.inf if seconds is None else time.monotonic() + seconds)


def portion(until: float, share: float) -> float:
    """The deadline at which `share` (0 … 1) of the time from now to `until` has passed."""
    return until if math.isinf(until) else _Deadline(time.monotonic() + share * left(until))


def reserved(until: float, seconds: float, share: float) -> float:
    """A deadline that leaves `seconds` for later steps, but at most `share` (0 … 1) of the time from now to `until`."""
    return _Deadline(until - min(seconds, share * left(until)))


def left(until: float) -> float:
    """Seconds from now to `until`; 0 if it has passed."""
    return max(0.0, until - time.monotonic())


def ran_out(notes: Iterable[str]) -> bool:
    """Whether any note reports work skipped or stopped for lack of time."""
    return any(sign in note for note in notes for sign in (RAN_OUT, STOPPED))
