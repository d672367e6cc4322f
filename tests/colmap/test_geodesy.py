"""Latitude, longitude and altitude in metres, compared with the ellipsoid's formulas."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.colmap.geodesy import east_north_up, geographic

AXIS, FLATTENING = 6378137.0, 1 / 298.257223563
"""WGS84: semi-major axis in metres."""


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(0.5, 0.0), (47.3765, 8.5478), (-33.45, -179.99999), (80.0, 180.0)]
)
def test_small_steps_have_the_length_of_their_arc(latitude: float, longitude: float) -> None:
    step = 1e-4
    steps = np.array(list(np.ndindex(3, 3, 3))) - 1.0  # east, north, up
    places = [latitude, longitude, 440.0] + steps[:, [1, 0, 2]] * [step, step, 3]
    places[:, 1] = (places[:, 1] + 180) % 360 - 180  # across the date line
    found, origin = east_north_up(places)
    assert origin == pytest.approx((latitude, longitude, 440.0), abs=1e-6) or abs(origin[1]) == pytest.approx(180.0)
    sine = np.sin(np.radians(latitude))
    square = FLATTENING * (2 - FLATTENING)
    normal = AXIS / np.sqrt(1 - square * sine**2)
    meridian = normal * (1 - square) / (1 - square * sine**2)
    east = np.radians(step) * (normal + 440) * np.cos(np.radians(latitude))
    north = np.radians(step) * (meridian + 440)
    np.testing.assert_allclose(found, steps * [east, north, 3], atol=0.02)  # the origin is rounded to 1 cm
    np.testing.assert_allclose(geographic(found, origin)[:, 0], places[:, 0], atol=1e-9)


def test_unknown_altitudes_stay_unknown() -> None:
    places = np.array([[47.0, 8.0, np.nan], [47.001, 8.0, 500.0], [47.002, 8.0, 510.0]])
    found, origin = east_north_up(places)
    assert origin[2] == 505.0
    np.testing.assert_array_equal(np.isnan(found), [[False, False, True], [False] * 3, [False] * 3])
    nowhere, origin = east_north_up(places * [1, 1, np.nan])
    assert origin[2] == 0.0
    assert np.isnan(nowhere[:, 2]).all()
    np.testing.assert_allclose(nowhere[:, :2], found[:, :2], atol=0.02)
