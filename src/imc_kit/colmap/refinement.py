"""Last bundle adjustments, with a fuller camera model and of the best points only, where that can be trusted: enough
images share a camera to tell its lens, and its keypoints are precise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imc_kit.colmap import child, mapping, sparse
from imc_kit.colmap.database import change_lens
from imc_kit.errors import KitError
from imc_kit.types import Model

_MIN_ANGLE = 1.5
"""Degrees under which a point must be seen, as in COLMAP's mapper."""
_TOLERANCE = 1e-6
"""An adjustment ends when a step lowers the cost by a smaller share. COLMAP's 0 takes three times as long, for the same
poses."""
_SIMPLE = "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "PINHOLE"
"""Camera models that give way to a fuller one."""


@dataclass(frozen=True)
class RefinementConfig:
    """Whether and how the finished model is adjusted once more."""

    on: bool = True
    """Whether to do it at all."""
    camera_model: Literal["OPENCV", "RADIAL"] = "OPENCV"
    """The camera model that the mapper's gives way to: OPENCV has two focal lengths and four numbers for the
    distortion, RADIAL one and two."""
    min_images: int = 10
    """Only cameras that so many images share: fewer do not tell a lens from a scene."""
    max_median_error: float = 0.35
    """Only a model of which half of the points fit so well, in pixels: a fuller lens would follow the errors of
    others."""
    max_errors: tuple[float, ...] = (2.0, 1.0, 0.5)
    """The model is adjusted once for each, after the points and observations that fit worse, in pixels, are dropped."""
    max_iterations: int = 50
    """Of an adjustment."""
    time_limit: float = 600.0
    """Seconds that one scene may take."""

    def check(self) -> None:
        """Raise KitError for limits that make no sense."""
        for name in ("min_images", "max_median_error", "max_iterations", "time_limit"):
            if getattr(self, name) <= 0:
                raise KitError(f"{name} of the refinement must be more than 0, not {getattr(self, name)}")
        if not self.max_errors or min(self.max_errors) <= 0:
            raise KitError("max_errors of the refinement must be at least one number of pixels, each more than 0")


def refine(model: Model, folder: Path, config: RefinementConfig, log: Path, threads: int = -1) -> Model:
    """The model after adjustment, in `folder`; or `model` where it cannot be trusted to gain by it.

    Raises ColmapError when the child process crashes or runs out of time, and KitError when the model's files are
    damaged.
    """
    cameras = _gaining(model.folder, config)
    if not cameras:
        return model
    child.fill(
        folder, "refine", "refinement of a model", config, log,
        model=model.folder, cameras=cameras, threads=threads,
    )  # fmt: skip
    return mapping.read_model(folder)


def _gaining(folder: Path, config: RefinementConfig) -> list[int]:
    """The numbers of the cameras that are to have a fuller model: enough images share them, and the model fits well."""
    errors = sparse.read_points(folder).errors
    known = errors[errors >= 0]
    if not len(known) or float(np.median(known)) > config.max_median_error:
        return []
    used = Counter(image.camera for image in sparse.read_images(folder))
    cameras = sparse.read_cameras(folder)
    return [number for number, count in used.items()
            if count >= config.min_images and cameras[number].model.name in _SIMPLE]  # fmt: skip


def adjust(model: str, output: str, cameras: Sequence[int], config: RefinementConfig, threads: int) -> None:
    """What `refine` does in the child process."""
    import pycolmap

    from imc_kit.colmap import adjustment

    reconstruction = pycolmap.Reconstruction(model)
    for number in cameras:
        change_lens(reconstruction.cameras[number], config.camera_model)
    options = adjustment.solver(threads, config.max_iterations)
    options.ceres.solver_options.function_tolerance = _TOLERANCE
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    for max_error in config.max_errors:
        pycolmap.ObservationManager(reconstruction).filter_all_points3D(max_error, _MIN_ANGLE)
        pycolmap.bundle_adjustment(reconstruction, options)
        reconstruction.update_point_3d_errors()
    reconstruction.write(output)
