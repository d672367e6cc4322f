"""The fundamental matrix, against one that is known."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.types import Float64
from imc_kit.viewgraph.two_view import VerificationConfig, fundamental


def views(count: int, seed: int = 0) -> tuple[Float64, Float64, Float64]:
    """Points in two images of a camera with focal length 800, [K, 2] each, and the fundamental matrix of the two."""
    random = np.random.default_rng(seed)
    points = random.uniform((-2, -2, 4), (2, 2, 9), (count, 3))
    angle = 0.3
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    x, y, z = translation = np.array([-1.5, 0.2, 0.4])
    camera = np.array([[800, 0, 500], [0, 800, 400], [0, 0, 1]], float)
    seen = [points @ camera.T, (points @ rotation.T + translation) @ camera.T]
    inverse = np.linalg.inv(camera)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    first, second = (one[:, :2] / one[:, 2:] for one in seen)
    return first, second, inverse.T @ essential @ inverse


def distances(matrix: Float64, first: Float64, second: Float64) -> Float64:
    """Of the second points from their epipolar lines."""
    lines = np.pad(first, ((0, 0), (0, 1)), constant_values=1) @ matrix.T
    return np.abs((lines * np.pad(second, ((0, 0), (0, 1)), constant_values=1)).sum(1)) / np.linalg.norm(
        lines[:, :2], axis=1
    )


def test_outliers_are_told_apart() -> None:
    first, second, truth = views(300)
    random = np.random.default_rng(1)
    second = second + random.normal(0, 0.3, second.shape)
    second[::3] = random.uniform((0, 0), (1000, 800), (100, 2))
    matrix, inliers = fundamental(first, second, 3.0)
    assert matrix.shape == (3, 3)
    right = np.arange(300) % 3 != 0
    assert inliers[right].mean() > 0.98
    by_chance = distances(truth, first, second) < 3
    assert (inliers & ~right & ~by_chance).sum() <= 2
    clean = views(300, seed=2)
    assert np.median(distances(matrix, *clean[:2])) < 1


def test_the_same_points_give_the_same_answer() -> None:
    first, second, _ = views(100)
    second[::2] = second[::2][::-1]
    one, other = (fundamental(first, second, 3.0) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_points_agree_on_nothing(count: int) -> None:
    matrix, inliers = fundamental(*views(count)[:2], 3.0)
    assert not matrix.any()
    assert inliers.shape == (count,)
    assert not inliers.any()


def test_points_in_one_place_do_no_harm() -> None:
    _, inliers = fundamental(np.ones((50, 2)), np.ones((50, 2)), 3.0)
    assert inliers.shape == (50,)


def test_verification_demands_more_inliers_than_chance_gives() -> None:
    first, second, _ = views(200)
    assert VerificationConfig().verify(first, second)[1].all()
    for demand in (VerificationConfig(min_inliers=201), VerificationConfig(chance=0.96)):
        assert not demand.verify(first, second)[1].any()
