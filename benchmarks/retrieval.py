"""The share of truly overlapping pairs of images that global descriptors select, by method and k.

    python benchmarks/retrieval.py ROOT --scene liberty135 [--weights DIR] [--k 5 10 20 50] [--cache DIR]

ROOT has a competition's layout, with truth.csv. The true poses tell which images overlap, in two ways:

near: the two cameras are less than 30° apart, seen from the point that is nearest to all optical axes. This needs no
    images and suits scenes in which all cameras look at one thing.
matched: the cameras are less than 60° apart, and at least 30 SIFT matches (mutual nearest neighbours, ratio 0.8) lie
    within 2 pixels of the epipolar line of the true poses. The focal length is the one with most such matches.

recall at k: the share of an image's overlapping images that are among its k most similar images; the mean over all
images that have any. A random choice has k / (n − 1). The best possible value is below 1 if images overlap with more
than k others. Methods whose weight files are not found are left out and named. Features are cached.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imc_kit.config import fingerprint
from imc_kit.data import images
from imc_kit.data.store import Store, Table
from imc_kit.detectors import DetectorConfig, extract
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.retrieval import AggregateConfig, DescriptorConfig, NetworkDescriptorConfig
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.networks import ClipConfig, DinoConfig, ResNetConfig
from imc_kit.types import Features, Float32, Float64, Pose, Scene
from true_geometry import Camera, distances, scene_with_poses

NEAR, FARTHEST = 30.0, 60.0
"""Maximum degrees between overlapping cameras: without looking at matches, and with enough matches."""
LEAST_MATCHES, AGREE = 30, 2.0
"""Minimum number of matches that agree with the true poses, and the largest distance at which they do, in pixels."""

Overlap = NDArray[np.bool_]
"""Whether two images overlap, [N, N]; false on the diagonal."""


def main() -> None:
    arguments = _arguments()
    scene, poses = scene_with_poses(arguments.root, arguments.scene)
    store = Store(arguments.cache)
    given = {"weights": arguments.weights}
    sift = SiftConfig(max_keypoints=2048, long_side=800)
    aliked = AlikedConfig(max_keypoints=1024, long_side=800, **given)
    methods: list[tuple[str, DescriptorConfig, DetectorConfig | None]] = [
        (f"vlad of {detector.name}", VladConfig(), detector) for detector in (sift, aliked)
    ]
    networks = (
        DinoConfig(**given),
        DinoConfig(model="vits14_reg4", **given),
        ResNetConfig(**given),
        ClipConfig(**given),
    )
    methods += [(f"{network.name} {getattr(network, 'model', '')}".strip(), network, None) for network in networks]

    print(f"{scene.name}: {len(scene.images)} images")
    angles = _angles(poses)
    near = (angles < NEAR) & ~np.eye(len(poses), dtype=bool)
    matched = _matched(scene, poses, angles, _features(scene, sift, store))
    truths = {"near": near, "matched": matched}
    for name, truth in truths.items():
        print(f"{name}: {truth.sum() // 2} pairs, {truth.sum(1).mean():.1f} overlapping images per image on average")

    rows, left_out = [], []
    for label, descriptor, detector in methods:
        try:
            matrix = _described(scene, descriptor, detector, store)
        except KitError as error:
            left_out.append(f"{label} is left out: {error}")
        else:
            rows.append((label, [_recalls(matrix @ matrix.T, truth, arguments.k) for truth in truths.values()]))
    random = np.random.default_rng(0)
    draws = [random.random(near.shape) for _ in range(100)]
    chance = [np.mean([_recalls(draw, truth, arguments.k) for draw in draws], axis=0) for truth in truths.values()]
    rows = [("random", chance), *rows, ("the best possible", [_recalls(t, t, arguments.k) for t in truths.values()])]
    print(*left_out, "", sep="\n")
    print(_line(["recall", *(f"{name}, k = {k}" for name in truths for k in arguments.k)]))
    print(_line(["---"] * (1 + len(truths) * len(arguments.k))))
    for label, recalls in rows:
        print(_line([label, *(f"{value:.3f}" for value in np.concatenate(recalls))]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The share of truly overlapping pairs that global descriptors select.")
    parser.add_argument("root", type=Path, help="scenes in a competition's layout, with truth.csv")
    parser.add_argument("--scene", default="liberty135", help="default: liberty135")
    parser.add_argument("--weights", type=Path, help="folder of the weight files; default: the usual places")
    parser.add_argument("--k", type=int, nargs="+", default=[5, 10, 20, 50], help="default: 5 10 20 50")
    folder = Path(tempfile.gettempdir(), f"imc-kit-retrieval-{os.getuid()}")
    parser.add_argument("--cache", type=Path, default=folder, help="default: %(default)s")
    return parser.parse_args()


# Overlap.


def _angles(poses: Sequence[Pose]) -> Float64:
    """Degrees between cameras, seen from the point nearest to all optical axes, [N, N]."""
    centres = np.array([pose.center for pose in poses])
    axes = np.array([pose.rotation[2] for pose in poses])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    point = np.linalg.solve(across.sum(0), (across @ centres[:, :, None]).sum(0)[:, 0])
    rays = centres - point
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1)))


def _matched(scene: Scene, poses: Sequence[Pose], angles: Float64, features: Table[Features]) -> Overlap:
    """The pairs with enough matches that agree with the true poses."""
    all_features = [features[images.digest(scene.path(name))] for name in scene.images]
    matcher = NearestConfig(ratio=0.8).create()
    pairs = [(i, j) for i, j in combinations(range(len(poses)), 2) if angles[i, j] < FARTHEST]
    found = {}
    for i, j in tqdm(pairs, desc="matching", unit="pair", leave=False, disable=None):
        first, second = all_features[i], all_features[j]
        indices = matcher.match(first, second).indices
        found[i, j] = first.keypoints[indices[:, 0]], second.keypoints[indices[:, 1]]

    size = all_features[0].image_size

    def agreeing(focal: float) -> dict[tuple[int, int], int]:
        camera = Camera(focal, (size[0] - 1) / 2, (size[1] - 1) / 2)
        return {
            (i, j): int((distances(points, (poses[i], poses[j]), camera) < AGREE).sum())
            for (i, j), points in found.items()
        }

    every_focal = [agreeing(max(size) * factor) for factor in np.geomspace(0.5, 4, 25)]
    counts = max(every_focal, key=lambda counts: sum(counts.values()))
    overlap = np.zeros(angles.shape, bool)
    for (i, j), count in counts.items():
        overlap[i, j] = overlap[j, i] = count >= LEAST_MATCHES
    return overlap


# Features and descriptors.


def _features(scene: Scene, config: DetectorConfig, store: Store) -> Table[Features]:
    table = store.features(fingerprint(config))
    digests = {images.digest(scene.path(name)): name for name in scene.images}
    missing = table.missing(digests)
    detector = config.create()
    for digest in tqdm(missing, desc=f"{config.name} features", unit="image", leave=False, disable=None):
        table.put({digest: extract(detector, [images.load(scene.path(digests[digest]), config.long_side)])[0]})
    return table


def _described(scene: Scene, descriptor: DescriptorConfig, detector: DetectorConfig | None, store: Store) -> Float32:
    """The descriptors, one row per image."""
    digests = {name: images.digest(scene.path(name)) for name in scene.images}
    if detector is not None:
        assert isinstance(descriptor, AggregateConfig)
        features = _features(scene, detector, store)
        return descriptor.create().describe(scene.images, lambda name: features[digests[name]])
    assert isinstance(descriptor, NetworkDescriptorConfig)
    network = descriptor.create()
    table = store.descriptors(fingerprint(descriptor))
    paths = {digests[name]: scene.path(name) for name in scene.images}
    for digest in tqdm(table.missing(paths), desc=descriptor.name, unit="image", leave=False, disable=None):
        table.put({digest: network.describe([images.load(paths[digest], descriptor.long_side).pixels])[0]})
    return np.stack([table[digests[name]] for name in scene.images])


# Recall.


def _recalls(similarity: NDArray[Any], truth: Overlap, ks: Sequence[int]) -> list[float]:
    """Recall at each k."""
    similarity = similarity.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")
    hits = np.take_along_axis(truth, order, 1).cumsum(1)
    partners = truth.sum(1)
    some = partners > 0
    return [float((hits[some, k - 1] / partners[some]).mean()) for k in ks]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
