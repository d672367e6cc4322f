"""Models as the rest of the kit reads them, against what a pycolmap.Reconstruction says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import model_files
from imc_kit.colmap.model_files import read_model
from imc_kit.errors import KitError


def write(folder: Path, images: int, points: int, **options: int) -> pycolmap.Reconstruction:
    """A model in which points are seen by different numbers of images, and one image has no pose."""
    pycolmap.set_random_seed(3)
    wanted = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_frames_per_rig=images, num_points3D=points, num_points2D_without_point3D=7, **options
    )
    scene = pycolmap.synthesize_dataset(wanted)
    pycolmap.synthesize_noise(pycolmap.SyntheticNoiseOptions(point2D_stddev=1.0), scene)
    random = np.random.default_rng(0)
    for point_id in list(scene.point3D_ids()):
        for element in scene.points3D[point_id].track.elements[: int(random.integers(0, images - 2))]:
            scene.delete_observation(element.image_id, element.point2D_idx)
    scene.update_point_3d_errors()
    scene.deregister_frame(scene.images[min(scene.images)].frame_id)
    scene.write(folder)
    return pycolmap.Reconstruction(folder)


@pytest.mark.parametrize("cameras", [1, 2])
def test_as_pycolmap_reads_it(tmp_path: Path, cameras: int) -> None:
    theirs = write(tmp_path, 6, 60, num_cameras_per_rig=cameras)
    ours = read_model(tmp_path)
    posed = {image.name: image for image in theirs.images.values() if image.has_pose}
    assert set(ours.poses) == set(posed)
    assert len(posed) == 5 * cameras
    for name, pose in ours.poses.items():
        matrix = posed[name].cam_from_world().matrix()
        np.testing.assert_allclose(np.column_stack([pose.rotation, pose.translation]), matrix, atol=1e-12)
    points = list(theirs.points3D.values())
    assert len({point.track.length() for point in points}) > 2
    order, other = np.argsort(ours.points[:, 0]), np.argsort([point.xyz[0] for point in points])
    np.testing.assert_array_equal(ours.points[order], np.array([point.xyz for point in points])[other])
    np.testing.assert_array_equal(ours.colors[order], np.array([point.color for point in points])[other])
    assert ours.observations == theirs.compute_num_observations()
    assert ours.reprojection_error == pytest.approx(theirs.compute_mean_reprojection_error())


def test_an_empty_model(tmp_path: Path) -> None:
    pycolmap.Reconstruction().write(tmp_path)
    model = read_model(tmp_path)
    assert (model.poses, model.observations, model.reprojection_error) == ({}, 0, 0.0)
    assert model.points.shape == model.colors.shape == (0, 3)


def test_an_image_of_no_camera(tmp_path: Path) -> None:
    write(tmp_path, 4, 20)
    pycolmap.Reconstruction().write(tmp_path / "..")  # with no camera
    (tmp_path / "../cameras.bin").replace(tmp_path / "cameras.bin")
    with pytest.raises(KitError, match=r"cannot read the COLMAP model"):
        read_model(tmp_path)


def test_cameras_that_end_too_early(tmp_path: Path) -> None:
    write(tmp_path, 4, 20)
    (tmp_path / "cameras.bin").write_bytes((tmp_path / "cameras.bin").read_bytes()[:-8])
    with pytest.raises(KitError, match=r"cannot read the COLMAP model in .*damaged"):
        read_model(tmp_path)


def test_keypoints_and_tracks_are_not_held(tmp_path: Path) -> None:
    """Files of 10 and 8 MB, of which the poses and the points are a small part."""
    write(tmp_path, 4, 20)
    keypoints = np.zeros(1000, model_files._KEYPOINT).tobytes()
    image = model_files._IMAGE.pack(1, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.jpg\0" + model_files._COUNT.pack(1000) + keypoints
    (tmp_path / "images.bin").write_bytes(model_files._COUNT.pack(400) + 400 * image)
    point = model_files._POINT.pack(1, 0, 0, 0, 0, 0, 0, 1, 10_000) + 10_000 * bytes(model_files._TRACK_ELEMENT)
    (tmp_path / "points3D.bin").write_bytes(model_files._COUNT.pack(100) + 100 * point)
    tracemalloc.start()
    try:
        model = read_model(tmp_path)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (model.observations, len(model.points)) == (400_000, 100)
    assert held < 500_000
