"""Lists of pairs in text files."""

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from imc_kit.data.listing import few
from imc_kit.data.text import read_text
from imc_kit.errors import KitError
from imc_kit.types import Pair

_SHOWN = 80
"""Characters of a wrong line that a note repeats."""


def read_pairs(
    path: Path, images: Sequence[str], notes: list[str] | None = None, aliases: Mapping[str, str] | None = None
) -> list[Pair]:
    """Read the pairs in a text file: two names per line, separated by a tab, a comma or a space.

    Names may contain commas and spaces: the line is split where both sides are names in `images`, at a tab if it has
    one. Ignores spaces around names, blank lines, and lines that start with # and name no pair. A repeated pair, in
    either order, counts once. A line with no meaning or several is left out; `notes` gets a sentence with its number.

    aliases: images by other names that the file may use.

    Raises `KitError` when no pair is left, and for a file that is not text in UTF-8.
    """
    number = {name: i for i, name in enumerate(images)}
    number = {alias: number[name] for alias, name in (aliases or {}).items()} | number
    pairs: set[tuple[int, int]] = set()
    flaws: list[str] = []
    for count, line in enumerate(read_text(path).split("\n"), 1):
        for text in (line, line.replace("\\", "/")):  # a list from Windows
            divisions = set(_divisions(text))
            if found := [(number[a], number[b]) for a, b in divisions if a in number and b in number]:
                break
        if not found and (not line.strip() or line.startswith("#")):
            continue
        if reason := _flaw(line, divisions, found, number):
            flaws.append(f"line {count}: {reason}")
        else:
            pairs.add((min(found[0]), max(found[0])))
    if not pairs:
        reason = flaws[0] if flaws else "it is empty"
        raise KitError(f"the list of pairs {path} names no two images of the scene: {reason}")
    if flaws and notes is not None:
        notes.append(f"{len(flaws)} lines of the list of pairs {path} are left out: {few(flaws)}")
    return [(images[i], images[j]) for i, j in sorted(pairs)]


def _divisions(line: str) -> Iterator[Pair]:
    """All ways to read a line as two names."""
    for index, character in enumerate(line):
        if character in ("\t" if "\t" in line else ", "):
            yield line[:index].strip(), line[index + 1 :].strip()


def _flaw(line: str, divisions: set[Pair], found: list[tuple[int, int]], images: Container[str]) -> str | None:
    """The error in a line that can be read as the pairs `found`, or None."""
    line = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
    if len(found) > 1:
        return f"{line!r} can be read as several pairs: put a tab between the names"
    if found:
        return f"{line!r} names one image twice" if found[0][0] == found[0][1] else None
    if len(divisions) == 1:
        unknown = next(name for name in divisions.pop() if name not in images)
        return f"{unknown[:_SHOWN]!r} is not an image of the scene"
    return f"{line!r} does not name two images of the scene: write two names with a tab between them"
