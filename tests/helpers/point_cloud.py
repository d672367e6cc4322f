"""A small cloud of points in front of cameras with known poses, as a database of verified matches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap

from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.colmap.database import write_database
from imc_kit.colmap.verification import verify
from imc_kit.synthetic.plaza import orbit
from imc_kit.types import Features, Matches, Pose
from imc_kit.viewgraph.two_view import VerificationConfig

SIZE = (800, 600)
POINTS = 300
ORBIT = orbit(8, seed=1)


def database(
    folder: Path, poses: Sequence[Pose], focals: Sequence[float], prior: float | None = None, depth: float = 3.0
) -> Path:
    """The verified matches of a cloud of points, seen with these focal lengths; all images share one camera, whose
    focal length is `prior`. depth: 0 for a flat scene."""
    random = np.random.default_rng(0)
    points = random.uniform([-1.5, -1.5, 0], [1.5, 1.5, depth], (POINTS, 3))
    features, shown = {}, {}
    for number, (pose, focal) in enumerate(zip(poses, focals, strict=True)):
        seen = points @ pose.rotation.T + pose.translation
        keypoints = seen[:, :2] / seen[:, 2:] * focal + np.subtract(SIZE, 1) / 2 + random.normal(0, 0.2, (POINTS, 2))
        inside = (seen[:, 2] > 0) & ((keypoints >= 0) & (keypoints <= np.subtract(SIZE, 1))).all(1)
        name, count = f"{number:02}.jpg", int(inside.sum())
        shown[name] = {int(point): row for row, point in enumerate(np.flatnonzero(inside))}
        features[name] = Features(keypoints[inside].astype(np.float32), np.ones(count, np.float32),
            np.zeros((count, 1), np.uint8), SIZE)  # fmt: skip
    pairs = []
    for one, other in combinations(shown, 2):
        both = np.array([(shown[one][p], shown[other][p]) for p in shown[one].keys() & shown[other]], np.int32)
        pairs.append((one, other, Matches(both.reshape(-1, 2), np.ones(len(both), np.float32))))
    path = folder / "database.db"
    entries = [ImageEntry(name, folder / name, SIZE) for name in features]
    write_database(path, entries, features.__getitem__, pairs, CameraConfig())
    with ThreadPoolExecutor(1) as pool:
        verify(path, VerificationConfig(), pool)
    if prior:
        with pycolmap.Database.open(path) as opened:
            (camera,) = opened.read_all_cameras()
            camera.params, camera.has_prior_focal_length = [prior, *camera.params[1:]], True
            opened.update_camera(camera)
    return path
