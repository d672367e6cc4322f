"""When a run must end, and fractions of the time until then.

A deadline is a value of `time.time()` in seconds, or infinity for none.
"""

import math
import time
from collections.abc import Iterable

RAN_OUT = "time ran out"
"""Every note on work skipped for lack of time contains this."""
STOPPED = "was stopped at its time limit"
"""Every note on work stopped for taking too long contains this."""


def after(seconds: float | None) -> float:
    """The deadline in `seconds` from now; infinity for None."""
    return math.inf if seconds is None else time.time() + seconds


def portion(until: float, share: float) -> float:
    """The deadline at which `share` (0 … 1) of the time from now to `until` has passed."""
    return until if math.isinf(until) else time.time() + share * left(until)


def reserved(until: float, seconds: float, share: float) -> float:
    """A deadline that leaves `seconds` for later steps, but at most `share` (0 … 1) of the time from now to `until`."""
    return until - min(seconds, share * left(until))


def left(until: float) -> float:
    """Seconds from now to `until`; 0 if it has passed."""
    return max(0.0, until - time.time())


def ran_out(notes: Iterable[str]) -> bool:
    """Whether any note reports work skipped or stopped for lack of time."""
    return any(sign in note for note in notes for sign in (RAN_OUT, STOPPED))
