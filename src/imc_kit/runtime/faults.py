"""Faults that may pass, such as a lack of memory: a result that they have touched is not final."""

from collections.abc import Iterable

from imc_kit.errors import KitError, said

RETRIED = "the next run tries again"
"""Every note on work that a fault has cost, and that another run may do, contains this."""
_LONGEST = 300
"""Characters of an error. Those of torch can take a page; their first sentence says what is wrong."""


def told(error: Exception) -> str:
    """An error in one line, and whether the next run tries again.

    It does unless the kit refuses the content of a file, such as a truncated photo: it would be refused again.
    """
    cause = error.__cause__
    lasting = isinstance(error, KitError) and not isinstance(cause, MemoryError) and not getattr(cause, "errno", None)
    line = " ".join(said(error).split())[:_LONGEST]
    return line if lasting else f"{line}; {RETRIED}"


def happened(notes: Iterable[str]) -> bool:
    """Whether any note reports work that the next run tries again."""
    return any(RETRIED in note for note in notes)
