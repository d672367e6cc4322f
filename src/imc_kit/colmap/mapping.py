"""Sparse reconstruction of a verified database in a child process."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from imc_kit.colmap import child, sparse
from imc_kit.colmap.database import CAMERA_MODELS, change_camera_models, delete_pairs, keep_best_connected
from imc_kit.colmap.options import Value, with_options
from imc_kit.colmap.verification import inlier_counts, relative_rotations
from imc_kit.errors import KitError, unknown_name
from imc_kit.types import Model, Pair
from imc_kit.viewgraph.rotation_cycles import contradicted
from imc_kit.viewgraph.strengths import strengths

_INCREMENTAL: dict[str, Value] = {
    "ba_global_frames_ratio": 1.3,
    "ba_global_points_ratio": 1.3,
    "ba_local_max_refinements": 1,
    "ba_local_max_num_iterations": 15,
    "ba_global_function_tolerance": 1e-4,
    "ba_local_function_tolerance": 1e-4,
}
"""All cameras are adjusted when there are a third more of them, in place of a tenth, and those near a new one once,
until a step lowers the cost by less than a ten-thousandth: the same poses in two thirds of the time."""
_OWN_CAMERAS: dict[str, Value] = {"mapper.filter_max_reproj_error": 2.0, "mapper.filter_min_tri_angle": 3.0}
ALL_THREADS_FROM = 5000
"""Residuals from which on an adjustment is made by all threads; COLMAP's own 50,000 leaves most of a machine idle."""
_GLOBAL: dict[str, Value] = {
    "mapper.track_required_tracks_per_view": 70,
    "mapper.bundle_adjustment.ceres.auto_select_solver_type": True,
    "mapper.bundle_adjustment.ceres.min_num_residuals_for_cpu_multi_threading": ALL_THREADS_FROM,
}
"""So many tracks of an image, the longest, place the cameras as well as all do, in a third of the time; the others come
back when points are triangulated anew. COLMAP's own default is all. Adjusting takes a fifth less time with a dense
solver for few images, and with all threads for small models."""
_SHARED_CAMERAS: dict[str, Value] = {"triangulation.ignore_two_view_tracks": False}


@dataclass(frozen=True)
class MappingConfig:
    """One attempt at reconstructing a scene."""

    mapper: Literal["incremental", "global"] = "incremental"
    """COLMAP's incremental mapper, or its global one (GLOMAP)."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """Any of `pycolmap.IncrementalPipelineOptions` or `GlobalPipelineOptions`, by dotted name."""
    time_limit: float = 1800.0
    """Seconds that the attempt may take in one scene."""
    min_model_size: int = 3
    """Models with fewer images are dropped, but for the first; COLMAP's own 10 loses small clusters."""
    min_strength: float = 0.0
    """Leave out pairs that are weaker than this beside the strongest chain between their images: where structures
    repeat, most of them are wrong (`viewgraph.strengths`). 0 leaves out none."""
    max_cycle_error: float | None = None
    """Leave out pairs whose relative rotation is off by more than so many degrees from what the other pairs say
    (`loops.contradicted`). Right ones are off by some 5, as focal lengths are guesses. None leaves out none."""
    camera_model: str | None = None
    """The camera model of this attempt: SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV or FULL_OPENCV; None is
    that of the database."""
    max_keypoints: int | None = 2500
    """Use so many keypoints of each image, those that are in the most verified pairs: more cost time and move the
    cameras little. None uses all."""
    by_cameras: bool = True
    """Let the demands depend on the cameras. Where every image has one of its own, all keypoints are used, and the
    incremental mapper keeps only points that are seen under at least 3 degrees and fit to 2 pixels: focal lengths that
    are all free need many points, and follow poor ones. Where cameras are shared it keeps points that only two images
    see: they hold what few others do."""

    def check(self) -> None:
        """Raise KitError for an option that pycolmap does not have, a camera model that is not known, or a limit that
        makes no sense."""
        import pycolmap

        if not 0 <= self.min_strength <= 1:
            raise KitError(f"min_strength of a mapping must be in 0 … 1, not {self.min_strength}")
        if self.max_cycle_error is not None and not 0 < self.max_cycle_error <= 180:
            raise KitError(f"max_cycle_error of a mapping must be in 0 … 180 degrees, not {self.max_cycle_error}")
        if self.camera_model is not None and self.camera_model not in CAMERA_MODELS:
            raise unknown_name("camera model", self.camera_model, CAMERA_MODELS)
        if self.max_keypoints is not None and self.max_keypoints < 1:
            raise KitError(f"max_keypoints of a mapping must be at least 1, or None, not {self.max_keypoints}")
        target = (
            pycolmap.IncrementalPipelineOptions() if self.mapper == "incremental" else pycolmap.GlobalPipelineOptions()
        )
        with_options(target, self.options, f"{self.mapper} mapping")


def map_scene(
    database: Path,
    images: Path,
    folder: Path,
    config: MappingConfig,
    log: Path,
    threads: int = -1,
    seed: int = 0,
    given_up: threading.Event | None = None,
) -> list[Model]:
    """Reconstruct; the models end up in `folder`/0, 1, … (largest first when returned; none is an ordinary answer).

    Raises ColmapError when the child process crashes, is killed, is given up or runs out of time. With one
    thread the same database and seed give the same models; with several, sums of floating-point numbers may come in
    another order.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = config.by_cameras and cameras_are_own(database)
    if own:
        config = replace(config, max_keypoints=None)
    if config.min_strength or config.max_cycle_error or config.camera_model or config.max_keypoints:
        database = _changed(database, folder.with_suffix(".db"), config)
    usual = _GLOBAL
    if config.mapper == "incremental":
        by_cameras = _OWN_CAMERAS if own else _SHARED_CAMERAS
        usual = _INCREMENTAL | (by_cameras if config.by_cameras else {})
    job = {
        "job": config.mapper,
        "database": database,
        "images": images,
        "output": folder,
        "options": {"min_model_size": config.min_model_size, **usual, **config.options},
        "threads": threads,
        "seed": seed,
    }
    child.run(job, f"COLMAP's {config.mapper} mapping", log, config.time_limit, given_up)
    return read_models(folder)


def cameras_are_own(database: Path) -> bool:
    """Whether no two images of a database share a camera."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        return bool(opened.num_cameras() == opened.num_images() > 1)


def left_out(database: Path, inliers: Mapping[Pair, int], config: MappingConfig) -> tuple[list[Pair], list[Pair]]:
    """The pairs that an attempt does without: those that others contradict, and those of the rest that are weak.

    inliers: of all pairs of the database, as `inlier_counts` gives them.
    """
    against: list[Pair] = []
    if config.max_cycle_error:
        against = contradicted(relative_rotations(database, inliers), inliers, config.max_cycle_error)
    rest = dict(inliers)
    for pair in against:
        del rest[pair]
    return against, [pair for pair, strength in strengths(rest).items() if strength < config.min_strength]


def _changed(database: Path, path: Path, config: MappingConfig) -> Path:
    """A copy of a verified database, at `path`, without the pairs and the keypoints that are not to be used, and with
    the camera model that is."""
    shutil.copyfile(database, path)
    for pairs in left_out(database, inlier_counts(database), config):
        delete_pairs(path, "two_view_geometries", pairs)
    if config.camera_model:
        change_camera_models(path, config.camera_model)
    if config.max_keypoints:
        keep_best_connected(path, config.max_keypoints)
    return path


def gather(models: Sequence[Model], folder: Path) -> list[Model]:
    """The same models with their files moved to `folder`/0, 1, …, which holds nothing else; none leave no folder."""
    shutil.rmtree(folder, ignore_errors=True)
    gathered = []
    for number, model in enumerate(models):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(model.folder, folder / str(number))  # a full disk is no obstacle
        gathered.append(replace(model, folder=folder / str(number)))
    return gathered


def read_models(folder: Path) -> list[Model]:
    """The models in the numbered subfolders of `folder`, those with most images first."""
    models = [read_model(path) for path in sorted(folder.iterdir()) if (path / "images.bin").is_file()]
    return sorted(models, key=lambda model: -len(model.poses))


def read_model(folder: Path) -> Model:
    """A COLMAP sparse model; KitError when its files are damaged."""
    sparse.check_whole(folder)
    cameras = sparse.read_cameras(folder)
    poses, frames, observations = {}, {}, 0
    for image in sparse.read_images(folder):
        camera = cameras.get(image.camera)
        if camera is None:
            raise KitError(f"cannot read the COLMAP model in {folder}: {image.name!r} has a camera that is not there")
        reach = 0.5 / camera.mean_focal_length()
        poses[image.name] = image.pose
        frames[image.name] = (camera.width * reach, camera.height * reach)
        observations += image.observations
    points = sparse.read_points(folder)
    known = points.errors[points.errors >= 0]
    error = float(known.mean()) if len(known) else 0.0
    return Model(folder, poses, points.places, observations, error, points.colors, frames)
