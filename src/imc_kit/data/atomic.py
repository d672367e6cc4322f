"""Write text files atomically: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from imc_kit.errors import KitError


@contextmanager
def writing(path: Path | str) -> Iterator[TextIO]:
    """Open a UTF-8 file that replaces `path` when the block ends without an error.

    Until then, and after an error, `path` keeps its old content. Raises `KitError` when the folder cannot be written or
    the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            # surrogateescape: file names that are not valid UTF-8 keep their bytes.
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
