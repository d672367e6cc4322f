"""The rendered turntable: its geometry, its layout, and what stays still."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imc_kit.data import images, scenes
from imc_kit.errors import KitError
from imc_kit.metric import score
from imc_kit.synthetic.plaza import Camera
from rendered.turntable import circle_of_views, distance_to_jug, render_jug, render_turntable, write_turntable

CAMERA = Camera.centred((64, 48), 96.0)
WALL = np.zeros((3, 48, 64), np.float32)


def test_views_are_even_and_look_at_the_jug() -> None:
    poses = circle_of_views(36, seed=4)
    centers = np.array([pose.center for pose in poses])
    np.testing.assert_allclose(np.hypot(*centers.T[:2]), 0.45)
    np.testing.assert_allclose(centers[:, 2], 0.2)
    steps = np.linalg.norm(np.diff(centers, axis=0, append=centers[:1]), axis=1)
    np.testing.assert_allclose(steps, 2 * 0.45 * np.sin(np.pi / 36))
    for pose in poses:
        np.testing.assert_allclose(CAMERA.project(pose, np.zeros((1, 3))), [[CAMERA.cx, CAMERA.cy]], atol=1e-9)


def test_the_jug_is_where_small_steps_find_it() -> None:
    for pose in circle_of_views(3, seed=1):
        seen = render_jug(CAMERA, pose, WALL, samples=1).any(axis=0)
        closest = np.full(48 * 64, np.inf)
        x, y = np.meshgrid(*((np.arange(n) - c) / CAMERA.focal for n, c in ((64, CAMERA.cx), (48, CAMERA.cy))))
        rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1) @ pose.rotation
        for far in np.arange(0.35, 0.65, 0.001):
            points = (pose.center + far * rays).T
            closest = np.minimum(closest, distance_to_jug(points.astype(np.float32)))
        closest = closest.reshape(48, 64)
        clear = np.abs(closest) > 1.5e-3  # metres: nearer to the edge, the small steps are too large to tell
        np.testing.assert_array_equal(seen[clear], (closest < 0)[clear])
        assert 150 < seen.sum() < 1500
        assert not seen[0].any()
        assert not seen[:, 0].any()


def test_highlights_stay_while_the_jug_rotates() -> None:
    views = [render_jug(CAMERA, pose, WALL, samples=1) for pose in circle_of_views(12)]
    brightest = np.array([np.unravel_index(view[0, 24:].argmax(), (24, 64)) for view in views])
    assert np.median(np.abs(brightest - np.median(brightest, axis=0)), axis=0).max() <= 3
    assert np.mean(np.ptp(views, axis=0)[0] > 0.1) > 0.05  # the handle and the spout do not stay


def test_the_layout_is_the_competitions_and_names_tell_nothing(tmp_path: Path) -> None:
    poses = write_turntable(tmp_path, views=9, size=(48, 36))
    task = scenes.load(tmp_path)
    (scene,) = task.scenes
    assert scene.categories == ("transparent",)
    assert [row.key["image_path"] for row in task.rows] == list(poses) == sorted(poses)
    assert images.load(scene.path(scene.images[0])).size == (48, 36)
    angles = np.unwrap([np.arctan2(*pose.center[1::-1]) for pose in poses.values()])
    steps = np.round(np.diff(angles) / (2 * np.pi / 9)).astype(int) % 9
    assert len(set(steps.tolist())) > 3
    assert score(tmp_path / "truth.csv", tmp_path / "truth.csv", {"jug": [0.0025]}).mean == 1
    again = write_turntable(tmp_path / "again", views=9, size=(48, 36))
    assert all((tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in again)


def test_any_size_is_rendered() -> None:
    (image,) = render_turntable(Camera.centred((19, 17), 25.0), circle_of_views(1))
    assert image.shape == (17, 19, 3)
    assert image.std() > 5


def test_no_views_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="at least"):
        write_turntable(tmp_path / "scene", views=0)
    assert not (tmp_path / "scene").exists()
