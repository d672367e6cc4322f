"""A verified COLMAP database of a synthetic drone flight: true cameras, noisy keypoints, a few wrong matches.

It makes mapping measurable on thousands of images, whose rendering and matching would take hours.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pycolmap
from scipy.spatial import KDTree

from imc_kit.colmap import database
from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.synthetic.plaza import Camera
from imc_kit.types import Features, Matches, Pose
from rendered import drone

SIZE = 640, 480
AREA = 18.0
"""Square metres of ground per point. A photo covers 3350 m² and shows about 120 keypoints: 35 matches in a pair."""
FOUND, MATCHED, WRONG = 0.6, 0.8, 0.01
"""The share of visible points that a photo's detector finds, that a pair matches, and that are matched wrongly."""
NOISE = 0.2
"""Standard deviation of keypoints in pixels, in each direction."""
FEWEST = 15
"""Pairs with fewer matches are left out, as in a run."""


def write(path: Path, images: int, k: int = 10, seed: int = 0) -> dict[str, Pose]:
    """Write the database of a flight whose photos are matched with the k others that share the most points.

    Returns the true poses by name, in metres.
    """
    rng = np.random.default_rng(seed)
    poses = {f"{number:05}.jpg": pose for number, pose in enumerate(drone.flight(images, seed))}
    camera = Camera.centred(SIZE)
    centers = np.array([pose.center for pose in poses.values()])
    low, high = centers[:, :2].min(0) - 40, centers[:, :2].max(0) + 40
    ground = rng.uniform(low, high, (int(np.prod(high - low) / AREA), 2))
    hills = 6 * np.sin(ground[:, 0] / 31) * np.cos(ground[:, 1] / 43)
    houses = np.where(rng.random(len(ground)) < 0.3, rng.uniform(2, 14, len(ground)), 0.0)
    points = np.column_stack([ground, hills + houses])

    features, seen, tree = {}, {}, KDTree(points)
    for name, pose in poses.items():
        near = np.array(tree.query_ball_point(pose.center, 110))
        pixels = camera.project(pose, points[near])
        inside = ((pixels >= 0) & (pixels <= np.subtract(SIZE, 1))).all(1) & (rng.random(len(near)) < FOUND)
        pixels = pixels[inside] + rng.normal(0, NOISE, (inside.sum(), 2))
        keypoints = np.clip(pixels, 0, np.subtract(SIZE, 1)).astype(np.float32)
        nothing = np.zeros((len(keypoints), 1), np.float32)
        features[name], seen[name] = Features(keypoints, nothing[:, 0], nothing, SIZE), near[inside]

    matches = []
    for first, second in _pairs(seen, k):
        shared, one, other = np.intersect1d(seen[first], seen[second], return_indices=True)
        kept = rng.random(len(shared)) < MATCHED
        one, other = one[kept], other[kept].copy()
        wrong = rng.random(len(other)) < WRONG
        other[wrong] = np.roll(other[wrong], 1)
        if len(one) >= FEWEST:
            indices = np.column_stack([one, other]).astype(np.int32)
            matches.append((first, second, Matches(indices, np.ones(len(indices), np.float32))))
    entries = [ImageEntry(name, Path(name), SIZE) for name in poses]
    database.write_database(path, entries, features.__getitem__, matches, CameraConfig(exif=False))
    with database.writing(path) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        for first, second, pair in matches:
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED.value
            geometry.F = fundamental(poses[first], poses[second], camera)
            geometry.inlier_matches = pair.indices.astype(np.uint32)
            opened.write_two_view_geometry(ids[first], ids[second], geometry)
    return poses


def _pairs(seen: dict[str, np.ndarray], k: int) -> list[tuple[str, str]]:
    viewers = defaultdict(list)
    for name, points in seen.items():
        for point in points.tolist():
            viewers[point].append(name)
    pairs = set()
    for name, points in seen.items():
        shared = Counter(other for point in points.tolist() for other in viewers[point] if other != name)
        pairs |= {(min(name, other), max(name, other)) for other, _ in shared.most_common(k)}
    return sorted(pairs)


def fundamental(first: Pose, second: Pose, camera: Camera) -> np.ndarray:
    """The fundamental matrix of two photos in COLMAP's pixels."""
    rotation = second.rotation @ first.rotation.T
    x, y, z = second.translation - rotation @ first.translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    pixels = np.array([[camera.focal, 0, camera.cx + 0.5], [0, camera.focal, camera.cy + 0.5], [0, 0, 1]])
    inverse = np.linalg.inv(pixels)
    return np.asarray(inverse.T @ essential @ inverse)
