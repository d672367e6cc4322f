"""What the EXIF of an opened image says: how to turn it upright, and where it was taken."""

import io
import struct
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from imc_kit.data.gps import Position, from_exif

_ORIENTATION, _GPS = 0x0112, 0x8825


def orientation_and_position(image: ImageFile, file: BinaryIO) -> tuple[Any, Position | None]:
    """The EXIF orientation, 1 to 8, None, or an invalid value from the file; and the position.

    Damaged EXIF is no reason to lose the image.
    """
    orientation: Any = None
    gps: Position | None = None
    exif = Image.Exif()
    with suppress(Exception):  # many kinds
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            orientation = image.tag_v2.get(_ORIENTATION)  # not that in its XMP, which Pillow does not apply
            exif = image.getexif()
        else:
            png = isinstance(image, PngImagePlugin.PngImageFile)
            exif.load(_png_exif(file) if png else image.info.get("exif", b""))
            orientation = exif.get(_ORIENTATION)
        gps = from_exif(exif.get_ifd(_GPS)) if _GPS in exif else None
    return orientation, gps


def _png_exif(file: BinaryIO) -> bytes:
    """The eXIf chunk of a PNG. If it follows the pixels, Pillow finds it only by decoding them."""
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
