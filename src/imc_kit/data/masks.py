"""Masks of where keypoints are allowed: from a folder of files, or computed from green vegetation.

Vegetation moves and repeats itself, so its keypoints mislead. A mask is bool [H, W], True where keypoints are allowed.
Its size may differ from its photo's: `detectors.extract` stretches it.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.data import images
from imc_kit.data.images import Photo
from imc_kit.errors import KitError, require
from imc_kit.types import Mask, Pixels

log = logging.getLogger(__name__)

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo")
_MASKED_COLOUR = np.array([204, 121, 167], np.float32)
"""Reddish purple from Okabe and Ito's palette for colour-blind readers. It is rare in photos."""
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
    """Folder of masks, one per image: `IMG.jpg.png` or `IMG.png`. Black pixels are ignored (COLMAP's convention)."""
    vegetation: bool = False
    """Mask green plants by their colour."""
    min_share: float = 0.2
    """Ignore the vegetation mask if less than this fraction of the image, or of what `folder` allows, would remain."""
    pictures: bool = False
    """Save every masked photo, with its mask in purple, in the scene's folder `masks`."""

    def __post_init__(self) -> None:
        require(0 <= self.min_share <= 1, "min_share of the masks", "in 0 … 1", self.min_share)

    def check(self) -> None:
        """Raise `KitError` when the folder of masks does not exist."""
        if self.folder is not None and not self.folder.is_dir():
            raise KitError(f"the folder of masks {self.folder} does not exist: give one with a mask for each image")

    def of_scene(self, name: str, root: Path) -> "MaskConfig":
        """The config for one scene: its masks are in the subfolder with its name, if that exists, else in `folder`.

        Raises `KitError` when the folder of masks is the scene's folder of images `root`.
        """
        if self.folder is None:
            return self
        folder = self.folder / name if (self.folder / name).is_dir() else self.folder
        if folder.resolve() == root.resolve():
            raise KitError(f"the folder of masks {folder} also holds the images: put the masks into another one")
        return replace(self, folder=folder.absolute())  # a worker may have another working directory


def mask(photo: Photo, name: str, config: MaskConfig) -> Mask | None:
    """The pixels of a photo where keypoints are allowed; None means all.

    name: the image's name in its scene. Raises `KitError` for a mask file that cannot be used.
    """
    path = find(name, config.folder) if config.folder else None
    allowed = read(path, photo) if path else None
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

    For `a.jpg` these names are tried in order: `a.jpg.png` (COLMAP's), `a.jpg`, and `a` with another image suffix.
    """
    path = folder / name
    others = [path.with_suffix(suffix) for lower in _SUFFIXES for suffix in (lower, lower.upper())]
    return next((found for found in [path.with_name(f"{path.name}.png"), path, *others] if found.exists()), None)


def read(path: Path, photo: Photo) -> Mask:
    """Read a mask file and rotate it like its photo.

    The mask belongs to the stored raster; its own EXIF is ignored. Black is relative to the mask's brightest pixel, so
    that a mask of 0 and 1 works too. Raises `KitError` when the file cannot be read, or if it is portrait and its image
    landscape or vice versa.
    """
    picture = images.load(path)
    brightest = picture.pixels.max(axis=2).astype(int)
    allowed = np.rot90(brightest > _BLACK * brightest.max(), picture.rotation_quarters)  # back to the stored raster
    allowed = allowed[:, ::-1] if picture.mirrored else allowed
    width, height = photo.size if photo.rotation_quarters % 2 == 0 else photo.size[::-1]
    if (allowed.shape[1] - allowed.shape[0]) * (width - height) < 0:
        sizes = f"{allowed.shape[1]} × {allowed.shape[0]} pixels, but its image is stored as {width} × {height}"
        todo = "store the mask in the orientation of the stored image, without its EXIF rotation"
        raise KitError(f"the mask {path} is {sizes}: {todo}")
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


def overlay(pixels: Pixels, allowed: Mask | None) -> Pixels:
    """Copy a photo's pixels and colour those purple where keypoints are not allowed."""
    shown = pixels.copy()
    if allowed is not None:
        masked = ~stretched(allowed, pixels.shape[:2])
        shown[masked] = np.rint(0.35 * pixels[masked] + 0.65 * _MASKED_COLOUR)
    return shown


def stretched(values: Mask, shape: tuple[int, ...]) -> Mask:
    """Stretch a mask to `shape` (h, w): each pixel takes the value at its centre, as in `detectors.extract`."""
    size = shape[1], shape[0]
    return np.asarray(cv2.resize(values.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT), np.bool_)


def _disc(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x**2 + y**2 <= radius**2, np.uint8)
