"""From correspondences of detector-free matchers to features and matches, as the later stages want them.

Such a matcher gives every pair of images points of its own. A track through three images needs them to meet: points of
an image that are close together become one keypoint, whichever pairs they come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.matchers.nearby import close_pairs, in_original
from imc_kit.types import Correspondences, Features, Float32, Float64, Int32, Matches

_LATTICE = 8
"""Spots of a lattice along a radius: points at the same spot are one before any distance is computed, so that there are
not too many distances however many points there are."""
_LEAST_WEIGHT = 1e-6
"""Of a point in its keypoint's place, whatever its score."""


@dataclass(frozen=True)
class MergeConfig:
    """How points of detector-free matchers become keypoints. Raises `KitError` when an option makes no sense."""

    radius: float = 2.0
    """Points of an image that are at most so far from the middle of a cluster become one keypoint, in pixels of an
    image whose longer side has 1024."""

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise KitError(f"radius of merging must be larger than 0 pixels, not {self.radius!r}")


def merge(
    correspondences: Mapping[tuple[str, str], Correspondences],
    sizes: Mapping[str, tuple[int, int]],
    config: MergeConfig | None = None,
) -> tuple[dict[str, Features], dict[tuple[str, str], Matches]]:
    """Features of each image and matches of each pair, from the correspondences of all pairs of a scene.

    sizes: (width, height) of every image.

    A keypoint is the mean of the points that became it, weighted by their scores, and its score is the sum of theirs.
    The keypoints of an image are strongest first, and have no descriptors: [N, 0]. Of matches that became the same or
    share a keypoint the best-scored stays. The order of the pairs makes no difference.
    """
    config = config or MergeConfig()
    ends: dict[str, list[tuple[tuple[str, str], int]]] = defaultdict(list)
    for pair in correspondences:
        for side in (0, 1):
            ends[pair[side]].append((pair, side))
    features: dict[str, Features] = {}
    keypoint_of: dict[tuple[tuple[str, str], int], Int32] = {}
    for image, size in sizes.items():
        found = [(correspondences[pair], side) for pair, side in ends[image]]
        points = np.concatenate([np.empty((0, 2), np.float32), *((one.first, one.second)[side] for one, side in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one, _ in found)])
        keypoints, strengths, numbers = _cluster(points, scores, in_original(config.radius, size))
        features[image] = Features(keypoints, strengths, np.empty((len(keypoints), 0), np.uint8), size)
        stops = np.cumsum([len(one) for one, _ in found])
        keypoint_of |= zip(ends[image], np.split(numbers, stops[:-1]), strict=True) if found else ()
    matches = {
        pair: Matches(np.stack([keypoint_of[pair, 0], keypoint_of[pair, 1]], 1), one.scores).one_to_one()
        for pair, one in correspondences.items()
    }
    return features, matches


def _cluster(points: Float32, scores: Float32, radius: float) -> tuple[Float32, Float32, Int32]:
    """Points [N, 2] and their scores [N] → keypoints [K, 2], strongest first, their scores [K], and for each point the
    number of its keypoint [N].

    Centres of clusters are spots of the lattice, the densest first, that are further than the radius from each centre
    before; and every spot belongs to the nearest centre.
    """
    if not len(points):
        return np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty(0, np.int32)
    order = np.lexsort((scores, points[:, 1], points[:, 0]))  # sums depend on the order, which must not be the pairs'
    spot = np.empty(len(points), np.intp)
    places, weights, spot[order] = _spots(points[order].astype(np.float64), scores[order], radius / _LATTICE)

    pairs, apart = close_pairs(places, radius)
    density = weights + _sums(pairs[:, 0], weights[pairs[:, 1]], len(places))
    density += _sums(pairs[:, 1], weights[pairs[:, 0]], len(places))
    rank = np.empty(len(places), np.intp)
    rank[np.argsort(-density, kind="stable")] = np.arange(len(places))
    is_centre = _centres(pairs, rank)

    # Each spot beside each centre within reach, and each centre beside itself; the nearest comes first.
    there = np.flatnonzero(is_centre)
    spots = np.concatenate([there, pairs[:, 0], pairs[:, 1]])
    centres = np.concatenate([there, pairs[:, 1], pairs[:, 0]])
    apart = np.concatenate([np.zeros(len(there)), apart, apart])
    within = np.flatnonzero(is_centre[centres])
    within = within[np.lexsort((rank[centres[within]], apart[within], spots[within]))]
    centre = centres[within[np.unique(spots[within], return_index=True)[1]]]  # of each spot

    strength = _sums(centre, weights, len(places))[there]
    keypoints = np.stack([_sums(centre, weights * axis, len(places))[there] / strength for axis in places.T], 1)
    strongest = np.lexsort((rank[there], -strength))
    number = np.empty(len(places), np.int32)
    number[there[strongest]] = np.arange(len(there))
    return keypoints[strongest].astype(np.float32), strength[strongest].astype(np.float32), number[centre][spot]


def _spots(points: Float64, scores: Float32, step: float) -> tuple[Float64, Float64, NDArray[np.intp]]:
    """The mean place [S, 2] and the weight [S] of all points near each spot of a lattice that has any, and for each
    point the number of its spot [N]."""
    x, y = np.rint(points / step).astype(np.int64).T
    key = (y - y.min()) * (np.ptp(x) + 1) + (x - x.min())
    spots, spot = np.unique(key, return_inverse=True)
    weight = np.maximum(scores.astype(np.float64), _LEAST_WEIGHT)
    weights = _sums(spot, weight, len(spots))
    places = np.stack([_sums(spot, weight * axis, len(spots)) / weights for axis in points.T], 1)
    return places, weights, spot


def _centres(pairs: NDArray[np.intp], rank: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which are chosen [S] when, by ascending rank, each is that is not close to one chosen before.

    pairs: those that are close to each other, [P, 2].
    """
    swapped = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    better, worse = np.where(swapped[:, None], pairs[:, ::-1], pairs).T
    chosen = np.zeros(len(rank), bool)
    open_ = np.ones(len(rank), bool)
    while open_.any():
        behind = np.zeros(len(rank), bool)
        behind[worse] = True
        now = open_ & ~behind  # no better one that is still open is close
        chosen |= now
        open_ &= ~now
        open_[worse[now[better]]] = False
        left = open_[better] & open_[worse]
        better, worse = better[left], worse[left]
    return chosen


def _sums(groups: NDArray[np.intp], values: NDArray[Any], count: int) -> Float64:
    """The sum of the values [N] in each of `count` groups."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.float64, copy=False)
