"""Chunk files of the store: HDF5 files that show when they are damaged. The only user of HDF5.

A chunk file has the datasets `keys` [K], `headers` [K, H], `offsets` [K + 1] and `columns/NAME`: row i of the table is
`columns/NAME[offsets[i]:offsets[i + 1]]`. An index follows, which HDF5 ignores: JSON with the keys and the size and
checksum of the HDF5 part, then the length and the checksum of this JSON. So keys are read without the rest, and HDF5
never parses a damaged file.

Files are opened without locks, because they never change, and network disks may have no locks.
"""

import json
import stat
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from imc_kit.data import atomic

Arrays = dict[str, NDArray[Any]]
OPEN_FILES = 32
"""Chunk files that a process keeps open. Systems commonly allow 256 to 1024 open files per process. With fewer, files
are opened more often, which takes longer than reading a value."""

_END = struct.Struct("<II")
"""The end of a chunk file: the length and the CRC-32 of the JSON before it."""
_Signature = tuple[int, int, int]
_lock = threading.Lock()


class DamagedError(Exception):
    """The content of a file is not what was written."""


class _Open:
    """An open chunk file. Small parts are in memory. Datasets are looked up once: that takes longer than reading."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "r", locking=False)
        self.headers: NDArray[Any] = self.file["headers"][:]
        self.offsets: NDArray[np.int64] = self.file["offsets"][:]
        self.columns: dict[str, h5py.Dataset] = dict(self.file["columns"].items())


_open: OrderedDict[Path, _Open] = OrderedDict()
"""The open files of this process, for all tables; the most recently used one is the last."""


def write(path: Path, keys: Sequence[str], headers: Sequence[Sequence[int]], columns: Sequence[Arrays]) -> None:
    """Write a chunk file, whole or not at all. Raises `KitError` when the disk is full or read-only.

    columns: for each key, named arrays of equal length; names, dtypes and widths are the same for all keys.
    """
    lengths = [len(next(iter(arrays.values()))) for arrays in columns]
    # Build the file in memory first: HDF5 may crash the process when the disk is full. Threads need different names.
    with h5py.File(f"{path}.{threading.get_ident()}", "w", libver="latest", driver="core", backing_store=False) as file:
        file["keys"] = np.array([key.encode() for key in keys], dtype=h5py.string_dtype())
        file["headers"] = np.array(headers, np.int32)
        file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        for name in columns[0]:
            file[f"columns/{name}"] = np.concatenate([arrays[name] for arrays in columns])
        file.flush()
        image = file.id.get_file_image()
    index = json.dumps([list(keys), len(image), zlib.crc32(image)]).encode()
    close(path)
    with atomic.writing(path, binary=True) as out:
        out.writelines([image, index, _END.pack(len(index), zlib.crc32(index))])


def keys_of(path: Path) -> list[str]:
    """The keys of a chunk file, from its index. Raises `DamagedError`, or `OSError` when it cannot be read."""
    return _index(path, _signature(path))[0]


def checked(path: Path) -> list[str]:
    """The keys, after a check of the whole content, once per process unless it changes. Raises as `keys_of` does."""
    _check(path, _signature(path))
    with _lock:
        _opened(path)  # another version of HDF5 may not read it
    return keys_of(path)


def read(path: Path, row: int) -> tuple[Arrays, list[int]]:
    """The columns and the header of one row of a file that has been `checked`. Raises `OSError`."""
    with _lock:
        chunk = _opened(path)
        start, stop = chunk.offsets[row : row + 2]
        return {name: column[start:stop] for name, column in chunk.columns.items()}, chunk.headers[row].tolist()


def close(path: Path, wait: bool = True) -> None:
    """Close a chunk file, or all of a folder, if open. wait: for a thread that reads; otherwise leave the file open."""
    if _lock.acquire(blocking=wait):
        try:
            for known in [known for known in _open if path in (known, known.parent)]:
                _open.pop(known).file.close()
        finally:
            _lock.release()


def _opened(path: Path) -> _Open:
    """The open file; the caller holds the lock."""
    chunk = _open[path] = _open.pop(path) if path in _open else _Open(path)
    if len(_open) > OPEN_FILES:
        _open.popitem(last=False)[1].file.close()
    return chunk


def _signature(path: Path) -> _Signature:
    """What changes when a file is replaced or written to."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise DamagedError("it is not a file")
    return status.st_ino, status.st_size, status.st_mtime_ns


@cache
def _index(path: Path, signature: _Signature) -> tuple[list[str], int, int]:
    """The keys, and the size and checksum of the HDF5 part."""
    with path.open("rb") as file:
        file.seek(max(0, signature[1] - _END.size))
        end = file.read(_END.size)
        length, checksum = _END.unpack(end) if len(end) == _END.size else (0, 0)
        size = signature[1] - _END.size - length
        file.seek(max(0, size))
        index = file.read(length) if size >= 0 else b""
    if not index or zlib.crc32(index) != checksum:
        raise DamagedError("its end is not what was written")
    keys, image_size, image_checksum = json.loads(index)
    if image_size != size:
        raise DamagedError("its length is not what was written")
    return keys, image_size, image_checksum


@cache
def _check(path: Path, signature: _Signature) -> None:
    close(path)  # it may be another file than before
    _, size, checksum = _index(path, signature)
    with path.open("rb") as file:
        if zlib.crc32(file.read(size)) != checksum:
            raise DamagedError("its checksum is wrong")
