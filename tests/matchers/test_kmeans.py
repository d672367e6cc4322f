"""Clusters of vectors, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.matchers.kmeans import k_means, lloyd, nearest


@pytest.fixture
def k_means_of_scikit_learn():
    from sklearn.cluster import KMeans  # here, because it takes seconds in each worker of pytest-xdist

    return KMeans


def blobs(count, centres, seed):
    random = np.random.default_rng(seed)
    middle = random.normal(size=(centres, 5)) * 4
    return (middle[random.integers(centres, size=count)] + random.normal(size=(count, 5))).astype(np.float32)


def test_lloyd_ends_where_scikit_learn_ends(k_means_of_scikit_learn):
    points = blobs(500, 6, seed=6)
    start = points[:9]
    method = k_means_of_scikit_learn(9, init=start, n_init=1, algorithm="lloyd", tol=0, max_iter=300)
    theirs = method.fit(points)
    np.testing.assert_allclose(lloyd(points, start, 300), theirs.cluster_centers_, atol=1e-4)


def test_k_means_is_about_as_good_as_scikit_learns(k_means_of_scikit_learn):
    points = blobs(2000, 20, seed=8)
    ours = ((points[:, None] - k_means(points, 20, 0)) ** 2).sum(2).min(1).sum()
    theirs = k_means_of_scikit_learn(20, n_init=3, random_state=0).fit(points).inertia_
    assert ours < 1.3 * theirs


def test_nearest_takes_the_first_of_equals_and_no_points():
    centres = np.array([[0, 0], [2, 0], [2, 0]], np.float32)
    assert nearest(np.array([[1.5, 0], [0.5, 9], [1, 0]], np.float32), centres).tolist() == [1, 0, 0]
    assert nearest(np.empty((0, 2), np.float32), centres).tolist() == []
