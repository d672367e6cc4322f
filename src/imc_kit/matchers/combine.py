"""Join the results of several feature pipelines: the features of each image and the matches of each pair.

A feature pipeline is a detector with a matcher, or a photo matcher alone. Joined features have no descriptors,
because they are already matched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imc_kit.errors import KitError, require
from imc_kit.matchers import scaled_radius
from imc_kit.types import Features, Int32, Matches


@dataclass(frozen=True)
class CombineConfig:
    """How feature pipelines are joined. Raises `KitError` for an invalid value."""

    radius: float = 0.5
    """Keypoints of two feature pipelines at most this far apart become one keypoint; 0 keeps both. In pixels of an
    image whose longer side has 1024 pixels."""
    when: Literal["always", "if_needed"] = "always"
    """if_needed: map each scene with the first feature pipeline alone, and join the others only if that model lacks
    images or contradicts its matches; the better model stays. In a folder of several places, the first feature
    pipeline decides which photos belong together."""

    def __post_init__(self) -> None:
        require(0 <= self.radius < float("inf"), "radius of combining", "at least 0 pixels", self.radius)


def join_features(parts: Sequence[Features], config: CombineConfig | None = None) -> tuple[Features, tuple[Int32, ...]]:
    """Join the features of one image from all feature pipelines.

    Also returns, for each feature pipeline, the row [N] of each of its keypoints in the joined features. The first
    pipeline's keypoints come first, unchanged. A keypoint close to one of an earlier pipeline takes the position and
    score of that one. The closest keypoints are joined first; two keypoints of one pipeline are never joined.

    Raises `ValueError` for features of images of different sizes.
    """
    from scipy.spatial import cKDTree  # loads slowly

    radius = (config or CombineConfig()).radius
    size, *others = {features.image_size for features in parts}
    if others:
        raise ValueError(f"features of one image cannot be of several sizes: {[size, *others]}")
    keypoints, scores = parts[0].keypoints, parts[0].scores
    rows = [np.arange(len(keypoints), dtype=np.int32)]
    for features in parts[1:]:
        before = len(keypoints)
        row = np.full(len(features), -1, np.int32)
        if radius and before and len(features):
            trees = (cKDTree(points) for points in (keypoints, features.keypoints))
            close = next(trees).sparse_distance_matrix(next(trees), scaled_radius(radius, size), output_type="ndarray")
            same = Matches(np.stack([close["i"], close["j"]], 1).astype(np.int32), -close["v"].astype(np.float32))
            old, new = same.one_to_one().indices.T
            row[new] = old
        added = row < 0
        row[added] = before + np.arange(added.sum(), dtype=np.int32)
        rows.append(row)
        keypoints = np.concatenate([keypoints, features.keypoints[added]])
        scores = np.concatenate([scores, features.scores[added]])
    return Features(keypoints, scores, np.empty((len(keypoints), 0), np.uint8), size), tuple(rows)


def join_matches(parts: Sequence[Matches], first: Sequence[Int32], second: Sequence[Int32]) -> Matches:
    """Join the matches of one pair from all feature pipelines: sorted by the first index, each feature in at most one.

    first, second: for each feature pipeline, the joined rows of its keypoints in either image, from `join_features`.

    The scores of different matchers are not comparable. If matches conflict, the one of the earlier pipeline stays, and
    within a pipeline the one with the higher score. The new scores fall from 1 in this order.

    Raises `KitError` when a match names a keypoint that does not exist.
    """
    indices = [np.empty((0, 2), np.int32)]
    for number, (matches, *sides) in enumerate(zip(parts, first, second, strict=True), 1):
        if len(matches) and (matches.indices.max(0) >= [len(side) for side in sides]).any():
            raise KitError(
                f"matches of feature pipeline {number} name keypoints that do not exist (there are {len(sides[0])} and"
                f" {len(sides[1])}): they belong to other features"
            )
        best = np.argsort(-matches.scores, kind="stable")
        indices.append(np.stack([side[column] for side, column in zip(sides, matches.indices[best].T, strict=True)], 1))
    joined = np.concatenate(indices)
    return Matches(joined, np.linspace(1, 0, len(joined), endpoint=False, dtype=np.float32)).one_to_one()
