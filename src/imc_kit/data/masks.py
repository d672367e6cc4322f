"""Where keypoints may be: masks from a folder of pictures, and one of green vegetation, which moves and looks alike.

A mask is bool [H, W], True where keypoints may be. It may be of another size than its photograph: `detectors.extract`
stretches it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.data import images
from imc_kit.data.images import Photo
from imc_kit.errors import KitError
from imc_kit.types import Mask, Pixels

log = logging.getLogger(__name__)

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
_TINT = np.array([204, 121, 167], np.float32)
"""Reddish purple, of Okabe and Ito's colours that everyone can tell apart: hardly any photograph has it."""


@dataclass(frozen=True)
class MaskConfig:
    """What to mask; nothing by default. Raises `KitError` when an option makes no sense."""

    folder: Path | None = None
    """Of masks, one for an image, black where no keypoints may be (COLMAP's convention); see `find`."""
    vegetation: bool = False
    """Mask green plants, by their colour."""
    hue_low: float = 60.0
    """Green begins at this hue, in degrees: yellow is 60, pure green 120, cyan 180."""
    hue_high: float = 160.0
    """Green ends at this hue."""
    min_saturation: float = 0.2
    """Less colourful pixels are not vegetation: 0 is grey, 1 pure colour."""
    min_value: float = 0.1
    """Darker pixels are not vegetation: 0 is black, 1 the brightest."""
    long_side: int = 640
    """Vegetation is looked for in the photograph shrunk to at most this many pixels on its longer side."""
    open_radius: int = 1
    """Spots of vegetation that a disc of this radius does not fit into are dropped first, in pixels of that size."""
    close_radius: int = 4
    """Then gaps that a disc of this radius does not fit into are filled."""
    min_share: float = 0.2
    """A photograph of which less would be left of what the folder allows is not masked for vegetation at all."""
    pictures: bool = False
    """Save a picture of every masked photograph, with the mask in purple, in the scene's folder `masks`."""

    def __post_init__(self) -> None:
        for option, right, wanted in (
            ("hue_low", 0 <= self.hue_low < self.hue_high, "at least 0 degrees and less than hue_high"),
            ("hue_high", self.hue_high <= 360, "at most 360 degrees"),
            ("min_saturation", 0 <= self.min_saturation <= 1, "in 0 … 1"),
            ("min_value", 0 <= self.min_value <= 1, "in 0 … 1"),
            ("long_side", self.long_side >= 1, "at least 1 pixel"),
            ("open_radius", 0 <= self.open_radius <= 100, "in 0 … 100 pixels"),
            ("close_radius", 0 <= self.close_radius <= 100, "in 0 … 100 pixels"),
            ("min_share", 0 <= self.min_share <= 1, "in 0 … 1"),
        ):
            if not right:
                raise KitError(f"{option} of the masks must be {wanted}, not {getattr(self, option)!r}")

    def check(self) -> None:
        """Raise KitError when there is no such folder."""
        if self.folder is not None and not self.folder.is_dir():
            raise KitError(f"the folder of masks {self.folder} does not exist: give one with a mask for each image")

    def of_scene(self, name: str, root: Path) -> MaskConfig:
        """The same for one scene: its masks are in the subfolder of its name, where there is one.

        Raises `KitError` when the masks are where the scene's images are, at `root`: each would be its own mask.
        """
        if self.folder is None:
            return self
        folder = self.folder / name if (self.folder / name).is_dir() else self.folder
        if folder.resolve() == root.resolve():
            raise KitError(f"the folder of masks {folder} is that of the images: put the masks into another one")
        return replace(self, folder=folder.absolute())  # a worker may be elsewhere


def mask(photo: Photo, name: str, config: MaskConfig) -> Mask | None:
    """Where keypoints may be in a photograph, or None for everywhere.

    name: the image's, relative to its scene. Raises `KitError` for a mask in the folder that cannot be used.
    """
    given = None if config.folder is None else find(name, config.folder)
    allowed = None if given is None else read(given, photo)
    if not config.vegetation:
        return allowed
    plants = vegetation(photo.pixels, config)
    before = np.ones_like(plants) if allowed is None else stretched(allowed, plants.shape)
    left: Mask = before & ~plants
    if left.sum() < config.min_share * before.sum():
        log.warning("%s is not masked for vegetation: that would leave only %.0f %% of it", name, 100 * left.mean())
        return allowed
    return left


def find(name: str, folder: Path) -> Path | None:
    """The mask of an image, or None: the file in `folder` of the image's name with .png behind it, as COLMAP has it,
    else of its very name, else of its name with the suffix of another kind of image."""
    path = folder / name
    others = [path.with_suffix(suffix) for lower in _SUFFIXES for suffix in (lower, lower.upper())]
    return next((found for found in [path.with_name(f"{path.name}.png"), path, *others] if found.exists()), None)


def read(path: Path, photo: Photo) -> Mask:
    """A mask from a file, made upright as its photograph was. Raises `KitError`, naming the file, if it is of no use.

    It belongs to the raster as stored, whatever its own EXIF says. It is black where no keypoints may be: not brighter
    than a sixteenth of its brightest pixel, for a JPEG's black is not quite 0, and the white of some masks is 1.
    """
    picture = images.load(path)
    brightest = picture.pixels.max(axis=2).astype(int)
    allowed = _as_stored(16 * brightest > brightest.max(), picture)
    width, height = photo.size if photo.rotation_quarters % 2 == 0 else photo.size[::-1]
    if (allowed.shape[1] - allowed.shape[0]) * (width - height) < 0:
        raise KitError(
            f"the mask {path} is {allowed.shape[1]} × {allowed.shape[0]} pixels, but its image is stored as"
            f" {width} × {height}: turn the mask as the image is stored, not as its EXIF orientation shows it"
        )
    upright = np.rot90(allowed[:, ::-1] if photo.mirrored else allowed, -photo.rotation_quarters)
    return np.ascontiguousarray(upright)


def vegetation(pixels: Pixels, config: MaskConfig) -> Mask:
    """Where green plants are, by colour: bool [h, w], True is vegetation, of the size `config.long_side` asks for."""
    height, width = pixels.shape[:2]
    scale = min(1.0, config.long_side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    hue, saturation, value = np.moveaxis(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2HSV), 2, 0)
    green = (hue >= config.hue_low) & (hue <= config.hue_high)
    green &= (saturation >= config.min_saturation) & (value >= config.min_value)
    plants = cv2.morphologyEx(green.astype(np.uint8), cv2.MORPH_OPEN, _disc(config.open_radius))
    plants = cv2.morphologyEx(plants, cv2.MORPH_CLOSE, _disc(config.close_radius))
    return np.asarray(plants, np.bool_)


def overlay(pixels: Pixels, allowed: Mask | None) -> Pixels:
    """The photograph for a person to look at: where no keypoints may be it is purple."""
    if allowed is None:
        return pixels.copy()
    masked = ~stretched(allowed, pixels.shape[:2])
    shown = pixels.copy()
    shown[masked] = np.rint(0.35 * pixels[masked] + 0.65 * _TINT)
    return shown


def stretched(values: Mask, shape: tuple[int, ...]) -> Mask:
    """The cell that holds the centre of each pixel, as `detectors.extract` takes it: bool `shape`."""
    size = shape[1], shape[0]
    return np.asarray(cv2.resize(values.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT), np.bool_)


def _as_stored(values: Mask, picture: Photo) -> Mask:
    """What EXIF did to a picture, undone: the way back of `images.load`."""
    turned = np.rot90(values, picture.rotation_quarters)
    return turned[:, ::-1] if picture.mirrored else turned


def _disc(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x**2 + y**2 <= radius**2, np.uint8)
