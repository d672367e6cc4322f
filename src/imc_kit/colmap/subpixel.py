"""Align the keypoints of a finished model along its tracks, in COLMAP's child process (`steps.align_keypoints`)."""

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap

from imc_kit.colmap.bundle_adjustment import ROUGH, TOLERANCE, off_centre, precise_observations, solve, solver
from imc_kit.colmap.options import Known
from imc_kit.colmap.patches import Grey, align, observations
from imc_kit.colmap.steps import SubpixelConfig
from imc_kit.data import images
from imc_kit.types import Float64

_MIN_ANGLE = 1.5
"""Degrees. Points with a smaller triangulation angle are dropped, as in COLMAP's mapper."""
_GAIN = 1.1
"""The least gain in `precise_observations`, as a factor. On seven open scenes it is 1.2 to 2.4. Bundle adjustment alone
also brings some gain, so this cannot tell whether the alignment itself was right: `_ALIGNED` does."""
_ALIGNED = 0.5
"""The least share of keypoints that can be aligned; else the photos tell too little. On seven open and six hard
scenes it is 0.82 to 0.97."""
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
    """Write the model with aligned keypoints, if most can be aligned and many more observations are precise.

    photos: the path of each image and its further clockwise 90° rotations (`ImageInfo.extra_quarters`).
    fixed: images that keep their poses and intrinsics, and whose observations do not count.
    """
    before = pycolmap.Reconstruction(model)
    unmoved = {number for number in before.reg_image_ids() if before.images[number].name in fixed}
    free = set(before.reg_image_ids()) - unmoved
    points = {point.point3D_id for number in free for point in before.images[number].get_observation_points2D()}

    @lru_cache(_IN_MEMORY)
    def grey(image: int) -> tuple[Grey, Float64]:
        path, quarters = photos[before.images[image].name]
        photo = images.load(Path(path), config.long_side, quarters)
        pixels = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return pixels, np.array(pixels.shape[::-1]) / photo.size

    free_principal_points = off_centre(before, known)

    def adjust(reconstruction: Any, tolerance: float) -> None:
        options = solver(threads, config.max_iterations, True, tolerance, free_principal_points)
        solve(reconstruction, options, known.constant, unmoved)

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(threads) as pool:

        def each(work: Callable[[int], None], numbers: Iterable[int]) -> None:
            list(pool.map(work, numbers))

        def move(reconstruction: Any) -> float:
            """Move keypoints; returns the share of those compared with a reference that could be aligned."""
            if (found := observations(reconstruction, unmoved)) is None:
                return 0.0
            positions, moved = align(found, grey, each, config.radius, config.max_move, config.min_correlation)
            for image, keypoint, position in zip(
                found.images[moved].tolist(), found.keypoints[moved].tolist(), positions[moved], strict=True
            ):
                reconstruction.images[image].points2D[keypoint].xy = position
            return float(moved.sum() / max(1, (~found.reference).sum()))

        after = pycolmap.Reconstruction(before)
        for max_error in config.max_errors:
            if move(after) < _ALIGNED:
                return
            adjust(after, ROUGH)
            pycolmap.ObservationManager(after).filter_all_points3D(max_error, _MIN_ANGLE)
        adjust(after, TOLERANCE)
    before.update_point_3d_errors()
    if precise_observations(after, points) > _GAIN * precise_observations(before, points):
        after.write(output)
