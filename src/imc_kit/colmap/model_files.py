"""COLMAP's files of a sparse model, read as a stream.

A `pycolmap.Reconstruction` of hundreds of images takes hundreds of MB, most of it for keypoints and tracks.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.types import Float64, Model, Pose

FILES = ("cameras.bin", "rigs.bin", "frames.bin", "images.bin", "points3D.bin")
_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
"""Camera id, model id, width, height. The parameters follow."""
_IMAGE = struct.Struct("<I7dI")
"""Image id, quaternion (w first), translation, camera id. The name and the keypoints follow."""
_KEYPOINT = np.dtype([("place", "<f8", 2), ("point", "<i8")])
"""The id of the 3D point is −1 where there is none."""
_POINT = struct.Struct("<Q3d3BdQ")
"""Point id, place, colour, error, track length. The track follows."""
_TRACK_ELEMENT = 8
"""Bytes."""


class PosedImage(NamedTuple):
    """An image with a pose."""

    name: str
    camera: int
    pose: Pose
    observations: int
    """The number of its keypoints that have a 3D point."""


class PointTable(NamedTuple):
    """Places float64 [P, 3], colours uint8 [P, 3] (RGB), and mean errors [P] in pixels, −1 where unknown."""

    places: Float64
    colors: NDArray[np.uint8]
    errors: Float64


def read_models(folder: Path) -> list[Model]:
    """Read the models in the numbered subfolders of `folder`, largest first."""
    models = [read_model(path) for path in sorted(folder.iterdir()) if (path / "images.bin").is_file()]
    return sorted(models, key=lambda model: -len(model.poses))


def read_model(folder: Path) -> Model:
    """Read a COLMAP sparse model. Raises `KitError` when its files are damaged."""
    check_whole(folder)
    cameras = read_cameras(folder)
    poses, frames, observations = {}, {}, 0
    for image in read_images(folder):
        camera = cameras.get(image.camera)
        if camera is None:
            raise KitError(f"cannot read the COLMAP model in {folder}: the camera of {image.name!r} is missing")
        reach = 0.5 / camera.mean_focal_length()
        poses[image.name] = image.pose
        frames[image.name] = (camera.width * reach, camera.height * reach)
        observations += image.observations
    points = read_points(folder)
    known = points.errors[points.errors >= 0]
    error = float(known.mean()) if len(known) else 0.0
    return Model(folder, poses, points.places, observations, error, points.colors, frames)


def gather(models: Sequence[Model], folder: Path) -> list[Model]:
    """Move the files of models to `folder`/0, 1, … and delete all else in it. Without models, delete `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    gathered = []
    for number, model in enumerate(models):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(model.folder, folder / str(number))  # works on a full disk, unlike copying
        gathered.append(replace(model, folder=folder / str(number)))
    return gathered


def check_whole(folder: Path) -> None:
    """Raise `KitError` unless all files exist and are long enough: pycolmap may read a damaged file forever."""
    for name in FILES:
        with _reading(folder, name) as (file, count):
            if 8 * count > file.left:  # no record is shorter than 8 bytes
                raise ValueError("it ends too early")


def read_cameras(folder: Path) -> dict[int, Any]:
    """Read the cameras: a `pycolmap.Camera` by camera id. Raises `KitError` for a damaged file."""
    import pycolmap

    cameras = {}
    with _reading(folder, "cameras.bin") as (file, count):
        for _ in range(count):
            number, model, width, height = file.take(_CAMERA)
            camera = pycolmap.Camera.create_from_model_id(number, pycolmap.CameraModelId(model), 1.0, width, height)
            camera.params = np.frombuffer(file.read(8 * len(camera.params))).tolist()
            cameras[number] = camera
    return cameras


def read_images(folder: Path) -> Iterator[PosedImage]:
    """Read the images, one after another. Raises `KitError` for a damaged file."""
    import pycolmap

    with _reading(folder, "images.bin") as (file, count):
        for _ in range(count):
            _, w, x, y, z, *translation, camera = file.take(_IMAGE)
            name = file.text()
            (length,) = file.take(_COUNT)
            keypoints = np.frombuffer(file.read(length * _KEYPOINT.itemsize), _KEYPOINT)
            pose = Pose(pycolmap.Rotation3d(np.array([x, y, z, w])).matrix(), np.array(translation))
            yield PosedImage(name, camera, pose, int(np.count_nonzero(keypoints["point"] != -1)))


def read_points(folder: Path) -> PointTable:
    """Read the 3D points without their tracks. Raises `KitError` for a damaged file."""
    with _reading(folder, "points3D.bin") as (file, count):
        if count * _POINT.size > file.left:
            raise ValueError("it ends too early")
        table = PointTable(np.empty((count, 3)), np.empty((count, 3), np.uint8), np.empty(count))
        for row in range(count):
            _, x, y, z, red, green, blue, error, length = file.take(_POINT)
            table.places[row] = x, y, z
            table.colors[row] = red, green, blue
            table.errors[row] = error
            file.skip(_TRACK_ELEMENT * length)
    return table


class _Reader:
    """A file that raises ValueError where it ends too early: a full disk may cut it off anywhere."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size

    def take(self, record: struct.Struct) -> tuple[Any, ...]:
        return record.unpack(self.read(record.size))

    def read(self, size: int) -> bytes:
        self._count(size)
        return self._file.read(size)

    def skip(self, size: int) -> None:
        self._count(size)
        self._file.seek(size, os.SEEK_CUR)

    def text(self) -> str:
        letters = bytearray()
        while letter := self.read(1).strip(b"\0"):
            letters += letter
        return letters.decode()

    def _count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it ends too early")


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[tuple[_Reader, int]]:
    """Open a file, and read its number of records."""
    try:
        with (folder / name).open("rb") as file:
            reader = _Reader(file)
            (count,) = reader.take(_COUNT)
            yield reader, count
    except (OSError, ValueError, TypeError, IndexError, RuntimeError) as error:  # the last two are pycolmap's
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KitError(f"cannot read the COLMAP model in {folder}: {name} is damaged ({reason})") from error
