"""One mapping run: sparse reconstruction of a verified database in child processes."""

import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Literal

from imc_kit.colmap.cameras import largest_distortion
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import delete_pairs
from imc_kit.colmap.database_edits import keep_best_connected
from imc_kit.colmap.database_files import digest_of
from imc_kit.colmap.model_files import read_models
from imc_kit.colmap.options import NOTHING_KNOWN, Known, Value, mapper_options
from imc_kit.colmap.partitioned import MappingJob, map_partitions
from imc_kit.colmap.verification import inlier_counts
from imc_kit.errors import KitError, require, said
from imc_kit.runtime import deadline
from imc_kit.types import Model, Pair
from imc_kit.viewgraph.partitions import partitions
from imc_kit.viewgraph.strengths import strengths

log = logging.getLogger(__name__)

_INCREMENTAL: dict[str, Value] = {
    "ba_global_frames_ratio": 1.3,
    "ba_global_points_ratio": 1.3,
    "ba_local_max_refinements": 1,
    "ba_local_max_num_iterations": 15,
    "ba_global_function_tolerance": 1e-4,
    "ba_local_function_tolerance": 1e-4,
}
"""Bundle-adjust globally when the model has grown by 30 % (COLMAP: 10 %), and locally once per new image; stop when a
step lowers the cost by less than 0.01 %. The poses are the same, in two thirds of COLMAP's time."""
_PER_IMAGE_INTRINSICS: dict[str, Value] = {"mapper.filter_max_reproj_error": 2.0, "mapper.filter_min_tri_angle": 3.0}
_SHARED_INTRINSICS: dict[str, Value] = {"triangulation.ignore_two_view_tracks": False}
ALL_THREADS_FROM = 5000
"""Minimum number of residuals for bundle adjustment with all threads. COLMAP's 50,000 leaves most cores idle."""
_GLOBAL: dict[str, Value] = {
    "mapper.track_required_tracks_per_view": 70,
    "mapper.bundle_adjustment.ceres.auto_select_solver_type": True,
    "mapper.bundle_adjustment.ceres.min_num_residuals_for_cpu_multi_threading": ALL_THREADS_FROM,
}
"""Position the cameras from the 70 longest tracks of each image (COLMAP: all). The poses are the same, in a third of
the time: retriangulation restores the other tracks. A dense solver for few images saves another fifth."""
_GLOBAL_PARTITION: dict[str, Value] = {"mapper.track_required_tracks_per_view": 25, "mapper.skip_retriangulation": True}
"""Partitions need fewer tracks than whole scenes, because joining triangulates all that were left out, once, and
bundle-adjusts them: half the time, and no loss beyond the differences between flights (docs/benchmarks.md)."""
_OVERLAP = 0.25
"""Images that a partition shares with its neighbours, as a share of its own."""


@dataclass(frozen=True)
class MappingConfig:
    """One mapping run. Raises `KitError` when a value makes no sense."""

    mapper: Literal["incremental", "global"] = "incremental"
    """COLMAP's incremental mapper, or its global one (GLOMAP)."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """Any option of `pycolmap.IncrementalPipelineOptions` or `GlobalPipelineOptions`, by dotted name."""
    time_limit: float = 1800.0
    """Maximum seconds per scene, or for each partition of a large scene and for joining them."""
    partition: int = 150
    """Map a scene of more than twice as many images in overlapping partitions of about this many, and join their
    models: the time of one mapping run grows faster than the number of images. 0 maps every scene as a whole."""
    min_model_size: int = 3
    """Drop models with fewer images, except the first. COLMAP's own 10 loses small groups of images."""
    min_strength: float = 0.0
    """Drop pairs with fewer matches than this fraction of the weakest link on the maximum-spanning-tree path between
    their images (`viewgraph.strengths`): where structures repeat, most of them are wrong. 0 drops none."""
    max_keypoints: int | None = 2500
    """Use at most this many keypoints of each image, those in the most verified pairs. More take longer and hardly move
    the cameras. None uses all."""
    by_cameras: bool = True
    """Adapt to the scene's cameras. With per-image intrinsics, use all keypoints, and let the incremental mapper keep
    only points with a triangulation angle of at least 3 degrees and an error of at most 2 pixels: free focal lengths
    need many points and follow poor ones. With shared intrinsics, let it keep points that only two images see, because
    they hold images that see little else."""

    def __post_init__(self) -> None:
        for option, valid, wanted in (
            ("min_strength", 0 <= self.min_strength <= 1, "in 0 … 1"),
            ("max_keypoints", self.max_keypoints is None or self.max_keypoints >= 1, "at least 1, or None"),
            ("min_model_size", self.min_model_size >= 1, "at least 1"),
            ("partition", self.partition >= 0, "at least 0"),
            ("time_limit", self.time_limit > 0, "more than 0 seconds"),
        ):
            require(valid, f"{option} of a mapping run", wanted, getattr(self, option))

    def check(self) -> None:
        """Raise `KitError` for an option that pycolmap does not have."""
        mapper_options(self.mapper, self.options)


def map_scene(
    database: Path, images: Path, config: MappingConfig, at: Workplace, cancelled: threading.Event | None = None
) -> list[Model]:
    """Reconstruct a scene: the models, largest first, with their files in subfolders 0, 1, …. There may be none.

    database: with verified matches. images: the scene's root. cancelled: set by another thread to end the run.

    Raises `ColmapError` when the child process crashes, is killed, is cancelled or runs out of time. With one thread
    the same database and seed give the same models. With several, they may differ, because floating-point sums are
    added in another order.
    """
    verified, per_image = database, config.by_cameras and intrinsics_are_per_image(database, at.known)
    if per_image:
        config = replace(config, max_keypoints=None)
    if config.min_strength or config.max_keypoints:
        database = _reduced_copy(database, at.folder.with_suffix(".db"), config)
    defaults = _GLOBAL
    if config.mapper == "incremental":
        by_cameras = _PER_IMAGE_INTRINSICS if per_image else _SHARED_INTRINSICS
        defaults = _INCREMENTAL | (by_cameras if config.by_cameras else {})
    if at.known.ids:
        defaults = defaults | _for_known(config.mapper, database, at.known)
    options = {"min_model_size": config.min_model_size, **defaults, **config.options}
    what = f"COLMAP's {config.mapper} mapping{' on strong pairs' if config.min_strength else ''}"
    arguments = {"database": database, "images": images, "options": options, "constant": at.known.constant}
    job = MappingJob(config.mapper, what, config.time_limit, arguments)
    if at.large and len(parts := _partitions(database, config)) > 1:
        options = options | (_GLOBAL_PARTITION if config.mapper == "global" else {}) | dict(config.options)
        depends_on = digest_of(verified), asdict(replace(config, time_limit=inf)), options
        of_part = replace(job, arguments={**arguments, "options": options})
        try:
            return map_partitions(parts, of_part, depends_on, at, at.large, cancelled or threading.Event())
        except (KitError, OSError) as error:
            if (cancelled and cancelled.is_set()) or not deadline.left(at.large.until):
                raise
            failed = f"{what} in {len(parts)} partitions failed ({said(error)})"
            log.warning("%s: the scene is mapped as a whole", failed)
    job.run(at, cancelled)
    return read_models(at.folder)


def _partitions(database: Path, config: MappingConfig) -> list[list[str]]:
    """The partitions in which a scene is mapped; fewer than two if as a whole."""
    inliers = inlier_counts(database) if config.partition else {}
    few = len({name for pair in inliers for name in pair}) <= 2 * config.partition
    return [] if few else partitions(inliers, config.partition, _OVERLAP)


def intrinsics_are_per_image(database: Path, known: Known = NOTHING_KNOWN) -> bool:
    """Whether a database has several images, each with its own camera, and their intrinsics may change."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        cameras = opened.num_cameras()
        return bool(cameras == opened.num_images() > 1 and len(known.constant) < cameras)


def _for_known(mapper: str, database: Path, known: Known) -> dict[str, Value]:
    """Options for a database with known cameras: their distortion is believed, and what is fixed is not refined."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        limit = largest_distortion(map(opened.read_camera, known.ids))
        every = opened.num_cameras() == len(known.constant)
    if mapper == "incremental":
        return {"max_extra_param": limit, "triangulation.max_extra_param": limit}
    refined = "focal_length", "extra_params"
    fixed: dict[str, Value] = {f"mapper.bundle_adjustment.refine_{name}": False for name in refined if every}
    return {"mapper.retriangulation.max_extra_param": limit, **fixed}


def left_out(inliers: Mapping[Pair, int], config: MappingConfig) -> list[Pair]:
    """The weak pairs of a database, which a mapping run does not use.

    inliers: the number of verified matches of each pair, from `verification.inlier_counts`.
    """
    return [pair for pair, strength in strengths(inliers).items() if strength < config.min_strength]


def _reduced_copy(database: Path, path: Path, config: MappingConfig) -> Path:
    """Copy a verified database to `path`, without unused pairs and keypoints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(database, path)
    delete_pairs(path, "two_view_geometries", left_out(inlier_counts(database), config))
    if config.max_keypoints:
        keep_best_connected(path, config.max_keypoints)
    return path
