"""Photos from one spot are told from a walk round a scene, and from a flat one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from imc_kit.colmap.parallax import without_parallax
from imc_kit.types import Model, Pose
from point_cloud import ORBIT, SIZE, database


def turned(pose: Pose, degrees: Sequence[float], step: Sequence[float] = (0, 0, 0)) -> Pose:
    """The camera after a rotation by these angles about its own axes, moved by `step`."""
    rotation = cv2.Rodrigues(np.deg2rad(degrees))[0]
    return Pose.from_center(rotation @ pose.rotation, pose.center + step)


RANDOM = np.random.default_rng(2)
ABOVE = Pose.from_center(np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 8.0]))


@pytest.mark.parametrize(("poses", "depth", "noticed"), [
    ([turned(ORBIT[0], RANDOM.uniform(-6, 6, 3)) for _ in range(6)], 3.0, True),
    ([turned(ABOVE, [0, 0, angle]) for angle in range(0, 90, 15)], 3.0, True),  # about the optical axis
    ([turned(ORBIT[0], RANDOM.uniform(-6, 6, 3), RANDOM.uniform(-0.5, 0.5, 3)) for _ in range(6)], 3.0, False),
    ([turned(ABOVE, [0, 0, 0], [step / 2 - 1, 0, 0]) for step in range(6)], 0.0, False),  # flat, from above
    (ORBIT, 3.0, False),
])  # fmt: skip
def test_photos_from_one_spot_are_noticed(tmp_path: Path, poses: list[Pose], depth: float, noticed: bool) -> None:
    path = database(tmp_path, poses, [900.0] * len(poses), depth=depth)
    names = [f"{number:02}.jpg" for number in range(len(poses))]
    frame = 0.5 * SIZE[0] / 900, 0.5 * SIZE[1] / 900
    model = Model(tmp_path, dict(zip(names, poses, strict=True)), frames=dict.fromkeys(names, frame))
    assert without_parallax(path, model) == noticed
