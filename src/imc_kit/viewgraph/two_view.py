"""Two-view geometry: the fundamental matrix that most matches of two images agree with."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Mask

_MIN_POINTS = 8
"""Any seven matches have a fundamental matrix that explains them, so only the eighth tests it."""
_BY_CHANCE = 10
"""Matches that always agree: seven define the geometry, and the best of many RANSAC trials finds a few more."""


def fundamental(
    first: NDArray[Any], second: NDArray[Any], max_error: float, *, confidence: float = 0.9999, trials: int = 2000
) -> tuple[Float64, Mask]:
    """Estimate F with x₂ᵀ F x₁ = 0 by MAGSAC++ (Barath et al., CVPR 2020), as OpenCV implements it.

    first, second: matched points [K, 2] each. max_error: the distance from the epipolar line, in the points' unit.
    trials: RANSAC's limit; it stops earlier at `confidence`.

    Returns F, float64 [3, 3], and which points agree, bool [K]. F is 0 and no point agrees where there is none.
    Deterministic.
    """
    nothing = np.zeros((3, 3)), np.zeros(len(first), np.bool_)
    if len(first) < _MIN_POINTS:
        return nothing
    try:
        matrix, mask = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, max_error, confidence, trials)
    except cv2.error:  # all points in one place, for example
        return nothing
    if matrix is None or mask is None or matrix.shape != (3, 3):
        return nothing
    return np.asarray(matrix, np.float64), mask.ravel().astype(np.bool_)


def by_magsac(
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    max_error: float,
    min_inliers: int,
    chance: float,
    min_motion: float,
    trials: int,
) -> tuple[Float64, Mask]:
    """Verify the matches of two images: `fundamental` with a test against chance.

    first, second: matched points [K, 2] each, in pixels. min_motion: points that move by fewer pixels are ignored.
    The pair fails when fewer than `max(min_inliers, 10 + chance · K)` matches agree. Then the mask is all False.
    """
    agree = np.linalg.norm(first - second, axis=1) >= min_motion
    matrix, inliers = fundamental(first[agree], second[agree], max_error, trials=trials)
    agree[agree] = inliers
    enough = agree.sum() >= max(min_inliers, _BY_CHANCE + chance * len(agree))
    return matrix, agree & enough
