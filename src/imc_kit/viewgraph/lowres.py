"""Low-resolution matching: how much two images overlap, and their relative 90° rotation.

The caller matches features of small images; a thousand SIFT features at 800 pixels suffice. The results decide which
90° rotation makes each image upright (`orientation`), and which pairs to match at full resolution.
"""

from dataclasses import dataclass

import numpy as np

from imc_kit.types import Features, Float32, Matches
from imc_kit.viewgraph.two_view import fundamental

_SIDE = 1000
"""Keypoints are scaled to this longer side, in pixels, so that `_MAX_ERROR` means the same in all images. The value is
arbitrary."""
_CONFIDENCE = 0.999
"""RANSAC's confidence, below the 0.9999 of `fundamental`: a rough count of inliers is enough."""
_TRIALS = 1000
"""Maximum number of RANSAC trials, for the same reason half of `VerificationConfig.max_trials`."""
_MAX_ERROR = 3.0
"""Maximum distance of a match from its epipolar line, in these pixels: 2.4 of 800."""
_MIN_INLIERS = 12
"""Pairs with fewer inliers do not vote on rotations: unrelated images have up to 11 by chance."""


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


def pair_overlap(first: Features, second: Features, matches: Matches) -> PairOverlap:
    """Measure the overlap and the relative rotation of two images from their matches. Deterministic.

    The features need orientations.
    """
    if not len(matches):  # an image without features may lack orientations
        return PairOverlap(0, 0, 0.0)
    assert first.orientations is not None
    assert second.orientations is not None
    a, b = matches.indices.T
    points = _scaled(first)[a], _scaled(second)[b]
    _, inliers = fundamental(*points, _MAX_ERROR, confidence=_CONFIDENCE, trials=_TRIALS)
    count = int(inliers.sum())
    degrees = (first.orientations[a] - second.orientations[b])[inliers]
    votes = np.bincount(np.rint(degrees / 90).astype(int) % 4, minlength=4)
    next_best, best = np.sort(votes)[-2:]
    weight = float(best - next_best) if count >= _MIN_INLIERS else 0.0
    return PairOverlap(count, int(votes.argmax()), weight)


def _scaled(features: Features) -> Float32:
    return features.keypoints * np.float32(_SIDE / max(features.image_size))
