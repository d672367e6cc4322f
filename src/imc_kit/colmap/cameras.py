"""The cameras of a scene: which images share intrinsics, their focal lengths before mapping, and their camera model."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imc_kit.data.images import may_have_exif
from imc_kit.errors import KitError, require, unknown_name

log = logging.getLogger(__name__)

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
"""COLMAP's camera models, in an order in which each one's distortion parameters start with those of the models before
it."""
PLAUSIBLE = 0.13, 7.2
"""Focal lengths to believe, in longer sides of the image: a field of view from 150° to 8°, or 5 to 260 mm as of 35 mm
film. Few photos of places are outside, and for those the default does no harm. Nonsense in EXIF mostly is."""
FOCAL_RANGE, MAX_DISTORTION = (0.1, 10.0), 1.0
"""COLMAP's mappers drop images whose focal length, in longer sides of the image, or distortion is out of range."""


@dataclass(frozen=True)
class CameraConfig:
    """Which images share intrinsics, and their values before bundle adjustment. Raises `KitError` when a value makes no
    sense."""

    sharing: Literal["exif", "size", "folder", "image"] = "exif"
    """exif: images with the same size, EXIF camera and EXIF focal length share intrinsics. But if most images match no
    other, the photos are by different people, and images without an EXIF camera share none. size: images of the same
    size share intrinsics. folder: images of the same size in the same folder do. image: every image has its own."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the camera model."""
    known: str = ""
    """Known intrinsics of photos as they are stored: MODEL PARAMS, as in "SIMPLE_RADIAL 900,512,384,0.01", a file of
    lines [IMAGE or FOLDER/] MODEL [WIDTH HEIGHT] PARAMS, COLMAP's cameras.txt, or the folder of a COLMAP model."""
    fixed: bool = False
    """Keep known intrinsics as they are: bundle adjustment does not change them."""
    exif: bool = True
    """Use the camera and the focal length in EXIF."""
    focal_factor: float = 1.2
    """Focal length without EXIF, as a multiple of the image's longer side. 1.2 is COLMAP's default."""

    def __post_init__(self) -> None:
        require(self.focal_factor > 0, "focal_factor of the cameras", "more than 0", self.focal_factor)
        if self.model != CameraConfig.model:  # the default does not load COLMAP
            camera_named(self.model, 1.0, (1, 1))


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """One image of a database."""

    name: str
    path: Path
    size: tuple[int, int]
    """(width, height) of the upright image, to which the keypoints refer."""
    turn: tuple[int, bool] = (0, False)
    """How EXIF turns the image upright: `ImageInfo.exif_turn`."""
    known: Any = None
    """The `pycolmap.Camera` of the upright image, if the user knows it (`known_cameras`)."""


def largest_distortion(cameras: Iterable[Any]) -> float:
    """The largest distortion parameter to believe: more than those of the known cameras."""
    known = (abs(float(camera.params[place])) for camera in cameras for place in camera.extra_params_idxs())
    return max(MAX_DISTORTION, 2 * max(known, default=0.0))


def camera_named(model: str, focal: float, size: tuple[int, int]) -> Any:
    """A `pycolmap.Camera` of a model by name. Raises `KitError` for an unknown one, suggesting the nearest."""
    import pycolmap

    known = pycolmap.CameraModelId.__members__.keys() - {"INVALID", "EQUIRECTANGULAR"}  # no focal length
    if model not in known:
        raise unknown_name("camera model", model, known)
    return pycolmap.Camera.create_from_model_name(0, model, focal, *size)


def plausible(focal: float) -> bool:
    """Whether a focal length, in longer sides of the image, may be a camera's. Nan may not."""
    return PLAUSIBLE[0] <= focal <= PLAUSIBLE[1]


def cameras_of(images: Sequence[ImageEntry], config: CameraConfig) -> tuple[list[tuple[Any, Any]], list[str]]:
    """A (key, camera) for each image, and notes on values that are not used. Images with equal keys share a camera."""
    notes: list[str] = []
    unknown = iter(_estimated([image for image in images if image.known is None], config, notes))
    return [next(unknown) if image.known is None else (_numbers(image.known), image.known) for image in images], notes


def _numbers(camera: Any) -> tuple[Any, ...]:
    return camera.model.name, camera.width, camera.height, *camera.params


def _estimated(images: Sequence[ImageEntry], config: CameraConfig, notes: list[str]) -> list[tuple[Any, Any]]:
    """The cameras of images whose intrinsics are not known."""
    keys: list[Any] = []
    refused: dict[str, list[str]] = {}
    for image in images:
        name, focal = _exif(image.path) if config.exif else (None, None)
        if focal is not None and not plausible(focal / max(image.size)):
            name = str(name).rsplit("-", 2)[0]  # without the focal length and the size, which COLMAP appends
            refused.setdefault(name, []).append(f"{image.name}: {focal / max(image.size):.3g} times the longer side")
            focal = None
        keys.append((image.size, name, focal))
    mostly_unique = len(images) > 2 and 2 * sum(count == 1 for count in Counter(keys).values()) > len(images)
    found = []
    for image, key in zip(images, keys, strict=True):
        size, name, focal = key
        camera = camera_named(config.model, focal or config.focal_factor * max(size), size)
        camera.has_prior_focal_length = focal is not None
        if config.sharing in ("size", "folder"):
            key = size, image.path.parent if config.sharing == "folder" else None
        elif config.sharing == "image" or (mostly_unique and name is None):
            key = image.name
        symmetric = len(camera.focal_length_idxs()) == 1  # with its principal point in the middle
        found.append(((key, None if symmetric else image.turn), camera))
    low, high = PLAUSIBLE
    notes += [
        f"the EXIF focal length of {len(those)} images by {name} is not used ({those[0]}): {low} to {high} is plausible"
        for name, those in refused.items()
    ]
    return found


def _exif(path: Path) -> tuple[str | None, float | None]:
    """The camera's name and its focal length in pixels, as COLMAP reads them from EXIF; None where there is none."""
    import pycolmap

    try:
        if may_have_exif(path):  # otherwise COLMAP decodes the whole image to find none
            bitmap = pycolmap.Bitmap.read(path, as_rgb=False)
            return (bitmap.exif_camera_model(), bitmap.exif_focal_length()) if bitmap else (None, None)
    except (KitError, RuntimeError, ValueError) as error:
        log.debug("COLMAP cannot read %s (%s): using the default focal length", path, error)
    return None, None


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
