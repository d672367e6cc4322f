"""Synthetic photographs with known cameras: textured solids under a sun, ray-cast in NumPy.

For the demo, the tests and the benchmarks. The world is in metres, its z axis points up. Pixels are counted as everywhere in the
kit, the centre of the top-left one at (0, 0). Arrays of points and directions are component first, [3, ...], which is several
times faster in NumPy than [..., 3].
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.submission import POSE_COLUMNS, format_pose
from imc_kit.submission import write as write_table
from imc_kit.types import Float32, Float64, Int32, Pixels, Pose

THRESHOLDS = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Kaggle's distances for ordinary scenes, in metres."""

_SUN = np.array([-0.55, -0.35, 0.76], np.float32) / np.float32(np.linalg.norm([-0.55, -0.35, 0.76]))
_SUNLIGHT = np.array([1.0, 0.93, 0.80], np.float32) * 0.85
_SKYLIGHT = np.array([0.42, 0.50, 0.62], np.float32) * 0.62
_HORIZON = np.array([0.72, 0.80, 0.86], np.float32)
_ZENITH = np.array([0.10, 0.26, 0.58], np.float32)
_HAZE = 45.0  # metres
_NEAR = 1e-3  # metres: what is nearer is the surface itself


# ---- textures ----


@dataclass(frozen=True, eq=False)
class Texture:
    """A painted sheet. levels: uint8 [h, w, 3], RGB, each half the one before; texel: size of the first one's pixels in metres."""

    levels: tuple[Pixels, ...]
    texel: float

    @classmethod
    def of(cls, image: Pixels, texel: float) -> Texture:
        levels = [image]
        while min(levels[-1].shape[:2]) > 4:
            height, width = levels[-1].shape[:2]
            # Whole pairs only: a level must be exactly half as fine as the one before.
            pairs = levels[-1][: height // 2 * 2, : width // 2 * 2]
            levels.append(np.asarray(cv2.resize(pairs, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8))
        return cls(tuple(levels), texel)

    def colours(self, sheet: Float32, footprint: Float32) -> Float32:
        """Colours [K, 3] in 0 to 1 at (right, down) [2, K] metres from the sheet's corner, blurred to `footprint` [K] metres."""
        fineness = np.clip(np.log2(footprint / self.texel), 0, len(self.levels) - 1.001)
        level = fineness.astype(np.int32)
        colours = np.empty((len(level), 3), np.float32)
        for finer in np.unique(level):
            here = np.flatnonzero(level == finer)
            part = (fineness[here] - finer)[:, None]
            low, high = (
                _sample(self.levels[i], sheet[:, here] / (self.texel * 2**i) - np.float32(0.5)) for i in (finer, finer + 1)
            )
            colours[here] = low + part * (high - low)
        return colours * np.float32(1 / 255)


def _sample(image: Pixels, at: Float32) -> Float32:
    """Bilinear, [K, 3] float32 at (x, y) [2, K]; beyond the border as at the border."""
    count, columns = at.shape[1], 1024  # cv2.remap takes no more than 32767 rows or columns
    maps = np.zeros((2, -(-count // columns) * columns), np.float32)
    maps[:, :count] = at
    x, y = maps.reshape(2, -1, columns)
    sampled = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(-1, 3)[:count].astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], coarsest: float, finest: float) -> Float32:
    """Smooth noise of zero mean and unit deviation, float32 `shape`; octaves of wavelengths from `coarsest` to `finest` pixels."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    wavelength = coarsest
    while wavelength >= finest:
        rows, columns = int(height / wavelength) + 3, int(width / wavelength) + 3
        octave = rng.standard_normal((rows, columns), np.float32)
        whole = cv2.resize(octave, None, fx=wavelength, fy=wavelength, interpolation=cv2.INTER_CUBIC)
        total += np.float32(wavelength**0.35) * whole[:height, :width]
        wavelength /= 2
    return (total - total.mean()) / total.std()


_PAINTS = ("e8dcc0", "23395b", "b5432a", "e0a526", "2f6b5a", "f4f1e6", "1f1f24", "7d4f7a", "4f9fb5", "d9773f")


def _rgb(code: str) -> Float32:
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32)
