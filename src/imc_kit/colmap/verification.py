"""Geometric verification of a database's matched pairs: which matches fit one two-view geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from imc_kit.colmap import child
from imc_kit.colmap.database import by_name, delete_pairs, recent_keypoints, writing
from imc_kit.colmap.options import Value, with_options
from imc_kit.errors import KitError, require
from imc_kit.runtime import deadline, progress
from imc_kit.types import Float64, Mask, Pair
from imc_kit.viewgraph.two_view import by_magsac

_PAIRS_AT_ONCE = 64
"""Pairs per round of the executor: enough to keep its workers busy, few enough to look at the deadline often."""


@dataclass(frozen=True)
class VerificationConfig:
    """How the two-view geometry of each matched pair is estimated. Raises `KitError` when a value makes no sense."""

    method: Literal["magsac", "colmap"] = "magsac"
    """magsac: a fundamental matrix by OpenCV's MAGSAC++. colmap: COLMAP's RANSAC, which chooses between an essential
    matrix, a fundamental matrix and a homography, takes ten times as long and keeps nearly the same matches."""
    max_error: float = 3.0
    """Largest distance of a match from its epipolar line, in pixels."""
    min_inliers: int = 15
    """Drop pairs with fewer agreeing matches."""
    chance: float = 0.03
    """magsac: required inliers are max(min_inliers, 10 + chance × matches), because that many may agree by chance."""
    min_motion: float = 0.0
    """magsac: ignore matches that move by fewer pixels: they show a watermark, or a background that moves with the
    camera. 0 keeps all."""
    max_trials: int = 2000
    """RANSAC's limit. COLMAP's own 10,000 are spent on pairs that do not overlap, and take several times longer."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """colmap: any option of `pycolmap.TwoViewGeometryOptions`, by dotted name, for example min_inlier_ratio."""
    time_limit: float = 3600.0
    """Seconds per scene. After them colmap fails; magsac drops the remaining pairs."""

    def __post_init__(self) -> None:
        for option, valid, wanted in (
            ("max_error", self.max_error > 0, "more than 0"),
            ("min_inliers", self.min_inliers > 0, "at least 1"),
            ("chance", 0 <= self.chance < 1, "at least 0 and less than 1"),
            ("min_motion", self.min_motion >= 0, "at least 0"),
            ("max_trials", self.max_trials > 0, "at least 1"),
            ("time_limit", self.time_limit > 0, "more than 0"),
        ):
            require(valid, f"{option} of the verification", wanted, getattr(self, option))

    @property
    def magsac(self) -> Callable[[NDArray[Any], NDArray[Any]], tuple[Float64, Mask]]:
        """`by_magsac` with these options."""
        return partial(
            by_magsac, max_error=self.max_error, min_inliers=self.min_inliers, chance=self.chance,
            min_motion=self.min_motion, trials=self.max_trials,
        )  # fmt: skip

    def check(self) -> None:
        """Raise `KitError` for an option that pycolmap does not have, and for options that the method does not use."""
        import pycolmap

        if self.options and self.method != "colmap":
            names = ", ".join(self.options)
            raise KitError(f"verification options of COLMAP ({names}) need method colmap, not {self.method}")
        with_options(pycolmap.TwoViewGeometryOptions(), self.options, "verification")


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
    """Write the two-view geometry of every matched pair into `database`. Returns a note when time runs out.

    executor: runs magsac. threads, seed: for COLMAP. until: a moment of `time.time()`.

    Raises `ColmapError` when COLMAP's process crashes or runs out of time.
    """
    until = min(until, deadline.after(config.time_limit))
    if config.method == "magsac":
        return _verify_by_magsac(database, config, executor, until)
    options = {
        "ransac.max_error": config.max_error,
        "ransac.max_num_trials": config.max_trials,
        "min_num_inliers": config.min_inliers,
        **config.options,
    }
    job = {"job": "verify", "database": database, "options": options, "threads": threads, "seed": seed}
    child.run(job, "COLMAP's geometric verification", log, deadline.left(until))
    return []


def _verify_by_magsac(path: Path, config: VerificationConfig, executor: Executor, until: float) -> list[str]:
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
                found = executor.map(config.magsac, firsts, seconds)
                for (first, second), rows, (matrix, inliers) in zip(pairs, matches, found, strict=True):
                    if inliers.any():
                        geometry = pycolmap.TwoViewGeometry(F=matrix, inlier_matches=rows[inliers])
                        geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
                        database.write_two_view_geometry(first, second, geometry)
                bar.update(len(pairs))
    return []


def relative_rotations(database: Path, pairs: Iterable[Pair]) -> dict[Pair, Float64]:
    """The rotation [3, 3] from the first to the second image's camera, for each of these verified pairs.

    It follows from the two-view geometry and the database's cameras. Pairs without a defined rotation are left out.
    """
    import pycolmap

    found = {}
    with pycolmap.Database.open(database) as opened:
        images = {image.name: image for image in opened.read_all_images()}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        keypoints = recent_keypoints(opened)
        for pair in pairs:
            ids = [images[name].image_id for name in pair]
            first, second = ((cameras[images[name].camera_id], keypoints(images[name].image_id)) for name in pair)
            geometry: Any = opened.read_two_view_geometry(*ids)
            if pycolmap.estimate_two_view_geometry_pose(*first, *second, geometry):
                found[pair] = geometry.cam2_from_cam1.rotation.matrix()
    return found


def inlier_counts(database: Path) -> dict[Pair, int]:
    """The number of verified matches of each pair that passed verification."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        return by_name(opened, *opened.read_two_view_geometry_num_inliers())
