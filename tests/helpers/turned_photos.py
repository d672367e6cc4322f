"""Photos that are stored turned, with EXIF that turns them upright, and points in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def stored(upright: Any, orientation: int) -> Any:
    """The raster that EXIF turns upright."""
    return {1: upright, 6: np.rot90(upright), 8: np.rot90(upright, -1), 3: np.rot90(upright, 2), 2: upright[:, ::-1]}[
        orientation
    ]


def stored_points(points: Any, orientation: int, width: int, height: int) -> Any:
    """Points (x, y) of the upright image of this size, in the stored raster."""
    x, y = points.T
    right, bottom = width - 1, height - 1
    return np.stack(
        {6: (y, right - x), 8: (bottom - y, x), 3: (right - x, bottom - y), 2: (right - x, y)}[orientation], 1
    )


def write_turned(path: Path, upright: Any, orientation: int) -> Any:
    """Write a photo, uint8 [h, w, 3] BGR, as a JPEG of this EXIF orientation; returns its raster."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    raster = np.ascontiguousarray(stored(upright, orientation)[..., ::-1])
    Image.fromarray(raster).save(path, "jpeg", quality=95, exif=exif)
    return raster
