"""Refine a finished model: bundle-adjust its best points with a fuller camera model, where that can be trusted.

It can where enough images share a camera to determine its distortion, and where keypoints are precise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imc_kit.colmap import model_files
from imc_kit.colmap.database import change_camera_model
from imc_kit.colmap.step import StepConfig, run_step
from imc_kit.types import Model

_MIN_ANGLE = 1.5
"""Degrees. Points that are seen under a smaller angle are dropped, as in COLMAP's mapper."""
_TOLERANCE = 1e-6
"""Bundle adjustment stops when a step lowers the cost by a smaller share. COLMAP's 0 takes three times as long and
gives the same poses."""
_SIMPLE = "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "PINHOLE"
"""Camera models that are replaced by a fuller one."""


@dataclass(frozen=True)
class RefinementConfig(StepConfig):
    """When and how a finished model is refined. All limits were chosen on the open scenes."""

    job = "refine"
    what = "refinement of a model"
    positive = "min_images", "max_median_error", "max_iterations"

    camera_model: Literal["OPENCV", "RADIAL"] = "OPENCV"
    """The camera model after refinement. OPENCV has two focal lengths and four distortion parameters, RADIAL one and
    two."""
    min_images: int = 10
    """Refine only cameras that this many images share. With fewer images, distortion is under-constrained."""
    max_median_error: float = 0.35
    """Refine only a model whose median reprojection error is at most this, in pixels. Elsewhere a fuller camera model
    follows the errors of the keypoints."""
    max_errors: tuple[float, ...] = (2.0, 1.0, 0.5)
    """Bundle-adjust once for each, in pixels, after dropping the observations with a larger error."""
    max_iterations: int = 50
    """Largest number of solver iterations per bundle adjustment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = len(self.max_errors) > 0 and all(error > 0 for error in self.max_errors)
        self.require(valid, "max_errors", "at least one number of pixels, each more than 0")


def refine(model: Model, folder: Path, config: RefinementConfig, log: Path, threads: int = -1) -> Model:
    """Refine a model. Returns the new one in `folder`, or `model` where refinement cannot be trusted.

    Raises `ColmapError` when the child process crashes or runs out of time, and `KitError` when the model's files are
    damaged.
    """
    cameras = _cameras_to_refine(model.folder, config)
    if not cameras:
        return model
    run_step(config, folder, log, model=model.folder, cameras=cameras, threads=threads)
    return model_files.read_model(folder)


def _cameras_to_refine(folder: Path, config: RefinementConfig) -> list[int]:
    """The ids of the simple cameras that enough images share, in a model that fits well; else none."""
    errors = model_files.read_points(folder).errors
    known = errors[errors >= 0]
    if not len(known) or float(np.median(known)) > config.max_median_error:
        return []
    used = Counter(image.camera for image in model_files.read_images(folder))
    cameras = model_files.read_cameras(folder)
    return [number for number, count in used.items()
            if count >= config.min_images and cameras[number].model.name in _SIMPLE]  # fmt: skip


def refine_job(model: str, output: str, cameras: Sequence[int], config: RefinementConfig, threads: int) -> None:
    """Do the work of `refine` in the child process."""
    import pycolmap

    from imc_kit.colmap.bundle_adjustment import solver

    reconstruction = pycolmap.Reconstruction(model)
    for number in cameras:
        change_camera_model(reconstruction.cameras[number], config.camera_model)
    options = solver(threads, config.max_iterations)
    options.ceres.solver_options.function_tolerance = _TOLERANCE
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    for max_error in config.max_errors:
        pycolmap.ObservationManager(reconstruction).filter_all_points3D(max_error, _MIN_ANGLE)
        pycolmap.bundle_adjustment(reconstruction, options)
        reconstruction.update_point_3d_errors()
    reconstruction.write(output)
