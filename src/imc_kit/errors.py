"""The one exception that people are meant to read, and the sentence that suggests the right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ALL = 20
"""So many known names are all said; of more the nearest."""
_FEW = 5


class KitError(Exception):
    """Something a person can put right; the message says what is wrong, where, and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> KitError:
    """A `KitError` for a name that is not among `known`, with the nearest known one, and the others or some of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=_FEW, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    some = names if len(names) <= _ALL else [*(nearest or names[:_FEW]), f"{len(names)} in all"]
    return KitError(f"unknown {kind} {name!r}: {hint}known are {', '.join(some) or 'none'}")


def require(valid: bool, option: str, wanted: str, value: object) -> None:
    """Raise `KitError` unless `valid`: the one way in which configurations refuse a value.

    option: its name with what it belongs to, as in "max_keypoints of detector 'sift'". wanted: what it must be, as in
    "at least 1". Write `valid` so that nan fails: `value > 0`, not `not value <= 0`.
    """
    if not valid:
        raise KitError(f"{option} must be {wanted}, not {value!r}")


def said(error: Exception) -> str:
    """What an error says as one sentence, with its kind where it is none of ours."""
    return str(error) if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
