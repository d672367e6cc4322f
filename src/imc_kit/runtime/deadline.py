"""When a run must end, and fair shares of the time until then. A moment is what `time.time()` says, or infinite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

RAN_OUT = "time ran out"
"""Is in every note on work that was left out for want of time."""
STOPPED = "was stopped at its time limit"
"""Is in every note on work that was ended because it took too long."""


def after(seconds: float | None) -> float:
    """The moment in so many seconds; infinite for None."""
    return math.inf if seconds is None else time.time() + seconds


def portion(until: float, share: float) -> float:
    """The moment at which `share` (0 … 1) of the time from now to `until` has passed."""
    return until if math.isinf(until) else time.time() + share * left(until)


def reserved(until: float, seconds: float, share: float) -> float:
    """The moment at which so many seconds are left until `until`, or this share of the time from now if that is less.

    For what comes before steps that need about so many seconds: it may take all the time but these.
    """
    return until - min(seconds, share * left(until))


def left(until: float) -> float:
    """The seconds from now to `until`, 0 when it has passed."""
    return max(0.0, until - time.time())


def ran_out(notes: Iterable[str]) -> bool:
    """Whether one of the notes is on work that was left out, or ended, for want of time."""
    return any(sign in note for note in notes for sign in (RAN_OUT, STOPPED))
