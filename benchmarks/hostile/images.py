"""Hostile image files: bombs, lying headers, damaged bytes, and what is not a file at all."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from hostile.cases import INTEGERS, SENTENCE, Place, become_other, damaged, expect, sentence
from imc_kit.data import images
from imc_kit.errors import KitError

T = TypeVar("T")
SIZE = (160, 120)
LONG_SIDE = 3200
"""The preset sift detects in photos of this longer side."""
MOST_MEMORY = 2 << 30
"""Bytes that the work on one image may take at its peak, whatever its header says."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".webp", ".bmp", ".JPG")
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("jpeg", {"quality": 90}),
    "progressive JPEG": ("jpeg", {"quality": 90, "progressive": True}),
    "PNG": ("png", {}),
    "TIFF": ("tiff", {}),
    "LZW TIFF": ("tiff", {"compression": "tiff_lzw"}),
    "JPEG TIFF": ("tiff", {"compression": "jpeg"}),
    "WebP": ("webp", {"quality": 90}),
    "BMP": ("bmp", {}),
    "GIF": ("gif", {}),
}
EXIF = b"II*\0\x08\0\0\0"
"""The start of EXIF, before the fields."""
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB")


PICTURES = 50
"""Different pictures: of one scene's hostile files, so few may show the same that they make no model."""


@cache
def noise(picture: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(picture).integers(0, 255, (*SIZE[::-1], 3), np.uint8))


@cache
def encoded(name: str, mode: str = "RGB", picture: int = 0) -> bytes:
    kind, options = FORMATS[name]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Maker", "Model"  # orientation, maker, model
    exif.get_ifd(0x8769)[0x920A] = 35.0  # focal length in mm
    file, image = io.BytesIO(), noise(picture).convert("L" if mode == "I;16" else mode)
    image = image.convert("I;16") if mode == "I;16" else image
    image.save(file, kind, **options, **({"exif": exif} if kind in ("jpeg", "png", "tiff", "webp") else {}))
    return file.getvalue()


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes = b"", *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + rest


def zeros(width: int, height: int, extra: bytes = b"") -> bytes:
    """A black PNG: a thousandth of the size that it decodes to."""
    return png(width, height, bytes((3 * width + 1) * height), extra=extra)


def jpeg_of_size(width: int, height: int, name: str = "JPEG") -> bytes:
    content = bytearray(encoded(name))
    frame = content.index(b"\xff\xc0" if name == "JPEG" else b"\xff\xc2")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_with_exif(block: bytes, length: int | None = None) -> bytes:
    """A JPEG with these bytes as EXIF, of which the header may state another length."""
    size = struct.pack(">H", (len(block) + 8 if length is None else length) & 0xFFFF)
    return b"\xff\xd8\xff\xe1" + size + b"Exif\0\0" + block + encoded("JPEG")[2:]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    content = encoded("progressive JPEG")
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * count + content[-2:]


def tiff_field(random: Random, picture: int) -> bytes:
    """A TIFF with another value in one field of its directory."""
    content = bytearray(encoded(random.choice(("TIFF", "LZW TIFF", "JPEG TIFF")), "RGB", picture))
    directory = struct.unpack_from("<I", content, 4)[0]
    entry = directory + 2 + 12 * random.randrange(struct.unpack_from("<H", content, directory)[0])
    for at, form in random.sample([(2, "<H"), (4, "<I"), (8, "<I")], random.choice((1, 1, 2))):
        struct.pack_into(form, content, entry + at, random.choice(INTEGERS) % (1 << 8 * struct.calcsize(form)))
    return bytes(content)


RECIPES: dict[str, Callable[[], bytes]] = {
    "PNG of 100,000 × 100,000": lambda: png(100_000, 100_000, bytes(1000)),
    "PNG of 2³¹ − 1 squared": lambda: png(2**31 - 1, 2**31 - 1),
    "PNG of 15,800 × 15,800 without pixels": lambda: png(15_800, 15_800, bytes(1000)),
    "PNG of 120 million black pixels": lambda: zeros(12_000, 10_000),
    "16-bit PNG of 60 million black pixels": lambda: png(8_000, 7_500, bytes((6 * 8_000 + 1) * 7_500), depth=16),
    "PNG with 200 MB of text": lambda: zeros(*SIZE, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 1))),
    "PNG with 200 MB of profile": lambda: zeros(*SIZE, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 1))),
    "PNG with 50 MB too many pixels": lambda: png(*SIZE, bytes(50_000_000)),
    "PNG with EXIF of 2 GB": lambda: zeros(*SIZE)[:-12] + chunk(b"eXIf", b"x", 0x7FFFFFFF),
    "PNG with nonsense as EXIF": lambda: zeros(*SIZE, chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f" * 50)),
    "PNG of 3 bits": lambda: png(*SIZE, bytes(60_000), depth=3),
    "PNG of an unknown colour type": lambda: png(*SIZE, bytes(60_000), colour=5),
    "PNG without height": lambda: png(160, 0),
    "PNG of one pixel": lambda: zeros(1, 1),
    "PNG of 16 × 100,000": lambda: zeros(16, 100_000),
    "JPEG of 65,500 × 65,500": lambda: jpeg_of_size(65_500, 65_500),
    "JPEG of 65,500 × 3,800": lambda: jpeg_of_size(65_500, 3_800),
    "progressive JPEG of 65,500 × 3,800": lambda: jpeg_of_size(65_500, 3_800, "progressive JPEG"),
    "JPEG without height": lambda: jpeg_of_size(640, 0),
    "JPEG of 500 scans": lambda: jpeg_of_scans(500),
    "JPEG that is all markers": lambda: b"\xff\xd8" + b"\xff" * 1_000_000,
    "JPEG of three bytes": lambda: b"\xff\xd8\xff",
    "JPEG with another behind it": lambda: encoded("JPEG") * 2,
    "JPEG with EXIF that refers to itself": lambda: jpeg_with_exif(EXIF + b"\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0"),
    "JPEG with 65,535 EXIF fields": lambda: jpeg_with_exif(EXIF + b"\xff\xff" + b"\x12\x01\x03\0\1\0\0\0" * 8000),
    "JPEG with EXIF that ends early": lambda: jpeg_with_exif(b"MM\0*", 60_000),
    "WebP of 16,384 × 16,384": lambda: b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\x0f" + bytes(30),
    "sound": lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
    "TIFF whose directory is far away": lambda: b"II*\0" + struct.pack("<I", 0xFFFFFFF0),
    "an empty file": lambda: b"",
    "a web page": lambda: b"<!doctype html><html>404</html>",
    "a drawing": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a program for a printer": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
    "only zeros": lambda: bytes(100_000),
}  # fmt: skip


def hostile_file(number: int, random: Random, path: Path) -> Path:
    """Write hostile file number N; returns its path, which has another suffix."""
    recipes = list(RECIPES)
    path = path.with_name(path.name + random.choice(SUFFIXES))
    if number < len(recipes):
        path.write_bytes(RECIPES[recipes[number]]())
        return path
    name, picture = random.choice(list(FORMATS)), random.randrange(PICTURES)
    match random.randrange(16):
        case 0:
            path.write_bytes(b"")
            become_other(path, random)
        case 1:
            path.write_bytes(_in_mode(name, random.choice(MODES), picture))
        case 2 | 3 | 4:
            path.write_bytes(tiff_field(random, picture))
        case 5:
            path.write_bytes(
                jpeg_with_exif(damaged(b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\1\0\6\0\0" * 3, random))
            )
        case 6:
            path.write_bytes(encoded(name)[:20] + random.randbytes(random.randrange(5000)))
        case 7:
            path.write_bytes(damaged(_in_mode(name, random.choice(MODES), picture), random))
        case _:
            path.write_bytes(damaged(encoded(name, "RGB", picture), random))
    return path


def _in_mode(name: str, mode: str, picture: int) -> bytes:
    try:
        return encoded(name, mode, picture)
    except (OSError, ValueError, KeyError):  # the format has no such mode
        return encoded(name, "RGB", picture)


def _read(read: Callable[[Path], T], path: Path, at: Place) -> T | None:
    """What is read from a file; None if the kit explains in one sentence why nothing is."""
    try:
        return read(path)
    except KitError as error:
        sentence(str(error), at)
        return None


def file_case(number: int, random: Random, at: Place) -> str:
    """Read one file in all ways."""
    path = hostile_file(number, random, at.folder / "image")
    forget_peak()
    before = peak_memory()
    _read(images.digest, path, at)
    info, photo = _read(images.probe, path, at), _read(partial(images.load, long_side=LONG_SIDE), path, at)
    grown = peak_memory() - before
    expect(grown <= MOST_MEMORY, f"took {grown / 2**30:.1f} GiB")
    if photo is None:
        return SENTENCE
    expect(info and (photo.size, photo.mirrored) == (info.size, info.mirrored), f"{info}, but {photo.size}")
    height, width, channels = photo.pixels.shape
    expect(channels == 3 and photo.pixels.dtype == np.uint8, f"pixels {photo.pixels.dtype} of {channels} channels")
    expect((width, height) == images.fitting(photo.size, LONG_SIDE), f"{width} × {height} of {photo.size}")
    return "a photo"


def forget_peak() -> None:
    """Measure the peak of memory from now on."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Peak resident bytes of this process, where the system tells."""
    if sys.platform != "linux":
        return 0
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


NAMES = (
    *(
        "n" * 245,
        "emoji 😀 é",
        "-rf",
        "new\nline",
        "esc\x1b[31m",
        'q,uo"te',
        " lead ",
        "a;b",
        "=cmd|' '!A0",
        "..hidden",
    ),
    *("%s{0}", "CON", "view_000.jpg", "tab\t", "\u202egnp", "a\\b", "'", "$(reboot)", "*", "?", "#", "~", "é\u0301"),
)
"""Names of files without their suffix."""


def odd_name(random: Random) -> str:
    """The name of a file, which need not be Unicode."""
    return os.fsdecode(b"bad\xff%d" % random.randrange(100)) if not random.randrange(8) else random.choice(NAMES)
