"""Expected matches of two photos, against maps whose change of viewpoint is known."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.types import Float64
from imc_kit.viewgraph.missing import completeness

SIZES = np.array([[800, 600], [800, 600]])
RANDOM = np.random.default_rng(0)
POINTS = RANDOM.uniform(0, 1, (2000, 2)) * [800, 600]


def share(first: Float64, second: Float64, count: int) -> float:
    """The completeness where the first `count` keypoints match."""
    return completeness((first, second), SIZES, np.repeat(np.arange(count, dtype=np.uint32)[:, None], 2, axis=1))


def test_equal_viewpoints() -> None:
    assert share(POINTS, POINTS, 2000) == 1
    for count in (10, 100, 1000):
        assert share(POINTS, POINTS, count) == pytest.approx(count / 2000 / 0.8)


def test_fewer_matches_are_expected_where_the_viewpoint_changes() -> None:
    middle = np.array([400, 300])
    farther = (POINTS - middle) * 0.5 + middle  # all of the first photo is in a quarter of the second
    aside = (POINTS - middle) * [0.7, 1] + middle
    for second, change in ((farther, np.log(2)), (aside, np.log(1 / 0.7) * 1.5)):
        assert share(POINTS, second, 100) == pytest.approx(100 / 2000 / 0.8 / np.exp(-2 * change), rel=1e-6)
    deep = POINTS + RANDOM.normal(0, 20, POINTS.shape)
    assert share(POINTS, deep, 100) > 1.5 * share(POINTS, POINTS, 100)


def test_keypoints_outside_the_other_photo_do_not_count() -> None:
    shifted = POINTS - [400, 0]
    order = np.argsort(-POINTS[:, 0])  # those in both photos come first
    inside = (shifted[:, 0] >= 0).sum()
    strangers = np.array([[500.0, 100.0]])  # of the second photo, also outside the first
    second = np.concatenate([shifted[order][:inside], strangers])
    assert share(POINTS[order], second, 100) == pytest.approx(100 / inside / 0.8, rel=1e-3)


def test_a_mixture_is_judged_by_the_motion_of_most() -> None:
    mixed = POINTS.copy()
    mixed[:80] = RANDOM.uniform(0, 1, (80, 2)) * [800, 600]  # 80 of the 200 matches
    assert share(POINTS, mixed, 200) < 3 * share(POINTS, POINTS, 200) / 2
    assert share(POINTS, mixed, 200) == share(POINTS, mixed, 200)


@pytest.mark.parametrize("points", [np.ones((3, 2)), np.arange(20.0).reshape(10, 2), np.eye(3, 2)])
def test_degenerate_matches(points: Float64) -> None:
    assert 0 <= share(points, points, len(points)) <= 1
