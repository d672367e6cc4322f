"""Two-view geometry with known lenses, against points in space."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.lenses import geometry, is_wide, pinhole_points, tangent_sampson, written
from imc_kit.types import Float64
from imc_kit.viewgraph.two_view import VerificationConfig, fundamental

SIZE = 640, 480
FISHEYE = {"SIMPLE_FISHEYE": (), "OPENCV_FISHEYE": (0.05, -0.01, 0.002, 0), "THIN_PRISM_FISHEYE": (0.05, 0, 0.002)}
MOTION = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0.1, 0.3, 0.02])), np.array([-1.0, 0.1, 0.2]))


def lens(model: str, focal: float, extra: tuple[float, ...] = (), prior: bool = True) -> Any:
    camera = pycolmap.Camera.create_from_model_name(0, model, focal, *SIZE)
    first = len(camera.params) - len(camera.extra_params_idxs())
    camera.params = [*camera.params[:first], *extra, *camera.params[first + len(extra) :]]
    camera.has_prior_focal_length = prior
    return camera


def seen(cameras: tuple[Any, Any], noise: float = 0.3, count: int = 300) -> tuple[Float64, Float64]:
    """Points around two cameras, as both see them, with noise; the last third is matched to the wrong ones."""
    random = np.random.default_rng(0)
    points = random.normal(size=(200 * count, 3)) * 4
    points = points[np.linalg.norm(points, axis=1) > 2]
    places = [camera.img_from_cam(at) for camera, at in zip(cameras, (points, MOTION * points), strict=True)]
    inside = [((place >= 0) & (place <= SIZE)).all(1) for place in places]
    one, two = (place[inside[0] & inside[1]][:count] + random.normal(0, noise, (count, 2)) for place in places)
    two[-count // 3 :] = two[-count // 3 :][::-1]
    return one, two


def essential() -> Float64:
    return np.asarray(pycolmap.essential_matrix_from_pose(MOTION))


@pytest.mark.parametrize("model", FISHEYE)
def test_a_fisheye_pair_is_calibrated(model: str) -> None:
    cameras = lens(model, 230, FISHEYE[model]), lens(model, 230, FISHEYE[model])
    one, two = seen(cameras)
    matrix, inliers = geometry(cameras, one, two, 3.0, trials=2000)
    assert inliers[:200].mean() > 0.98
    assert inliers[200:].mean() < 0.15
    assert fundamental(one, two, 3.0)[1][:200].mean() < 0.9  # the same pixels, taken for a pinhole camera's
    angle = np.abs((matrix / np.linalg.norm(matrix) * essential() / np.linalg.norm(essential())).sum())
    assert angle == pytest.approx(1, abs=0.002)
    again, same = geometry(cameras, one, two, 3.0, trials=2000)
    np.testing.assert_array_equal(again, matrix)
    np.testing.assert_array_equal(same, inliers)
    made = written(cameras, matrix, np.stack([np.flatnonzero(inliers)] * 2, 1).astype(np.uint32))
    assert made.config == pycolmap.TwoViewGeometryConfiguration.CALIBRATED
    np.testing.assert_array_equal(made.E, matrix)


@pytest.mark.parametrize(
    "cameras",
    [
        (lens("OPENCV", 600, (-0.3, 0.1, 0.002, 0.001)), lens("OPENCV", 600, (-0.3, 0.1, 0.002, 0.001))),
        (lens("SIMPLE_FISHEYE", 300), lens("SIMPLE_RADIAL", 768, prior=False)),
    ],
    ids=["distorted", "fisheye and unknown"],
)
def test_other_pairs_have_a_fundamental_matrix_of_pinhole_cameras(cameras: tuple[Any, Any]) -> None:
    one, two = seen(cameras)
    matrix, inliers = geometry(cameras, one, two, 3.0, trials=2000)
    assert inliers[:200].mean() > 0.95
    assert inliers[200:].mean() < 0.2
    inverse = [np.linalg.inv(camera.calibration_matrix()) for camera in cameras]
    right = inverse[1].T @ essential() @ inverse[0]
    assert abs((matrix / np.linalg.norm(matrix) * right / np.linalg.norm(right)).sum()) == pytest.approx(1, abs=0.01)
    assert written(cameras, matrix, np.zeros((0, 2), np.uint32)).F is not None


def test_cameras_without_distortion_change_nothing() -> None:
    for camera in (lens("SIMPLE_RADIAL", 600), lens("PINHOLE", 100), lens("OPENCV", 600, prior=False)):
        one, two = seen((camera, camera))
        found = geometry((camera, camera), one, two, 3.0, trials=500)
        for mine, plain in zip(found, fundamental(one, two, 3.0, trials=500), strict=True):
            np.testing.assert_array_equal(mine, plain)
        assert not is_wide(camera)


def test_which_lenses_are_wide() -> None:
    assert is_wide(lens("SIMPLE_FISHEYE", 230))
    assert is_wide(lens("OPENCV", 250, (-0.02,)))
    assert not is_wide(lens("SIMPLE_FISHEYE", 700))
    assert not is_wide(lens("SIMPLE_RADIAL", 600, (-0.1,)))


def test_rays_beyond_a_right_angle_have_no_place_in_a_pinhole_photo() -> None:
    camera = lens("SIMPLE_FISHEYE", 150)
    points = camera.img_from_cam(np.array([[1.0, 0, 0.01], [1, 0, 0.5], [0.3, 0.1, 1]]))
    found = pinhole_points(camera, points)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], [[320 + 300, 240], [320 + 45, 240 + 15]])


@pytest.mark.parametrize("count", [0, 1, 7])
def test_few_points_have_no_geometry(count: int) -> None:
    for camera in (lens("SIMPLE_FISHEYE", 230), lens("OPENCV", 600, (-0.3,))):
        points = np.random.default_rng(0).uniform(0, 400, (2, count, 2))
        matrix, inliers = geometry((camera, camera), *points, 3.0, trials=100)
        assert matrix.shape == (3, 3)
        assert inliers.shape == (count,)
        _, passed = VerificationConfig().verify(*points, partial(geometry, (camera, camera)))
        assert not passed.any()


def test_tangent_sampson_errors_are_pixels() -> None:
    """The first-order distance to the nearest pair of pixels that fits the geometry, found by moving them."""
    cameras = lens("OPENCV_FISHEYE", 230, FISHEYE["OPENCV_FISHEYE"]), lens("SIMPLE_FISHEYE", 210)
    one, two = seen(cameras, noise=0.0, count=90)
    right = slice(0, 60)
    assert tangent_sampson(essential(), cameras, one[right], two[right]).max() < 1e-4
    moved = two[right] + np.random.default_rng(1).normal(0, 1, (60, 2))
    errors = tangent_sampson(essential(), cameras, one[right], moved)
    rays = cameras[0].cam_ray_from_img(one[right])

    def residual(places: Float64) -> Float64:
        return np.asarray((cameras[1].cam_ray_from_img(places) * (rays @ essential().T)).sum(1))

    # The error in one image alone, by numeric differentiation, is at least that in both.
    steps = [(residual(moved + step) - residual(moved - step)) / 2e-3 for step in np.eye(2) * 1e-3]
    alone = np.abs(residual(moved)) / np.hypot(*steps)
    assert (errors <= alone * 1.001).all()
    assert (errors >= alone * 0.3).mean() > 0.9
