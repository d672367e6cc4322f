"""Close pairs, against scipy's tree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from imc_kit.matchers.nearby import close_pairs, in_original


@pytest.mark.parametrize(
    ("points", "radius"),
    [
        (np.random.default_rng(0).uniform(-50, 50, (400, 2)), 7.0),
        (np.random.default_rng(1).uniform(0, 3, (60, 2)), 10.0),  # all in one cell
        (np.random.default_rng(2).uniform(0, 3, (60, 2)), 1e-3),
        (np.random.default_rng(3).integers(0, 12, (300, 2)).astype(float), 1.0),  # distances of exactly the radius
        (np.random.default_rng(4).uniform(0, 1000, (300, 2)) * [1, 0], 9.0),  # a row
        (np.random.default_rng(5).uniform(0, 1000, (300, 2)) * [0, 1] - 1e6, 9.0),  # a column, far away
        (np.random.default_rng(6).normal(size=(500, 2)).astype(np.float32) * 20, 3.0),
    ],
)
def test_pairs_are_those_of_scipy(points, radius):
    pairs, apart = close_pairs(points, radius)
    expected = cKDTree(points.astype(np.float64)).query_pairs(radius)
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == expected
    assert len(pairs) == len(expected)
    i, j = pairs.T
    np.testing.assert_allclose(apart, np.linalg.norm(points[i].astype(float) - points[j], axis=1), atol=1e-9)


def test_none_and_one():
    for points in (np.empty((0, 2)), np.ones((1, 2)), np.array([[0, 0], [5, 0]])):
        pairs, apart = close_pairs(points, 1.0)
        assert pairs.shape == (0, 2)
        assert apart.shape == (0,)
    pairs, apart = close_pairs(np.ones((2, 2)), 1.0)
    assert pairs.tolist() == [[0, 1]]
    assert apart.tolist() == [0]


def test_radii_grow_with_the_image():
    assert in_original(2.0, (1024, 768)) == 2
    assert in_original(2.0, (768, 2048)) == 4
    assert in_original(0.5, (512, 512)) == 0.25
