"""Where the things of a 3D view lie."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from imc_kit.viz.space import frustum_size, round_length


def test_frusta_are_as_large_as_cameras_are_apart() -> None:
    line = np.arange(20.0)[:, None] * [1, 0, 0]
    assert frustum_size(line) == pytest.approx(0.6)
    assert frustum_size(line[:1]) == 0.3
    assert frustum_size(np.repeat(line, 2, axis=0)) == pytest.approx(0.03 * 19)  # in pairs at one place: seen at all


def test_thousands_of_cameras_take_little_memory() -> None:
    centers = np.random.default_rng(0).normal(size=(3000, 3))
    tracemalloc.start()
    frustum_size(centers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(("length", "expected"), [(1.0, 1), (1.9, 1), (2.0, 2), (0.07, 0.05), (999, 500)])
def test_round_lengths(length: float, expected: float) -> None:
    assert round_length(length) == pytest.approx(expected)
