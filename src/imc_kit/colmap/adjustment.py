"""What follows when images have come into a model: tracks are completed, all is adjusted, poor points are dropped.

`joining` and `resection` end with it. All three run in COLMAP's child process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from imc_kit.colmap.database import change_lens
from imc_kit.colmap.mapping import ALL_THREADS_FROM
from imc_kit.colmap.support import IdPair, Indices

ROUNDS = 3
"""Of adjusting and dropping, at most, and at least two: fewer when little changes."""
LITTLE = 0.0005
"""Share of the observations that is little change, as in COLMAP's mapper."""
MIN_OBSERVATIONS = 10
"""An image with fewer points loses its pose, as in COLMAP's mapper."""


def observed(image: Any) -> NDArray[np.int64]:
    """For each keypoint of an image the id of its 3D point, or -1, [N]."""
    points = np.full(image.num_points2D(), -1, np.int64)
    for index in image.get_observation_point2D_idxs():
        points[index] = image.point2D(index).point3D_id
    return points


def load_all(reconstruction: Any, cache: Any) -> None:
    """Give a reconstruction the images of a `pycolmap.DatabaseCache` that it lacks; their cameras get the camera model
    that it has, as an attempt at mapping may have another than the database."""
    known = reconstruction.cameras
    usual = next(iter(known.values())).model
    for camera_id, camera in cache.cameras.items():
        wanted = known[camera_id].model if camera_id in known else usual
        if camera.model != wanted:
            change_lens(camera, wanted.name)
    reconstruction.load(cache)


def read_matched_pairs(opened: Any, *, verified: bool = True) -> list[IdPair]:
    """The pairs of ids in an open database that have verified matches, or any."""
    pair_ids, counts = opened.read_two_view_geometry_num_inliers() if verified else opened.read_num_matches()
    pairs = [pycolmap.pair_id_to_image_pair(pair_id) for pair_id, count in zip(pair_ids, counts, strict=True) if count]
    return sorted(pairs)


def one_to_one(voted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows (a, b, votes, …) those left when each, from most votes down, takes its a and its b from all after it."""
    taken: tuple[set[int], set[int]] = set(), set()
    kept = []
    for row in np.argsort(-voted[:, 2], kind="stable").tolist():
        a, b = voted[row, :2].tolist()
        if a not in taken[0] and b not in taken[1]:
            taken[0].add(a)
            taken[1].add(b)
            kept.append(row)
    return voted[sorted(kept)]


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


def adjust(reconstruction: Any, graph: Any, strict: bool, threads: int, seed: int, fixed: Collection[int] = ()) -> None:
    """Complete and merge tracks, adjust, and drop points and images that do not fit, in place.

    strict: whether points must fit as those of cameras that are not shared (`MappingConfig.by_cameras`).
    fixed: ids of images that keep their pose, and whose cameras stay as they are.
    """
    max_error, min_angle = (2.0, 3.0) if strict else (4.0, 1.5)
    options = pycolmap.IncrementalTriangulatorOptions(random_seed=seed)
    for number in range(ROUNDS):
        observations = pycolmap.ObservationManager(reconstruction, graph)
        triangulator = pycolmap.IncrementalTriangulator(graph, reconstruction, observations)
        changed = triangulator.complete_all_tracks(options) + triangulator.merge_all_tracks(options)
        if number == 0:  # of what it adds much is wrong, and goes when it has been adjusted once
            changed += triangulator.retriangulate(options)
        _solve(reconstruction, threads, fixed, robust=number == 0)
        changed += observations.filter_observations_with_negative_depth()
        changed += observations.filter_all_points3D(max_error, min_angle)
        changed += len(observations.filter_frames(0.1, 10.0, 1.0, MIN_OBSERVATIONS))
        if number > 0 and changed <= LITTLE * reconstruction.compute_num_observations():
            break


def solver(threads: int, iterations: int) -> Any:
    """Options of a bundle adjustment of at most so many iterations. All threads take part for small models, too."""
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.min_num_residuals_for_cpu_multi_threading = ALL_THREADS_FROM
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.max_num_iterations = iterations
    return options


def _solve(reconstruction: Any, threads: int, fixed: Collection[int], robust: bool) -> None:
    """One bundle adjustment; `robust` while there may be observations that are far off."""
    posed = sorted(reconstruction.reg_image_ids())
    if len(posed) < 2:
        return
    options = solver(threads, iterations=50)
    if robust:
        options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in posed:
        config.add_image(image_id)
    for image_id in set(fixed).intersection(posed):
        image = reconstruction.images[image_id]
        config.set_constant_rig_from_world_pose(image.frame_id)
        config.set_constant_cam_intrinsics(image.camera_id)
    if not fixed:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    reconstruction.update_point_3d_errors()
