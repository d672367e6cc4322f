"""Rotated poses, against rotated rasters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imc_kit.types import Pose

POSE = Pose(Rotation.from_euler("xyz", [20, 30, 40], degrees=True).as_matrix(), np.array([0.2, -0.1, 0.5]))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, 5, -1])
def test_a_rotated_pose_projects_to_the_rotated_raster(quarters: int) -> None:
    """A point's pixel, carried along with the raster by np.rot90, is where the rotated pose projects it."""
    width, height, focal = 41, 31, 30.0
    point = POSE.rotation.T @ (np.array([0.4, -0.6, 2.0]) - POSE.translation)  # seen at the pixel (26, 6)

    def project(pose: Pose, width: int, height: int) -> np.ndarray:
        x, y, z = pose.rotation @ point + pose.translation
        return np.array([focal * x / z + (width - 1) / 2, focal * y / z + (height - 1) / 2])

    np.testing.assert_allclose(project(POSE, width, height), [26, 6], atol=1e-9)
    raster = np.zeros((height, width), bool)
    raster[6, 26] = True
    raster = np.rot90(raster, -quarters)  # negative: clockwise
    after = POSE.rotated(quarters)
    (row,), (column,) = np.nonzero(raster)
    np.testing.assert_allclose(project(after, raster.shape[1], raster.shape[0]), [column, row], atol=1e-9)
    np.testing.assert_allclose(after.center, POSE.center, atol=1e-12)
