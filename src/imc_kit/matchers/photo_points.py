"""Turn the correspondences of photo matchers into the features and matches that later stages need.

A photo matcher may find new points for every pair of images. A track through three images needs common points. So
points close to a keypoint of the image become this keypoint, and of the others, nearby ones become one further
keypoint, whichever pairs they come from.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import require
from imc_kit.matchers import scaled_radius
from imc_kit.types import Correspondences, Features, Float32, Float64, Int32, Matches, Pair

_LATTICE = 8
"""Points are first rounded to a lattice with this many spots per radius, so that the pairs of nearby spots fit into
memory, however many points there are. Half as many spots would move keypoints by up to a quarter of the radius."""
_MIN_WEIGHT = 1e-6
"""Minimum weight of a point in the mean that defines its keypoint, so that scores may be 0 or negative."""


@dataclass(frozen=True)
class MergeConfig:
    """How points of photo matchers become keypoints. Raises `KitError` for an invalid value."""

    radius: float = 2.0
    """Points at most this far from the centre of a cluster become one keypoint. In pixels of an image whose longer side
    has 1024 pixels."""
    snap: float = 1.0
    """Points at most this far from a keypoint of the detector become this keypoint. In the same pixels; the default is
    hloc's for LoFTR. With 0, only points that are keypoints do."""

    def __post_init__(self) -> None:
        require(0 <= self.snap < float("inf"), "snap of merging", "at least 0 pixels", self.snap)
        require(0 < self.radius < float("inf"), "radius of merging", "larger than 0 pixels", self.radius)


def merge(
    correspondences: Mapping[Pair, Correspondences], given: Mapping[str, Features], config: MergeConfig | None = None
) -> tuple[dict[str, Features], dict[Pair, Matches]]:
    """Compute the features of each image and the matches of each pair from the correspondences of a scene.

    given: the features of every image that the matcher was given, if only empty ones.

    The keypoints of an image are the given ones, as they are, then the further ones, best first; they have no
    descriptors ([N, 0]). A further keypoint is the mean of its points, weighted by their scores, and its score is the
    sum of their scores. Of matches that share a keypoint, the one with the best score stays. The result does not depend
    on the order of the pairs.
    """
    config = config or MergeConfig()
    sides: dict[str, list[tuple[Pair, int]]] = defaultdict(list)
    for pair in correspondences:
        for side in (0, 1):
            sides[pair[side]].append((pair, side))
    features: dict[str, Features] = {}
    keypoint_of: dict[tuple[Pair, int], Int32] = {}
    for image, known in given.items():
        found = [(correspondences[pair], side) for pair, side in sides[image]]
        points = np.concatenate([np.empty((0, 2), np.float32), *((one.first, one.second)[side] for one, side in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one, _ in found)])
        size = known.image_size
        owners = nearest_within(points, known.keypoints, scaled_radius(config.snap, size))
        new = owners < 0
        further, sums, clusters = _cluster(points[new], scores[new], scaled_radius(config.radius, size))
        owners[new] = len(known) + clusters
        keypoints, strengths = np.concatenate([known.keypoints, further]), np.concatenate([known.scores, sums])
        features[image] = Features(keypoints, strengths, np.empty((len(keypoints), 0), np.uint8), size)
        ends = np.cumsum([len(one) for one, _ in found])
        keypoint_of |= zip(sides[image], np.split(owners, ends[:-1]), strict=bool(found))
    matches = {
        pair: Matches(np.stack([keypoint_of[pair, 0], keypoint_of[pair, 1]], 1), one.scores).one_to_one()
        for pair, one in correspondences.items()
    }
    return features, matches


def nearest_within(points: Float32, keypoints: Float32, radius: float) -> Int32:
    """The index of the keypoint nearest to each point [N], if it is within the radius; otherwise −1."""
    from scipy.spatial import cKDTree  # loads slowly

    if not len(keypoints):
        return np.full(len(points), -1, np.int32)
    distances, rows = cKDTree(keypoints).query(points)
    return np.where(distances <= radius, rows, -1).astype(np.int32)


def _cluster(points: Float32, scores: Float32, radius: float) -> tuple[Float32, Float32, Int32]:
    """Cluster points [N, 2] with scores [N] into keypoints [K, 2].

    Returns the keypoints, best first, their scores [K], and the index of each point's keypoint [N]. The first centre is
    the densest spot of the lattice; each further one is the densest spot beyond the radius of all centres so far. Every
    spot belongs to its nearest centre.
    """
    from scipy.spatial import cKDTree  # loads slowly

    if not len(points):
        return np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty(0, np.int32)
    order = np.lexsort((scores, points[:, 1], points[:, 0]))  # rounded sums must not depend on the order of the pairs
    spot_of = np.empty(len(points), np.intp)
    spots, weights, spot_of[order] = _spots(points[order].astype(np.float64), scores[order], radius / _LATTICE)

    tree = cKDTree(spots)
    close = tree.query_pairs(radius, output_type="ndarray")
    density = weights + _sums(close[:, 0], weights[close[:, 1]], len(spots))
    density += _sums(close[:, 1], weights[close[:, 0]], len(spots))
    free, centres = np.ones(len(spots), bool), []
    for spot in np.argsort(-density, kind="stable"):
        if free[spot]:
            centres.append(spot)
            free[tree.query_ball_point(spots[spot], radius)] = False
    _, centre_of = cKDTree(spots[centres]).query(spots)

    sums = _sums(centre_of, weights, len(centres))
    keypoints = np.stack([_sums(centre_of, weights * axis, len(centres)) / sums for axis in spots.T], 1)
    best_first = np.argsort(-sums, kind="stable")
    number = np.empty(len(centres), np.int32)
    number[best_first] = np.arange(len(centres))
    return keypoints[best_first].astype(np.float32), sums[best_first].astype(np.float32), number[centre_of][spot_of]


def _spots(points: Float64, scores: Float32, step: float) -> tuple[Float64, Float64, NDArray[np.intp]]:
    """Round points to a lattice with this step. Returns the mean [S, 2] and the weight [S] of the points at each
    occupied spot, and the index of each point's spot [N]."""
    x, y = np.rint(points / step).astype(np.int64).T
    key = (y - y.min()) * (np.ptp(x) + 1) + (x - x.min())
    spots, spot_of = np.unique(key, return_inverse=True)
    weight = np.maximum(scores.astype(np.float64), _MIN_WEIGHT)
    weights = _sums(spot_of, weight, len(spots))
    return np.stack([_sums(spot_of, weight * axis, len(spots)) / weights for axis in points.T], 1), weights, spot_of


def _sums(groups: NDArray[np.intp], values: NDArray[Any], count: int) -> Float64:
    """The sum of the values [N] in each of `count` groups."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.float64, copy=False)
