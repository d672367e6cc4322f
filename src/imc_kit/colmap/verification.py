"""Geometric verification of the matched pairs of a database: which of their matches one two-view geometry explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import repeat
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap import child
from imc_kit.colmap.database import delete_pairs, recent_keypoints, writing
from imc_kit.colmap.options import Value, with_options
from imc_kit.errors import KitError
from imc_kit.runtime import deadline, progress
from imc_kit.types import Float64, Mask
from imc_kit.viewgraph.two_view import fundamental

_PAIRS_AT_ONCE = 64
_BY_CHANCE = 10
"""Matches: any seven agree with some geometry, and the best of many trials finds a few more."""


@dataclass(frozen=True)
class VerificationConfig:
    """How the two-view geometry of every matched pair is estimated."""

    method: Literal["magsac", "colmap"] = "magsac"
    """magsac: a fundamental matrix by MAGSAC++, in OpenCV; colmap: COLMAP's choice of an essential or fundamental
    matrix or a homography by its own RANSAC, which takes many times as long and keeps nearly the same matches."""
    max_error: float = 3.0
    """How far a match may be from its epipolar line, in pixels."""
    min_inliers: int = 15
    """A pair of which fewer matches agree is dropped."""
    chance: float = 0.03
    """magsac: ten matches, and so large a share of the others, may agree by chance; a pair needs as many."""
    min_motion: float = 0.0
    """magsac: matches that stay within so many pixels of their place are left out: they are of a watermark, or of a
    background that moves with the camera. 0 keeps all."""
    max_trials: int = 2000
    """RANSAC's limit. COLMAP's own 10,000 go to pairs that do not overlap, and take several times longer."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """colmap: any of `pycolmap.TwoViewGeometryOptions`, by dotted name, for example min_inlier_ratio."""
    time_limit: float = 3600.0
    """Seconds that one scene may take; with colmap it fails then, with magsac the remaining pairs are dropped."""

    def check(self) -> None:
        """Raise KitError for an option that pycolmap does not have, or that the method does not use."""
        import pycolmap

        for option, right in (
            ("max_error", self.max_error > 0),
            ("min_inliers", self.min_inliers > 0),
            ("chance", 0 <= self.chance < 1),
            ("min_motion", self.min_motion >= 0),
            ("max_trials", self.max_trials > 0),
            ("time_limit", self.time_limit > 0),
        ):
            if not right:
                raise KitError(f"{option} of the verification must not be {getattr(self, option)!r}")
        with_options(pycolmap.TwoViewGeometryOptions(), self.options, "verification")
        if self.options and self.method != "colmap":
            raise KitError(
                f"{', '.join(self.options)}: the verification takes options of COLMAP with method colmap only"
            )


def verify(
    database: Path,
    config: VerificationConfig,
    log: Path,
    executor: Executor,
    *,
    threads: int = -1,
    seed: int = 0,
    until: float = inf,
) -> list[str]:
    """Write the two-view geometry of every pair in `database` that has matches; returns a note when time ran out.

    executor: where magsac runs. threads, seed: of COLMAP's. until: a moment of `time.time()`.

    Raises ColmapError when COLMAP's process does not end well.
    """
    until = min(until, deadline.after(config.time_limit))
    if config.method == "magsac":
        return _by_magsac(database, config, executor, until)
    options = {
        "ransac.max_error": config.max_error,
        "ransac.max_num_trials": config.max_trials,
        "min_num_inliers": config.min_inliers,
    }
    job = {
        "job": "verify",
        "database": str(database),
        "options": {**options, **config.options},
        "threads": threads,
        "seed": seed,
    }
    child.run(job, "COLMAP's geometric verification", log, deadline.left(until))
    return []


def _by_magsac(path: Path, config: VerificationConfig, executor: Executor, until: float) -> list[str]:
    import pycolmap

    delete_pairs(path, "two_view_geometries")
    with writing(path) as database:
        keypoints = recent_keypoints(database)
        pair_ids = database.read_num_matches()[0]
        bar = progress.bar(total=len(pair_ids), desc="verification", unit="pair", delay=2, leave=False)
        with bar:
            for start in range(0, len(pair_ids), _PAIRS_AT_ONCE):
                if not deadline.left(until):
                    left = len(pair_ids) - start
                    return [f"{deadline.RAN_OUT}: {left} of {len(pair_ids)} matched pairs were not verified"]
                pairs = [pycolmap.pair_id_to_image_pair(pair) for pair in pair_ids[start : start + _PAIRS_AT_ONCE]]
                matches = [database.read_matches(*pair) for pair in pairs]
                firsts, seconds = (
                    [keypoints(pair[side])[rows[:, side]] for pair, rows in zip(pairs, matches, strict=True)]
                    for side in (0, 1)
                )
                found = executor.map(by_magsac, firsts, seconds, repeat(config))
                for (first, second), rows, (matrix, inliers) in zip(pairs, matches, found, strict=True):
                    if inliers.any():
                        geometry = pycolmap.TwoViewGeometry(F=matrix, inlier_matches=rows[inliers])
                        geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
                        database.write_two_view_geometry(first, second, geometry)
                bar.update(len(pairs))
    return []


def by_magsac(first: NDArray[Any], second: NDArray[Any], config: VerificationConfig) -> tuple[Float64, Mask]:
    """The fundamental matrix [3, 3] of matched points [K, 2] and [K, 2], in pixels, and which agree with it, bool [K]:
    none where those that do are so few that it may be by chance."""
    moves = np.linalg.norm(first - second, axis=1) >= config.min_motion
    matrix, inliers = fundamental(first[moves], second[moves], config.max_error, trials=config.max_trials)
    moves[moves] = inliers
    enough = moves.sum() >= max(config.min_inliers, _BY_CHANCE + config.chance * len(moves))
    return matrix, moves & enough


def relative_rotations(database: Path, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Float64]:
    """The rotation from the first image's camera to the second's, [3, 3], of each of these verified pairs.

    It is what the two-view geometry says with the cameras of the database; where that says nothing there is none.
    """
    import pycolmap

    found = {}
    with pycolmap.Database.open(database) as opened:
        images = {image.name: image for image in opened.read_all_images()}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        keypoints = recent_keypoints(opened)
        for pair in pairs:
            numbers = [images[name].image_id for name in pair]
            first, second = ((cameras[images[name].camera_id], keypoints(images[name].image_id)) for name in pair)
            geometry: Any = opened.read_two_view_geometry(*numbers)
            if pycolmap.estimate_two_view_geometry_pose(*first, *second, geometry):
                found[pair] = geometry.cam2_from_cam1.rotation.matrix()
    return found


def inlier_counts(database: Path) -> dict[tuple[str, str], int]:
    """The number of verified matches of each pair of image names that passed verification."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        pair_ids, counts = opened.read_two_view_geometry_num_inliers()
    pairs = (pycolmap.pair_id_to_image_pair(pair_id) for pair_id in pair_ids)
    return {(names[a], names[b]): count for (a, b), count in zip(pairs, counts, strict=True) if count}
