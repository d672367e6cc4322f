"""Tables of poses in the layouts of the three years."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from imc_kit.data.submission import NO_POSE
from imc_kit.types import Float64, Pose
from plain_registration import rotation


def turn(degrees: float) -> Float64:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def random_pose(seed: int) -> Pose:
    random = np.random.default_rng(seed)
    return Pose(rotation(random), random.normal(size=3) * 10.0 ** random.integers(-9, 9))


def text(values) -> str:
    return ";".join(map(repr, np.asarray(values, float).ravel().tolist()))


def pose(center: Float64, r: Float64) -> tuple[str, str]:
    return text(r), text(-r @ np.asarray(center))


def table(centers: Float64, random: np.random.Generator, dataset: str = "a", scene: str = "a") -> pd.DataFrame:
    rows = [
        (f"test/{scene}/images/{i}.png", dataset, scene, *pose(center, rotation(random)))
        for i, center in enumerate(centers)
    ]
    return pd.DataFrame(rows, columns=["image_path", "dataset", "scene", "rotation_matrix", "translation_vector"])


def posed(poses, dataset: str = "d", scene: str = "s") -> pd.DataFrame:
    rows = [(f"{dataset}/{scene}/{i}.png", dataset, scene, text(r), text(t)) for i, (r, t) in enumerate(poses)]
    return pd.DataFrame(rows, columns=["image_path", "dataset", "scene", "rotation_matrix", "translation_vector"])


def cameras(random: np.random.Generator, count: int, size: float = 1.0) -> list[tuple[Float64, Float64]]:
    return [(rotation(random), size * random.normal(size=3)) for _ in range(count)]


LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def clustered(
    groups: dict[str, dict[str, Float64 | None]], random: np.random.Generator, dataset: str = "d"
) -> pd.DataFrame:
    """scene or cluster: image: centre, None for no pose."""
    rows = [
        (dataset, scene, image, *(NO_POSE if center is None else pose(center, rotation(random))))
        for scene, images in groups.items()
        for image, center in images.items()
    ]
    return pd.DataFrame(rows, columns=["dataset", "scene", "image", "rotation_matrix", "translation_vector"])


BOTH = {"d/A": LIMITS, "d/B": LIMITS}
