"""Several feature_pipelines in one run: their features of an image, and their matches of a pair, joined.

A feature_pipeline is a detector with a matcher, or a detector-free matcher. Descriptors have done their work when feature_pipelines are
joined: a join has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imc_kit.errors import KitError
from imc_kit.matchers.nearby import close_pairs, in_original
from imc_kit.types import Features, Int32, Matches


@dataclass(frozen=True)
class CombineConfig:
    """How feature_pipelines are joined. Raises `KitError` when an option makes no sense."""

    radius: float = 0.5
    """Keypoints of two feature_pipelines that are at most so far apart are one, in pixels of an image whose longer side has
    1024; 0 keeps all."""

    def __post_init__(self) -> None:
        if not 0 <= self.radius < float("inf"):
            raise KitError(f"radius of combining must be at least 0 pixels, not {self.radius!r}")


def join_features(
    feature_pipelines: Sequence[Features], config: CombineConfig | None = None
) -> tuple[Features, tuple[Int32, ...]]:
    """The features of one image from all feature_pipelines, and for each feature_pipeline the rows [N] at which its keypoints are now.

    The first feature_pipeline's come first, unchanged. A later feature_pipeline's keypoint that is close to one before becomes that one, at
    its place and with its score: the closest first, and no two of a feature_pipeline become one. Raises `ValueError` when the
    feature_pipelines are of images of different sizes.
    """
    radius = (config or CombineConfig()).radius
    size, *others = {features.image_size for features in feature_pipelines}
    if others:
        raise ValueError(f"features of one image cannot be of several sizes: {[size, *others]}")
    keypoints, scores = feature_pipelines[0].keypoints, feature_pipelines[0].scores
    rows = [np.arange(len(keypoints), dtype=np.int32)]
    for features in feature_pipelines[1:]:
        before = len(keypoints)
        row = np.full(len(features), -1, np.int32)
        if radius:
            pairs, apart = close_pairs(np.concatenate([keypoints, features.keypoints]), in_original(radius, size))
            pairs.sort(axis=1)
            across = (pairs[:, 0] < before) & (pairs[:, 1] >= before)
            same = Matches((pairs[across] - [0, before]).astype(np.int32), -apart[across].astype(np.float32))
            old, new = same.one_to_one().indices.T
            row[new] = old
        added = row < 0
        row[added] = before + np.arange(added.sum(), dtype=np.int32)
        rows.append(row)
        keypoints = np.concatenate([keypoints, features.keypoints[added]])
        scores = np.concatenate([scores, features.scores[added]])
    return Features(keypoints, scores, np.empty((len(keypoints), 0), np.uint8), size), tuple(rows)


def join_matches(feature_pipelines: Sequence[Matches], first: Sequence[Int32], second: Sequence[Int32]) -> Matches:
    """The matches of one pair from all feature_pipelines, each feature in one at most, by ascending index of the first.

    first, second: for each feature_pipeline the rows of its keypoints, as `join_features` gave them for either image.

    The scores of different matchers cannot be compared: where matches contradict each other, an earlier feature_pipeline's stays,
    and within a feature_pipeline that of the higher score. The scores of the join fall from 1 in that order. Raises
    `KitError` when a match names a keypoint that does not exist.
    """
    indices = []
    for number, (matches, *sides) in enumerate(zip(feature_pipelines, first, second, strict=True)):
        if len(matches) and (matches.indices.max(0) >= [len(side) for side in sides]).any():
            raise KitError(
                f"matches of feature_pipeline {number + 1} name keypoints that do not exist (there are {len(sides[0])} and"
                f" {len(sides[1])}): they belong to other features"
            )
        best = np.argsort(-matches.scores, kind="stable")
        indices.append(np.stack([side[column] for side, column in zip(sides, matches.indices[best].T, strict=True)], 1))
    joined = np.concatenate([np.empty((0, 2), np.int32), *indices])
    return Matches(joined, np.linspace(1, 0, len(joined), endpoint=False, dtype=np.float32)).one_to_one()
