"""Scenes that cost next to nothing: a photo is one grey, and its detector knows which points that grey shows.

There are two places of ten and eight photos, which share nothing, and one more photo that sees `FEW` points of the
first: too few for COLMAP's mapper, enough to be localised. So every step of a run has something to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from imc_kit.colmap.mapping import MappingConfig
from imc_kit.config import Config
from imc_kit.data.store import Store
from imc_kit.detectors import DetectorConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline.results import SceneResult
from imc_kit.pipeline.scene import match_scene
from imc_kit.poses.turntable import TurntableConfig
from imc_kit.synthetic.plaza import Camera, orbit
from imc_kit.types import Features, Float32, Float64, Pose, Scene

FIRST, SECOND = 10, 8
ALL = FIRST + SECOND + 1
FEW = 14
POINTS = 150
SIZE = (400, 300)


def write_photographs(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(ALL):
        cv2.imwrite(str(folder / f"{number:02}.png"), np.full((*SIZE[::-1], 3), number, np.uint8))
    return folder


@dataclass(frozen=True)
class PointsConfig(DetectorConfig):
    name: ClassVar[str] = "points"
    kind: ClassVar[str] = "points"

    def create(self) -> Points:
        return Points(self)


@cache
def place(seed: int) -> tuple[Float64, Float32, list[Pose]]:
    """The points [POINTS, 3] of a place, their descriptors [POINTS, 16], and the pose of each photo."""
    random = np.random.default_rng(seed)
    points = random.uniform([-1.5, -1.5, 0], [1.5, 1.5, 3], (POINTS, 3))
    return points, random.normal(size=(POINTS, Points.dimension)).astype(np.float32), orbit(ALL, seed)


class Points:
    dimension = 16

    def __init__(self, config: PointsConfig) -> None:
        self.config = config

    def detect(self, images: Sequence[Any], masks: Sequence[Any]) -> list[Features]:
        return [self.seen(int(image[0, 0, 0])) for image in images]

    def seen(self, number: int) -> Features:
        points, descriptors, poses = place(int(FIRST <= number < FIRST + SECOND))
        keypoints = Camera.centred(SIZE).project(poses[number], points)
        keypoints += np.random.default_rng(number).normal(0, 0.3, keypoints.shape)
        shown = ((keypoints >= 0) & (keypoints <= np.subtract(SIZE, 1))).all(1)
        shown[FEW if number == ALL - 1 else POINTS :] = False
        return Features(keypoints[shown].astype(np.float32), np.ones(shown.sum(), np.float32), descriptors[shown], SIZE)


def without(config: Config, *steps: str) -> Config:
    """The configuration with these optional steps off."""
    return replace(config, **{step: replace(getattr(config, step), on=False) for step in steps})


CONFIG = Config(PointsConfig(), NearestConfig(ratio=0.8), turntable=TurntableConfig(on=False), threads=1)
ONE_RUN = replace(CONFIG, mapping=(MappingConfig(),))
MAPPING_ALONE = without(CONFIG, "merging", "localisation", "subpixel", "refinement")


def solve_scene(
    scene: Scene, folder: Path, store: Store, config: Config, executor: Executor, until: float = inf, fewest: int = 0,
    separate: bool = False,
) -> SceneResult:  # fmt: skip
    """Both halves of a scene, one after the other."""
    matched = match_scene(scene, folder, store, config, executor, until=until, fewest=fewest, separate=separate)
    return matched if isinstance(matched, SceneResult) else matched.reconstruct(executor, until)
