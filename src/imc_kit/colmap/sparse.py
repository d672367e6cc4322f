"""COLMAP's files of a sparse model, read from start to end: a `pycolmap.Reconstruction` of hundreds of images takes
hundreds of MB, most of it for keypoints and tracks."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.types import Float64, Pose

FILES = ("cameras.bin", "rigs.bin", "frames.bin", "images.bin", "points3D.bin")
_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
"""Number, model, width, height; its parameters follow."""
_IMAGE = struct.Struct("<I7dI")
"""Number, quaternion (w first), translation, camera; its name and keypoints follow."""
_KEYPOINT = np.dtype([("place", "<f8", 2), ("point", "<i8")])
"""The point is −1 where there is none."""
_POINT = struct.Struct("<Q3d3BdQ")
"""Number, place, colour, error, length of its track, which follows."""
_ELEMENT = 8
"""Bytes of a track's."""


class ImageRecord(NamedTuple):
    """An image with a pose."""

    name: str
    camera: int
    pose: Pose
    observations: int
    """Its keypoints that have a point."""


class PointTable(NamedTuple):
    """The points: float64 [P, 3], uint8 [P, 3] RGB, and their mean errors in pixels [P], −1 where not known."""

    places: Float64
    colors: NDArray[np.uint8]
    errors: Float64


def check_whole(folder: Path) -> None:
    """Raise KitError unless all files are there and begin as they should: pycolmap may read on forever."""
    for name in FILES:
        with _reading(folder, name) as (file, count):
            if 8 * count > file.left:  # no record is shorter
                raise ValueError("it ends too early")


def read_cameras(folder: Path) -> dict[int, Any]:
    """The cameras, each a `pycolmap.Camera`, by their numbers. Raises KitError for a damaged file."""
    import pycolmap

    cameras = {}
    with _reading(folder, "cameras.bin") as (file, count):
        for _ in range(count):
            number, model, width, height = file.take(_CAMERA)
            camera = pycolmap.Camera.create_from_model_id(number, pycolmap.CameraModelId(model), 1.0, width, height)
            camera.params = np.frombuffer(file.read(8 * len(camera.params))).tolist()
            cameras[number] = camera
    return cameras


def read_images(folder: Path) -> Iterator[ImageRecord]:
    """The images, one after another. Raises KitError for a damaged file."""
    import pycolmap

    with _reading(folder, "images.bin") as (file, count):
        for _ in range(count):
            _, w, x, y, z, *translation, camera = file.take(_IMAGE)
            name = file.text()
            (length,) = file.take(_COUNT)
            keypoints = np.frombuffer(file.read(length * _KEYPOINT.itemsize), _KEYPOINT)
            rotation = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
            yield ImageRecord(
                name, camera, Pose(rotation, np.array(translation)), int(np.count_nonzero(keypoints["point"] != -1))
            )


def read_points(folder: Path) -> PointTable:
    """The points, without their tracks. Raises KitError for a damaged file."""
    with _reading(folder, "points3D.bin") as (file, count):
        if count * _POINT.size > file.left:
            raise ValueError("it ends too early")
        table = PointTable(np.empty((count, 3)), np.empty((count, 3), np.uint8), np.empty(count))
        for row in range(count):
            _, x, y, z, red, green, blue, error, length = file.take(_POINT)
            table.places[row] = x, y, z
            table.colors[row] = red, green, blue
            table.errors[row] = error
            file.skip(_ELEMENT * length)
    return table


class _Reader:
    """A file that raises ValueError where it ends too early: a full disk cuts it off anywhere."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size

    def take(self, record: struct.Struct) -> tuple[Any, ...]:
        return record.unpack(self.read(record.size))

    def read(self, size: int) -> bytes:
        self._pass(size)
        return self._file.read(size)

    def skip(self, size: int) -> None:
        self._pass(size)
        self._file.seek(size, os.SEEK_CUR)

    def text(self) -> str:
        letters = bytearray()
        while letter := self.read(1).strip(b"\0"):
            letters += letter
        return letters.decode()

    def _pass(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it ends too early")


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[tuple[_Reader, int]]:
    """A file behind the number of its records, and that number."""
    try:
        with (folder / name).open("rb") as file:
            reader = _Reader(file)
            (count,) = reader.take(_COUNT)
            yield reader, count
    except (OSError, ValueError, TypeError, IndexError, RuntimeError) as error:  # the last are pycolmap's
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KitError(f"cannot read the COLMAP model in {folder}: {name} is damaged ({reason})") from error
