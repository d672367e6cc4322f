"""Estimate the principal points of cropped photos, in COLMAP's child process (see `steps.find_principal_points`)."""

from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from imc_kit.colmap.bundle_adjustment import (
    TOLERANCE,
    adjust,
    bad_camera,
    correspondence_graph,
    offset,
    precise_observations,
)
from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.mapping import intrinsics_are_per_image
from imc_kit.colmap.options import Known
from imc_kit.colmap.steps import PrincipalPointsConfig
from imc_kit.colmap.support import read_evidence


def principal_points_job(
    database: str, model: str, output: str, config: PrincipalPointsConfig, known: Known, threads: int, seed: int
) -> None:
    """Write the model with free principal points, if many more observations then agree to a fraction of a pixel."""
    before = pycolmap.Reconstruction(model)
    posed = set(before.reg_image_ids())
    cameras = {before.images[number].camera_id for number in posed}
    if known.ids:
        return
    with pycolmap.Database.open(database) as opened:
        inside = [pair for pair in sorted(id_pair_counts(opened, verified=True)) if posed.issuperset(pair)]
        graph = correspondence_graph(before, read_evidence(opened, inside).matches)
    per_image = intrinsics_are_per_image(Path(database), known)

    def adjusted(free: bool) -> Any:
        result = pycolmap.Reconstruction(before)
        adjust(result, graph, per_image, threads, seed, known, tolerance=TOLERANCE, free_principal_points=free)
        return result

    centred, free = adjusted(False), adjusted(True)
    offsets = [np.abs(offset(free.cameras[number])).max() for number in cameras]
    gain = precise_observations(free) / max(1, precise_observations(centred))
    print(f"free principal points: {gain:.2f} times as many precise observations; at most {max(offsets):.2f} off")
    plausible = max(offsets) <= config.max_offset and not any(bad_camera(free.cameras[number]) for number in cameras)
    if gain >= config.min_gain and plausible and set(free.reg_image_ids()) == posed:
        free.write(output)
