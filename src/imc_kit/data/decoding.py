"""Which class of Pillow reads a file, and its pixels as RGB: in bounded memory, whatever the header claims.

The whole image exists once, in Pillow's or OpenCV's own form. It is converted in strips, and reduced at once if it is
large. Threads share the memory.
"""

import importlib
import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from imc_kit.runtime.budget import Budget, physical_memory
from imc_kit.types import Pixels

MAX_PIXELS = 178_956_970
"""Images whose header states more pixels are refused: a few kilobytes can unpack to gigabytes.

The largest medium-format cameras have 151 million pixels. Pillow accepts as many as this in TIFF and WebP files.
"""
_BYTES = 8
"""Peak memory of decoding, in bytes per pixel: Pillow's four and the result's three."""
_DEEP = 12
"""The same for 16-bit colour (measured): OpenCV keeps a copy."""
_BYTES_OF = {"WEBP": 16, "AVIF": 16, "HEIF": 16}
"""The same for formats whose decoders keep copies (measured). They may have half as many pixels."""
_PROGRESSIVE = 6
"""Bytes per pixel of a progressive JPEG's coefficients. All are decoded, even for a small picture."""
_MAX_SCANS = 50
"""Progressive JPEGs with more scans are refused: each takes as long as an image. Encoders write about ten."""
_LARGE = 50_000_000
"""Images with more pixels are reduced strip by strip if they are wanted smaller. Few photos are larger."""
_STRIP = 2**22
"""Pixels that are converted at once, 16 MB. It limits memory and does not affect the result."""
_memory = Budget(max(_BYTES * MAX_PIXELS, physical_memory() // 4))

# These classes replace Image.open, which tries fifty more formats and warns about large photos.
_FORMATS: dict[bytes, Callable[[BinaryIO], ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
_AVIF = b"avif", b"avis"
_HEIC = b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"
"""Brands at the start of these files."""


def refused(reason: str) -> OSError:
    """The error for a refused file, without the file's name."""
    return OSError(0, reason)


def opened(file: BinaryIO, max_pixels: int) -> ImageFile:
    """Read and check the header of an image without decoding it. Raises `refused`, and what Pillow raises."""
    if not (start := file.read(16)):
        raise refused("the file is empty")
    reader = _reader(start)
    if file.seek(0, io.SEEK_END) > _BYTES * max_pixels:
        raise refused(f"the file is larger than an image of {max_pixels:,} pixels, the most that are accepted")
    file.seek(0)
    image: ImageFile = reader(file)
    width, height = image.size
    most = max_pixels * _BYTES // _BYTES_OF.get(image.format or "", _BYTES)
    if width * height > most:
        raise refused(f"{width} × {height} pixels are more than the {most:,} that are accepted (see --max-pixels)")
    if image.info.get("progressive") and (scans := _scans(file)) > _MAX_SCANS:
        raise refused(f"it has {scans} progressive scans, and more than {_MAX_SCANS} take too long")
    return image


def _reader(start: bytes) -> Callable[[BinaryIO], Any]:
    """The class that reads a file that starts like this."""
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    with suppress(ImportError):
        if brand in _AVIF:  # in Pillow since 11.3
            return importlib.import_module("PIL.AvifImagePlugin").AvifImageFile  # type: ignore[no-any-return]
        if brand in _HEIC:
            return importlib.import_module("pillow_heif").HeifImageFile  # type: ignore[no-any-return]
    if brand in _HEIC:
        raise refused("it is a HEIC file: convert it, or install its decoder with pip install 'imc-kit[heif]'")
    for magic, reader in _FORMATS.items():
        if start.startswith(magic):
            return reader
    raise refused("it is not a JPEG, PNG, TIFF, WebP, BMP, AVIF or HEIC file")


def _scans(file: BinaryIO) -> int:
    """The number of scans of a JPEG: their marker does not occur in its compressed data."""
    position = file.tell()
    file.seek(0)
    count = file.read().count(b"\xff\xda")
    file.seek(position)
    return count


def decode(image: ImageFile, file: BinaryIO, target: tuple[int, int]) -> Pixels:
    """Decode an opened image to RGB pixels of size `target` (width, height), not yet upright."""
    # A JPEG decoded at 1/s has ⌈side / s⌉ pixels, and the last one covers fewer than s pixels of the original. So the
    # original may extend over slightly less than the decoded pixels. The same holds for strips reduced by `step`.
    full = image.width * image.height
    drafted = image.draft(None, target) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
    width, height = drafted[1][2:] if drafted else image.size
    step = max(1, int(min(width / target[0], height / target[1]) / 2)) if width * height > _LARGE else 1
    per_pixel = _DEEP if _has_deep_colour(image) else _BYTES_OF.get(image.format or "", _BYTES)
    cost = image.width * image.height * per_pixel
    with _memory.reserved(cost + (_PROGRESSIVE * full if image.info.get("progressive") else 0)):
        pixels = _rgb(image, file, step)
    factors = target[0] * step / width, target[1] * step / height
    if factors != (1, 1):
        # OpenCV applies factors exactly, including fractions of a pixel; from a size it would derive other factors.
        resized = cv2.resize(pixels, None, fx=factors[0], fy=factors[1], interpolation=cv2.INTER_AREA)
        pixels = np.asarray(resized, np.uint8)
    return pixels[: target[1], : target[0]]


def _has_deep_colour(image: ImageFile) -> bool:
    """Whether an image, not yet loaded, has 16 bits per sample. Pillow would keep only the upper 8."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile)


def _rgb(image: ImageFile, file: BinaryIO, step: int) -> Pixels:
    """All pixels of an opened image, uint8 [h, w, 3], at the drafted size divided by `step`, rounded up."""
    reduced_to_8_bits = _has_deep_colour(image)
    image.load()
    width, height = image.size
    if image.mode in ("I", "F"):
        raise refused("its samples have 32 bits, not 8 or 16")
    samples: Any = None
    brightest: Any = image.getextrema()[1] if image.mode.startswith("I;16") else 0
    if reduced_to_8_bits:  # so OpenCV decodes it
        image.thumbnail((1, 1), Image.Resampling.NEAREST)  # frees Pillow's pixels
        file.seek(0)  # OpenCV prints warnings for damaged files, so Pillow reads them first
        samples = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)  # BGR or BGRA, EXIF ignored
        if samples is None or samples.dtype != np.uint16 or samples.ndim != 3 or samples.shape[:2] != (height, width):
            raise refused("16-bit colour of this kind is not supported")
        brightest = samples[..., :3].max()
    pixels = np.empty((-(-height // step), -(-width // step), 3), np.uint8)
    rows = max(1, _STRIP // (width * step)) * step
    for top in range(0, height, rows):
        if samples is not None:
            strip = _to_8_bits(samples[top : top + rows, :, 2::-1], brightest)
        else:
            part = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
            if image.mode.startswith("I;16"):
                strip = np.repeat(_to_8_bits(np.asarray(part), brightest)[..., None], 3, axis=2)
            else:
                strip = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
        pixels[top // step :][: -(-len(strip) // step)] = _reduced(strip, step)
    image.thumbnail((1, 1), Image.Resampling.NEAREST)
    return pixels


def _to_8_bits(samples: NDArray[Any], brightest: int) -> Pixels:
    depth = next(depth for depth in (8, 10, 12, 14, 16) if brightest < 1 << depth)
    scaled = cv2.convertScaleAbs(samples.astype(np.uint16), alpha=255 / ((1 << depth) - 1))  # rounds
    return np.asarray(scaled, np.uint8)


def _reduced(strip: Pixels, step: int) -> Pixels:
    """The means of squares of `step` pixels; those at the right and lower edges repeat the last pixel."""
    if step == 1:
        return strip
    height, width = strip.shape[:2]
    padded = cv2.copyMakeBorder(strip, 0, -height % step, 0, -width % step, cv2.BORDER_REPLICATE)
    size = padded.shape[1] // step, padded.shape[0] // step
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)
