"""The cameras of a scene: which images share intrinsics, their focal lengths before mapping, and their camera model."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan
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
    params: str = ""
    """Known intrinsics of all images of the most frequent size, as COLMAP's `camera_params`: the camera model's numbers
    in pixels of the upright image, separated by commas, as in 900,512,384,0.01."""
    exif: bool = True
    """Use the camera and the focal length in EXIF."""
    focal_factor: float = 1.2
    """Focal length without EXIF, as a multiple of the image's longer side. 1.2 is COLMAP's default."""

    def __post_init__(self) -> None:
        require(0 < self.focal_factor < inf, "focal_factor of the cameras", "more than 0", self.focal_factor)
        if self.model != CameraConfig.model or self.params:  # the defaults do not load COLMAP
            import pycolmap

            known = pycolmap.CameraModelId.__members__.keys() - {"INVALID", "EQUIRECTANGULAR"}  # no focal length
            if self.model not in known:
                raise unknown_name("camera model", self.model, known)
            wanted = pycolmap.Camera.create_from_model_name(0, self.model, 1.0, 1, 1).params_info
            valid = len(self.known) in (0, len(wanted.split(","))) and all(map(isfinite, self.known))
            positive = min(self.known[:1], default=1) > 0
            require(valid and positive, "params of the cameras", f"{wanted} of {self.model} in pixels", self.params)

    @property
    def known(self) -> list[float]:
        """The numbers of `params`; nan if they are not numbers."""
        try:
            return [float(number) for number in self.params.split(",")] if self.params else []
        except ValueError:
            return [nan]


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """One image of a database."""

    name: str
    path: Path
    size: tuple[int, int]
    """(width, height) of the upright image, to which the keypoints refer."""
    turn: tuple[int, bool] = (0, False)
    """How EXIF turns the image upright: `ImageInfo.exif_turn`."""


def plausible(focal: float) -> bool:
    """Whether a focal length, in longer sides of the image, may be a camera's. Nan may not."""
    return PLAUSIBLE[0] <= focal <= PLAUSIBLE[1]


def cameras_of(images: Sequence[ImageEntry], config: CameraConfig) -> tuple[list[tuple[Any, Any]], list[str]]:
    """A (key, camera) for each image, and notes on values that are not used. Images with equal keys share a camera."""
    import pycolmap

    sizes = Counter(image.size for image in images).most_common(1)
    known_size = sizes[0][0] if sizes and config.params else None
    keys, notes = _by_exif(images, config)
    mostly_unique = len(images) > 2 and 2 * sum(count == 1 for count in Counter(keys).values()) > len(images)
    found = []
    for image, (size, name, focal) in zip(images, keys, strict=True):
        key: Any = (size, name, focal)
        camera = pycolmap.Camera.create_from_model_name(
            0, config.model, focal or config.focal_factor * max(size), *size
        )
        camera.has_prior_focal_length = focal is not None or size == known_size
        if size == known_size:
            camera.params, key = config.known, (size, config.params)
        if config.sharing == "size":
            key = size
        elif config.sharing == "folder":
            key = size, image.path.parent
        elif config.sharing == "image" or (mostly_unique and name is None and size != known_size):
            key = image.name
        symmetric = len(camera.focal_length_idxs()) == 1 and not config.params  # with its principal point in the middle
        found.append(((key, None if symmetric else image.turn), camera))
    if known_size and (others := sum(image.size != known_size for image in images)):
        notes.append(
            f"params of the cameras are used for images of {known_size[0]} × {known_size[1]} pixels, as most are, but "
            f"not for {others} images of other sizes"
        )
    return found, notes


def _by_exif(
    images: Sequence[ImageEntry], config: CameraConfig
) -> tuple[list[tuple[Any, str | None, float | None]], list[str]]:
    """(size, EXIF name of the camera, focal length in pixels) of each image, and a note for each camera whose focal
    length is implausible. Such an image gets the focal length of the other images of its camera, if they have one."""
    exif = [(image.size, *(_exif(image.path) if config.exif else (None, None))) for image in images]
    likely = {key for key in exif if key[2] is not None and plausible(key[2] / max(key[0]))}
    keys, refused = [], dict[Any, list[str]]()
    for image, key in zip(images, exif, strict=True):
        if key[2] is not None and key not in likely:
            camera = image.size, _maker(key[1])
            refused.setdefault(camera, []).append(f"{image.name}: {key[2] / max(image.size):.3g}")
            others = [other for other in likely if (other[0], _maker(other[1])) == camera]
            key = others[0] if len(others) == 1 else (image.size, camera[1], None)
        keys.append(key)
    return keys, [
        f"the EXIF focal length of {len(those)} images by camera {maker or 'unknown'} is not used: {those[0]} times "
        f"the longer side, but {PLAUSIBLE[0]} to {PLAUSIBLE[1]} is plausible"
        for (_, maker), those in refused.items()
    ]


def _maker(name: str | None) -> str | None:
    """The camera without the focal length and the image size that COLMAP appends: Maker-Model-8.000000-80x60."""
    return name and name.rsplit("-", 2)[0].rstrip("-")


def _exif(path: Path) -> tuple[str | None, float | None]:
    """The camera's name and its focal length in pixels, as COLMAP reads them from EXIF; None where there is none."""
    import pycolmap

    try:
        if may_have_exif(path):  # otherwise COLMAP decodes the whole image to find none
            bitmap = pycolmap.Bitmap.read(path, as_rgb=False)
            if bitmap:
                return bitmap.exif_camera_model(), bitmap.exif_focal_length()
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
