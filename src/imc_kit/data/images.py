"""Decode photos upright at the wanted size, or refuse them with a reason.

A file's content determines its format, not its suffix. Only the first frame is used. Colour profiles are ignored. Alpha
is dropped, because the transparent pixels of a cut-out usually still hold the photo.

Pillow decodes: it reads EXIF from every format, prints nothing, and is about as fast as OpenCV (both use
libjpeg-turbo). Every function may be called from several threads at once.
"""

import errno
import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import JpegImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from imc_kit.data.decoding import MAX_PIXELS, decode, opened, refused
from imc_kit.data.exif import orientation_and_position
from imc_kit.data.gps import Position
from imc_kit.errors import KitError
from imc_kit.types import Float32, Float64, Pixels

MIN_SIDE = 16
"""Images with a shorter side, in pixels, are refused: no detector finds anything in them."""
F = TypeVar("F", Float32, Float64)
logger = logging.getLogger(__name__)

_ROTATIONS = (0, False), (0, True), (2, False), (2, True), (3, True), (1, False), (1, True), (3, False)
_UPRIGHT = dict(enumerate(_ROTATIONS, 1))
"""(clockwise 90° rotations, mirrored) by EXIF orientation. Mirroring, left to right, comes first."""
_JPEG_END = b"\xff\xd9"
_METADATA = {"exif", "xmp", "photoshop"}
"""Pillow's names for the parts of a JPEG header that may hold the camera or its focal length."""


@dataclass(frozen=True)
class ImageInfo:
    """The header of an image file.

    size: (width, height) of the upright image in pixels.
    rotation_quarters: clockwise 90° rotations, 0 to 3, that make the stored raster upright.
    mirrored: whether the stored raster is mirrored left to right before the rotation.
    extra_quarters: how many of these rotations, 0 to 3, are not in EXIF but estimated, for example.
    gps: EXIF's latitude, longitude and altitude, if it has them.
    """

    size: tuple[int, int]
    rotation_quarters: int
    mirrored: bool
    extra_quarters: int = 0
    gps: Position | None = None

    @property
    def exif_turn(self) -> tuple[int, bool]:
        """The rotations of EXIF alone, and `mirrored`. The others undo the rotation of a file, not of a camera."""
        return (self.rotation_quarters - self.extra_quarters) % 4, self.mirrored

    @property
    def stored_quarters(self) -> int:
        """The clockwise 90° rotations from the image that models and the submission describe to the upright one.

        They describe the raster as it is stored. But no camera sees a mirrored raster, so for one they describe the
        image as EXIF orients it.
        """
        return self.extra_quarters if self.mirrored else self.rotation_quarters

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the stored raster in pixels."""
        return self.size[::-1] if self.rotation_quarters % 2 else self.size

    def to_upright(self, points: Float32) -> Float32:
        """Map points (x, y), float32 [N, 2], from the stored raster to the upright image.

        In both, (0, 0) is the centre of the top-left pixel.
        """
        width, height = self.stored_size
        if self.mirrored:
            points = np.stack([np.float32(width - 1) - points[:, 0], points[:, 1]], 1)
        return rotated_points(points, (width - 1, height - 1), self.rotation_quarters)

    def to_stored(self, points: Float32) -> Float32:
        """The inverse of `to_upright`."""
        width, height = self.size
        points = rotated_points(points, (width - 1, height - 1), -self.rotation_quarters)
        if self.mirrored:
            points = np.stack([np.float32(self.stored_size[0] - 1) - points[:, 0], points[:, 1]], 1)
        return points

    def rotated(self, extra: int) -> "ImageInfo":
        """The info after `extra` more clockwise 90° rotations, as for `load(…, extra_quarters=extra)`."""
        size = self.size[::-1] if extra % 2 else self.size
        rotation_quarters = (self.rotation_quarters + extra) % 4
        extra_quarters = (self.extra_quarters + extra) % 4
        return replace(self, size=size, rotation_quarters=rotation_quarters, extra_quarters=extra_quarters)


def rotated_points(points: F, size: tuple[float, float], quarters: int) -> F:
    """Points (x, y) [N, 2] after the clockwise rotation of their image by `quarters` · 90°.

    size: the place (x, y) of the corner opposite to (0, 0).
    """
    for number in range(quarters % 4):
        points = np.stack([size[1 - number % 2] - points[:, 1], points[:, 0]], axis=1).astype(points.dtype)
    return points


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image.

    pixels: uint8 [h, w, 3], RGB, upright; possibly smaller than the original.
    size: (width, height) of the original, upright, in pixels.
    rotation_quarters, mirrored: how the stored raster was made upright, as in `ImageInfo`.
    """

    pixels: Pixels
    size: tuple[int, int]
    rotation_quarters: int
    mirrored: bool

    def to_original(self, points: Float32) -> Float32:
        """Map points (x, y), float32 [N, 2], from pixels of `pixels` to pixels of the original, upright image.

        In both, (0, 0) is the centre of the top-left pixel.
        """
        scale = np.array(self.pixels.shape[1::-1]) / self.size
        return ((points + 0.5) / scale - 0.5).astype(np.float32)

    def from_original(self, points: Float32) -> Float32:
        """The inverse of `to_original`."""
        scale = np.array(self.pixels.shape[1::-1]) / self.size
        return ((points + 0.5) * scale - 0.5).astype(np.float32)


def load(
    path: Path | str, long_side: int | None = None, extra_quarters: int = 0, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Decode an image upright, with its longer side at most `long_side` pixels. It is never enlarged.

    extra_quarters: clockwise 90° rotations in addition to those in EXIF (see `viewgraph.orientation`).
    max_pixels: refuse larger images; see `decoding`.

    A JPEG is decoded at a half, a quarter or an eighth of its size if that is enough, and reduced further by area
    interpolation. `pixels` covers exactly the area of the original.

    16-bit samples are scaled by the smallest depth of 8, 10, 12, 14 and 16 bits that holds the brightest sample.
    Otherwise 12-bit sensor data in a 16-bit file would come out black.

    A truncated JPEG is used up to its end, with a warning: the flat remainder has no keypoints. Raises `KitError`, with
    the file and the reason, when anything else cannot be decoded.
    """
    with _reading(path) as file:
        image, info = _open(file, max_pixels)
        target = fitting(image.size, long_side)
        try:
            pixels = decode(image, file, target)
        except OSError:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                raise
            file.seek(0)
            completed = io.BytesIO(file.read() + _JPEG_END)
            image, _ = _open(completed, max_pixels)
            pixels = decode(image, completed, target)
            logger.warning("%s is truncated: only the part before its end is used", path)
    if not _is_made_upright_by_pillow(image):
        pixels = np.rot90(pixels[:, ::-1] if info.mirrored else pixels, -info.rotation_quarters)
    info = info.rotated(extra_quarters)
    pixels = np.ascontiguousarray(np.rot90(pixels, -extra_quarters))
    return Photo(pixels, info.size, info.rotation_quarters, info.mirrored)


def probe(path: Path | str, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the header of an image without decoding it.

    Raises `KitError`, with the file and the reason, when the file is missing, a folder, empty, in an unknown format,
    too small (`MIN_SIDE`) or larger than `max_pixels`.
    """
    with _reading(path) as file:
        return _open(file, max_pixels)[1]


def may_have_exif(path: Path | str) -> bool:
    """Whether the image may have EXIF. False is certain, and saves decoding the image to look for it.

    Raises `KitError` as `probe` does.
    """
    with _reading(path) as file:
        image, _ = _open(file)
        return not isinstance(image, JpegImagePlugin.JpegImageFile) or not _METADATA.isdisjoint(image.info)


def digest(path: Path | str) -> str:
    """The BLAKE2b hash of a file's content, 32 hexadecimal digits. Raises `KitError` if the file cannot be read."""
    with _reading(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def _reading(path: Path | str) -> Iterator[io.BufferedReader]:
    """Open a file, and turn any error inside the block into a `KitError` that names the file."""
    path = Path(path)
    try:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such file")
        if not path.is_file():
            raise refused("it is not a file")
        with path.open("rb") as file:
            yield file
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        reason = getattr(error, "strerror", None) or f"it is damaged or of an unsupported kind ({error})"
        raise KitError(f"cannot read the image {path}: {reason}") from error


def _open(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> tuple[ImageFile, ImageInfo]:
    """Read and check the header of an image without decoding it."""
    image = opened(file, max_pixels)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise refused(f"{width} × {height} pixels are too few: each side must have at least {MIN_SIDE}")
    orientation, gps = orientation_and_position(image, file)
    rotation_quarters, mirrored = _UPRIGHT.get(orientation, (0, False))
    if rotation_quarters % 2 and not _is_made_upright_by_pillow(image):
        width, height = height, width
    return image, ImageInfo((width, height), rotation_quarters, mirrored, gps=gps)


def _is_made_upright_by_pillow(image: ImageFile) -> bool:
    """Whether Pillow itself applies the EXIF orientation to the pixels and the size. It does so for TIFF only."""
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def fitting(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """Reduce a (width, height) to at most `long_side` pixels on the longer side."""
    scale = min(1.0, long_side / max(size)) if long_side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
