"""Matches against the true poses of a scene: which of them lie on the epipolar lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from imc_kit.data import scenes, tables
from imc_kit.errors import unknown_name
from imc_kit.types import Float32, Float64, Pose, Scene

Points = tuple[Float32, Float32]
"""Matched positions [K, 2] in the original images of a pair, in pixels."""


class Camera(NamedTuple):
    """A camera without distortion, in pixels."""

    focal: float
    x: float
    y: float


def scene_with_poses(root: Path, name: str) -> tuple[Scene, list[Pose]]:
    """A scene and the true poses of its images. root: scenes in a competition's layout, with truth.csv.

    Raises `KitError` for an unknown scene.
    """
    task = scenes.load(root)
    known = {scene.name: scene for scene in task.scenes}
    if name not in known:
        raise unknown_name("scene", name, known)
    table = tables.read_table(task.root / "truth.csv", ("image_path", *tables.POSE_COLUMNS))
    columns = (table[column] for column in ("image_path", *tables.POSE_COLUMNS))
    texts = {path: pose for path, *pose in zip(*columns, strict=True)}
    paths = {row.image: row.key["image_path"] for row in task.rows if row.scene == name}
    return known[name], [Pose(*tables.parse_pose(*texts[paths[image]])) for image in known[name].images]


def distances(points: Points, poses: tuple[Pose, Pose], camera: Camera) -> Float64:
    """Sampson distance of matches from the epipolar geometry of the poses, in pixels, [K]."""
    middle, focal = np.array(camera[1:]), camera.focal
    first, second = (np.column_stack([(xy - middle) / focal, np.ones(len(xy))]) for xy in points)
    rotation = poses[1].rotation @ poses[0].rotation.T
    x, y, z = poses[1].translation - rotation @ poses[0].translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    lines_second, lines_first = first @ essential.T, second @ essential
    slopes = (lines_second[:, :2] ** 2).sum(1) + (lines_first[:, :2] ** 2).sum(1)
    return focal * np.abs((second * lines_second).sum(1)) / np.sqrt(slopes)


def likeliest_camera(found: Mapping[tuple[int, int], Points], poses: Sequence[Pose], size: tuple[int, int]) -> Camera:
    """The camera, the same for all images, with which most matches agree with the poses within about a pixel.

    found: matches by pair of images. size: width and height of the images.
    """

    def disagreement(values: Sequence[float]) -> float:
        camera = Camera(max(size) * np.exp(values[0]), *np.array(values[1:]) * max(size))
        off = [distances(points, (poses[i], poses[j]), camera) for (i, j), points in found.items()]
        return -float(np.exp(-(np.concatenate(off) ** 2)).sum())

    middle = (np.array(size) - 1) / 2 / max(size)
    start = min(([focal, *middle] for focal in np.linspace(-0.7, 1.4, 43)), key=disagreement)
    simplex = np.array(start) + np.vstack([np.zeros(3), np.diag([0.05, 0.02, 0.02])])
    focal, x, y = minimize(disagreement, start, method="Nelder-Mead", options={"initial_simplex": simplex}).x
    return Camera(max(size) * float(np.exp(focal)), x * max(size), y * max(size))
