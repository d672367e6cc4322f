"""The folder of a run (`--out`): whose it is, that only one run at a time writes to it, and its inner paths."""

import json
import logging
import os
import platform
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from itertools import count
from pathlib import Path, PurePosixPath

from imc_kit.colmap import database_files
from imc_kit.errors import KitError

log = logging.getLogger(__name__)

MARKER = ".imc-kit"
"""The folder that marks `out` as the kit's. It is made first, and holds the lock of the run that is using `out`."""
_ALLOWED = {"store"}
"""Without a marker, `out` may hold this: the store only adds files, so a copied store can be used."""
_RUN_JSON = {"input", "layout", "config", "scenes"}
"""The kit's run.json has these keys. It marks the folders of versions that had no marker."""
_FILES = "submission.csv", "run.json"
_FOLDERS = "scenes", "quick"
_WRITTEN = {*_FILES, *_FOLDERS, "report.html"}
"""What a run writes in `out`, besides the store."""
_SCENE_FILES = "result.json", "colmap*.log", database_files.FILES
_SCENE_FOLDERS = "models", "partial", "parts"
_LONGEST = 130
"""Bytes that paths in a scene's folder and in the store may add to them. The longest is a partial file of the store,
with about 110."""
_NEW = 10.0
"""Seconds after which a lock without a readable owner counts as left over: its owner is written at once."""


@contextmanager
def claimed(out: Path, scenes: Iterable[Path]) -> Iterator[None]:
    """Make the folder of a run, and keep it for this run until the block ends.

    scenes: the folders of its scenes, which will be made later.

    Raises `KitError` when it cannot be made, holds files of others, is in use by another run, or when its path is too
    long.
    """
    longest = max(len(os.fsencode(path)) for path in (*scenes, out / "store")) + _LONGEST
    with suppress(AttributeError):  # Windows has no pathconf, and its limit depends on a setting
        if longest > (most := os.pathconf("/", "PC_PATH_MAX")):
            raise KitError(f"the path of --out is {longest - most} bytes too long, {out}: choose a shorter one")
    with _explaining(out):
        out.mkdir(parents=True, exist_ok=True)
        if others := _others(out):
            what = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
            raise KitError(f"{out} holds {what}, which no run of imc-kit wrote: give another folder with --out")
        (out / MARKER).mkdir(exist_ok=True)
    with _locked(out):
        with _explaining(out):
            for names, kind in ((_FILES, stat.S_IFREG), (_FOLDERS, stat.S_IFDIR)):
                for name in names:
                    _make_way(out / name, kind)
            if not (out / "store").is_dir():  # it may be a link, because a run only adds files to it
                _make_way(out / "store", stat.S_IFDIR)
        yield


def scene_folder(parent: Path, name: str) -> Path:
    """The folder of a scene in `parent`, by the scene's name.

    The name may have several parts. A part that is called like a file in the folder of another scene gets a tilde.
    """
    first, *others = PurePosixPath(name).parts
    return parent.joinpath(first, *(f"{part}~" if _is_reserved(part.rstrip("~")) else part for part in others))


def prepare_scene(out: Path, folder: Path) -> None:
    """Make the folder of a scene, a path below `out`, and make way for what a run writes in it."""
    inside = folder.relative_to(out)
    for path in (*[*inside.parents][-2::-1], inside):
        _make_way(out / path, stat.S_IFDIR)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        for patterns, kind in ((_SCENE_FILES, stat.S_IFREG), (_SCENE_FOLDERS, stat.S_IFDIR)):
            if any(fnmatch(path.name, pattern) for pattern in patterns):
                _make_way(path, kind)


def _make_way(path: Path, wanted: int) -> None:
    """Make way for a file or a folder (`wanted`, as in `stat`) if something else is there that no run has left.

    A link or a pipe is removed; what is behind a link stays. A file in a folder's place is renamed, and a folder in a
    file's.
    """
    if not os.path.lexists(path) or (kind := stat.S_IFMT(path.lstat().st_mode)) == wanted:
        return
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        names = (path.with_name(f"aside-{number}-{path.name}") for number in count(1))
        path.rename(aside := next(name for name in names if not os.path.lexists(name)))
        log.warning("%s is a %s: it is now %s", path, "file" if kind == stat.S_IFREG else "folder", aside)
    else:
        path.unlink()
        log.warning("%s was no plain file or folder: it is removed", path)


@contextmanager
def _explaining(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KitError(f"cannot make the folder {out}: {error.strerror}; choose another --out") from error


def _is_reserved(part: str) -> bool:
    return any(fnmatch(part.casefold(), pattern) for pattern in (*_SCENE_FILES, *_SCENE_FOLDERS))


def _others(out: Path) -> list[str]:
    """The names in `out` that keep a run from using it; none if an earlier run made the folder.

    Beside a notebook (the current folder), only those count that a run would write itself.
    """
    names = sorted(path.name for path in out.iterdir())
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        if (out / "run.json").is_file() and json.loads((out / "run.json").read_text("utf-8")).keys() >= _RUN_JSON:
            return []
    if MARKER in names:
        return []
    here = out.resolve() == Path.cwd()
    return [name for name in names if (name in _WRITTEN if here else name not in _ALLOWED and name[0] != ".")]


# ---- the lock ----


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a folder. It is a file that only one process can create, because network disks lack others."""
    lock, mine = out / MARKER / "lock", f"{os.getpid()} {_started(os.getpid())} {platform.node()}"
    with _explaining(out):
        while True:
            try:
                with lock.open("x", encoding="utf-8") as file:
                    file.write(mine)
                break
            except FileExistsError:
                _take_over(out, lock)
    try:
        yield
    finally:
        with suppress(OSError):
            if lock.read_text("utf-8") == mine:
                lock.unlink()


def _take_over(out: Path, lock: Path) -> None:
    """Remove a lock that a dead process of this host left. Raises `KitError` if its process may still run."""
    try:
        text = lock.read_text("utf-8", "replace") if lock.is_file() else ""
        age = time.time() - lock.lstat().st_mtime
    except FileNotFoundError:
        return  # just released
    number, _, rest = text.partition(" ")
    started, _, host = rest.partition(" ")
    if not number.isdecimal():  # damaged, or not written yet
        if age < _NEW:
            time.sleep(0.05)
            return
    elif host != platform.node() or _is_alive(int(number), started):
        raise KitError(
            f"another run is using {out}: process {number} on {ascii(host)[1:-1]}; wait for its end, or give another "
            f"folder with --out (if it has ended, delete {lock})"
        )
    # Two processes may do this at once, so the lock is removed only if it is still the same.
    stale = lock.with_name(f"stale-{os.getpid()}")
    with suppress(FileNotFoundError):
        lock.rename(stale)
        if stale.is_file() and stale.read_text("utf-8", "replace") != text:
            stale.rename(lock)
        else:
            stale.unlink()


def _started(process: int) -> str:
    """When a process started, in ticks since the system did: its number may be used again. "-" if unknown."""
    with suppress(OSError, IndexError):
        state, *fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    return "-"


def _is_alive(process: int, started: str) -> bool:
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x100000, False, process)  # the right to wait for its end
        return bool(handle) and kernel.WaitForSingleObject(handle, 0) == 0x102  # a timeout: it has not ended
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is another user's
    return _started(process) in ("-", started) or started == "-"
