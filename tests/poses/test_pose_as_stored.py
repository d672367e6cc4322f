"""The pose of the stored raster projects a point to the stored pixel that shows it."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.data.images import ImageInfo
from imc_kit.types import Pose
from rotations import rotate_points

UPRIGHT = ((0, False), (0, True), (2, False), (2, True), (3, True), (1, False), (1, True), (3, False))
"""Rotations and mirroring for the EXIF orientations 1 to 8."""


def project(pose: Pose, size: tuple[int, int]) -> np.ndarray:
    x, y, z = pose.rotation @ np.array([0.4, 0.3, 0.5]) + pose.translation
    return np.array([[50 * x / z + (size[0] - 1) / 2, 50 * y / z + (size[1] - 1) / 2]], np.float32)


@pytest.mark.parametrize("extra", range(4))
@pytest.mark.parametrize(("quarters", "mirrored"), UPRIGHT)
def test_the_stored_pose_projects_to_the_stored_pixel(quarters: int, mirrored: bool, extra: int) -> None:
    stored_size = (61, 43)
    plain = ImageInfo(stored_size[::-1] if quarters % 2 else stored_size, quarters, mirrored)
    info = plain.rotated(extra)
    rotation = np.array([[np.cos(0.3), 0, np.sin(0.3)], [0, 1, 0], [-np.sin(0.3), 0, np.cos(0.3)]])
    pose = Pose(rotation, np.array([0.1, -0.2, 4.0]))  # of the upright image
    stored_pose = pose.rotated(-info.stored_quarters)
    pixel = rotate_points(project(pose, info.size), info.size, -extra)  # in the image as EXIF shows it
    if mirrored:  # no camera sees a mirrored raster, so the pose is that of the image as EXIF shows it
        np.testing.assert_allclose(project(stored_pose, plain.size), pixel, atol=1e-4)
    else:
        stored_pixel = rotate_points(pixel, plain.size, -quarters)
        np.testing.assert_allclose(project(stored_pose, stored_size), stored_pixel, atol=1e-4)
    np.testing.assert_allclose(stored_pose.center, pose.center, atol=1e-12)
