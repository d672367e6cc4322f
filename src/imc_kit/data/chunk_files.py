"""Chunk files of the store: HDF5 files that show when they are damaged.

A chunk file has the datasets `keys` [K], `headers` [K, H], `offsets` [K + 1] and `columns/NAME`: row i of the table is
`columns/NAME[offsets[i]:offsets[i + 1]]`. So other programs can read it. After them comes what HDF5 ignores: an index
in JSON with the positions of all columns and the checksum of the part before it, then the index's length and checksum.

The kit finds values by the index. So it need not parse a file that may be damaged, wait for HDF5's global lock, keep
files open, or lock them, which not all network disks can do.
"""

import json
import os
import stat
import struct
import threading
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from imc_kit.data import atomic

Arrays = dict[str, NDArray[Any]]
_END = struct.Struct("<II")
"""The end of a chunk file: the length and the CRC-32 of its index."""


class DamagedError(Exception):
    """The content of a file is not what was written."""


def write(path: Path, keys: Sequence[str], headers: Sequence[Sequence[int]], columns: Sequence[Arrays]) -> None:
    """Write a chunk file, whole or not at all. Raises `KitError` when the disk is full or read-only.

    columns: for each key, named arrays of equal length; names, dtypes and widths are the same for all keys.
    """
    offsets = np.cumsum([0, *(len(next(iter(arrays.values()))) for arrays in columns)])
    index: dict[str, Any] = {"keys": keys, "headers": headers, "offsets": offsets.tolist(), "columns": {}}
    # Build the file in memory: HDF5 may crash the process when the disk is full. Threads need different names.
    with h5py.File(f"{path}.{threading.get_ident()}", "w", libver="latest", driver="core", backing_store=False) as file:
        file["keys"] = np.array([key.encode() for key in keys], dtype=h5py.string_dtype())
        file["headers"] = np.array(headers, np.int32)
        file["offsets"] = offsets
        for name, first in columns[0].items():
            dataset = file.create_dataset(f"columns/{name}", data=np.concatenate([arrays[name] for arrays in columns]))
            index["columns"][name] = dataset.id.get_offset() or 0, first.dtype.str, first.shape[1:]  # 0: it is empty
        file.flush()
        data = file.id.get_file_image()
    text = json.dumps(index | {"checksum": zlib.crc32(data)}).encode()
    with atomic.writing(path, binary=True) as out:
        out.writelines([data, text, _END.pack(len(text), zlib.crc32(text))])


class Chunk:
    """A chunk file. Its index is in memory, and no file stays open.

    Everything that reads it raises `DamagedError` when its content is not what was written, and `OSError` when it
    cannot be read.
    """

    def __init__(self, path: Path, *signature: int) -> None:
        """signature: see `_signature`; for `cache`."""
        self.path = path
        with path.open("rb") as file:
            self._index = _read_index(file)
        self.keys: list[str] = self._index["keys"]
        self._checked: tuple[int, ...] = ()

    def check(self) -> None:
        """Check the whole content, the first time and when the file has changed."""
        if (signature := _signature(self.path)) != self._checked:
            with self.path.open("rb") as file:
                index = _read_index(file)
                file.seek(0)
                if zlib.crc32(file.read(index["size"])) != index["checksum"] or index["keys"] != self.keys:
                    raise DamagedError("its checksum is wrong")
            self._index, self._checked = index, signature

    def read(self, row: int) -> tuple[Arrays, list[int]]:
        """The columns and the header of a row."""
        index, arrays = self._index, {}
        start, stop = index["offsets"][row : row + 2]
        with self.path.open("rb") as file:
            for name, (position, dtype, shape) in index["columns"].items():
                width = int(np.dtype(dtype).itemsize * np.prod(shape))
                file.seek(position + start * width)
                content = file.read((stop - start) * width)
                if len(content) < (stop - start) * width:
                    raise DamagedError("it has become shorter")
                arrays[name] = np.frombuffer(content, dtype).reshape(stop - start, *shape)
        return arrays, index["headers"][row]


def opened(path: Path) -> Chunk:
    """The chunk in a file: the same object as before unless the file has changed."""
    return _opened(path, *_signature(path))


_opened = cache(Chunk)


def _signature(path: Path) -> tuple[int, ...]:
    """What changes with the content of a file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise DamagedError("it is not a file")
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read_index(file: BinaryIO) -> dict[str, Any]:
    """The index, with the size of the part before it."""
    end = max(0, file.seek(0, os.SEEK_END) - _END.size)
    file.seek(end)
    length, checksum = _END.unpack(file.read(_END.size).rjust(_END.size))
    size = file.seek(max(0, end - length))
    text = file.read(end - size)
    if not text or zlib.crc32(text) != checksum:
        raise DamagedError("its end is not what was written")
    return {**json.loads(text), "size": size}
