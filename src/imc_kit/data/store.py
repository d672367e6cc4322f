"""Store features, matches, correspondences, global descriptors and probabilities on disk.

A table holds the results of one configuration, each under a key. Results arrive in chunks. A chunk is one file
(`chunk_files`), written under a temporary name, then renamed, and never changed. So a killed run loses only unfinished
chunks, and several processes may write at once. A damaged chunk is set aside; one that cannot be read stays. The
results of both are missing, so they are computed again.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from imc_kit.data import chunk_files
from imc_kit.data.chunk_files import Arrays, Chunk, DamagedError
from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Features, Float32, Matches

log = logging.getLogger(__name__)
T = TypeVar("T")


_READERS: dict[str, Callable[[Arrays, list[int]], Any]] = {
    "features": lambda columns, header: Features(image_size=(header[0], header[1]), **columns),
    "matches": lambda columns, _: Matches(**columns),
    "correspondences": lambda columns, _: Correspondences(**columns),
    "vectors": lambda columns, _: columns["values"],
}
"""For each kind of table: how to build a value from its columns and header."""


def _columns(value: Any) -> Arrays:
    """A value as named arrays of equal length, which a chunk concatenates."""
    if isinstance(value, np.ndarray):
        return {"values": value}
    if not isinstance(value, Features):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    columns = value.columns()
    if value.descriptors.dtype == np.float32:  # float16 takes half the space; keypoints keep their precision
        with np.errstate(over="ignore"):
            half = value.descriptors.astype(np.float16)
        if np.isfinite(half).all():
            columns["descriptors"] = half
    return columns


class Table(Generic[T]):
    """Values by key, in a folder of chunk files. Thread-safe. An unpickled table reads its folder again.

    A key is in the table if its value can be read: the first question checks the chunk that holds it.

    below: another folder, to which nothing is written.
    """

    def __init__(self, folder: Path, kind: str, below: Path | None = None) -> None:
        self.folder, self._kind, self._below = folder, kind, below
        self._where: dict[str, tuple[Chunk, int]] = {}
        self._known: set[Path] = set()
        self._lock = threading.RLock()
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.folder, self._kind, self._below)

    def __contains__(self, key: str) -> bool:
        chunk, _ = self._where.get(key, (None, 0))
        return chunk is not None and self._usable(chunk.path, chunk.check)

    def __len__(self) -> int:
        return len(self._where)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that the table lacks, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def __getitem__(self, key: str) -> T:
        """Raises `KeyError` for a missing key, and `KitError` when its value can no longer be read."""
        chunk, row = self._where[key]
        try:
            chunk.check()
            columns, header = chunk.read(row)
        except (OSError, DamagedError) as error:
            raise KitError(f"cannot read {chunk.path} ({error}): run the command again") from error
        return cast(T, _READERS[self._kind](columns, header))

    def put(self, values: Mapping[str, T]) -> None:
        """Write values as one chunk, or one for each set of columns. Raises `KitError` when the disk is full or
        read-only."""
        if not values:
            return
        alike: dict[Any, dict[str, Arrays]] = {}
        for key, value in values.items():
            columns = _columns(value)
            layout = tuple((name, array.dtype, array.shape[1:]) for name, array in columns.items())
            alike.setdefault(layout, {})[key] = columns
        with suppress(OSError):  # writing into it will say why
            self.folder.mkdir(parents=True, exist_ok=True)
        for chunk in alike.values():
            path = self.folder / f"{hashlib.sha256(' '.join(chunk).encode()).hexdigest()[:24]}.h5"
            headers = [getattr(values[key], "image_size", ()) for key in chunk]
            chunk_files.write(path, list(chunk), headers, list(chunk.values()))
            self._add(path)

    def refresh(self) -> None:
        """Find the chunks that other processes have written since the last call.

        Raises `KitError` when a folder exists but cannot be read.
        """
        for folder in filter(None, (self._below, self.folder)):
            try:
                paths = sorted(folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise KitError(f"cannot read the store in {folder}: {error.strerror}") from error
            for path in paths:
                if path.suffix == ".h5" and path not in self._known:
                    self._usable(path, partial(self._add, path))

    def _add(self, path: Path) -> None:
        chunk = chunk_files.opened(path)
        with self._lock:
            self._known.add(path)
            self._where |= {key: (chunk, row) for row, key in enumerate(chunk.keys)}

    def _usable(self, path: Path, function: Callable[[], Any]) -> bool:
        """Whether `function` can read a chunk file; if not, its keys are forgotten."""
        try:
            function()
            return True
        except DamagedError as error:
            if path.parent == self.folder:
                with suppress(OSError):  # the disk may be read-only
                    path.rename(path.with_name(f"{path.name}.{time.time_ns()}.damaged"))
            _warn(path, f"is damaged ({error}): it is set aside, and its content is computed again")
        except OSError as error:  # no fault of the file's: it may be readable later
            _warn(path, f"cannot be read ({error.strerror}): it stays, and its content is computed again")
        with self._lock:
            self._known.discard(path)
            self._where = {key: at for key, at in self._where.items() if at[0].path != path}
        return False


@cache  # once per process
def _warn(path: Path, what: str) -> None:
    log.warning("the store file %s %s", path, what)


class Store:
    """The tables of a run. A fingerprint identifies a configuration, so a changed configuration uses a new table.

    below: another store, which is read too but never changed.
    """

    def __init__(self, root: Path, below: Path | None = None) -> None:
        self.root, self.below = root, below

    def features(self, fingerprint: str) -> Table[Features]:
        """Features by image digest. fingerprint: of the detector's configuration."""
        return self._table("features", fingerprint, "features")

    def descriptors(self, fingerprint: str) -> Table[Float32]:
        """Global descriptors [D] by image digest. fingerprint: of the descriptor's configuration and its input."""
        return self._table("descriptors", fingerprint, "vectors")

    def matches(self, fingerprint: str) -> Table[Matches]:
        """Matches by `pair_key`. fingerprint: of the detector's and the matcher's configuration."""
        return self._table("matches", fingerprint, "matches")

    def correspondences(self, fingerprint: str) -> Table[Correspondences]:
        """Correspondences by `pair_key`. fingerprint: of the configuration of the photo matcher and its detector."""
        return self._table("correspondences", fingerprint, "correspondences")

    def probabilities(self, fingerprint: str) -> Table[Float32]:
        """Probabilities [1] of pairs. fingerprint: of the pair classifier."""
        return self._table("probabilities", fingerprint, "vectors")

    def _table(self, name: str, fingerprint: str, kind: str) -> Table[Any]:
        below = self.below and self.below / name / fingerprint
        return Table(self.root / name / fingerprint, kind, below)


def pair_key(first: str, second: str) -> str:
    """The key of an ordered pair of image digests."""
    return f"{first}-{second}"
