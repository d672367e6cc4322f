"""JPEG files of pixels."""

from __future__ import annotations

import cv2

from imc_kit.types import Pixels


def as_jpeg(pixels: Pixels) -> bytes:
    """Encode uint8 RGB pixels [h, w, 3] as a JPEG file."""
    return bytes(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
