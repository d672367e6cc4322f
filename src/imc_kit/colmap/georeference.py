"""Align models to the positions of their photos, in COLMAP's child process (see `steps.georeference`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from imc_kit.colmap.bundle_adjustment import TOLERANCE, posed_config, solver
from imc_kit.colmap.model_files import ALIGNMENT
from imc_kit.colmap.options import Known
from imc_kit.colmap.steps import REFUSALS, PositionsConfig
from imc_kit.errors import KitError
from imc_kit.types import Alignment, Float64

_FEWEST = 3
"""Fewer positions do not define a similarity."""
_MAX_TILT = 0.1
"""Radians, 6°: the largest acceptable standard error of the rotation about the axis that the positions determine least.
Photos along a line leave the rotation about it free, and photos at one place leave everything free. Three rows of eight
photos, 10 m apart, with errors of 5 m: 0.11."""
_MIN_FITTING = 0.5
"""Minimum share of positions that fit. RANSAC finds some similarity for any few of them."""
_ITERATIONS = 50
"""Maximum solver iterations, as in the other bundle adjustments."""


def georeference_job(
    models: Sequence[str],
    output: str,
    positions: Mapping[str, Sequence[float]],
    origin: tuple[float, float, float] | None,
    config: PositionsConfig,
    known: Known,
    threads: int,
    seed: int,
) -> None:
    """Write each aligned model to `output`/NUMBER, and why others are not aligned to `output`/`REFUSALS`."""
    refusals = []
    for number, folder in enumerate(models):
        model = pycolmap.Reconstruction(folder)
        names = [name for name in positions if (image := model.find_image_with_name(name)) and image.has_pose]
        if len(names) < _FEWEST and number:
            continue
        wanted = np.array([positions[name] for name in names], np.float64).reshape(-1, 3)
        try:
            scale = _align(model, names, wanted, config, seed)
        except KitError as reason:
            refusals.append(f"model {number + 1} is not aligned to positions: {reason}")
            continue
        adjusted = config.adjust and _adjust(model, names, wanted, config, known, threads, seed)
        away = np.linalg.norm(_centers(model, names) - wanted, axis=1)
        fitting, residual = int((away <= config.max_error).sum()), float(np.median(away))
        alignment = Alignment(origin, scale, len(names), fitting, residual, adjusted)
        folder_out = Path(output, str(number))
        folder_out.mkdir()
        model.write(folder_out)
        (folder_out / ALIGNMENT).write_text(json.dumps(asdict(alignment), indent=1), "utf-8")
    Path(output, REFUSALS).write_text(json.dumps(refusals), "utf-8")


def _align(model: Any, names: Sequence[str], wanted: Float64, config: PositionsConfig, seed: int) -> float:
    """Transform a model by the similarity to the positions `wanted` [N, 3]; returns its scale.

    Raises `KitError` with the reason when that is impossible.
    """
    if len(names) < _FEWEST:
        what = f"{len(names)} of its {model.num_reg_images()} images have a position with an altitude"
        raise KitError(f"{what}, and {_FEWEST} are needed")
    _check_extent(wanted, config)
    ransac = pycolmap.RANSACOptions(max_error=config.max_error, random_seed=seed)
    similarity = pycolmap.align_reconstruction_to_locations(model, names, wanted, _FEWEST, ransac)
    fitting = np.zeros(len(names), np.bool_)
    if similarity is not None:
        centers = _centers(model, names) @ similarity.matrix()[:, :3].T + similarity.translation
        fitting = np.linalg.norm(centers - wanted, axis=1) <= config.max_error
    if similarity is None or fitting.sum() < max(_FEWEST, _MIN_FITTING * len(names)):
        what = f"only {fitting.sum()} of {len(names)} positions fit it"
        raise KitError(f"{what} within {config.max_error:g} m (3 · --positions.stddev)")
    _check_extent(centers[fitting], config)  # which, unlike the positions, are not spread by errors
    model.transform(similarity)
    return float(similarity.scale)


def _check_extent(places: Float64, config: PositionsConfig) -> None:
    """Raise `KitError` unless places with this extent determine the orientation of a model (`_MAX_TILT`)."""
    _, lengths, axes = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
    if config.stddev > _MAX_TILT * np.hypot(*lengths[1:]):
        extent = " × ".join(f"{length:.1f}" for length in np.ptp(places @ axes.T, axis=0))
        raise KitError(
            f"{len(places)} positions over {extent} m are too near to a point or a line to determine its orientation, "
            f"if they are wrong by {config.stddev:g} m; if they are better, say so with --positions.stddev"
        )


def _centers(model: Any, names: Sequence[str]) -> Float64:
    return np.array([model.find_image_with_name(name).projection_center() for name in names], np.float64)


def _adjust(
    model: Any, names: Sequence[str], wanted: Float64, config: PositionsConfig, known: Known, threads: int, seed: int
) -> bool:
    """Bundle-adjust an aligned model with its positions as priors. Outliers among them have little weight."""
    covariance = np.eye(3) * config.stddev**2
    cartesian = pycolmap.PosePriorCoordinateSystem.CARTESIAN
    priors = [
        pycolmap.PosePrior(
            corr_data_id=model.find_image_with_name(name).data_id,
            position=position,
            position_covariance=covariance,
            coordinate_system=cartesian,
        )
        for name, position in zip(names, wanted, strict=True)
    ]
    options = pycolmap.PosePriorBundleAdjustmentOptions()
    options.ceres.prior_position_loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.alignment_ransac.max_error = config.max_error
    options.alignment_ransac.random_seed = seed
    general = solver(threads, _ITERATIONS, robust=True, tolerance=TOLERANCE)
    adjuster = pycolmap.create_pose_prior_bundle_adjuster(
        general, options, posed_config(model, known.constant), priors, model
    )
    usable = bool(adjuster.solve().is_solution_usable())
    model.update_point_3d_errors()
    return usable
