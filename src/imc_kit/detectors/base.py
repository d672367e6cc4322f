"""What all detectors have in common: their options, their protocol, and the way from photographs to features.

To add a detector, write one file with a subclass of `DetectorConfig`, decorated with `register`, and the class that
its `create` returns. docs/adding-a-detector.md shows one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.runtime.registry import Registry
from imc_kit.types import Features, Float32, Mask, Pixels

if TYPE_CHECKING:
    from imc_kit.data.images import Photo


class Detector(Protocol):
    """Finds local features. May be called from several threads at once."""

    @property
    def config(self) -> DetectorConfig: ...

    @property
    def dimension(self) -> int:
        """Columns of `Features.descriptors`: numbers, or bytes of eight bits for binary ones."""

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """The features of each image, strongest first, in pixels of the image given.

        images: uint8 [h, w, 3], RGB, of any sizes.
        masks: for each image bool [h, w], or None for all of it: a keypoint is kept where the pixel that holds it is
            True. At most `config.max_keypoints` are returned, spent on what the mask allows only (see `strongest`).
        """


@dataclass(frozen=True)
class DetectorConfig:
    """The options that all detectors share. Raises `KitError` when one of them makes no sense."""

    name: ClassVar[str]
    """In the registry, and in commands."""

    max_keypoints: int = 8192
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 3200
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    border: int = 0
    """Drop keypoints closer than this to the edge of the image, in pixels of the original."""
    tiles: int = 1
    """Cut images that are larger than `long_side` into so many overlapping tiles each way, each detected at that size:
    finer detail, for the time and memory of as many images."""

    def __post_init__(self) -> None:
        self.require(self.max_keypoints >= 1, "max_keypoints", "at least 1")
        self.require(self.long_side is None or self.long_side >= 1, "long_side", "at least 1 pixel, or None")
        self.require(self.border >= 0, "border", "at least 0 pixels")
        self.require(self.tiles >= 1, "tiles", "at least 1")

    @property
    def kind(self) -> str:
        """Of its descriptors: what matchers say they accept. A constant for most."""
        raise NotImplementedError  # each subclass has its own

    @property
    def load_side(self) -> int | None:
        """At most so many pixels shall the longer side of a photograph have for `extract`; None for all there are."""
        return None if self.long_side is None else int(self.long_side * _in_tiles(self.tiles))

    def require(self, right: bool, option: str, wanted: str) -> None:
        """Raises `KitError` unless `right`: the value of `option` is not what is `wanted` of it."""
        if not right:
            raise KitError(f"{option} of detector {self.name!r} must be {wanted}, not {getattr(self, option)!r}")

    def weight_files(self) -> tuple[str, ...]:
        """The names, in the manifest of weights, of the files that it looks for in the usual places."""
        return ()

    def create(self) -> Detector:
        """The detector itself. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


DETECTORS: Registry[type[DetectorConfig]] = Registry("detector", "imc_kit.detectors")
"""The configuration class of each detector by its name: those of this package's modules, those of other packages that
name a module in the entry-point group `imc_kit.detectors`, and those of notebook cells."""

register = DETECTORS.register
"""Decorator for the configuration class of a detector: makes it known by its `name`."""


def extract(detector: Detector, photos: Sequence[Photo], masks: Sequence[Mask | None] | None = None) -> list[Features]:
    """The features of photographs, strongest first, in pixels of the originals, no two at the same place.

    photos: as `images.load(path, detector.config.load_side)` gives them.
    masks: for each photograph where keypoints may be, bool [H, W] of any size (it is stretched over the photograph),
        or None for everywhere.
    """
    masks = [None] * len(photos) if masks is None else masks
    config = detector.config
    cut = [
        _tiles(photo, _allowed(photo, config.border, mask), config) for photo, mask in zip(photos, masks, strict=True)
    ]
    tiles = [tile for tiles in cut for tile in tiles]
    found = iter(detector.detect([tile.pixels for tile in tiles], [tile.mask for tile in tiles]))
    whole = [_joined(tiles, [next(found) for _ in tiles], config) for tiles in cut]
    return [in_original(features, photo) for features, photo in zip(whole, photos, strict=True)]


def strongest(points: Float32, scores: Float32, mask: Mask | None, limit: int) -> NDArray[np.intp]:
    """Which keypoints to keep: indices, strongest first, into `points` [N, 2] and `scores` [N].

    Those outside the mask are dropped, of several at the same place only the strongest stays (among equals the first),
    and of what is left the `limit` strongest are kept.
    """
    order = np.argsort(-scores, kind="stable")
    if mask is not None:
        x, y = np.rint(points[order]).astype(int).T
        order = order[mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]]
    return order[_first_of_equals(points[order])][:limit]


def _first_of_equals(points: Float32) -> NDArray[np.intp]:
    """Ascending indices into `points`, float32 [N, 2], that name each place once, where it first occurs."""
    places = np.ascontiguousarray(points).view(np.complex64).ravel()  # one value for each (x, y): sorts much faster
    return np.sort(np.unique(places, return_index=True)[1])


def _allowed(photo: Photo, border: int, mask: Mask | None) -> Mask | None:
    """The pixels of `photo.pixels` in which keypoints may be, or None if that is everywhere."""
    if mask is not None and (mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0):
        raise ValueError(f"a mask must be bool [H, W], not {mask.dtype} {mask.shape}")
    if mask is None and border == 0:
        return None
    inside = []
    for side, original in zip(photo.pixels.shape[:2], reversed(photo.size), strict=True):
        edges = np.arange(side + 1) * (original / side)  # of the pixels, from the edge of the original
        inside.append((edges[:-1] >= border) & (edges[1:] <= original - border))
    allowed: Mask = inside[0][:, None] & inside[1]
    if mask is not None:
        rows, columns = (
            (2 * np.arange(side) + 1) * there // (2 * side)  # the mask's cell that holds the centre of the pixel
            for side, there in zip(allowed.shape, mask.shape, strict=True)
        )
        allowed &= mask[rows[:, None], columns]
    return allowed


@dataclass(frozen=True, eq=False)
class _Tile:
    """A part of a photograph, with (x, y) at its top left: its pixels, and where in them keypoints may be.

    In what tiles share, each may have keypoints in the half that is nearer to its centre, so that none comes twice.
    """

    x: int
    y: int
    pixels: Pixels
    mask: Mask | None


_OVERLAP = 1 / 8
"""What a tile shares with the next one, of its side."""


def _in_tiles(count: int) -> float:
    """The side of an image in sides of its tiles, of which there are `count` across."""
    return count - (count - 1) * _OVERLAP


def _tiles(photo: Photo, allowed: Mask | None, config: DetectorConfig) -> list[_Tile]:
    """The tiles of a photograph, row by row, of one size; together they may have keypoints wherever that is allowed."""
    height, width = photo.pixels.shape[:2]
    if config.tiles == 1 or (config.long_side is not None and max(height, width) <= config.long_side):
        return [_Tile(0, 0, photo.pixels, allowed)]
    tiles = []
    for rows, own_rows in _spans(height, config.tiles):
        for columns, own_columns in _spans(width, config.tiles):
            own = np.zeros((height, width), bool)
            own[own_rows, own_columns] = True if allowed is None else allowed[own_rows, own_columns]
            pixels = np.ascontiguousarray(photo.pixels[rows, columns])
            tiles.append(_Tile(columns.start, rows.start, pixels, own[rows, columns].copy()))
    return tiles


def _spans(length: int, count: int) -> list[tuple[slice, slice]]:
    """Of each of `count` tiles along a side of `length` pixels: what it covers, and what of that is its own."""
    size = math.ceil(length / _in_tiles(count))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    ends = [(start + size + following) // 2 for start, following in pairwise(starts)]
    own = zip([0, *ends], [*ends, length], strict=True)
    return [(slice(start, start + size), slice(*bounds)) for start, bounds in zip(starts, own, strict=True)]


def _joined(tiles: list[_Tile], found: list[Features], config: DetectorConfig) -> Features:
    """The features of a photograph from those of its tiles, strongest first."""
    if len(tiles) == 1:
        return found[0]
    size = tiles[-1].x + tiles[-1].pixels.shape[1], tiles[-1].y + tiles[-1].pixels.shape[0]
    some = [(number, features) for number, features in enumerate(found) if len(features)]
    if not some:
        return replace(found[0], image_size=size)
    points = np.concatenate(
        [features.keypoints + np.array([tiles[i].x, tiles[i].y], np.float32) for i, features in some]
    )
    origin = np.repeat([i for i, _ in some], [len(features) for _, features in some])
    columns = [features.columns() for _, features in some]
    fields = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    fields["keypoints"] = points
    order = np.argsort(-fields["scores"], kind="stable")
    kept = order[_not_twice(points[order], origin[order], size, config.tiles)][: config.max_keypoints]
    return Features(image_size=size, **{name: values[kept] for name, values in fields.items()})


def _not_twice(points: Float32, origin: NDArray[np.intp], size: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """Which points [N, 2] to keep, strongest first: not those within a pixel of a stronger one from another tile.

    Each of two tiles may have found the same on its own side of the line between them, a fraction of a pixel apart.
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
        kept[row] = not (close & (origin[stronger] != origin[row])).any()
    return kept


def in_original(features: Features, photo: Photo) -> Features:
    """Features in pixels of `photo.pixels` → in pixels of the original."""
    columns = features.columns()
    columns["keypoints"] = photo.to_original(features.keypoints)
    kept = _first_of_equals(columns["keypoints"])  # float32 is coarser there, so that two may have become one
    zoom = np.float32(np.sqrt(np.prod(photo.size) / np.prod(photo.pixels.shape[:2])))
    for name in ("scales", "shapes"):
        if name in columns:
            columns[name] = columns[name] * zoom
    return Features(image_size=photo.size, **{name: values[kept] for name, values in columns.items()})
