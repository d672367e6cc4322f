"""A finished model of a run with its photos, and upright copies of both."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2

from imc_kit.colmap import model_files
from imc_kit.colmap.rotation import rotated
from imc_kit.data import images
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline.records import ImageRecord
from imc_kit.runtime.executors import Done, fan_out, workers
from imc_kit.types import Scene

_READABLE = ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"
"""Suffixes of files that other programs read. A copy of another file is a JPEG."""
_JPEG_QUALITY = 95
"""Of copies. At 90, fine texture is visibly worse; at 100, files are twice as large."""


@dataclass(frozen=True, eq=False)
class SceneModel:
    """A model of a scene.

    folder: its files, which describe the photos as stored. result: the content of the scene's result.json.
    photos: the scene with its photos; None if they are gone. store: the run's.
    """

    name: str
    folder: Path
    result: Mapping[str, Any]
    photos: Scene | None
    store: Store

    def read(self) -> Any:
        """The `pycolmap.Reconstruction`. Raises `KitError` if the files are damaged."""
        import pycolmap

        model_files.read_model(self.folder)  # pycolmap may hang on a damaged file
        return pycolmap.Reconstruction(self.folder)

    def upright(self, folder: Path) -> Any:
        """The model of upright photos, whose copies are written to `folder`.

        Photos that are stored upright are copied unchanged. Images whose copies have another format get another name.

        Raises `KitError` when a photo is gone or does not fit the model.
        """
        model = rotated(self.read(), self.result["stored_quarters"])
        chunks = []
        for image_id in model.reg_image_ids():
            image = model.images[image_id]
            record = self.record(image.name, model.cameras[image.camera_id])
            if PurePosixPath(image.name).suffix.lower() not in _READABLE:
                image.name += ".jpg"
            chunks.append((record, folder / image.name))
        with workers(None, None) as pool:
            fan_out(pool, _copy, chunks, f"{self.name}, copying photos", "photo", len(chunks))
        return model

    def record(self, name: str, camera: Any) -> ImageRecord:
        """The photo of an image. camera: of the upright image."""
        if self.photos is None:
            raise KitError(f"the photos of {self.name} are not where they were: move them back, or solve them again")
        path = self.photos.path(name)
        # Any number of pixels: the photo has been solved, and a changed one is refused.
        info = images.probe(path, 2**40).rotated(self.result["rotation_quarters"].get(name, 0))
        if info.size != (camera.width, camera.height):
            sizes = f"{info.size[0]} × {info.size[1]} pixels upright, and {camera.width} × {camera.height} in the model"
            raise KitError(f"{path} has changed since it was solved ({sizes}): run imc-kit solve again")
        return ImageRecord(path, info, digest="")


def _copy(record: ImageRecord, path: Path) -> Done:
    """Write an upright copy of a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if record.info.rotation_quarters or record.info.mirrored or record.path.suffix != path.suffix:
        pixels = record.load(None).pixels
        # Not Pillow: its encoder of PNG files crashes in a process that has loaded pycolmap first.
        _, data = cv2.imencode(path.suffix, pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        path.write_bytes(data.tobytes())
    else:
        shutil.copyfile(record.path, path)
    return 1, []
