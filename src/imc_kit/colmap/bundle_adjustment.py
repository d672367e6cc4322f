"""Bundle adjustment after adding images, pairs or models: complete tracks, bundle-adjust, drop poor points.

All functions here run in COLMAP's child process.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from imc_kit.colmap.cameras import FOCAL_RANGE, MAX_DISTORTION, change_camera_model, largest_distortion
from imc_kit.colmap.mapping import ALL_THREADS_FROM
from imc_kit.colmap.options import NOTHING_KNOWN, Known
from imc_kit.colmap.support import IdPair, Indices
from imc_kit.types import Float64

# These values are those of COLMAP's incremental mapper, unless a line says otherwise.
ROUNDS = 3
"""Maximum rounds of bundle-adjusting and dropping points (COLMAP: 5). After two, they end when little changes."""
LITTLE = 0.0005
"""Stop when a round changes at most this share of the observations."""
MIN_OBSERVATIONS = 10
"""An image that observes fewer 3D points loses its pose."""
_SHARED_LIMITS, _PER_IMAGE_LIMITS = (4.0, 1.5), (2.0, 3.0)
"""The maximum error in pixels and the minimum triangulation angle in degrees of a 3D point. The limits for per-image
intrinsics are not COLMAP's, but those of `mapping.MappingConfig.by_cameras`."""
TOLERANCE = 1e-6
"""A good tolerance for the last bundle adjustments of a scene. COLMAP's 0 takes three times as long for the
same poses."""
ROUGH = 1e-3
"""The tolerance of those before the last, which drop points in between: more precise ones take longer for the same
poses."""
_DIRECT = 300
"""Maximum number of images of a rough bundle adjustment with a direct solver (COLMAP: 1000). With an iterative one, a
rough adjustment takes half the time for the same poses, and a precise one takes longer (docs/benchmarks.md)."""
_ITERATIONS = 50
"""Maximum solver iterations per round."""
_CENTRED = 1e-6
"""The most that rounding moves a centred principal point, as a share of the image's side."""
_PRECISE = 0.25
"""Pixels. On seven open scenes 1.2 to 2.4 times as many observations are so precise once keypoints are aligned."""


def offset(camera: Any) -> Float64:
    """How far the principal point is from the centre of the image, [2], as a share of its width and its height."""
    centre = np.array([camera.width, camera.height]) / 2
    return np.asarray((np.array([camera.principal_point_x, camera.principal_point_y]) / centre - 1) / 2, np.float64)


def off_centre(reconstruction: Any, known: Known) -> bool:
    """Whether principal points were estimated (`principal_points`), so that bundle adjustment should go on doing so."""
    cameras = (camera for number, camera in reconstruction.cameras.items() if number not in known.ids)
    return any(np.abs(offset(camera)).max() > _CENTRED for camera in cameras)


def precise_observations(reconstruction: Any, points: Collection[int] | None = None) -> int:
    """The number of observations of the 3D points whose mean reprojection error is at most a quarter of a pixel.

    points: count only these; None: all.
    """
    numbers = reconstruction.points3D if points is None else points
    left = (reconstruction.points3D[number] for number in numbers if number in reconstruction.points3D)
    return sum(point.track.length() for point in left if point.error <= _PRECISE)


def bad_camera(camera: Any) -> bool:
    """Whether a camera's focal length or distortion is implausible."""
    return bool(camera.has_bogus_params(*FOCAL_RANGE, MAX_DISTORTION))


def observed(image: Any) -> NDArray[np.int64]:
    """The id of each keypoint's 3D point, or −1, [N]."""
    points = np.full(image.num_points2D(), -1, np.int64)
    for index in image.get_observation_point2D_idxs():
        points[index] = image.point2D(index).point3D_id
    return points


def load_all(reconstruction: Any, cache: Any) -> None:
    """Add the missing images of a `pycolmap.DatabaseCache` to a reconstruction.

    Their cameras get the reconstruction's camera model where that differs from the database's, as after refinement.
    """
    changed = {
        number: camera.model.name
        for number, camera in reconstruction.cameras.items()
        if number in cache.cameras and cache.cameras[number].model != camera.model
    }
    for number, camera in cache.cameras.items() if changed else ():
        if number in changed or number not in reconstruction.cameras:
            change_camera_model(camera, changed.get(number, next(iter(changed.values()))))
    reconstruction.load(cache)


def correspondence_graph(reconstruction: Any, matches: Mapping[IdPair, Indices]) -> Any:
    """COLMAP's graph of the matches between the images of a reconstruction."""
    graph = pycolmap.CorrespondenceGraph()
    for image in reconstruction.images.values():
        graph.add_image(image.image_id, image.num_points2D())
    for pair, indices in matches.items():
        if len(indices) and all(image in reconstruction.images for image in pair):
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED.value
            geometry.inlier_matches = np.asarray(indices, np.uint32)
            graph.add_two_view_geometry(*pair, geometry)
    graph.finalize()
    return graph


def adjust(
    reconstruction: Any, graph: Any, per_image: bool, threads: int, seed: int, known: Known = NOTHING_KNOWN,
    fixed: Collection[int] = (), tolerance: float = 0.0, free_principal_points: bool = False,
) -> None:  # fmt: skip
    """Complete and merge tracks, bundle-adjust, and drop points and images that do not fit, in place.

    per_image: whether intrinsics are per image; then points must fit better. known: cameras that the user knows.
    fixed: ids of images that keep their poses and intrinsics. tolerance, free_principal_points: see `solver`; models of
        more than `_DIRECT` images have a tolerance of `TOLERANCE` at least, to end in time.
    """
    max_error, min_angle = _PER_IMAGE_LIMITS if per_image else _SHARED_LIMITS
    if reconstruction.num_reg_images() > _DIRECT:
        tolerance = max(tolerance, TOLERANCE)
    options = triangulation(reconstruction, seed, known)
    for number in range(ROUNDS):
        observations = pycolmap.ObservationManager(reconstruction, graph)
        triangulator = pycolmap.IncrementalTriangulator(graph, reconstruction, observations)
        changed = triangulator.complete_all_tracks(options) + triangulator.merge_all_tracks(options)
        if number == 0:  # it adds many wrong points, which the first adjustment reveals
            changed += triangulator.retriangulate(options)
        how = solver(threads, _ITERATIONS, number == 0, tolerance, free_principal_points)
        solve(reconstruction, how, known.constant, fixed)
        changed += observations.filter_observations_with_negative_depth()
        changed += observations.filter_all_points3D(max_error, min_angle)
        changed += len(observations.filter_frames(*FOCAL_RANGE, options.max_extra_param, MIN_OBSERVATIONS))
        if number > 0 and changed <= LITTLE * reconstruction.compute_num_observations():
            break


def triangulation(reconstruction: Any, seed: int, known: Known) -> Any:
    """Options of triangulation that believe the distortion of known cameras."""
    distortion = largest_distortion(reconstruction.cameras[number] for number in known.ids)
    return pycolmap.IncrementalTriangulatorOptions(random_seed=seed, max_extra_param=distortion)


def solver(
    threads: int, iterations: int, robust: bool, tolerance: float = 0.0, free_principal_points: bool = False
) -> Any:
    """Options of a bundle adjustment. Small models use all threads, too.

    robust: use a loss that limits the weight of gross outliers.
    tolerance: stop when a step lowers the cost by a smaller share.
    free_principal_points: adjust them, too.
    """
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.min_num_residuals_for_cpu_multi_threading = ALL_THREADS_FROM
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.max_num_iterations = iterations
    options.ceres.solver_options.function_tolerance = tolerance
    options.refine_principal_point = free_principal_points
    if tolerance >= ROUGH:
        options.ceres.max_num_images_direct_sparse_cpu_solver = _DIRECT
    if robust:
        options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    return options


def solve(reconstruction: Any, options: Any, constant: Collection[int] = (), fixed: Collection[int] = ()) -> None:
    """Bundle-adjust once.

    constant: ids of cameras that keep their intrinsics. fixed: ids of images that keep their poses and intrinsics.

    `pycolmap.bundle_adjustment` does the same, but leaves log files in the folder for temporary files.
    """
    if reconstruction.num_reg_images() < 2:
        return
    config = posed_config(reconstruction, constant)
    for image_id in set(fixed).intersection(reconstruction.reg_image_ids()):
        image = reconstruction.images[image_id]
        config.set_constant_rig_from_world_pose(image.frame_id)
        config.set_constant_cam_intrinsics(image.camera_id)
    if not fixed:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    reconstruction.update_point_3d_errors()


def hold(database: str, models: str, constant: Collection[int], threads: int) -> None:
    """Give these cameras of the models in subfolders of `models` the intrinsics that they have in the database."""
    with pycolmap.Database.open(database) as opened:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras() if camera.camera_id in constant}
    for folder in sorted(Path(models).iterdir()):
        model = pycolmap.Reconstruction(folder)
        held = {number: camera.params for number, camera in cameras.items() if number in model.cameras}
        changed = [number for number, params in held.items() if (model.cameras[number].params != params).any()]
        for number in changed:
            model.cameras[number].params = list(held[number])
        if changed:
            solve(model, solver(threads, _ITERATIONS, robust=True, tolerance=TOLERANCE), constant)
            model.write(folder)


def posed_config(reconstruction: Any, constant: Collection[int]) -> Any:
    """What to bundle-adjust: all images with poses, and all their cameras but those in `constant`."""
    config = pycolmap.BundleAdjustmentConfig()
    posed = sorted(reconstruction.reg_image_ids())
    for image_id in posed:
        config.add_image(image_id)
    for camera_id in {reconstruction.images[image_id].camera_id for image_id in posed}.intersection(constant):
        config.set_constant_cam_intrinsics(camera_id)
    return config
