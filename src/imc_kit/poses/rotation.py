"""Undo 90° rotations: from the pose of an upright image to the pose of the raster that its file stores."""

from __future__ import annotations

import numpy as np

from imc_kit.types import Pose


def rotated(pose: Pose, rotation_quarters: int) -> Pose:
    """The pose of an image after its raster is rotated clockwise by `rotation_quarters` · 90°. The centre stays."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[rotation_quarters % 4]
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float64)
    return Pose(rotation @ pose.rotation, rotation @ pose.translation)


def pose_as_stored(pose: Pose, rotation_quarters: int, mirrored: bool, extra_quarters: int = 0) -> Pose:
    """The pose of the stored raster, which the competition asks for, from the pose of the upright image.

    rotation_quarters, mirrored, extra_quarters: how the raster was made upright, as in `data.images.ImageInfo`.

    No camera sees a mirrored raster, so for one only `extra_quarters` are undone: the pose is that of the image as EXIF
    has it. The centre, which alone the metric compares, is the same in every case.
    """
    return rotated(pose, -extra_quarters if mirrored else -rotation_quarters)
