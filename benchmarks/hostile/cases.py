"""What all classes share: the place of a case, what counts as a failure, and damage to bytes."""

from __future__ import annotations

import hashlib
import os
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

LONGEST = 1000
"""Characters of one sentence, without the paths of the case. A list of twenty names takes the most."""
CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal, end a line, change the direction of writing, or are none (but for tabs)."""
SENTENCE = "one sentence"
INTEGERS = (0, 1, 2, 15, 16, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Integers at the limits of what fields of file headers hold."""
TEXTS = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1e309", "9" * 60, ";" * 20, "1;0;0", "1;2;3;4;5;6;7;8;nine"),
    *("../../etc/passwd", "/etc/passwd", "a\\b.jpg", "C:\\photos\\a.jpg", ".", "..", "test", "a" * 300, "x/" * 500),
    *("\x1b]0;title\x07", "\x1b[2J", "\r", "\n", "\t", "\0", "\x85", "\u2028", "\u202e", "\ufeff", "\ud800", "é\u0301"),
    *("=cmd|' /C calc'!A0", '"', '""', "'", ",", "<script>alert(1)</script>", "{0}", "%s", "😀", "None", "true"),
)
"""Texts that programs of all kinds stumble over."""


class Failed(Exception):  # noqa: N818
    """The kit did something that it promises not to do."""


@dataclass(frozen=True)
class Place:
    """Where a case works.

    scene: a rendered competition of one scene. clean: the folder of a finished run on it. folder: empty, for the case.
    """

    scene: Path
    clean: Path
    folder: Path


@dataclass(frozen=True)
class Kind:
    """A class of cases.

    case: tries case number N, and says what the survivor is. It raises `Failed`, or anything else, if there is none.
    share: of the hostile inputs; 0 for a class of whole runs. count: of the cases of a class of whole runs.
    survivors: what a survivor is, in words. seconds: a case that takes longer has failed.
    """

    name: str
    case: Callable[[int, Random, Place], str]
    survivors: str
    share: float = 0.0
    count: int = 0
    seconds: float = 30.0


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


def sentence(text: str, at: Place) -> str:
    """Check that a message is one printable line of sensible length."""
    shown = text.replace(str(at.folder.resolve()), "…").replace(str(at.folder), "…")
    expect(shown.strip(), "an empty message")
    expect(not CONTROLS.search(shown), f"a message with control characters or several lines: {shown[:200]!r}")
    expect(len(shown) <= LONGEST, f"a message of {len(shown)} characters: {shown[:200]!r}")
    return SENTENCE


def damaged(content: bytes, random: Random) -> bytes:
    """A file's content, damaged in one of many ways."""
    data, size = bytearray(content), len(content)
    start, stop = sorted(random.randrange(size + 1) for _ in range(2))
    match random.randrange(9):
        case 0:
            return bytes(data[:start])
        case 1 | 2:
            for _ in range(random.choice((1, 3, 30, 300))):
                data[random.randrange(size)] ^= 1 << random.randrange(8)
        case 3 | 4:  # most headers are within the first hundred bytes
            width = random.choice((1, 2, 4))
            value = (random.choice(INTEGERS) % (1 << 8 * width)).to_bytes(width, "big")
            at = random.randrange(max(1, min(size, 100) - width))
            data[at : at + width] = value if random.random() < 0.5 else value[::-1]
        case 5:
            data[start:stop] = bytes(stop - start)
        case 6:
            del data[start:stop]
        case 7:
            data[start:start] = random.randbytes(random.randrange(1, 2000))
        case _:
            data[start:stop] = data[start:stop] * random.randrange(2, 5)
    return bytes(data)


def become_other(path: Path, random: Random) -> str:
    """Replace a file by something that is not one; returns what it is."""
    path.unlink(missing_ok=True)
    what = random.choice(("a folder", "a FIFO", "a device", "a link to nowhere", "a link to itself", "missing"))
    if what == "a folder":
        path.mkdir()
    elif what == "a FIFO":
        os.mkfifo(path)
    elif what != "missing":
        target = {"a device": "/dev/zero", "a link to nowhere": "/nonexistent/file"}.get(what, path.name)
        path.symlink_to(target)
    return what


def digests(folder: Path, patterns: Sequence[str] = ("**/*",)) -> dict[str, str]:
    """The hash of each file, by its path in the folder."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if _is_plain(path)})
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def word(random: Random) -> str:
    return "".join(random.choices(string.ascii_letters, k=random.randrange(1, 12)))


def last_frames(trace: str) -> str:
    """The end of a traceback in one line: where it was raised, and the error."""
    frames = re.findall(r'File ".*?([^/"]+/[^/"]+)", line (\d+)', trace)
    where = " < ".join(f"{file}:{line}" for file, line in reversed(frames[-3:]))
    return f"{trace.strip().splitlines()[-1][:300]} (in {where})"
