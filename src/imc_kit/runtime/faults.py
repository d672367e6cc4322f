"""Faults that may pass, such as a lack of memory: a result that they have touched is not final."""

from collections.abc import Iterable

RETRIED = "the next run tries again"
"""Every note on work that a fault has cost, and that another run may do, contains this."""


def happened(notes: Iterable[str]) -> bool:
    """Whether any note reports work that the next run tries again."""
    return any(RETRIED in note for note in notes)
