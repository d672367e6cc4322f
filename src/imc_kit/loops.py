"""Pairs of images whose relative rotations the rest of the view graph contradicts."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64
from imc_kit.viewgraph import Pair

_SCALES = (8.0, 4.0, 2.0, 1.0, 0.5, 0.5, 0.5)
"""Rounds of averaging, each with the error, as a multiple of the limit, from which on a pair counts less than half."""

_Ints = NDArray[np.int64]


def contradicted(rotations: Mapping[Pair, Float64], inliers: Mapping[Pair, int], max_error: float) -> list[Pair]:
    """The pairs whose rotation is off by more than `max_error` degrees from that between the averaged cameras.

    rotations: from the first image's camera to the second's, [3, 3], by pair. inliers: their verified matches.

    The averaged rotations are those that most matches agree with (Chatterjee & Govindu, "Efficient and Robust
    Large-Scale Rotation Averaging", ICCV 2013). They start from a spanning tree of the pairs that close the most
    triplets (after Zach et al., "Disambiguating Visual Relations Using Loop Constraints", CVPR 2010). Of a loop that
    nothing else is known of the weakest pair is contradicted; a pair in no loop never is, nor is one without which
    images were no longer connected. Repeated structures that differ by a shift, as in a street, close all loops.
    """
    if not rotations:
        return []
    names = sorted({image for pair in rotations for image in pair})
    number = {name: place for place, name in enumerate(names)}
    pairs = list(rotations)
    ends = np.array([[number[image] for image in pair] for pair in pairs])
    turns = np.stack([np.asarray(rotations[pair], np.float64) for pair in pairs])
    weights = np.array([float(inliers[pair]) for pair in pairs])
    closed = _closed_triplets(ends, turns, weights, max_error)
    cameras = _along_tree(ends, turns, _tree(ends, np.lexsort((-weights, -closed))))
    for scale in _SCALES:
        left = _logarithms(_differences(ends, turns, cameras))
        shares = 1 / (1 + (np.linalg.norm(left, axis=1) / np.radians(scale * max_error)) ** 2)
        cameras = cameras @ _exponentials(_potentials(ends, left, weights * shares, len(names)))
    errors = _angles(_differences(ends, turns, cameras))
    needed = set(_tree(ends, np.lexsort((-weights, errors > max_error))).tolist())
    return [pair for place, pair in enumerate(pairs) if errors[place] > max_error and place not in needed]


def _closed_triplets(ends: _Ints, turns: Float64, weights: Float64, max_error: float) -> Float64:
    """For each pair the sum of the weaker of the others in the triplets that it closes to `max_error` degrees, [E]."""
    around: dict[int, dict[int, tuple[Float64, float]]] = {}
    for (one, other), turn, weight in zip(ends.tolist(), turns, weights.tolist(), strict=True):
        around.setdefault(one, {})[other] = turn, weight
        around.setdefault(other, {})[one] = turn.T, weight
    result = np.zeros(len(ends))
    for place, (one, other) in enumerate(ends.tolist()):
        thirds = [(around[one][third], around[third][other]) for third in around[one].keys() & around[other].keys()]
        if thirds:
            loops = np.stack([turns[place].T @ back[0] @ forth[0] for forth, back in thirds])
            closed = _angles(loops) <= max_error
            weaker = np.array([min(forth[1], back[1]) for forth, back in thirds])
            result[place] = weaker[closed].sum()
    return result


def _tree(ends: _Ints, order: _Ints) -> _Ints:
    """The pairs, by their places, that connect all that can be connected, the first in `order` before others."""
    group = np.arange(int(ends.max()) + 1)
    chosen = []
    for place in order:
        one, other = group[ends[place]]
        if one != other:
            group[group == other] = one
            chosen.append(place)
    return np.array(chosen, np.int64)


def _along_tree(ends: _Ints, turns: Float64, tree: _Ints) -> Float64:
    """Rotations of the cameras with which the pairs of a tree agree, [N, 3, 3]."""
    neighbours: dict[int, list[tuple[int, Float64]]] = {image: [] for image in range(int(ends.max()) + 1)}
    for (one, other), turn in zip(ends[tree].tolist(), turns[tree], strict=True):
        neighbours[one].append((other, turn))
        neighbours[other].append((one, turn.T))
    cameras: dict[int, Float64] = {}
    for root in neighbours:
        waiting = [] if root in cameras else [root]
        cameras.setdefault(root, np.eye(3))
        while waiting:
            image = waiting.pop()
            for other, turn in neighbours[image]:
                if other not in cameras:
                    cameras[other] = turn @ cameras[image]
                    waiting.append(other)
    return np.stack([cameras[image] for image in neighbours])


def _differences(ends: _Ints, turns: Float64, cameras: Float64) -> Float64:
    """What each pair's rotation says beyond that of its cameras, in the world's frame, [E, 3, 3]."""
    first, second = ends.T
    return np.asarray(cameras[second].transpose(0, 2, 1) @ turns @ cameras[first])


def _potentials(ends: _Ints, differences: Float64, weights: Float64, count: int) -> Float64:
    """Vectors [N, 3] of the images whose weighted differences along the pairs are nearest to those given, [E, 3]."""
    first, second = ends.T
    laplacian = np.zeros((count, count))
    right = np.zeros((count, 3))
    for one, other, sign in ((first, second, -1), (second, first, 1)):
        np.add.at(laplacian, (one, one), weights)
        np.add.at(laplacian, (one, other), -weights)
        np.add.at(right, one, sign * weights[:, None] * differences)
    # Where all images of a component turn together nothing changes: a little of each keeps them where they are.
    laplacian[np.diag_indices(count)] += 1e-9 * max(1.0, float(weights.max()))
    return np.asarray(np.linalg.solve(laplacian, right), np.float64)


def _angles(rotations: Float64) -> Float64:
    """By how many degrees rotations [K, 3, 3] turn, [K]."""
    cosines = (np.trace(rotations, axis1=1, axis2=2) - 1) / 2
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, -1, 1))), np.float64)


def _logarithms(rotations: Float64) -> Float64:
    """Axes times angles in radians, [K, 3], of rotations [K, 3, 3]."""
    return np.array([cv2.Rodrigues(rotation)[0].ravel() for rotation in rotations], np.float64).reshape(-1, 3)


def _exponentials(vectors: Float64) -> Float64:
    """Rotations [K, 3, 3] from axes times angles in radians, [K, 3]."""
    return np.array([cv2.Rodrigues(vector)[0] for vector in vectors], np.float64).reshape(-1, 3, 3)
