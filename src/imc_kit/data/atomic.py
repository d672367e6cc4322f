"""Write files atomically: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from imc_kit.errors import KitError


@contextmanager
def writing(path: Path | str, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file, UTF-8 unless `binary`, that replaces `path` when the block ends without an error.

    Until then, and after an error, `path` keeps its old content. Raises `KitError` when the folder cannot be written or
    the disk is full.
    """
    path = Path(path)
    # A short name, because that of `path` may be as long as the disk allows; other machines may write to its folder.
    temporary = path.with_name(f".{uuid4().hex[:16]}.partial")
    # surrogateescape: file names that are not valid UTF-8 keep their bytes.
    text: dict[str, Any] = {} if binary else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        try:
            with temporary.open("wb" if binary else "w", **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise KitError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
