"""Refine a finished model, in COLMAP's child process (see `steps.refine`)."""

from collections import Counter

import numpy as np
import pycolmap

from imc_kit.colmap.bundle_adjustment import solver
from imc_kit.colmap.cameras import change_camera_model
from imc_kit.colmap.steps import RefinementConfig

_MIN_ANGLE = 1.5
"""Degrees. Points with a smaller triangulation angle are dropped, as in COLMAP's mapper."""
_TOLERANCE = 1e-6
"""Bundle adjustment stops when a step lowers the cost by a smaller share. COLMAP's 0 takes three times as long for the
same poses."""
_SIMPLE = "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "PINHOLE"
"""Camera models to replace with a fuller one."""


def refine_job(model: str, output: str, config: RefinementConfig, threads: int, seed: int) -> None:
    """Refine the simple cameras that enough images share, if the model is precise; otherwise write nothing."""
    reconstruction = pycolmap.Reconstruction(model)
    errors = [point.error for point in reconstruction.points3D.values() if point.error >= 0]
    used = Counter(reconstruction.images[number].camera_id for number in reconstruction.reg_image_ids())
    shared = [reconstruction.cameras[number] for number, count in used.items() if count >= config.min_images]
    simple = [camera for camera in shared if camera.model.name in _SIMPLE]
    if not simple or not errors or np.median(errors) > config.max_median_error:
        return
    for camera in simple:
        change_camera_model(camera, config.camera_model)
    options = solver(threads, config.max_iterations)
    options.ceres.solver_options.function_tolerance = _TOLERANCE
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    for max_error in config.max_errors:
        pycolmap.ObservationManager(reconstruction).filter_all_points3D(max_error, _MIN_ANGLE)
        pycolmap.bundle_adjustment(reconstruction, options)
        reconstruction.update_point_3d_errors()
    reconstruction.write(output)
