"""The compiled loops of nearest neighbours, against sorting."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.matchers import nearest_numba


def none_yet(count):
    return np.full(count, -1, np.int32), np.full(count, -np.inf, np.float32), np.full(count, -np.inf, np.float32)


@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (5, 63), (7, 64), (64, 65), (30, 200)])
def test_the_two_nearest_in_both_directions(shape, levels):
    """With few levels, many neighbours are equally near."""
    nearness = -np.random.default_rng(0).integers(0, levels, shape).astype(np.float32)
    rows, columns = none_yet(shape[0]), none_yet(shape[1])
    for start in range(0, shape[0], 4):
        nearest_numba.update_neighbours(nearness[start : start + 4], start, np.arange(shape[1]), rows, columns)
    for (at, best, second), table in ((rows, nearness), (columns, nearness.T)):
        np.testing.assert_array_equal(at, table.argmax(1))
        ordered = np.sort(table, 1)[:, ::-1]
        np.testing.assert_array_equal(best, ordered[:, 0])
        np.testing.assert_array_equal(second, ordered[:, 1] if table.shape[1] > 1 else -np.inf)


def test_a_block_may_have_some_of_the_columns():
    rng = np.random.default_rng(0)
    nearness = rng.normal(size=(20, 300)).astype(np.float32)
    some = np.sort(rng.permutation(300)[:90])
    rows, columns = none_yet(20), none_yet(300)
    nearest_numba.update_neighbours(np.ascontiguousarray(nearness[:, some]), 0, some, rows, columns)
    np.testing.assert_array_equal(rows[0], some[nearness[:, some].argmax(1)])
    np.testing.assert_array_equal(columns[0][some], nearness[:, some].argmax(0))
    others = np.setdiff1d(np.arange(300), some)
    assert (columns[0][others] == -1).all()
    assert np.isneginf(columns[1][others]).all()


@pytest.mark.parametrize(("points", "cells", "most"), [(0, 6, 3), (1, 6, 6), (50, 6, 6), (300, 40, 4)])
@pytest.mark.parametrize("ratio", [1.0, 1.4, 100.0])
def test_the_nearest_cells_that_are_not_too_far(points, cells, most, ratio):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(count, 8)).astype(np.float32) for count in (points, cells))
    chosen = nearest_numba.nearest_cells(a @ b.T - (b * b).sum(1) / 2, (a * a).sum(1) / 2, most, ratio)
    squared = np.linalg.norm(a[:, None].astype(float) - b, axis=2) ** 2
    near_enough = np.take_along_axis(squared, squared.argsort(1), 1) <= ratio * squared.min(1, keepdims=True) + 1e-4
    expected = np.where(near_enough, squared.argsort(1), -1)[:, :most]
    assert chosen.tolist() == expected.tolist()


def test_a_point_at_a_centre_has_that_cell():
    """Even where rounding gives a negative distance."""
    near = np.array([[0.5000001, 0.4], [0.5, 0.5], [0.3, 0.5]], np.float32)
    chosen = nearest_numba.nearest_cells(near, np.full(3, 0.5, np.float32), 2, 1.4)
    assert chosen.tolist() == [[0, -1], [0, 1], [1, -1]]
