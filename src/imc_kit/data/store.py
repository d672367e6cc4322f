"""Store features, matches, correspondences and global descriptors on disk: the only user of HDF5.

A table holds the results of one configuration, each under a key. Results arrive in chunks. A chunk is one HDF5 file,
written under a temporary name, then renamed, and never changed. So a killed run loses only unfinished chunks, and
several processes may write at once.

A chunk file has the datasets `keys` [K], `headers` [K, H], `offsets` [K + 1] and `columns/NAME`: row i of the table is
`columns/NAME[offsets[i]:offsets[i + 1]]`.
"""

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Features, Float32, Matches

log = logging.getLogger(__name__)
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
OPEN_FILES = 64
"""Chunk files that a table keeps open. Systems commonly allow 256 to 1024 open files per process, for all tables."""


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
        columns["descriptors"] = value.descriptors.astype(np.float16)
    return columns


class _Chunk:
    """An open chunk file. Small parts are in memory. Datasets are looked up once: that takes longer than reading."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "r")
        try:
            self.keys: list[str] = [key.decode() for key in self.file["keys"][:]]
            self.headers: NDArray[Any] = self.file["headers"][:]
            self.offsets: NDArray[np.int64] = self.file["offsets"][:]
            self.columns: dict[str, h5py.Dataset] = dict(self.file["columns"].items())
        except BaseException:
            self.file.close()
            raise


class Table(Generic[T]):
    """Values by key, in a folder of chunk files. Thread-safe. An unpickled table opens its folder again."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self._kind = folder, kind
        self._where: dict[str, tuple[Path, int]] = {}
        self._known: set[Path] = set()
        self._open: OrderedDict[Path, _Chunk] = OrderedDict()
        self._lock = threading.RLock()
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.folder, self._kind)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that the table lacks, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def __getitem__(self, key: str) -> T:
        path, row = self._where[key]
        with self._lock:
            chunk = self._chunk(path)
            start, stop = chunk.offsets[row : row + 2]
            columns = {name: column[start:stop] for name, column in chunk.columns.items()}
            return cast(T, _READERS[self._kind](columns, chunk.headers[row].tolist()))

    def put(self, values: Mapping[str, T]) -> None:
        """Write values as one chunk. Raises `KitError`, and keeps none of them, when the disk is full or read-only."""
        if not values:
            return
        name = hashlib.sha256("\n".join(values).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.h5"
        partial = self.folder / f".{name}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(partial, values)
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # h5py raises both
            with suppress(OSError):  # the folder itself may be missing
                partial.unlink()
            raise KitError(f"cannot write to the store in {self.folder}: {error}") from error
        self._index(path)

    def refresh(self) -> None:
        """Index the chunks that other processes have written since the last call."""
        for path in sorted(self.folder.glob("*.h5")):
            if path not in self._known:
                self._index(path)

    def _write(self, path: Path, values: Mapping[str, T]) -> None:
        columns = [_columns(value) for value in values.values()]
        lengths = [len(next(iter(column.values()))) for column in columns]
        # Build the file in memory first: HDF5 may crash the process when the disk is full.
        with h5py.File(path, "w", libver="latest", driver="core", backing_store=False) as file:
            file["keys"] = np.array([key.encode() for key in values], dtype=h5py.string_dtype())
            file["headers"] = np.array([getattr(value, "image_size", ()) for value in values.values()], np.int32)
            file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            for name in dict.fromkeys(name for column in columns for name in column):
                # An empty value may lack an optional column. All other values of a chunk have the same columns.
                parts = zip(columns, lengths, strict=True)
                file[f"columns/{name}"] = np.concatenate([part[name] for part, n in parts if name in part or n])
            file.flush()
            path.write_bytes(file.id.get_file_image())

    def _index(self, path: Path) -> None:
        with self._lock:
            self._known.add(path)
            try:
                keys = self._chunk(path).keys
            except (OSError, KeyError) as error:
                log.warning("deleting the damaged store file %s (%s): its content will be recomputed", path, error)
                path.unlink(missing_ok=True)
                return
            self._where |= {key: (path, row) for row, key in enumerate(keys)}

    def _chunk(self, path: Path) -> _Chunk:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = _Chunk(path)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].file.close()
        return self._open[path]


class Store:
    """The tables of a run. A fingerprint identifies a configuration, so a changed configuration uses a new table."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def features(self, fingerprint: str) -> Table[Features]:
        """Features by image digest. fingerprint: of the detector's configuration."""
        return Table(self.root / "features" / fingerprint, "features")

    def descriptors(self, fingerprint: str) -> Table[Float32]:
        """Global descriptors [D] by image digest. fingerprint: of the descriptor's configuration and its input."""
        return Table(self.root / "descriptors" / fingerprint, "vectors")

    def matches(self, fingerprint: str) -> Table[Matches]:
        """Matches by `pair_key`. fingerprint: of the detector's and the matcher's configuration."""
        return Table(self.root / "matches" / fingerprint, "matches")

    def correspondences(self, fingerprint: str) -> Table[Correspondences]:
        """Correspondences by `pair_key`. fingerprint: of the detector-free matcher's configuration."""
        return Table(self.root / "correspondences" / fingerprint, "correspondences")


def pair_key(first: str, second: str) -> str:
    """The key of an ordered pair of image digests."""
    return f"{first}-{second}"
