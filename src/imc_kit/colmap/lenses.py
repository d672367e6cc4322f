"""Two-view geometry of photos whose lens is known: rays instead of pixels, because a fisheye lens is no pinhole.

Everything is for intrinsics in COLMAP's cameras. A camera without distortion, as most have before bundle adjustment,
changes nothing.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Mask
from imc_kit.viewgraph.two_view import fundamental

_MIN_TRIALS = 100
"""RANSAC trials for a relative pose at least: COLMAP's default for two-view geometries."""
_WIDE = 0.64
"""Cosine of an angle to the optical axis, 50°. There a pinhole camera stretches a pixel to 2.4 pixels, away from the
centre, so that a limit in pixels means something else."""
_MIN_DEPTH = 0.17
"""Cosine of an angle to the optical axis, 80°. Rays beyond it are left out where a pinhole camera is needed."""
_STEP = 0.5
"""Pixels, for derivatives of rays."""


def is_wide(camera: Any) -> bool:
    """Whether a lens is so wide that its photos cannot be taken for a pinhole camera's: its corners are beyond `_WIDE`.

    A camera without distortion is a pinhole camera, however much it sees.
    """
    if _is_pinhole(camera):
        return False
    width, height = camera.width, camera.height
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    return not (camera.cam_ray_from_img(corners)[:, 2] >= _WIDE).all()  # nan: the corner is outside a fisheye's circle


def geometry(
    cameras: tuple[Any, Any], first: NDArray[Any], second: NDArray[Any], max_error: float, *, trials: int
) -> tuple[Float64, Mask]:
    """Estimate a two-view geometry, and which points agree with it, bool [K].

    cameras: those of the two images. first, second: matched points [K, 2] each. max_error: in pixels.

    The geometry of two known lenses, one of them wide, is an essential matrix E with r₂ᵀ E r₁ = 0 for rays, by
    COLMAP's LO-RANSAC. Otherwise it is the fundamental matrix of the pinhole cameras with the same focal lengths and
    centres (`fundamental`), in a tenth of the time. Without a solution, it is 0 and no point agrees. Deterministic.
    """
    if _is_calibrated(cameras):
        import pycolmap

        options = pycolmap.RANSACOptions(
            max_error=max_error, min_num_trials=min(trials, _MIN_TRIALS), max_num_trials=trials, random_seed=0
        )
        found = pycolmap.estimate_essential_matrix(first, second, *cameras, options) if len(first) else None
        if found is None:
            return np.zeros((3, 3)), np.zeros(len(first), np.bool_)
        return np.asarray(found["E"], np.float64), np.asarray(found["inlier_mask"], np.bool_)
    one, two = (pinhole_points(*both) for both in zip(cameras, (first, second), strict=True))
    seen = np.isfinite(one).all(1) & np.isfinite(two).all(1)
    matrix, inliers = fundamental(one[seen], two[seen], max_error, trials=trials)
    seen[seen] = inliers
    return matrix, seen


def written(cameras: tuple[Any, Any], matrix: Float64, matches: NDArray[Any]) -> Any:
    """The `pycolmap.TwoViewGeometry` of a matrix by `geometry`. matches: those that agree, indices [K, 2]."""
    import pycolmap

    kind = pycolmap.TwoViewGeometryConfiguration
    if _is_calibrated(cameras):
        return pycolmap.TwoViewGeometry(E=matrix, inlier_matches=matches, config=kind.CALIBRATED)
    return pycolmap.TwoViewGeometry(F=matrix, inlier_matches=matches, config=kind.UNCALIBRATED)


def _is_calibrated(cameras: tuple[Any, Any]) -> bool:
    """Whether `geometry` gives an essential matrix."""
    return any(map(is_wide, cameras)) and all(camera.has_prior_focal_length for camera in cameras)


def pinhole_points(camera: Any, points: NDArray[Any]) -> NDArray[Any]:
    """The points [K, 2] as the pinhole camera with the same focal lengths and centre sees them; nan if it does not."""
    if _is_pinhole(camera):
        return points
    x, y, depth = camera.cam_ray_from_img(np.asarray(points, np.float64)).T
    depth = np.where(depth >= _MIN_DEPTH, depth, np.nan)
    focal, centre = camera.calibration_matrix().diagonal()[:2], (camera.principal_point_x, camera.principal_point_y)
    return np.asarray(np.stack([x / depth, y / depth], 1) * focal + centre, np.float64)


def _is_pinhole(camera: Any) -> bool:
    return bool(camera.is_undistorted() and camera.is_perspective_pinhole())


def tangent_sampson(essential: Float64, cameras: tuple[Any, Any], first: Float64, second: Float64) -> Float64:
    """The Sampson errors [K] of matched points of two cameras, in pixels of the photos, whatever the lens.

    It is |r₂ᵀ E r₁| over the length of its derivative by the four pixel coordinates (Terekhov and Larsson, ICCV 2023).
    """
    (one, slopes), (other, slopes2) = (_rays(*both) for both in zip(cameras, (first, second), strict=True))
    lines, back = one @ essential.T, other @ essential
    slope = np.concatenate([np.einsum("kij,kj->ki", slopes2, lines), np.einsum("kij,kj->ki", slopes, back)], 1)
    return np.asarray(np.abs((other * lines).sum(1)) / np.maximum(np.linalg.norm(slope, axis=1), 1e-12), np.float64)


def _rays(camera: Any, points: Float64) -> tuple[Float64, Float64]:
    """Unit rays [K, 3] of points [K, 2], and their derivatives by x and y, [K, 2, 3]."""
    sides = [camera.cam_ray_from_img(points + step) - camera.cam_ray_from_img(points - step)
        for step in np.eye(2) * _STEP]  # fmt: skip
    return camera.cam_ray_from_img(points), np.stack(sides, 1) / (2 * _STEP)
