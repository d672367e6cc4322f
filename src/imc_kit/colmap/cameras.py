"""The cameras of a scene: which images share intrinsics, their focal lengths before mapping, and their camera model."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imc_kit.data.images import may_have_exif
from imc_kit.errors import KitError, require

log = logging.getLogger(__name__)

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
"""COLMAP's camera models, in an order in which each one's distortion parameters start with those of the models before
it."""


@dataclass(frozen=True)
class CameraConfig:
    """Which images share intrinsics, and their values before bundle adjustment."""

    sharing: Literal["exif", "size", "image"] = "exif"
    """exif: images with the same size, EXIF camera and EXIF focal length share intrinsics. But if most images match no
    other, the photos are by different people, and images without an EXIF camera share none. size: images of the same
    size share intrinsics. image: every image has its own."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the camera model."""
    focal_factor: float = 1.2
    """Focal length without EXIF, as a multiple of the image's longer side. 1.2 is COLMAP's default."""

    def __post_init__(self) -> None:
        require(self.focal_factor > 0, "focal_factor of the cameras", "more than 0", self.focal_factor)


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """One image of a database."""

    name: str
    path: Path
    size: tuple[int, int]
    """(width, height) of the upright image, to which the keypoints refer."""


def cameras_of(images: Sequence[ImageEntry], config: CameraConfig) -> list[tuple[Any, Any]]:
    """A (key, camera) for each image. Images with equal keys share a camera."""
    inferred = [_inferred(image, config) for image in images]
    keys: list[Any] = [
        (image.size, name, c.mean_focal_length()) for image, (name, c) in zip(images, inferred, strict=True)
    ]
    mostly_unique = len(images) > 2 and 2 * sum(count == 1 for count in Counter(keys).values()) > len(images)
    for number, (image, (name, _)) in enumerate(zip(images, inferred, strict=True)):
        if config.sharing == "size":
            keys[number] = image.size
        elif config.sharing == "image" or (mostly_unique and name is None):
            keys[number] = image.name
    return [(key, camera) for key, (_, camera) in zip(keys, inferred, strict=True)]


def _inferred(image: ImageEntry, config: CameraConfig) -> tuple[str | None, Any]:
    """The EXIF name of an image's camera, if any, and the camera with COLMAP's focal length prior."""
    import pycolmap

    bitmap = None
    try:
        if may_have_exif(image.path):  # otherwise COLMAP decodes the whole image to find none
            bitmap = pycolmap.Bitmap.read(image.path, as_rgb=False)
    except (KitError, RuntimeError, ValueError) as error:
        log.debug("COLMAP cannot read %s (%s): using the default focal length", image.path, error)
    known = bitmap.exif_focal_length() if bitmap else None
    focal = known or config.focal_factor * max(image.size)
    camera = pycolmap.Camera.create_from_model_name(0, config.model, focal, *image.size)
    camera.has_prior_focal_length = bool(known)
    return bitmap.exif_camera_model() if bitmap else None, camera


def change_camera_model(camera: Any, model: str) -> None:
    """Change a camera to another of `CAMERA_MODELS`. Rays stay the same, except for distortion that it lacks."""
    import pycolmap

    other = pycolmap.Camera.create_from_model_name(
        camera.camera_id, model, camera.mean_focal_length(), camera.width, camera.height
    )
    if len(other.focal_length_idxs()) == 2:
        other.focal_length_x, other.focal_length_y = camera.focal_length_x, camera.focal_length_y
    other.principal_point_x, other.principal_point_y = camera.principal_point_x, camera.principal_point_y
    params = list(other.params)
    if camera.model.name in CAMERA_MODELS:
        for place, source in zip(other.extra_params_idxs(), camera.extra_params_idxs(), strict=False):
            params[place] = camera.params[source]
    camera.model, camera.params = other.model, params
