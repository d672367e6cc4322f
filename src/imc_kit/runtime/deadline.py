"""When a run must end, and shares of the time until then.

A deadline is a moment on the clock of `time.time()` in seconds, or infinity for none.
"""

import math
import time
from collections.abc import Iterable

RAN_OUT = "time ran out"
"""Part of every note on work that was left out for lack of time."""
STOPPED = "was stopped at its time limit"
"""Part of every note on work that was stopped because it took too long."""


def after(seconds: float | None) -> float:
    """The deadline in `seconds` from now; infinity for None."""
    return math.inf if seconds is None else time.time() + seconds


def portion(until: float, share: float) -> float:
    """The moment when `share` (0 … 1) of the time from now to `until` has passed."""
    return until if math.isinf(until) else time.time() + share * left(until)


def reserved(until: float, seconds: float, share: float) -> float:
    """A deadline before `until` that leaves time for later steps.

    It leaves `seconds`, but at most `share` (0 … 1) of the time from now to `until`.
    """
    return until - min(seconds, share * left(until))


def left(until: float) -> float:
    """The seconds from now to `until`; 0 when it has passed."""
    return max(0.0, until - time.time())


def ran_out(notes: Iterable[str]) -> bool:
    """Whether a note is about work that was left out or stopped for lack of time."""
    return any(sign in note for note in notes for sign in (RAN_OUT, STOPPED))
