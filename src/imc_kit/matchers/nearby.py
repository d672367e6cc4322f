"""Which points of an image are close to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64

LONG_SIDE = 1024
"""Radii in options are in pixels of an image whose longer side has this many: they grow with the image."""


def in_original(radius: float, size: tuple[int, int]) -> float:
    """A radius in pixels of an image of `LONG_SIDE` → in pixels of one of this (width, height)."""
    return radius * max(size) / LONG_SIDE


def close_pairs(points: NDArray[Any], radius: float) -> tuple[NDArray[np.intp], Float64]:
    """All pairs of points [N, 2] that are at most `radius` apart: their indices [K, 2] and distances [K].

    Each pair comes once; their order depends on the points only.
    """
    points = np.asarray(points, np.float64)
    if len(points) < 2:
        return np.empty((0, 2), np.intp), np.empty(0)
    # Only points in the same cell of a grid, or in one beside it, can be that close.
    cells = np.floor((points - points.min(0)) / radius).astype(np.int64)
    stride = int(cells[:, 0].max()) + 2  # one more than there are columns: the next cell of the last is not in a row
    key = cells[:, 1] * stride + cells[:, 0]
    order = np.argsort(key, kind="stable")
    key, points = key[order], points[order]
    found, distances = [], []
    for step in (0, 1, stride - 1, stride, stride + 1):  # half of the neighbours: the others see this one
        low = np.searchsorted(key, key + step) if step else np.arange(1, len(key) + 1)
        count = np.searchsorted(key, key + step, side="right") - low
        left = np.repeat(np.arange(len(key)), count)
        right = np.arange(len(left)) + np.repeat(low - np.cumsum(count) + count, count)
        apart = np.hypot(*(points[left] - points[right]).T)
        near = apart <= radius
        found.append(np.stack([left[near], right[near]], 1))
        distances.append(apart[near])
    return order[np.concatenate(found)], np.concatenate(distances)
