"""What the commands print, on consoles of any kind."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NO_READER = 141
"""The exit status when nobody reads on, as in `| head`: what a shell reports for SIGPIPE, 128 + 13."""


@contextmanager
def printing(program: str) -> Iterator[None]:
    """While a command runs, print `?` for each sign that the console's encoding lacks.

    Exits quietly if nobody reads on, and with a message of `program` if the disk that the output goes to is full.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed. The next file to open gets its number, and libraries would print there
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    stream: Any = sys.stdout
    try:
        if errors := hasattr(stream, "reconfigure") and stream.errors:  # not in a notebook
            stream.reconfigure(errors="replace")
        try:
            yield
        finally:
            stream.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # otherwise Python tries again when it ends
        if error.errno == errno.EPIPE:
            sys.exit(_NO_READER)
        print(f"{program}: cannot print: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    finally:
        if errors:
            stream.reconfigure(errors=errors)
