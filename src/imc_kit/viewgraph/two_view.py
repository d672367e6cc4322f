"""Two-view geometry: the fundamental matrix that most matches of two images agree with."""

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import require
from imc_kit.types import Float64, Mask

_MIN_POINTS = 8
"""Any seven matches fit some fundamental matrix; only the eighth tests it."""
_BY_CHANCE = 10
"""Matches that agree by chance alone: seven define the geometry, and the best of many RANSAC trials adds a few."""


@dataclass(frozen=True)
class VerificationConfig:
    """How the two-view geometry of each matched pair is estimated. Raises `KitError` when a value makes no sense."""

    max_error: float = 3.0
    """Maximum distance of a match from its epipolar line, in pixels."""
    min_inliers: int = 15
    """Drop pairs with fewer agreeing matches."""
    chance: float = 0.03
    """Required inliers: max(min_inliers, 10 + chance × matches). Fewer may agree by chance."""
    max_trials: int = 2000
    """Maximum number of RANSAC trials. COLMAP's 10,000 take several times longer, spent on pairs that do not
    overlap."""
    time_limit: float = 3600.0
    """Maximum seconds per scene. Pairs not verified by then are dropped."""

    def __post_init__(self) -> None:
        for option, valid, wanted in (
            ("max_error", self.max_error > 0, "more than 0"),
            ("min_inliers", self.min_inliers > 0, "at least 1"),
            ("chance", 0 <= self.chance < 1, "at least 0 and less than 1"),
            ("max_trials", self.max_trials > 0, "at least 1"),
            ("time_limit", self.time_limit > 0, "more than 0"),
        ):
            require(valid, f"{option} of the verification", wanted, getattr(self, option))

    def verify(
        self, first: NDArray[Any], second: NDArray[Any], estimate: "Estimate | None" = None
    ) -> tuple[Float64, Mask]:
        """Verify the matches of two images: a two-view geometry with a test against chance.

        first, second: matched points [K, 2] each, in pixels. The pair fails when fewer than
        `max(min_inliers, 10 + chance · K)` matches agree. Then the mask is all False.
        estimate: the matrix of some points, and which agree with it; `fundamental` by default.
        """
        matrix, agree = (estimate or fundamental)(first, second, self.max_error, trials=self.max_trials)
        enough = agree.sum() >= max(self.min_inliers, _BY_CHANCE + self.chance * len(agree))
        return matrix, agree & enough


class Estimate(Protocol):
    """An estimation of the geometry of two images as `fundamental` is one, from pixels of other cameras."""

    def __call__(
        self, first: NDArray[Any], second: NDArray[Any], max_error: float, *, trials: int
    ) -> tuple[Float64, Mask]: ...


def fundamental(
    first: NDArray[Any], second: NDArray[Any], max_error: float, *, confidence: float = 0.9999, trials: int = 2000
) -> tuple[Float64, Mask]:
    """Estimate F with x₂ᵀ F x₁ = 0 by MAGSAC++ (Barath et al., CVPR 2020), as OpenCV implements it.

    first, second: matched points [K, 2] each. max_error: the distance from the epipolar line, in the points' unit.
    trials: the maximum of RANSAC, which stops earlier at `confidence`.

    Returns F, float64 [3, 3], and which points agree, bool [K]. Without a solution, F is 0 and no point agrees.
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
