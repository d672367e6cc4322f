"""Align the keypoints of a finished model along its tracks, in COLMAP's child process (`steps.align_keypoints`)."""

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap

from imc_kit.colmap.bundle_adjustment import TOLERANCE, solve, solver
from imc_kit.colmap.options import Known
from imc_kit.colmap.patches import Grey, align, observations
from imc_kit.colmap.steps import SubpixelConfig
from imc_kit.data import images
from imc_kit.types import Float64

_MIN_ANGLE = 1.5
"""Degrees. Points with a smaller triangulation angle are dropped, as in COLMAP's mapper."""
_PRECISE = 0.25
"""Pixels. The gain is the number of observations with at most this reprojection error."""
_GAIN = 1.02
"""The least gain, as a factor. On the open and hard scenes it is mostly 1.07 to 1.4."""
_IN_MEMORY = 64
"""Images kept in memory: 1.4 MB each at 1600 pixels."""


def subpixel_job(
    model: str,
    output: str,
    photos: Mapping[str, tuple[str, int]],
    fixed: Collection[str],
    config: SubpixelConfig,
    known: Known,
    threads: int,
    seed: int,
) -> None:
    """Write the model with aligned keypoints if more of its observations are precise than without the alignment.

    photos: the path of each image and its further clockwise 90° rotations (`ImageInfo.extra_quarters`).
    fixed: images that keep their poses and intrinsics, and whose observations do not count.
    """
    before = pycolmap.Reconstruction(model)
    unmoved = {number for number in before.reg_image_ids() if before.images[number].name in fixed}
    if not before.points3D:
        return

    @lru_cache(_IN_MEMORY)
    def grey(image: int) -> tuple[Grey, Float64]:
        path, quarters = photos[before.images[image].name]
        photo = images.load(Path(path), config.long_side, quarters)
        pixels = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return pixels, np.array(pixels.shape[::-1]) / photo.size

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(threads) as pool:

        def each(work: Callable[[int], None], numbers: Iterable[int]) -> None:
            list(pool.map(work, numbers))

        def move(reconstruction: Any) -> None:
            if (found := observations(reconstruction, unmoved)) is None:
                return
            positions, moved = align(found, grey, each, config.radius, config.max_move, config.min_correlation)
            for image, keypoint, position in zip(
                found.images[moved].tolist(), found.keypoints[moved].tolist(), positions[moved], strict=True
            ):
                reconstruction.images[image].points2D[keypoint].xy = position

        def adjust(reconstruction: Any) -> None:
            options = solver(threads, config.max_iterations, robust=True, tolerance=TOLERANCE)
            solve(reconstruction, options, known.constant, unmoved)

        aligned = _adjusted(before, config.max_errors, adjust, move)
        plain = _adjusted(before, config.max_errors, adjust, lambda _: None)
    if _precise(aligned, unmoved) > _GAIN * _precise(plain, unmoved):
        aligned.write(output)


def _adjusted(
    before: Any, max_errors: Iterable[float], adjust: Callable[[Any], None], move: Callable[[Any], None]
) -> Any:
    """A copy, bundle-adjusted robustly, without observations that do not fit.

    adjust: bundle-adjusts a model. move: changes keypoints before that.
    """
    reconstruction = pycolmap.Reconstruction(before)
    for max_error in max_errors:
        move(reconstruction)
        adjust(reconstruction)
        pycolmap.ObservationManager(reconstruction).filter_all_points3D(max_error, _MIN_ANGLE)
    adjust(reconstruction)
    return reconstruction


def _precise(reconstruction: Any, fixed: Collection[int]) -> int:
    """The number of precise observations by images that are not fixed."""
    count = 0
    for number in set(reconstruction.reg_image_ids()).difference(fixed):
        image = reconstruction.images[number]
        seen = [(point.xy, reconstruction.points3D[point.point3D_id].xyz) for point in image.get_observation_points2D()]
        if seen:
            keypoints, points = map(np.array, zip(*seen, strict=True))
            motion = image.cam_from_world().matrix()
            camera = reconstruction.cameras[image.camera_id]
            projected = camera.img_from_cam(points @ motion[:, :3].T + motion[:, 3])
            count += int((np.linalg.norm(projected - keypoints, axis=1) <= _PRECISE).sum())
    return count
