"""The files of COLMAP databases: a place where SQLite can work, and databases that a later run can trust."""

import hashlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from imc_kit.errors import KitError

log = logging.getLogger(__name__)


def move(path: Path, target: Path) -> Path:
    """Move a closed database. Raises `KitError` if it was not written completely or cannot be moved."""
    if write_ahead_log(path).exists():  # closing it reports no error
        raise KitError(f"cannot write the COLMAP database {path}: the disk is full, or another program has it open")
    try:
        return Path(shutil.move(path, target))
    except OSError as error:
        raise KitError(f"cannot write the COLMAP database {target}: {error.strerror or error}") from error


def keep(path: Path, folder: Path, identity: str) -> Path:
    """Move a closed database to `folder`, in place of all others. Its name holds its identity and its digest."""
    discard(folder)
    return move(path, folder / f"database-{identity}-{_digest(path)}.db")


def kept(folder: Path, identity: str) -> Path | None:
    """The database of that identity that an earlier run left in `folder`, if it is undamaged."""
    return next((path for path in sorted(folder.glob(f"database-{identity}-*.db")) if is_whole(path)), None)


def discard(folder: Path) -> None:
    """Delete the databases in `folder`."""
    for path in folder.glob("database-*"):
        path.unlink()


def is_whole(path: Path) -> bool:
    """Whether a database by `keep` has the content that it was moved with, and no log of changes beside it."""
    logs = [path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "journal")]
    return not any(log.exists() and log.stat().st_size for log in logs) and path.stem.rpartition("-")[2] == _digest(
        path
    )


def _digest(path: Path) -> str:
    """A hash of a database without the counters in its header, which change when it is opened to read it.

    See sqlite.org/fileformat.html: the change counter, version-valid-for and the version of SQLite.
    """
    with path.open("rb", buffering=0) as file:
        header = bytearray(file.read(100))
        del header[92:100], header[24:28]
        return hashlib.file_digest(file, lambda: hashlib.blake2b(header, digest_size=16)).hexdigest()


def near(path: Path, folder: Path) -> Path:
    """The path of a database, or of its copy in `folder` if SQLite cannot open it where it is.

    SQLite refuses paths of more than 504 bytes, disks without locks, and read-only folders.
    """
    try:
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.execute("SELECT count(*) FROM images")
        return path
    except sqlite3.Error:
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
