"""Low-resolution matching: how much two images overlap, and their relative 90° rotation.

The caller matches features of small images; a thousand SIFT features at 800 pixels suffice. The results decide which
90° rotation makes each image upright (`orientation`), and which pairs to match at full resolution.
"""

from dataclasses import dataclass

import numpy as np

from imc_kit.errors import require
from imc_kit.types import Features, Float32, Matches
from imc_kit.viewgraph.two_view import fundamental

_SIDE = 1000
"""Keypoints are scaled to this longer side, in pixels, so that `max_error` means the same in all images. The value is
arbitrary."""
_CONFIDENCE = 0.999
"""RANSAC's confidence, below the 0.9999 of `fundamental`: a rough count of inliers is enough."""


@dataclass(frozen=True)
class LowResConfig:
    """Thresholds for low-resolution matches. Raises `KitError` when a value makes no sense."""

    max_error: float = 0.003
    """Maximum distance of a match from its epipolar line, as a fraction of the image's longer side: 2.4 of 800
    pixels."""
    min_inliers: int = 12
    """Pairs with fewer inliers do not vote on rotations: unrelated images have up to 11 by chance."""
    trials: int = 1000
    """Maximum number of RANSAC trials."""

    def __post_init__(self) -> None:
        for option, valid, wanted in (
            ("max_error", 0 < self.max_error < 1, "more than 0 and less than 1"),
            ("min_inliers", self.min_inliers >= 0, "at least 0"),
            ("trials", self.trials >= 1, "at least 1"),
        ):
            require(valid, f"{option} of low-resolution matching", wanted, getattr(self, option))


@dataclass(frozen=True)
class PairOverlap:
    """The overlap and relative rotation of two images, from their low-resolution matches.

    inliers: number of matches that fit one fundamental matrix.
    rotation_quarters: how many more clockwise 90° rotations, 0 to 3, the second image needs than the first.
    weight: number of inliers that vote for this rotation, minus those for the runner-up; 0 with too few inliers.
    """

    inliers: int
    rotation_quarters: int
    weight: float


def pair_overlap(
    first: Features, second: Features, matches: Matches, config: LowResConfig | None = None
) -> PairOverlap:
    """Measure the overlap and the relative rotation of two images from their matches. Deterministic.

    Raises ValueError for features without orientations.
    """
    config = config or LowResConfig()
    if not len(matches):  # an image without features may lack orientations
        return PairOverlap(0, 0, 0.0)
    if first.orientations is None or second.orientations is None:
        raise ValueError("low-resolution matching needs features with orientations, such as SIFT")
    a, b = matches.indices.T
    limit = _SIDE * config.max_error
    _, inliers = fundamental(_scaled(first)[a], _scaled(second)[b], limit, confidence=_CONFIDENCE, trials=config.trials)
    count = int(inliers.sum())
    degrees = (first.orientations[a] - second.orientations[b])[inliers]
    votes = np.bincount(np.rint(degrees / 90).astype(int) % 4, minlength=4)
    next_best, best = np.sort(votes)[-2:]
    weight = float(best - next_best) if count >= config.min_inliers else 0.0
    return PairOverlap(count, int(votes.argmax()), weight)


def _scaled(features: Features) -> Float32:
    return features.keypoints * np.float32(_SIDE / max(features.image_size))
