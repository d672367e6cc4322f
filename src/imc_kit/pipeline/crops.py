"""The part of an image that its matches are in, to be detected and matched in again at a higher resolution.

Where what images have in common is small in them, the detector has seen it small. Winning entries of 2022's and 2023's
challenges find it by clusters of the matched keypoints, cut it out and give it to the network at its full size. Here an
image has one crop for all its pairs, as COLMAP's keypoints belong to images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.data.images import MIN_SIDE, Photo
from imc_kit.data.masks import stretched
from imc_kit.errors import KitError
from imc_kit.matchers.base import scaled_radius
from imc_kit.types import Features, Mask

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, the last two exclusive, in pixels of the original, upright image."""

_ENLARGED = 2.0
"""A crop is enlarged to at most so many times its pixels, as networks find more in what is larger, up to a point."""


@dataclass(frozen=True)
class CropConfig:
    """Which part of an image is detected in again. Raises `KitError` when an option makes no sense."""

    on: bool = False
    radius: float = 32.0
    """Matched keypoints are counted in cells of this side, in pixels of an image whose longer side has 1024."""
    min_points: int = 10
    """A cell is dense when it and the eight around it have so many."""
    min_share: float = 0.1
    """Clusters of dense cells with a smaller share of the keypoints in all clusters are left out."""
    margin: float = 32.0
    """The crop goes so far beyond the clusters, in pixels of an image whose longer side has 1024."""
    min_zoom: float = 1.25
    """Images of which the detector cannot see the crop so many times larger than the whole are left as they are."""

    def __post_init__(self) -> None:
        for option, right, wanted in (
            ("radius", 1 <= self.radius < float("inf"), "at least 1 pixel"),
            ("min_points", self.min_points >= 1, "at least 1"),
            ("min_share", 0 <= self.min_share <= 1, "in 0 … 1"),
            ("margin", 0 <= self.margin < float("inf"), "at least 0 pixels"),
            ("min_zoom", 0 < self.min_zoom < float("inf"), "more than 0"),
        ):
            if not right:
                raise KitError(f"{option} of the crops must be {wanted}, not {getattr(self, option)!r}")


def clusters(points: NDArray[Any], radius: float, min_points: int) -> NDArray[np.intp]:
    """For each of the points [N, 2] the number of its cluster, −1 where there are too few around it.

    DBSCAN (Ester et al. 1996) on a grid of cells of side `radius`, in time and memory that grow with N and with the
    cells only: a cell is dense when it and the eight around it have `min_points`; dense cells that touch are a cluster.
    """
    if not len(points):
        return np.empty(0, np.intp)
    cells = np.floor((points - points.min(0)) / radius).astype(np.intp)
    counts = np.zeros(cells.max(0) + 1, np.float32)
    np.add.at(counts, tuple(cells.T), 1)
    around = cv2.boxFilter(counts, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    dense = (counts > 0) & (around >= min_points)
    _, labels = cv2.connectedComponents(dense.astype(np.uint8), connectivity=8)
    return np.asarray(labels[tuple(cells.T)], np.intp) - 1


def crop_of(points: NDArray[Any], size: tuple[int, int], long_side: int | None, config: CropConfig) -> Box | None:
    """The box around the large clusters of matched keypoints [N, 2] of an image of `size` = (width, height).

    long_side: of what the detector is given, in pixels; None for all there are. None where there is no cluster, where
    the detector cannot see the box much larger than the image, and where it is too small to detect anything in.
    """
    labels = clusters(points, scaled_radius(config.radius, size), config.min_points)
    counts = np.bincount(labels + 1)[1:]  # the first are in no cluster
    large = np.flatnonzero(counts >= max(1.0, config.min_share * counts.sum()))
    inside = points[np.isin(labels, large)]
    if not len(inside):
        return None
    margin = scaled_radius(config.margin, size)
    left, top = np.maximum(np.floor(inside.min(0) - margin), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(inside.max(0) + margin) + 1, size).astype(int).tolist()
    part = right - left, bottom - top
    zoom = _scale(part, long_side) / _scale(size, long_side)
    return (left, top, right, bottom) if min(part) >= MIN_SIDE and zoom >= config.min_zoom else None


def _scale(size: tuple[int, int], long_side: int | None) -> float:
    """How many times larger the detector can see an image of this size."""
    return min(_ENLARGED, long_side / max(size)) if long_side else _ENLARGED


def cut(photo: Photo, allowed: Mask | None, box: Box, long_side: int | None) -> tuple[Photo, Mask | None]:
    """The part of a photograph, decoded at its full size, that is in the box, and of where keypoints may be in it.

    The part's longer side then has `long_side` pixels, or fewer where that would be more than twice what it has.
    """
    left, top, right, bottom = box
    part = photo.pixels[top:bottom, left:right]
    size = right - left, bottom - top
    scale = _scale(size, long_side)
    target = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = np.asarray(cv2.resize(part, target, interpolation=how), np.uint8)
    if allowed is not None:
        allowed = stretched(allowed, photo.pixels.shape[:2])[top:bottom, left:right]
    return replace(photo, pixels=pixels, size=size), allowed


def in_whole(features: Features, box: Box, size: tuple[int, int]) -> Features:
    """Features in pixels of the box → in pixels of the whole image, of `size` = (width, height)."""
    return replace(features, keypoints=features.keypoints + np.array(box[:2], np.float32), image_size=size)
