"""Text files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from imc_kit.errors import KitError


@contextmanager
def writing(path: Path | str) -> Iterator[TextIO]:
    """A file in UTF-8 that takes the place of `path` when the block ends well: until then, and if it does not, whoever
    reads `path` finds what was there before.

    Raises `KitError` when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            # Of names that are not UTF-8 the bytes come out as they are on disk.
            with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise KitError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
