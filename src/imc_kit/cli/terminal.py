"""What reaches the terminal: names from files and tables, whose control characters are escaped."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from imc_kit.errors import printable

_MOVES = re.compile(r"(\r|\x1b\[A)*")
"""How tqdm begins a text that it draws over an earlier one."""


class PrintableFormatter(logging.Formatter):
    """Formats messages and tracebacks without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


class _Printable:
    """A stream for what a command prints, without control characters except those of progress bars."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        rest = _MOVES.sub("", text, count=1) if self is sys.stderr else text
        return self._stream.write(text.removesuffix(rest) + printable(rest, lines=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def escaping() -> Iterator[None]:
    """Escape control characters in all that is printed inside the block."""
    out, err = (cast(TextIO, _Printable(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield
