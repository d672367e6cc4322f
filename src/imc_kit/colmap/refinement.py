"""Refine a finished model, in COLMAP's child process (see `steps.refine`)."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from imc_kit.colmap.bundle_adjustment import ROUGH, TOLERANCE, off_centre, solve, solver
from imc_kit.colmap.cameras import change_camera_model
from imc_kit.colmap.options import Known
from imc_kit.colmap.steps import REFUSED, RefinementConfig

_MIN_ANGLE = 1.5
"""Degrees. Points with a smaller triangulation angle are dropped, as in COLMAP's mapper."""
_SIMPLE = "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "PINHOLE"
"""Camera models to replace with a fuller one."""
_ASPECT, _FOCAL, _BEND = 0.05, 0.2, 0.5
"""How far a determined camera may be from square pixels, from its focal length before refinement, and from no
distortion at the image's corner, each as a ratio − 1. On the open scenes it is within 0.006 of square pixels, except
for temple_sparse16 (0.18, where the truth is 0.004); flat scenes from above reach 0.1 to 0.2."""


def refine_job(model: str, output: str, config: RefinementConfig, known: Known, threads: int, seed: int) -> None:
    """Refine the simple cameras that enough images share, if the model is precise; otherwise write nothing.

    A model with estimated principal points is refined even if no camera gets a fuller model. Cameras that the user
    knows keep their camera model.
    """
    reconstruction = pycolmap.Reconstruction(model)
    errors = [point.error for point in reconstruction.points3D.values() if point.error >= 0]
    used = Counter(reconstruction.images[number].camera_id for number in reconstruction.reg_image_ids())
    shared = [reconstruction.cameras[number] for number, count in used.items() if count >= config.min_images]
    simple = [camera for camera in shared if camera.model.name in _SIMPLE and camera.camera_id not in known.ids]
    cropped = off_centre(reconstruction, known)
    if not errors or np.median(errors) > config.max_median_error or not (simple or cropped):
        return
    tolerances = [ROUGH] * (len(config.max_errors) - 1) + [TOLERANCE]
    for camera_model in dict.fromkeys([config.camera_model, "RADIAL"]):
        refined = pycolmap.Reconstruction(reconstruction)
        for camera in simple:
            change_camera_model(refined.cameras[camera.camera_id], camera_model)
        for max_error, tolerance in zip(config.max_errors, tolerances, strict=True):
            pycolmap.ObservationManager(refined).filter_all_points3D(max_error, _MIN_ANGLE)
            solve(refined, solver(threads, config.max_iterations, True, tolerance, cropped), known.constant)
        if all(_determined(refined.cameras[camera.camera_id], camera) for camera in simple):
            refined.write(output)
            return
    Path(output, REFUSED).touch()


def _determined(camera: Any, before: Any) -> bool:
    """Whether a refined camera is plausible. Flat scenes seen straight down let a focal length take any value."""
    half = np.array([camera.width, camera.height]) / 2
    focals = np.array([camera.focal_length_x, camera.focal_length_y])
    corner = camera.img_from_cam(np.append(half / focals, 1.0)[None])[0]
    bend = np.linalg.norm(corner - [camera.principal_point_x, camera.principal_point_y]) / np.linalg.norm(half)
    ratios = focals[0] / focals[1], focals.mean() / before.mean_focal_length(), bend
    return bool((np.abs(np.array(ratios) - 1) <= (_ASPECT, _FOCAL, _BEND)).all())
