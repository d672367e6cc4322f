"""The one exception for users, and helpers that raise it with a clear message."""

import difflib
from collections.abc import Iterable

_ALL = 20
"""List all known names up to this many, otherwise only the nearest, so that the message stays one sentence."""
_FEW = 5
"""Number of nearest names to list otherwise."""

_LONGEST = 1000
"""Characters of a message: some messages list folders with long paths."""

_UNPRINTABLE = {
    code: chr(code).encode("unicode_escape").decode()
    for codes in (range(0x20), range(0x7F, 0xA0), range(0x202A, 0x202F), range(0x2066, 0x206A), range(0xD800, 0xE000))
    for code in codes
}
"""Control characters, changes of the writing direction and lone surrogates, with their escapes."""
_LINES = {code: escape for code, escape in _UNPRINTABLE.items() if chr(code) not in "\n\t"}


def printable(text: str, *, lines: bool = False) -> str:
    """Escape what would control a terminal, or hide a part of the text. lines: keep line ends and tabs."""
    return text.translate(_LINES if lines else _UNPRINTABLE)


class KitError(Exception):
    """An error that the user can fix. Its message says what is wrong, where, and what to do.

    Names in it may come from files, so control characters are escaped, and the middle of a very long one is left out.
    """

    def __init__(self, message: str) -> None:
        shown = printable(message)
        super().__init__(shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 153]} … {shown[-150:]}")


def unknown_name(kind: str, name: str, known: Iterable[str], wrong: str | None = None) -> KitError:
    """A `KitError` for a name that is not in `known`. It suggests the nearest known name and lists the others.

    wrong: the beginning of the name that is compared with the known ones; None: all of it.
    """
    names = sorted(known)
    folded = {one.casefold(): one for one in names}
    nearest = [folded[one] for one in difflib.get_close_matches((wrong or name).casefold(), folded, n=_FEW, cutoff=0.4)]
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    some = names if len(names) <= _ALL else [*(nearest or names[:_FEW]), f"{len(names)} in all"]
    return KitError(f"unknown {kind} {name!r}: {hint}known are {', '.join(some) or 'none'}")


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, if one is near."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def require(valid: bool, option: str, wanted: str, value: object) -> None:
    """Raise `KitError` unless `valid`. Every configuration rejects values through this function.

    option: its name and owner, as in "max_keypoints of detector 'sift'". wanted: what it must be, as in
    "at least 1". Write `valid` so that nan fails: `value > 0`, not `not value <= 0`.
    """
    if not valid:
        raise KitError(f"{option} must be {wanted}, not {value!r}")


def said(error: Exception) -> str:
    """The message of an error, with its type in front unless it is a `KitError`."""
    return str(error) if isinstance(error, KitError) else printable(f"{type(error).__name__}: {error}", lines=True)
