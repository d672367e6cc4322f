"""Writing a COLMAP database from features and matches: the only place where half a pixel is added."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imc_kit.errors import KitError
from imc_kit.types import Features, Int32, Matches

log = logging.getLogger(__name__)

HALF_PIXEL = np.float32(0.5)  # COLMAP puts the centre of the top-left pixel at (0.5, 0.5)


@dataclass(frozen=True)
class CameraConfig:
    """Which images share a camera's intrinsics, and what these are before bundle adjustment."""

    sharing: Literal["exif", "size", "image"] = "exif"
    """exif: images of the same size, EXIF camera and EXIF focal length; size: of the same size; image: none."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the camera model."""
    focal_factor: float = 1.2
    """Focal length where EXIF has none, as a multiple of the image's longer side."""


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """One image of a database."""

    name: str
    path: Path
    features: Features


def write_database(
    path: Path, images: Iterable[ImageEntry], matches: Iterable[tuple[str, str, Matches]], config: CameraConfig
) -> None:
    """Write a new COLMAP database with cameras, rigs, frames, images, keypoints and matches.

    `matches` are (first image, second image, matches) with indices into their keypoints; both are consumed as streams.
    Images come before matches. An index out of bounds is a KitError: COLMAP would crash on it later. Matches that
    repeat or that use a keypoint twice keep the best-scored one; a pair that comes twice is a KitError.
    """
    import pycolmap

    path.unlink(missing_ok=True)
    ids: dict[str, tuple[int, int]] = {}
    cameras: dict[Any, tuple[int, int, Any]] = {}
    seen: set[tuple[int, int]] = set()
    try:
        with pycolmap.Database.open(path) as database, pycolmap.DatabaseTransaction(database):
            for image in images:
                key, camera = _camera(image, config)
                if key not in cameras:
                    camera.camera_id = database.write_camera(camera)
                    rig = pycolmap.Rig()
                    rig.add_ref_sensor(camera.sensor_id)
                    cameras[key] = (camera.camera_id, database.write_rig(rig), camera)
                camera_id, rig_id, _ = cameras[key]
                entry = pycolmap.Image(name=image.name, camera_id=camera_id)
                entry.image_id = database.write_image(entry)
                frame = pycolmap.Frame()
                frame.rig_id = rig_id
                frame.add_data_id(entry.data_id)
                database.write_frame(frame)
                database.write_keypoints(entry.image_id, image.features.keypoints + HALF_PIXEL)
                ids[image.name] = (entry.image_id, len(image.features))
            for first, second, pair in matches:
                (first_id, first_count), (second_id, second_count) = ids[first], ids[second]
                identity = (min(first_id, second_id), max(first_id, second_id))
                if first_id == second_id or identity in seen:
                    raise KitError(f"the pair {first!r}, {second!r} comes twice or is one image: give every pair once")
                seen.add(identity)
                if len(pair) and (pair.indices >= (first_count, second_count)).any():
                    raise KitError(
                        f"matches of {first!r} and {second!r} name keypoints that do not exist "
                        f"(they have {first_count} and {second_count}): the matches belong to other features"
                    )
                database.write_matches(first_id, second_id, one_to_one(pair).astype(np.uint32))
    except (RuntimeError, sqlite3.Error) as error:
        raise KitError(f"cannot write the COLMAP database {path}: {error}") from error


def one_to_one(matches: Matches) -> Int32:
    """The indices [K', 2] of `matches` with every keypoint used at most once, better scores first."""
    order = np.argsort(-matches.scores, kind="stable")
    indices = matches.indices[order]
    for side in (0, 1):
        _, first = np.unique(indices[:, side], return_index=True)
        indices = indices[np.sort(first)]
    return indices


def _camera(image: ImageEntry, config: CameraConfig) -> tuple[Any, Any]:
    """The camera of an image as COLMAP infers it from EXIF, and what images that share it have in common."""
    import pycolmap

    width, height = image.features.image_size
    try:
        reader = pycolmap.ImageReaderOptions(
            camera_model=config.model, default_focal_length_factor=config.focal_factor
        )
        camera = pycolmap.infer_camera_from_image(image.path, reader)
        exif_model = pycolmap.Bitmap.read(image.path, as_rgb=False).exif_camera_model()
    except (RuntimeError, ValueError) as error:
        log.debug("COLMAP cannot read %s (%s): taking the default focal length", image.path, error)
        camera, exif_model = None, None
    if camera is None:
        camera = pycolmap.Camera.create_from_model_name(0, config.model, config.focal_factor * max(width, height), width, height)
    if (camera.width, camera.height) == (height, width) != (width, height):  # stored on its side, upright by EXIF
        prior = camera.has_prior_focal_length
        camera = pycolmap.Camera.create_from_model_name(0, config.model, camera.focal_length, width, height)
        camera.has_prior_focal_length = prior
    if config.sharing == "image":
        return image.name, camera
    if config.sharing == "size":
        return (width, height), camera
    return (width, height, exif_model, camera.mean_focal_length()), camera
