"""Features, matches, correspondences and global descriptors on disk: the only user of HDF5.

A table holds the results that one configuration gave, under a key for each. Results arrive in chunks, each an HDF5
file of its own that is written beside its name and then moved there. So a killed run loses the chunks that were in
flight and nothing else, several processes may write at once, and a file is never changed once it is there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Features, Float32, Matches

log = logging.getLogger(__name__)
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
OPEN_FILES = 64


@dataclass(frozen=True)
class _Codec(Generic[T]):
    """A value as arrays of one length each (joined end to end in a chunk), and a fixed-size header."""

    columns: Callable[[T], Arrays]
    header: Callable[[T], NDArray[Any]]
    value: Callable[[Arrays, NDArray[Any]], T]


def _feature_columns(features: Features) -> Arrays:
    columns = features.columns()
    if features.descriptors.dtype == np.float32:  # half the space; keypoints stay as they are
        columns["descriptors"] = features.descriptors.astype(np.float16)
    return columns


_FEATURES = _Codec[Features](
    _feature_columns,
    lambda features: np.array(features.image_size, np.int32),
    lambda columns, header: Features(image_size=(int(header[0]), int(header[1])), **columns),
)
_MATCHES = _Codec[Matches](
    lambda matches: {"indices": matches.indices, "scores": matches.scores},
    lambda matches: np.empty(0, np.int32),
    lambda columns, header: Matches(**columns),
)
_CORRESPONDENCES = _Codec[Correspondences](
    lambda found: {"first": found.first, "second": found.second, "scores": found.scores},
    lambda found: np.empty(0, np.int32),
    lambda columns, header: Correspondences(**columns),
)
_VECTORS = _Codec[Float32](
    lambda vector: {"values": vector}, lambda vector: np.empty(0, np.int32), lambda columns, header: columns["values"]
)


_CODECS: dict[str, _Codec[Any]] = {
    "features": _FEATURES,
    "matches": _MATCHES,
    "correspondences": _CORRESPONDENCES,
    "vectors": _VECTORS,
}


@dataclass(frozen=True, eq=False)
class _Chunk:
    """An open chunk file: what is small in memory, and where the rest is, as to look that up takes longer than to read
    it."""

    file: h5py.File
    keys: list[str]
    headers: NDArray[Any]
    offsets: NDArray[np.int64]
    columns: dict[str, h5py.Dataset]

    @classmethod
    def open(cls, path: Path) -> _Chunk:
        file = h5py.File(path, "r")
        try:
            keys = [key.decode() for key in file["keys"][:]]
            return cls(file, keys, file["headers"][:], file["offsets"][:], dict(file["columns"].items()))
        except BaseException:
            file.close()
            raise


class Table(Generic[T]):
    """Values by key in a folder of chunk files. Safe to use from several threads; pickled, it opens the folder anew."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self._kind = kind
        self._codec: _Codec[T] = _CODECS[kind]
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
        """Those of `keys` that are not here, once each, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def __getitem__(self, key: str) -> T:
        path, row = self._where[key]
        with self._lock:
            chunk = self._chunk(path)
            start, stop = chunk.offsets[row : row + 2]
            columns = {name: column[start:stop] for name, column in chunk.columns.items()}
            return self._codec.value(columns, chunk.headers[row])

    def put(self, values: Mapping[str, T]) -> None:
        """Write one chunk. Raises KitError when the disk does not take it; then nothing of it is kept."""
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
            with suppress(OSError):  # the folder itself may be what is wrong
                partial.unlink()
            raise KitError(f"cannot write to the store in {self.folder}: {error}") from error
        self._index(path)

    def refresh(self) -> None:
        """Take in the chunks that other processes have written."""
        for path in sorted(self.folder.glob("*.h5")):
            if path not in self._known:
                self._index(path)

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].file.close()

    def _write(self, path: Path, values: Mapping[str, T]) -> None:
        columns = [self._codec.columns(value) for value in values.values()]
        names = list(dict.fromkeys(name for column in columns for name in column))
        lengths = [len(next(iter(column.values()))) for column in columns]
        # In memory at first: HDF5 may crash, and the process with it, when a disk is full.
        with h5py.File(path, "w", libver="latest", driver="core", backing_store=False) as file:
            file["keys"] = np.array([key.encode() for key in values], dtype=h5py.string_dtype())
            file["headers"] = np.stack([self._codec.header(value) for value in values.values()])
            file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            for name in names:
                # A value of length zero may lack an optional column; any other must have what its neighbours have.
                parts = [
                    column[name] for column, length in zip(columns, lengths, strict=True) if name in column or length
                ]
                file[f"columns/{name}"] = np.concatenate(parts)
            file.flush()
            path.write_bytes(file.id.get_file_image())

    def _index(self, path: Path) -> None:
        with self._lock:
            self._known.add(path)
            try:
                keys = self._chunk(path).keys
            except (OSError, KeyError) as error:
                log.warning("dropping the damaged store file %s (%s): what it held is computed again", path, error)
                path.unlink(missing_ok=True)
                return
            self._where |= {key: (path, row) for row, key in enumerate(keys)}

    def _chunk(self, path: Path) -> _Chunk:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = _Chunk.open(path)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].file.close()
        return self._open[path]


class Store:
    """Results of the slow stages, by configuration and input: change either, and what depends on it runs again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def features(self, fingerprint: str) -> Table[Features]:
        """Features of images, by the image's digest; `fingerprint` names the detector's configuration."""
        return Table(self.root / "features" / fingerprint, "features")

    def descriptors(self, fingerprint: str) -> Table[Float32]:
        """Global descriptors [D] of images, by the image's digest; `fingerprint` names what they were made from."""
        return Table(self.root / "descriptors" / fingerprint, "vectors")

    def matches(self, fingerprint: str) -> Table[Matches]:
        """Matches, by `pair_key`; `fingerprint` names the detector's and the matcher's configuration."""
        return Table(self.root / "matches" / fingerprint, "matches")

    def correspondences(self, fingerprint: str) -> Table[Correspondences]:
        """What a detector-free matcher found, by `pair_key`; `fingerprint` names its configuration."""
        return Table(self.root / "correspondences" / fingerprint, "correspondences")


def pair_key(first: str, second: str) -> str:
    """The key of an ordered pair of image digests."""
    return f"{first}-{second}"
