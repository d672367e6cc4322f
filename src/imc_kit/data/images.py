"""Photographs from disk: decoded, upright, at the wanted size, or refused with a reason.

The content of a file decides what it is, not its suffix. Of several frames the first is used, colour profiles are
ignored, and alpha is dropped: under the mask of a cut-out there is most often the photograph still.

Pillow does the decoding: it reads EXIF from every format, is silent, and is as fast as OpenCV (the same libjpeg-turbo)
except for the copy out of it. Everything here may be called from many threads.
"""

from __future__ import annotations

import hashlib
import io
import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from imc_kit.errors import KitError
from imc_kit.types import Float32, Pixels

MIN_SIDE = 16
"""Images with a shorter side, in pixels, are refused: nothing can be detected in them."""
MAX_PIXELS = 250_000_000
"""Images with more pixels are refused by their header: a few kilobytes can unpack to gigabytes."""

logger = logging.getLogger(__name__)

# The classes themselves, not Image.open: that tries fifty formats more and warns about large photographs.
_FORMATS: dict[bytes, Callable[[BinaryIO], ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
    b"MM\0+": TiffImagePlugin.TiffImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
_ORIENTATION = 0x0112
# EXIF's number -> (quarter turns clockwise, mirrored). The stored raster is mirrored left to right first, then turned.
_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (1, False),
    7: (1, True),
    8: (3, False),
}
_JPEG_END = b"\xff\xd9"
_METADATA = {"exif", "xmp", "photoshop"}
"""What Pillow calls the parts of a JPEG's header that name a camera or its focal length."""


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says. `size`, `quarters` and `mirrored` are as in `Photo`."""

    size: tuple[int, int]
    quarters: int
    mirrored: bool
    turn: int = 0
    """How many of the quarters, 0 to 3, EXIF did not ask for."""

    def turned(self, turn: int) -> ImageInfo:
        """That of the photograph turned clockwise by `turn` · 90° more, as `load(…, turn=turn)` gives it."""
        size = self.size[::-1] if turn % 2 else self.size
        return ImageInfo(size, (self.quarters + turn) % 4, self.mirrored, (self.turn + turn) % 4)


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photograph.

    pixels: uint8 [h, w, 3], RGB, upright, perhaps smaller than the original.
    size: (width, height) of the original, upright.
    quarters: quarter turns clockwise, 0 to 3, that took the stored raster upright: those that its EXIF asked for, and
        those that the caller of `load` did.
    mirrored: whether the stored raster was mirrored left to right before that.
    """

    pixels: Pixels
    size: tuple[int, int]
    quarters: int
    mirrored: bool

    def to_original(self, points: Float32) -> Float32:
        """Points (x, y), float32 [N, 2], in pixels of `pixels` → in pixels of the original, upright image.

        In both the centre of the top-left pixel is at (0, 0).
        """
        height, width = self.pixels.shape[:2]
        scale = np.array([width, height]) / self.size
        return ((points + 0.5) / scale - 0.5).astype(np.float32)


def load(path: Path | str, long_side: int | None = None, turn: int = 0) -> Photo:
    """Decode an image upright, its longer side at most `long_side` pixels; it is never enlarged.

    turn: quarter turns clockwise beyond what EXIF asks for, where that does not make it upright (see `orientation`).

    JPEGs are decoded at a half, a quarter or an eighth where that is enough; what is left is resized by area. `pixels`
    spans the original exactly, whatever the sizes.

    Of 16-bit samples, the smallest depth among 8, 10, 12, 14 and 16 bits that holds the brightest one is taken for the
    whole range, so that a sensor's twelve bits in a 16-bit file do not come out black.

    A JPEG that is cut off is used as far as it goes, with a warning: the flat remainder gives no keypoints.
    Raises `KitError`, naming the file and the reason, for anything else that cannot be decoded.
    """
    path = Path(path)
    with _naming(path), path.open("rb") as file:
        image, info = _open(file)
        target = _fitting(image.size, long_side)
        try:
            pixels, extent = _decode(image, file, target)
        except OSError:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                raise
            file.seek(0)
            mended = io.BytesIO(file.read() + _JPEG_END)
            pixels, extent = _decode(_open(mended)[0], mended, target)
            logger.warning("%s is cut off: what there is of it is used", path)
    pixels = _resize(pixels, extent, target)
    if not _turned_by_pillow(image):
        pixels = np.rot90(pixels[:, ::-1] if info.mirrored else pixels, -info.quarters)
    info = info.turned(turn)
    return Photo(np.ascontiguousarray(np.rot90(pixels, -turn)), info.size, info.quarters, info.mirrored)


def as_jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    """The file of a picture, for people."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return file.getvalue()


def probe(path: Path | str) -> ImageInfo:
    """What the header of an image says, without decoding it.

    Raises `KitError`, naming the file and the reason, where `load` would refuse it by its header: it is missing, a
    folder, empty, not an image of a known format, too small (`MIN_SIDE`) or too large (`MAX_PIXELS`).
    """
    path = Path(path)
    with _naming(path), path.open("rb") as file:
        return _open(file)[1]


def may_have_exif(path: Path | str) -> bool:
    """False where the header says that there is none: then nobody need decode the image to look for it.

    Raises `KitError` as `probe` does.
    """
    path = Path(path)
    with _naming(path), path.open("rb") as file:
        image, _ = _open(file)
        return not isinstance(image, JpegImagePlugin.JpegImageFile) or not _METADATA.isdisjoint(image.info)


def digest(path: Path | str) -> str:
    """32 hexadecimal digits that name the content of a file (its BLAKE2b). Raises `KitError` if it cannot be read."""
    path = Path(path)
    with _naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def turn_points(points: Float32, size: tuple[int, int], turn: int) -> Float32:
    """Points (x, y), float32 [N, 2], of an image → of the same image turned clockwise by `turn` · 90°.

    size: (width, height) of the image before. The way back is `turn_points(points, size_after, -turn)`.
    """
    for _ in range(turn % 4):
        points = np.stack([size[1] - 1 - points[:, 1], points[:, 0]], axis=1)
        size = size[::-1]
    return points


class _RefusedError(Exception):
    """A reason, still without the name of the file."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong inside into a `KitError` that names the file."""
    try:
        if not path.is_file():
            raise _RefusedError("it is not a file" if path.exists() else "there is no such file")
        yield
    except Exception as error:  # fed with anything, a decoder raises anything
        if isinstance(error, _RefusedError):
            reason = str(error)
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = f"it is damaged or of an unsupported kind ({error})"
        raise KitError(f"cannot read the image {path}: {reason}") from error


def _open(file: BinaryIO) -> tuple[ImageFile, ImageInfo]:
    """The image, its header read and found good but nothing decoded."""
    start = file.read(16)
    if not start:
        raise _RefusedError("the file is empty")
    reader = next((reader for magic, reader in _FORMATS.items() if start.startswith(magic)), None)
    if reader is None:
        raise _RefusedError("it is not a JPEG, PNG, TIFF, WebP or BMP file")
    file.seek(0)
    image = reader(file)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise _RefusedError(f"{width} × {height} pixels are too few: each side must have at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise _RefusedError(f"{width} × {height} pixels are more than the {MAX_PIXELS:,} that are accepted")
    quarters, mirrored = _TURNS.get(_orientation(image, file), (0, False))
    if quarters % 2 and not _turned_by_pillow(image):
        width, height = height, width
    return image, ImageInfo((width, height), quarters, mirrored)


def _turned_by_pillow(image: ImageFile) -> bool:
    """Whether Pillow itself makes the image, and its size, upright: it does so with TIFFs, and only with them."""
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def _orientation(image: ImageFile, file: BinaryIO) -> Any:
    """The EXIF orientation, 1 to 8, or whatever stands in its place."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(_ORIENTATION)
    block = _png_exif(file) if isinstance(image, PngImagePlugin.PngImageFile) else image.info.get("exif", b"")
    exif = Image.Exif()
    try:
        exif.load(block)
        return exif.get(_ORIENTATION)
    except Exception:  # as above; damaged EXIF is no reason to lose the photograph
        return None


def _png_exif(file: BinaryIO) -> bytes:
    """The eXIf chunk of a PNG, wherever it stands: Pillow finds one behind the pixels only by decoding them."""
    position = file.tell()
    file.seek(8)
    block = b""
    while len(head := file.read(8)) == 8 and not block:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            block = file.read(length)
        file.seek(length + 4, io.SEEK_CUR)
    file.seek(position)
    return block


def _fitting(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    scale = min(1.0, long_side / max(size)) if long_side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _decode(image: ImageFile, file: BinaryIO, target: tuple[int, int]) -> tuple[Pixels, tuple[float, float]]:
    """Pixels of at least the target's size, RGB, and the width and height of the whole image in these pixels.

    Decoded at 1/s, a JPEG has ⌈side / s⌉ pixels, and the last of them covers less than s of the original. So the width
    and the height may be fractions, a little less than the number of pixels.
    """
    drafted = image.draft(None, target)
    extent = drafted[1][2:] if drafted else image.size
    cut_to_eight = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile)
    image.load()
    if cut_to_eight:  # Pillow keeps the upper eight bits of a colour, OpenCV all 16
        file.seek(0)  # OpenCV prints its complaints: it is given only what Pillow has just read
        samples = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)  # BGR or BGRA, EXIF ignored
        if samples is None or samples.dtype != np.uint16 or samples.ndim != 3 or samples.shape[:2] != image.size[::-1]:
            raise _RefusedError("16-bit colour of this kind is not supported")
        return _to_eight_bits(samples[..., 2::-1]), extent
    if image.mode.startswith("I;16"):
        return np.repeat(_to_eight_bits(np.asarray(image))[..., None], 3, axis=2), extent
    if image.mode in ("I", "F"):
        raise _RefusedError("its samples have 32 bits, not 8 or 16")
    return np.array(image.convert("RGB")), extent  # a copy: what Pillow lends cannot be written to


def _to_eight_bits(samples: NDArray[Any]) -> Pixels:
    brightest = int(samples.max())
    depth = next(depth for depth in (8, 10, 12, 14, 16) if brightest < 1 << depth)
    scaled = cv2.convertScaleAbs(samples.astype(np.uint16), alpha=255 / ((1 << depth) - 1))  # rounds
    return np.asarray(scaled, np.uint8)


def _resize(pixels: Pixels, extent: tuple[float, float], target: tuple[int, int]) -> Pixels:
    """Area interpolation of the first `extent` = (width, height) of `pixels` to `target` = (width, height)."""
    width, height = target
    across, down = width / extent[0], height / extent[1]
    if (across, down) != (1, 1):
        # Given factors, not a size, OpenCV takes them as they are, fractions of a pixel included.
        pixels = np.asarray(cv2.resize(pixels, None, fx=across, fy=down, interpolation=cv2.INTER_AREA), np.uint8)
    return pixels[:height, :width]
