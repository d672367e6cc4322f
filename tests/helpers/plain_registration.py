"""The search for the best similarities as a slow, plain program, with rotations from Horn's quaternions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from imc_kit.types import Float64


def horn(source: Float64, target: Float64) -> tuple[Float64, Float64]:
    """The similarity as A, b, from points [N, 3] that are not all the same."""
    a, b = source - source.mean(0), target - target.mean(0)
    s = a.T @ b
    delta = np.array([s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]])
    n = np.block([[np.trace(s).reshape(1, 1), delta[None]], [delta[:, None], s + s.T - np.trace(s) * np.eye(3)]])
    linear = np.sqrt((b**2).sum() / (a**2).sum()) * matrix(np.linalg.eigh(n)[1][:, -1])
    return linear, target.mean(0) - linear @ source.mean(0)


def matrix(quaternion: Float64) -> Float64:
    w, x, y, z = quaternion
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def plain_counts(truth: Float64, estimated: Float64, thresholds: Sequence[float]) -> tuple[list[int], int]:
    """2024's counts, from one triplet at a time, and the largest sum of counts of one similarity."""
    finite = np.isfinite(estimated).all(axis=1)
    truth, estimated = truth[finite], estimated[finite]
    best, total, fitted = np.zeros(len(thresholds), int), 0, set()
    for triplet in combinations(range(len(truth)), 3):
        for members in within(truth, estimated, list(triplet), thresholds):
            if members.sum() >= 3 and members.tobytes() not in fitted:
                fitted.add(members.tobytes())
                counts = np.array([inliers.sum() for inliers in within(truth, estimated, members, thresholds)])
                best, total = np.maximum(best, counts), max(total, int(counts.sum()))
    return best.tolist(), total


def within(truth: Float64, estimated: Float64, members, thresholds) -> list[np.ndarray]:
    if np.ptp(estimated[members], axis=0).max() == 0:
        return [np.zeros(len(truth), bool) for _ in thresholds]
    with np.errstate(over="ignore"):
        linear, offset = horn(estimated[members], truth[members])
        distances = np.linalg.norm(estimated @ linear.T + offset - truth, axis=1)
    return [distances < threshold for threshold in thresholds]


def rotation(random: np.random.Generator) -> Float64:
    quaternion = random.normal(size=4)
    return matrix(quaternion / np.linalg.norm(quaternion))


def similar(points: Float64, random: np.random.Generator, scale: float = 0.37, offset: float = 5) -> Float64:
    return scale * points @ rotation(random).T + offset * random.normal(size=3)
