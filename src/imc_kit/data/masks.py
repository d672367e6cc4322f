"""Masks of where keypoints are allowed: from a folder of files, or computed from green vegetation.

Vegetation moves and repeats itself, so its keypoints mislead. A mask is bool [H, W], True where keypoints are allowed.
Its size may differ from its photo's: `detectors.extract` stretches it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.data import images
from imc_kit.data.images import ImageInfo, Photo
from imc_kit.data.listing import IMAGE_SUFFIXES, exists, is_folder
from imc_kit.errors import KitError, require
from imc_kit.types import Mask, Pixels, Scene

log = logging.getLogger(__name__)

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".webp")
_SUFFIXES = (*_LOSSLESS, *sorted(IMAGE_SUFFIXES.difference(_LOSSLESS)))
_NAMES = "IMG.jpg.png, IMG.png, IMG_mask.png or IMG.mask.png"
_BLACK = 1 / 16
"""Pixels up to this fraction of a mask's brightest value are black, because black in a JPEG is not exactly 0."""

# Limits for vegetation. They mask the fern of the open scene fern20 but not the red sandstone of fountain_P11
# (tests/data/test_masks.py), and were not tuned further.
_HUES = (60.0, 160.0)
"""Lowest and highest hue in degrees: yellow is 60, pure green 120, cyan 180."""
_MIN_SATURATION = 0.2
"""Lowest saturation: 0 is grey, 1 a pure colour."""
_MIN_VALUE = 0.1
"""Lowest brightness: 0 is black, 1 the brightest."""
LONG_SIDE = 640
"""Vegetation is detected in the photo reduced to at most this many pixels on its longer side."""
_OPEN_RADIUS, _CLOSE_RADIUS = 1, 4
"""Radii of the morphological opening, which drops small patches, and then the closing, which fills small gaps. In
pixels of the reduced photo."""


@dataclass(frozen=True)
class MaskConfig:
    """What to mask. By default nothing is masked."""

    folder: Path | None = None
    """Folder of masks, one per image: `IMG.jpg.png`, `IMG.png`, `IMG_mask.png` or `IMG.mask.png`. Black pixels are
    ignored (COLMAP's convention)."""
    vegetation: bool = False
    """Mask green plants by their colour."""
    min_share: float = 0.2
    """Ignore the vegetation mask if less than this fraction of the image, or of what `folder` allows, would remain."""

    def __post_init__(self) -> None:
        require(0 <= self.min_share <= 1, "min_share of the masks", "in 0 … 1", self.min_share)

    def check(self) -> None:
        """Raise `KitError` when the folder of masks does not exist."""
        if self.folder is not None and not is_folder(self.folder):
            raise KitError(f"the folder of masks {self.folder} does not exist: give one with a mask for each image")

    def of_scene(self, name: str, root: Path) -> "MaskConfig":
        """The config for one scene: its masks are in the subfolder with its name, if that exists, else in `folder`.

        Raises `KitError` when the folder of masks is the scene's folder of images `root`.
        """
        if self.folder is None:
            return self
        folder = self.folder / name if is_folder(self.folder / name) else self.folder
        if folder.resolve() == root.resolve():
            raise KitError(f"the folder of masks {folder} also holds the images: put the masks into another one")
        return replace(self, folder=folder.absolute())  # a worker may have another working directory


def coverage(scenes: Sequence[Scene], config: MaskConfig) -> list[str]:
    """A note if some images have no mask in the folder. Raises `KitError` if none has one."""
    if config.folder is None:
        return []
    folders = [(scene, config.of_scene(scene.name, scene.root).folder) for scene in scenes]
    found = [find(name, folder) is not None for scene, folder in folders if folder for name in scene.images]
    if all(found):
        return []
    text = f"{sum(found)} of {len(found)} images have a mask in {config.folder} (looked for: {_NAMES})"
    if not any(found):
        raise KitError(text)
    return [text]


def mask(photo: Photo, name: str, config: MaskConfig) -> Mask | None:
    """The pixels of a photo where keypoints are allowed; None means all.

    name: the image's name in its scene. A mask file that cannot be used is left out with a warning.
    """
    path, allowed = find(name, config.folder) if config.folder else None, None
    try:
        allowed = read(path, photo) if path else None
    except KitError as error:
        log.warning("%s is not masked: %s", name, error)
    if not config.vegetation:
        return allowed
    plants = vegetation(photo.pixels)
    before = np.ones_like(plants) if allowed is None else stretched(allowed, plants.shape)
    left: Mask = before & ~plants
    if left.sum() < config.min_share * before.sum():
        log.warning("%s is not masked for vegetation: only %.0f %% of it would remain", name, 100 * left.mean())
        return allowed
    return left


def find(name: str, folder: Path) -> Path | None:
    """The mask file of an image, or None.

    For `a.jpg` these names are tried in order: `a.jpg.png` (COLMAP's), `a.jpg`, `a` with another image suffix, and with
    such a suffix `a_mask` (OpenDroneMap's), `a.mask` (OpenMVS's) and `a.jpg.mask`.
    """
    path = folder / name
    stems = path.stem, f"{path.stem}_mask", f"{path.stem}.mask", f"{path.name}.mask"
    others = (stem + suffix for stem in stems for lower in _SUFFIXES for suffix in (lower, lower.upper()))
    names = [f"{path.name}.png", path.name, *others]
    return next((found for name in names if exists(found := path.with_name(name))), None)


def digest(path: Path, info: ImageInfo) -> str:
    """The hash of the mask file of an image. Raises `KitError` as `read` does, but from its header only."""
    _check_shape(path, images.probe(path), info)
    return images.digest(path)


def _check_shape(path: Path, mask: Photo | ImageInfo, photo: Photo | ImageInfo) -> None:
    """Raise `KitError` if the stored mask is portrait and its image landscape, or vice versa."""
    (width, height), stored = (one.size if one.rotation_quarters % 2 == 0 else one.size[::-1] for one in (mask, photo))
    if (width - height) * (stored[0] - stored[1]) < 0:
        sizes = f"{width} × {height} pixels, but its image is stored as {stored[0]} × {stored[1]}"
        todo = "store the mask in the orientation of the stored image, without its EXIF rotation"
        raise KitError(f"the mask {path} is {sizes}: {todo}")


def read(path: Path, photo: Photo) -> Mask:
    """Read a mask file and rotate it like its photo.

    The mask belongs to the stored raster; its own EXIF is ignored. Black is relative to the mask's brightest pixel, so
    that a mask of 0 and 1 works too. Raises `KitError` when the file cannot be read, or if it is portrait and its image
    landscape or vice versa.
    """
    picture = images.load(path)
    _check_shape(path, picture, photo)
    brightest = picture.pixels.max(axis=2).astype(int)
    allowed = np.rot90(brightest > _BLACK * brightest.max(), picture.rotation_quarters)  # back to the stored raster
    allowed = allowed[:, ::-1] if picture.mirrored else allowed
    upright = np.rot90(allowed[:, ::-1] if photo.mirrored else allowed, -photo.rotation_quarters)
    return np.ascontiguousarray(upright)


def vegetation(pixels: Pixels) -> Mask:
    """Find green plants by colour: bool [h, w], True for vegetation, with a longer side of at most 640 pixels."""
    height, width = pixels.shape[:2]
    small = cv2.resize(pixels, images.fitting((width, height), LONG_SIDE), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # degrees, 0 … 1, 0 … 1
    green = cv2.inRange(hsv, (_HUES[0], _MIN_SATURATION, _MIN_VALUE), (_HUES[1], 2, 2))
    plants = cv2.morphologyEx(green, cv2.MORPH_OPEN, _disc(_OPEN_RADIUS))
    plants = cv2.morphologyEx(plants, cv2.MORPH_CLOSE, _disc(_CLOSE_RADIUS))
    return np.asarray(plants, np.bool_)


def stretched(values: Mask, shape: tuple[int, ...]) -> Mask:
    """Stretch a mask to `shape` (h, w): each pixel takes the value at its centre, as in `detectors.extract`."""
    size = shape[1], shape[0]
    return np.asarray(cv2.resize(values.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT), np.bool_)


def _disc(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x**2 + y**2 <= radius**2, np.uint8)
