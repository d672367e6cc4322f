"""How many matches each detector and matcher finds on real pairs, and how many of them are right.

Every pair of a scene has an angle between the optical axes of its true poses. Of each scene one pair is taken near each
of the angles 15°, 30° and 45°, and the pair with the largest angle if that is at least 90°: its images share nothing,
or nearly so. A match is right if it is within 2 pixels of the epipolar lines of the true poses. By chance about one
in a hundred is.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from imc_kit.data import images
from imc_kit.detectors import DETECTORS, DetectorConfig, extract
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS, MatcherConfig, PhotoMatcherConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.types import Features, Pose
from true_geometry import Camera, Points, distances, likeliest_camera, scene_with_poses

ANGLES, APART = (15.0, 30.0, 45.0), 90.0
"""Degrees between optical axes."""
RIGHT = 2.0
"""Pixels from the true epipolar lines."""
FOR_CAMERA = 8
"""Pairs near 15° from which the camera's focal length and principal point are fitted, with SIFT."""


@dataclass(frozen=True)
class View:
    """A real pair: its photos, true poses and camera, and its angle as in the table."""

    paths: tuple[Path, Path]
    poses: tuple[Pose, Pose]
    camera: Camera
    column: str


COLUMNS = (*(f"{angle:.0f}°" for angle in ANGLES), f"≥ {APART:.0f}°")


def views(root: Path, name: str, long_side: int) -> list[View]:
    """The pairs of a scene whose images have the same size. Raises `KitError` for an unknown scene."""
    scene, poses = scene_with_poses(root, name)
    axes = np.array([pose.rotation[2] for pose in poses])
    degrees = np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))
    pairs = list(combinations(range(len(poses)), 2))
    by_15 = sorted(pairs, key=lambda pair: abs(degrees[pair] - ANGLES[0]))[:FOR_CAMERA]
    paths = [scene.path(image) for image in scene.images]
    used = sorted({i for pair in by_15 for i in pair})
    detector, matcher = SiftConfig(max_keypoints=2048, long_side=long_side).create(), NearestConfig(ratio=0.8).create()
    found = {i: extract(detector, [images.load(paths[i], long_side)])[0] for i in used}
    matched = {(i, j): _matched(found[i], found[j], matcher.match(found[i], found[j]).indices) for i, j in by_15}
    camera = likeliest_camera(matched, poses, found[used[0]].image_size)
    chosen = [
        (min(pairs, key=lambda pair: abs(degrees[pair] - angle)), column)
        for angle, column in zip(ANGLES, COLUMNS, strict=False)
    ]
    chosen = [(pair, column) for pair, column in chosen if abs(degrees[pair] - float(column[:-1])) < 7]
    widest = max(pairs, key=lambda pair: degrees[pair])
    chosen += [(widest, COLUMNS[-1])] if degrees[widest] >= APART else []
    return [View((paths[i], paths[j]), (poses[i], poses[j]), camera, column) for (i, j), column in chosen]


def table(chosen: Sequence[View], detectors: Iterable[str], keypoints: int, long_side: int) -> Iterator[str]:
    """The lines of the table, each as soon as it is known. detectors: their names."""
    counts = [f"{column}: {sum(view.column == column for view in chosen)}" for column in COLUMNS]
    yield f"Pairs by angle: {', '.join(counts)}."
    yield ""
    cells = (cell for column in COLUMNS[:-1] for cell in (f"{column}: matches", "right"))
    yield f"| features | keypoints | {' | '.join(cells)} | {COLUMNS[-1]}: matches |"
    yield f"|---|{'--:|' * (2 * len(COLUMNS))}"
    for label, config in _detectors(detectors, keypoints, long_side):
        try:
            detector = config.create()
        except KitError as error:
            yield f"| {label} | left out: {error} |" + " |" * (2 * len(COLUMNS) - 1)
            continue
        paths = sorted({path for view in chosen for path in view.paths})
        features = {path: extract(detector, [images.load(path, config.long_side)])[0] for path in paths}
        mean = np.mean([len(one) for one in features.values()])
        for name, matcher in _matchers():
            if not matcher.accepts(config.kind):
                continue
            try:
                create = matcher.create(config.kind)
            except KitError as error:
                yield f"| {label}, {name} | left out: {error} |" + " |" * (2 * len(COLUMNS) - 1)
                continue
            of_column: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
            for view in chosen:
                first, second = (features[path] for path in view.paths)
                points = _matched(first, second, create.match(first, second).indices)
                of_column[view.column].append(distances(points, view.poses, view.camera) < RIGHT)
            yield f"| {label}, {name} | {mean:.0f} | {' | '.join(_cells(of_column))} |"


def _cells(of_column: dict[str, list[np.ndarray]]) -> list[str]:
    """Matches per pair and the share of right ones, by angle; of images that share nothing only the matches."""
    cells = []
    for column, right in of_column.items():
        matches = [str(round(sum(map(len, right)) / len(right)))] if right else [""]
        precision = f"{np.concatenate(right).mean():.2f}" if right and sum(map(len, right)) else ""
        cells += matches if column == COLUMNS[-1] else [*matches, precision]
    return cells


def _matched(first: Features, second: Features, indices: np.ndarray) -> Points:
    return first.keypoints[indices[:, 0]], second.keypoints[indices[:, 1]]


def _detectors(names: Iterable[str], keypoints: int, long_side: int) -> Iterator[tuple[str, DetectorConfig]]:
    for name in names:
        config_class = DETECTORS[name]
        if config_class is NoDetectorConfig:
            continue
        config = replace(config_class(), max_keypoints=keypoints, long_side=long_side)
        hints = typing.get_type_hints(config_class)
        option = next((option for option in ("model", "descriptor") if option in hints), None)
        for value in typing.get_args(hints[option]) if option else [None]:
            yield f"{name} {value or ''}".strip(), config if option is None else replace(config, **{option: value})


def _matchers() -> Iterator[tuple[str, MatcherConfig]]:
    yield "nearest, ratio 0.8", NearestConfig(ratio=0.8)
    for name, config_class in MATCHERS.items():
        if not issubclass(config_class, PhotoMatcherConfig):
            yield name, config_class()
