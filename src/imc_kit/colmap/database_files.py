"""The files of COLMAP databases: a place where SQLite can work, and databases that a later run can trust."""

import hashlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from imc_kit.data import atomic
from imc_kit.errors import KitError

log = logging.getLogger(__name__)

NAME = "database.db"
FILES = "database*[!~]"
"""The names of a kept database, of the note on it, of SQLite's logs, and of what earlier versions kept. Folders of
scenes end with a tilde where they would have such a name."""
_NOTE = "database.json"
"""Holds the identity of the database beside it, the digest of its content, and where the store has its features."""


def move(path: Path, target: Path) -> Path:
    """Move a closed database. Raises `KitError` if it was not written completely or cannot be moved."""
    if write_ahead_log(path).exists():  # closing it reports no error
        raise KitError(f"cannot write the COLMAP database {path}: the disk is full, or another program has it open")
    try:
        return Path(shutil.move(path, target))
    except OSError as error:
        raise KitError(f"cannot write the COLMAP database {target}: {error.strerror or error}") from error


def keep(path: Path, folder: Path, identity: str, features: Mapping[str, Any]) -> Path:
    """Move a closed database to `folder`, in place of any other, and note what it is beside it.

    features: where the store has the features of its images, for `features_of`.
    """
    discard(folder)
    known = {"identity": identity, "digest": digest_of(path), "features": features}
    moved = move(path, folder / NAME)
    with atomic.writing(folder / _NOTE) as file:
        file.write(json.dumps(known))
    return moved


def kept(folder: Path, identity: str) -> Path | None:
    """The database of that identity that an earlier run left in `folder`, if it is undamaged."""
    path = folder / NAME
    return path if _known(path).get("identity") == identity and is_whole(path) else None


def features_of(path: Path) -> Mapping[str, Any]:
    """Where the store has the features of a kept database; empty if it has not."""
    found = _known(path).get("features")
    return found if isinstance(found, dict) else {}


def discard(folder: Path) -> None:
    """Delete the database in `folder`, and those of earlier versions, which had other names."""
    for path in sorted(folder.glob(FILES), reverse=True):  # the note before the database
        path.unlink()


def is_whole(path: Path) -> bool:
    """Whether a database by `keep` has the content that it was moved with, and no log of changes beside it."""
    logs = [path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "journal")]
    written = not any(log.exists() and log.stat().st_size for log in logs)
    return written and path.exists() and _known(path).get("digest") == digest_of(path)


def _known(path: Path) -> Mapping[str, Any]:
    """What `keep` noted of a database; empty if that is missing or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        known = json.loads(path.with_name(_NOTE).read_text("utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def digest_of(path: Path) -> str:
    """A hash of a closed database without the counters in its header, which change when it is opened to read it.

    See sqlite.org/fileformat.html: the change counter, version-valid-for and the version of SQLite.
    """
    with path.open("rb", buffering=0) as file:
        header = bytearray(file.read(100))
        del header[92:100], header[24:28]
        return hashlib.file_digest(file, lambda: hashlib.blake2b(header, digest_size=16)).hexdigest()


def near(path: Path, folder: Path) -> Path:
    """The path of a database, or of its copy in `folder` if SQLite cannot open it where it is.

    SQLite refuses paths of more than 504 bytes, disks without locks, and read-only folders. pycolmap has a copy of
    SQLite of its own, and Python's must not open what pycolmap may have open in another thread: a process loses its
    locks on a file when it closes the file anywhere, so the two crash each other (sqlite.org/howtocorrupt.html, 2.2.1).
    """
    import pycolmap

    try:
        with pycolmap.Database.open(path) as database:
            database.num_images()
        return path
    except RuntimeError:
        return Path(shutil.copyfile(path, folder / "near.db"))


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Make an empty folder for COLMAP's work, and delete it at the end: `folder`, or a temporary one.

    A temporary one is used if SQLite cannot write in `folder` (see `near`).
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    temporary = None
    try:
        try:
            with closing(sqlite3.connect(folder / "is-a-database-possible-here.db", timeout=0)) as connection:
                connection.executescript("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL; CREATE TABLE works(here)")
        except sqlite3.Error as error:
            temporary = Path(mkdtemp(prefix="imc-kit-"))
            log.info("SQLite cannot write in %s (%s): COLMAP works in %s", folder, error, temporary)
        yield temporary or folder
    finally:
        for used in filter(None, (temporary, folder)):
            shutil.rmtree(used, ignore_errors=True)


def write_ahead_log(path: Path) -> Path:
    """SQLite's write-ahead log. It disappears when the database is closed and completely written to its file."""
    return path.with_name(f"{path.name}-wal")
