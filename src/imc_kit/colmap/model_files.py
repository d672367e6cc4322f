"""Read COLMAP's sparse model files, without the keypoints and tracks that make a `pycolmap.Reconstruction` large.

pycolmap itself may hang on a truncated file, which a full disk may leave.
"""

import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.types import Alignment, Model, Pose

ALIGNMENT = "alignment.json"
"""The file in a model's folder that says how it got into metres."""

_SHORTEST = {"cameras.bin": 48, "rigs.bin": 16, "frames.bin": 84, "images.bin": 73, "points3D.bin": 51}
"""The size in bytes of the shortest record of each file. Rigs and frames of a single camera have no longer ones."""
_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
"""Camera id, model id, width, height. The parameters follow."""
_IMAGE = struct.Struct("<I7dI")
"""Image id, quaternion (w first), translation, camera id. The name and the keypoints follow."""
_KEYPOINT = np.dtype([("place", "<f8", 2), ("point", "<i8")])
"""The id of the 3D point is −1 if there is none."""
_POINT = struct.Struct("<Q3d3BdQ")
"""Point id, position, colour, error (−1 if unknown), track length. The track follows."""
_TRACK_ELEMENT = 8
"""Bytes."""
_LONGEST_NAME = 4096
"""Bytes of an image's name: Linux's longest path."""


def read_models(folder: Path, quarters: Mapping[str, int] | None = None) -> list[Model]:
    """Read the models in the numbered subfolders of `folder`, largest first. quarters: see `read_model`."""
    models = [read_model(path, quarters) for path in sorted(folder.iterdir()) if (path / "images.bin").is_file()]
    return sorted(models, key=lambda model: -len(model.poses))


def read_model(folder: Path, quarters: Mapping[str, int] | None = None) -> Model:
    """Read a COLMAP sparse model. Raises `KitError` when its files are damaged.

    quarters: rotate the poses clockwise by this many times 90°, by image name: the files describe images as stored.
    """
    with _opened(folder, _SHORTEST) as files:
        model = replace(_read(folder, files), alignment=_alignment(folder))
    for name, count in (quarters or {}).items():
        if name in model.poses:
            model.poses[name] = model.poses[name].rotated(count)
            across, down = model.frames[name]
            model.frames[name] = (down, across) if count % 2 else (across, down)
    return model


def read_cameras(folder: Path) -> dict[str, Any]:
    """The `pycolmap.Camera` of each image of a COLMAP sparse model, by name. Raises `KitError` as `read_model` does."""
    with _opened(folder, ("cameras.bin", "images.bin")) as files:
        cameras = _cameras(files["cameras.bin"])
        return {name: cameras[number] for name, _, number, _ in _images(files["images.bin"])}


def read_points_seen(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The ids of the 3D points that each image of a COLMAP sparse model sees, by name. Raises `KitError` as
    `read_model` does."""
    with _opened(folder, ("images.bin",)) as files:
        points = ((name, keypoints["point"]) for name, _, _, keypoints in _images(files["images.bin"]))
        return {name: seen[seen != -1] for name, seen in points}


@contextmanager
def _opened(folder: Path, names: Iterable[str]) -> Iterator[dict[str, "_File"]]:
    """Open files of a model. Raises `KitError` for errors that damaged files cause."""
    try:
        with ExitStack() as stack:
            opened = {name: stack.enter_context((folder / name).open("rb")) for name in names}
            yield {name: _File(file, _SHORTEST[name]) for name, file in opened.items()}
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RuntimeError, struct.error) as error:
        raise KitError(f"cannot read the COLMAP model in {folder}: its files are damaged ({error})") from error


def _alignment(folder: Path) -> Alignment | None:
    """How the model in a folder got into metres, if it did."""
    try:
        content = json.loads((folder / ALIGNMENT).read_text("utf-8"))
        return Alignment(**content | {"origin": content["origin"] and tuple(content["origin"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise KitError(f"cannot read {folder / ALIGNMENT}: it is damaged ({error})") from error


class _File:
    """An open file with its number of records. Reading beyond its end raises ValueError or `struct.error`.

    It is not mapped into memory: a mapped file that becomes shorter ends the process.
    """

    def __init__(self, file: BinaryIO, shortest: int) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        (self.count,) = self.take(_COUNT)
        if self.size < _COUNT.size + shortest * self.count:
            raise ValueError(f"{Path(file.name).name} ends too early")

    def take(self, record: struct.Struct) -> tuple[Any, ...]:
        return record.unpack(self.file.read(record.size))

    def text(self) -> str:
        letters = self.file.read(_LONGEST_NAME)
        end = letters.index(b"\0")
        self.file.seek(end + 1 - len(letters), os.SEEK_CUR)
        return letters[:end].decode()

    def keypoints(self, count: int) -> NDArray[Any]:
        if count * _KEYPOINT.itemsize > self.size:
            raise ValueError("it ends too early")
        return np.frombuffer(self.file.read(count * _KEYPOINT.itemsize), _KEYPOINT, count)

    def skip(self, size: int) -> None:
        if self.file.seek(size, os.SEEK_CUR) > self.size:
            raise ValueError("it ends too early")


def _read(folder: Path, files: dict[str, _File]) -> Model:
    import pycolmap

    poses, frames, observations = {}, {}, 0
    cameras = _cameras(files["cameras.bin"])
    for name, (w, x, y, z, *translation), number, keypoints in _images(files["images.bin"]):
        observations += int(np.count_nonzero(keypoints["point"] != -1))
        poses[name] = Pose(pycolmap.Rotation3d(np.array([x, y, z, w])).matrix(), np.array(translation))
        tangent_per_pixel = 0.5 / cameras[number].mean_focal_length()
        frames[name] = (cameras[number].width * tangent_per_pixel, cameras[number].height * tangent_per_pixel)
    file = files["points3D.bin"]
    rows = np.empty((file.count, 7))
    for row in range(file.count):
        _, *values, length = file.take(_POINT)
        rows[row] = values
        file.skip(_TRACK_ELEMENT * length)
    errors = rows[rows[:, 6] >= 0, 6]
    error = float(errors.mean()) if len(errors) else 0.0
    return Model(folder, poses, rows[:, :3], observations, error, rows[:, 3:6].astype(np.uint8), frames)


def _cameras(file: _File) -> dict[int, Any]:
    """The cameras of `cameras.bin` by number."""
    import pycolmap

    cameras = {}
    for _ in range(file.count):
        number, kind, width, height = file.take(_CAMERA)
        camera = pycolmap.Camera.create_from_model_id(number, pycolmap.CameraModelId(kind), 1.0, width, height)
        camera.params = list(file.take(struct.Struct(f"<{len(camera.params)}d")))
        cameras[number] = camera
    return cameras


def _images(file: _File) -> Iterator[tuple[str, Sequence[float], int, NDArray[Any]]]:
    """The name, pose, camera number and keypoints of each image of `images.bin`."""
    for _ in range(file.count):
        _, *pose, number = file.take(_IMAGE)
        name = file.text()
        (length,) = file.take(_COUNT)
        yield name, pose, number, file.keypoints(length)


def gather(models: Sequence[Model], folder: Path) -> list[Model]:
    """Move models' files to `folder`/0, 1, … and delete everything else there. Without models, delete `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    gathered = []
    for number, model in enumerate(models):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(model.folder, folder / str(number))  # works on a full disk, unlike copying
        gathered.append(replace(model, folder=folder / str(number)))
    return gathered
