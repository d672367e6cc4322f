"""The loops of nearest neighbours against sorting."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.matchers import nearest_numba


def none_yet(count):
    return np.full(count, -1, np.int32), np.full(count, -np.inf, np.float32), np.full(count, -np.inf, np.float32)


@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (5, 63), (7, 64), (64, 65), (30, 200)])
def test_the_nearest_and_the_next_in_both_directions(shape, levels):
    """Of few levels most are equally near."""
    rng = np.random.default_rng(0)
    nearness = -rng.integers(0, levels, shape).astype(np.float32)
    rows, columns = none_yet(shape[0]), none_yet(shape[1])
    for start in range(0, shape[0], 4):
        part = slice(start, start + 4)
        nearest_numba.note(nearness[part], np.arange(shape[1]), start, *(one[part] for one in rows), *columns)
    for (at, best, second), table in ((rows, nearness), (columns, nearness.T)):
        np.testing.assert_array_equal(at, table.argmax(1))
        ordered = np.sort(table, 1)[:, ::-1]
        np.testing.assert_array_equal(best, ordered[:, 0])
        np.testing.assert_array_equal(second, ordered[:, 1] if table.shape[1] > 1 else -np.inf)


def test_a_block_may_be_of_some_columns():
    rng = np.random.default_rng(0)
    nearness = rng.normal(size=(20, 300)).astype(np.float32)
    some = np.sort(rng.permutation(300)[:90])
    rows, columns = none_yet(20), none_yet(300)
    nearest_numba.note(np.ascontiguousarray(nearness[:, some]), some, 0, *rows, *columns)
    np.testing.assert_array_equal(rows[0], some[nearness[:, some].argmax(1)])
    np.testing.assert_array_equal(columns[0][some], nearness[:, some].argmax(0))
    others = np.setdiff1d(np.arange(300), some)
    assert (columns[0][others] == -1).all()
    assert np.isneginf(columns[1][others]).all()


@pytest.mark.parametrize(("points", "cells", "most"), [(0, 6, 3), (1, 6, 6), (50, 6, 6), (300, 40, 4)])
@pytest.mark.parametrize("farthest", [1.0, 1.4, 100.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_points_are_looked_up_in_the_nearest_cells_that_are_not_too_far(points, cells, most, farthest, size):
    rng = np.random.default_rng(0)
    a, b = (size * rng.normal(size=(count, 8)).astype(np.float32) for count in (points, cells))
    halves = (a * a).sum(1) / 2
    who, bounds = nearest_numba.lookups(a @ b.T - (b * b).sum(1) / 2, halves, most, farthest)
    far = np.linalg.norm(a[:, None].astype(float) - b, axis=2) ** 2
    near_enough = far <= farthest * far.min(1, keepdims=True) * (1 + 1e-4)
    expected = near_enough & (far.argsort(1).argsort(1) < most)
    assert (bounds[0], bounds[-1]) == (0, len(who))
    for cell in range(cells):
        assert who[bounds[cell] : bounds[cell + 1]].tolist() == np.flatnonzero(expected[:, cell]).tolist()


def test_a_point_that_is_a_centre_is_looked_up_there():
    """Where rounding puts it nearer than 0."""
    near = np.array([[0.5000001, 0.4], [0.5, 0.5], [0.3, 0.5]], np.float32)
    who, bounds = nearest_numba.lookups(near, np.full(3, 0.5, np.float32), 2, 1.4)
    assert (who.tolist(), bounds.tolist()) == ([0, 1, 1, 2], [0, 2, 4])
