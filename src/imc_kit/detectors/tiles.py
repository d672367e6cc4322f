"""Overlapping tiles: cut a large image, detect in each tile, and join the features.

Neighbouring tiles overlap, so that keypoints near a tile's edge see their whole surroundings. Every pixel belongs to
exactly one tile, the one whose centre is nearest. A tile's mask allows keypoints in its own pixels only.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Features, Float32, Mask, Pixels

_OVERLAP = 1 / 8
"""Overlap of neighbouring tiles, as a fraction of a tile's side: 200 pixels of 1600, several times the radius of most
descriptors. With twice the overlap, two tiles cover 7 % less of a side; with half, more keypoints near the boundaries
lack surroundings."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of an image: the position (x, y) of its top-left pixel, its pixels, and where keypoints are allowed."""

    x: int
    y: int
    pixels: Pixels
    mask: Mask | None


def length_in_tiles(count: int) -> float:
    """The length of `count` overlapping tiles, in units of a tile's side."""
    return count - (count - 1) * _OVERLAP


def cut_tiles(pixels: Pixels, mask: Mask | None, count: int, long_side: int | None) -> list[Tile]:
    """Cut an image into count² tiles of one size, row by row; a single tile if the image is within `long_side`.

    pixels: [h, w, 3]. mask: bool [h, w], or None to allow every pixel. Each allowed pixel is allowed in one tile.
    """
    height, width = pixels.shape[:2]
    if count == 1 or (long_side is not None and max(height, width) <= long_side):
        return [Tile(0, 0, pixels, mask)]
    tiles = []
    for rows, own_rows in _spans(height, count):
        for columns, own_columns in _spans(width, count):
            own = np.zeros((height, width), bool)
            own[own_rows, own_columns] = True if mask is None else mask[own_rows, own_columns]
            part = np.ascontiguousarray(pixels[rows, columns])
            tiles.append(Tile(columns.start, rows.start, part, own[rows, columns].copy()))
    return tiles


def _spans(length: int, count: int) -> list[tuple[slice, slice]]:
    """The extent of each tile along a side of `length` pixels, and the part that the tile owns."""
    size = math.ceil(length / length_in_tiles(count))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    ends = [(start + size + following) // 2 for start, following in pairwise(starts)]
    own = zip([0, *ends], [*ends, length], strict=True)
    return [(slice(start, start + size), slice(*bounds)) for start, bounds in zip(starts, own, strict=True)]


def join_tiles(tiles: list[Tile], found: list[Features], count: int, limit: int) -> Features:
    """Join the features of an image's tiles: the strongest `limit`, strongest first."""
    if len(tiles) == 1:
        return found[0]
    size = tiles[-1].x + tiles[-1].pixels.shape[1], tiles[-1].y + tiles[-1].pixels.shape[0]
    some = [(number, features.columns()) for number, features in enumerate(found) if len(features)]
    if not some:
        return replace(found[0], image_size=size)
    fields = {name: np.concatenate([columns[name] for _, columns in some]) for name in some[0][1]}
    tile = np.repeat([number for number, _ in some], [len(columns["scores"]) for _, columns in some])
    corners = np.array([(tile.x, tile.y) for tile in tiles], np.float32)
    fields["keypoints"] += corners[tile]
    order = np.argsort(-fields["scores"], kind="stable")
    kept = order[_first_found(fields["keypoints"][order], tile[order], size, count)][:limit]
    return Features(image_size=size, **{name: values[kept] for name, values in fields.items()})


def _first_found(points: Float32, tile: NDArray[np.intp], size: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """Mark the points [N, 2], strongest first, to keep: a point that two tiles found is kept once.

    At the boundary of two tiles, each may find the same point on its own side, a fraction of a pixel apart. So a point
    within a pixel of a stronger one from another tile is dropped.
    """
    near = np.zeros(len(points), bool)
    for axis in (0, 1):
        for _, own in _spans(size[axis], count)[1:]:
            near |= np.abs(points[:, axis] - (own.start - 0.5)) <= 1
    kept = np.ones(len(points), bool)
    rows = np.flatnonzero(near)
    for i, row in enumerate(rows):
        stronger = rows[:i]
        close = (np.abs(points[stronger] - points[row]) < 1).all(1)
        kept[row] = not (close & (tile[stronger] != tile[row])).any()
    return kept
