"""Keypoints are aligned along tracks by the brightness around them: rendered views of a textured plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.patches import align, observations
from imc_kit.colmap.steps import SubpixelConfig, align_keypoints
from imc_kit.errors import KitError
from imc_kit.types import Float64, Model

SIZE, FOCAL = (480, 360), 500.0
MOTIONS = ((0.0, 0.0, 0.0, 4.0), (0.25, -0.1, 0.08, 4.4), (-0.3, 0.15, -0.1, 3.7), (0.1, 0.3, 0.2, 4.2))
"""Views of the plane z = 0: a rotation vector in radians, and the distance."""


def texture() -> Any:
    """Smooth noise with detail of a few pixels, 1200 × 1200, for the square from −3 to 3."""
    noise = np.random.default_rng(0).normal(size=(1200, 1200)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.clip(128 + 50 * blurred / blurred.std(), 0, 255).astype(np.float32)


def view(motion: Sequence[float]) -> tuple[Any, Float64]:
    """The pose of a view, and the grey image that it sees."""
    x, y, z, distance = motion
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z])), np.array([0.1 * x, 0.2 * y, distance]))
    matrix = pose.matrix()
    camera = np.array([[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]])  # OpenCV's pixels
    plane = np.array([[6 / 1200, 0, -3], [0, 6 / 1200, -3], [0, 0, 1]])
    homography = camera @ matrix[:, [0, 1, 3]] @ plane
    return pose, cv2.warpPerspective(texture(), homography, SIZE, flags=cv2.INTER_LINEAR)


def scene(folder: Path, noise: float = 0.8) -> tuple[Any, Any, dict[str, Any]]:
    """A true model, the same with keypoints off by up to `noise` pixels, and its images by name."""
    random = np.random.default_rng(1)
    points = np.pad(random.uniform(-1, 1, (150, 2)) * (1.4, 1.0), ((0, 0), (0, 1)))
    truth, grey = pycolmap.Reconstruction(), {}
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", FOCAL, *SIZE)
    truth.add_camera_with_trivial_rig(camera)
    for number, motion in enumerate(MOTIONS, 1):
        pose, pixels = view(motion)
        seen = camera.img_from_cam(points @ pose.matrix()[:, :3].T + pose.translation)
        name = f"{number}.png"
        image = pycolmap.Image(name, seen, 1, number)
        truth.add_image_with_trivial_frame(image, pose)
        grey[name] = pixels
        Image.fromarray(pixels.round().astype(np.uint8)).save(folder / name)
    for index, point in enumerate(points):
        elements = [pycolmap.TrackElement(number, index) for number in range(1, len(MOTIONS) + 1)]
        truth.add_point3D(point, pycolmap.Track(elements))
    noisy = pycolmap.Reconstruction(truth)
    for image in noisy.images.values():
        for keypoint in image.points2D:
            keypoint.xy = keypoint.xy + random.uniform(-noise, noise, 2)
    noisy.update_point_3d_errors()
    return truth, noisy, grey


def written(reconstruction: Any, folder: Path) -> Model:
    folder.mkdir()
    reconstruction.write(folder)
    return read_model(folder)


def photos(folder: Path) -> dict[str, tuple[Path, int]]:
    return {f"{number}.png": (folder / f"{number}.png", 0) for number in range(1, len(MOTIONS) + 1)}


def aligned(model: Model, folder: Path, given: dict[str, tuple[Path, int]], **options: Any) -> Model:
    at = Workplace(folder / "aligned", folder / "log", threads=1)
    return align_keypoints(model, given, SubpixelConfig(**options), at)


def test_fixed_images_keep_their_poses(tmp_path: Path) -> None:
    truth, noisy, _ = scene(tmp_path)
    for number in (1, 2, 3):
        noisy.images[number].frame.set_cam_from_world(1, truth.images[number].cam_from_world())
    fixed = [f"{number}.png" for number in (1, 2, 3)]
    before = written(noisy, tmp_path / "noisy")
    at = Workplace(tmp_path / "aligned", tmp_path / "log", threads=1)
    model = align_keypoints(before, photos(tmp_path), SubpixelConfig(), at, fixed=fixed)
    assert model is not before
    for name in fixed:
        assert np.allclose(model.poses[name].translation, before.poses[name].translation, atol=1e-12)
    assert np.linalg.norm(model.poses["4.png"].center - truth.images[4].projection_center()) < 0.002


def off(model: Any, truth: Any) -> float:
    """The largest distance of a camera from its true centre after the best similarity."""
    true = np.array([truth.images[number].projection_center() for number in sorted(truth.images)])
    found = np.array([model.poses[truth.images[number].name].center for number in sorted(truth.images)])
    return float(np.linalg.norm(pycolmap.estimate_sim3d(found, true) * found - true, axis=1).max())


def test_patches_find_the_spot_that_the_reference_shows(tmp_path: Path) -> None:
    truth, noisy, grey = scene(tmp_path)
    found = observations(noisy)
    assert found is not None
    names = {number: image.name for number, image in noisy.images.items()}
    each = lambda work, numbers: [work(number) for number in numbers]  # noqa: E731
    positions, moved = align(found, lambda number: (grey[names[number]], np.ones(2)), each, 4, 2.5, 0.7)
    assert found.reference.sum() == 150
    assert not (moved & found.reference).any()
    assert (moved | found.reference).mean() > 0.95
    # Where each image sees the point of the plane that the reference's noisy keypoint shows.
    distances = []
    for number in np.flatnonzero(moved & (found.tracks < 60)):
        reference = np.flatnonzero(found.reference & (found.tracks == found.tracks[number]))[0]
        source, target = (truth.images[found.images[one]] for one in (reference, number))
        camera = truth.cameras[1]
        ray = np.append(camera.cam_from_img(found.positions[reference][None])[0], 1.0)
        world = source.cam_from_world().inverse()
        direction, center = world.rotation * ray, world.translation
        on_plane = center - direction * center[2] / direction[2]
        expected = camera.img_from_cam((target.cam_from_world() * on_plane)[None])[0]
        distances.append(np.linalg.norm(positions[number] - expected))
    # The patches are warped by a plane that faces the cameras; the true one is slanted by up to 18 degrees.
    assert np.median(distances) < 0.12
    assert np.quantile(distances, 0.95) < 0.3


def test_the_cameras_become_more_precise(tmp_path: Path) -> None:
    truth, noisy, _ = scene(tmp_path)
    model = written(noisy, tmp_path / "model")
    adjusted = pycolmap.Reconstruction(noisy)
    pycolmap.bundle_adjustment(adjusted, pycolmap.BundleAdjustmentOptions(print_summary=False))
    after = aligned(model, tmp_path, photos(tmp_path))
    assert after.reprojection_error < 0.1 < 0.5 < model.reprojection_error
    assert set(after.poses) == set(model.poses)
    assert off(after, truth) < 0.2 * off(written(adjusted, tmp_path / "adjusted"), truth)


def test_rotated_and_reduced_photos_give_the_same(tmp_path: Path) -> None:
    _, noisy, grey = scene(tmp_path)
    model = written(noisy, tmp_path / "model")
    given = photos(tmp_path)
    Image.fromarray(np.rot90(grey["2.png"]).round().astype(np.uint8)).save(tmp_path / "turned.png")
    given["2.png"] = (tmp_path / "turned.png", 1)
    after = aligned(model, tmp_path, given, long_side=400)
    assert after.reprojection_error < 0.15


@pytest.mark.parametrize("flat", [True, False])
def test_a_model_stays_where_photos_tell_nothing(tmp_path: Path, flat: bool) -> None:
    _, noisy, _ = scene(tmp_path)
    model = written(noisy, tmp_path / "model")
    for number in range(1, len(MOTIONS) + 1):
        pixels = np.full(SIZE[::-1], 90.0) if flat else np.random.default_rng(number).uniform(0, 255, SIZE[::-1])
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    assert aligned(model, tmp_path, photos(tmp_path)) is model


def test_a_model_without_points_stays(tmp_path: Path) -> None:
    truth, _, _ = scene(tmp_path)
    for number in list(truth.points3D):
        truth.delete_point3D(number)
    model = written(truth, tmp_path / "model")
    assert aligned(model, tmp_path, photos(tmp_path)) is model


def test_a_photo_that_vanished_is_an_error_of_the_step(tmp_path: Path) -> None:
    _, noisy, _ = scene(tmp_path)
    model = written(noisy, tmp_path / "model")
    (tmp_path / "3.png").unlink()
    with pytest.raises(ColmapError):
        aligned(model, tmp_path, photos(tmp_path))


@pytest.mark.parametrize(
    "options", [{"radius": 0}, {"long_side": 0}, {"max_move": 0.0}, {"max_errors": ()}, {"min_correlation": 1.5}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(KitError, match=next(iter(options))):
        SubpixelConfig(**options)
