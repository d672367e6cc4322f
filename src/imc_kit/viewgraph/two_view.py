"""Two-view geometry: the fundamental matrix with which most matches of two images agree."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Mask

_FEWEST = 8
"""Matches: any seven have a fundamental matrix that explains them."""


def fundamental(
    first: NDArray[Any], second: NDArray[Any], max_error: float, *, confidence: float = 0.9999, trials: int = 2000
) -> tuple[Float64, Mask]:
    """The matrix F [3, 3] of points [K, 2] and [K, 2] with x₂ᵀ F x₁ = 0, and which of them agree with it, bool [K].

    max_error: in the unit of the points, from the epipolar line. trials: of RANSAC, at most, fewer where `confidence`
        is reached before. Where there is no such matrix, it is 0 and none agree. The same points give the same answer.

    By MAGSAC++ (Barath et al. 2020), as OpenCV has it.
    """
    nothing = np.zeros((3, 3)), np.zeros(len(first), np.bool_)
    if len(first) < _FEWEST:
        return nothing
    try:
        matrix, mask = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, max_error, confidence, trials)
    except cv2.error:  # points all in one place, for example
        return nothing
    if matrix is None or mask is None or matrix.shape != (3, 3):
        return nothing
    return np.asarray(matrix, np.float64), mask.ravel().astype(np.bool_)
