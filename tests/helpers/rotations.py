"""Points of rotated images."""

from __future__ import annotations

import numpy as np

from imc_kit.types import Float32


def rotate_points(points: Float32, size: tuple[int, int], rotation_quarters: int) -> Float32:
    """Map points (x, y), float32 [N, 2], of an image to the same image rotated clockwise by 90° · `rotation_quarters`.

    size: (width, height) before the rotation. The inverse is `rotate_points(points, size_after, -rotation_quarters)`.
    """
    for _ in range(rotation_quarters % 4):
        points = np.stack([size[1] - 1 - points[:, 1], points[:, 0]], axis=1)
        size = size[::-1]
    return points
