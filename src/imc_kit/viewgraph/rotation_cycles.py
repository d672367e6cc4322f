"""Pairs of images whose relative rotations the rest of the view graph contradicts."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Pair

_SCALES = (8.0, 4.0, 2.0, 1.0, 0.5, 0.5, 0.5)
"""Rounds of averaging, each with the error, as a multiple of the limit, from which on a pair counts less than half."""

_Ints = NDArray[np.int64]


def contradicted(rotations: Mapping[Pair, Float64], inliers: Mapping[Pair, int], max_error: float) -> list[Pair]:
    """The pairs whose rotation is off by more than `max_error` degrees from that of their averaged cameras.

    rotations: from the first image's camera to the second's, [3, 3], by pair; one that is not finite says nothing.
    inliers: the verified matches of each of these pairs, which are their weights.

    The averaging is robust, by weighted least squares again and again (Chatterjee & Govindu, "Efficient and Robust
    Large-Scale Rotation Averaging", ICCV 2013). It starts along the spanning tree of those pairs that close the most
    triplets (after Zach et al., "Disambiguating Visual Relations Using Loop Constraints", CVPR 2010). Where a loop is
    all that is known its weakest pair is contradicted. A pair in no loop never is, nor one that is needed to keep
    images connected. Structures that repeat without a turn, as the houses of a street, close all loops.
    """
    pairs = [pair for pair, rotation in rotations.items() if np.isfinite(rotation).all()]
    if not pairs:
        return []
    number = {name: place for place, name in enumerate(sorted({image for pair in pairs for image in pair}))}
    ends = np.array([[number[image] for image in pair] for pair in pairs])
    turns = np.array([rotations[pair] for pair in pairs], np.float64)
    weights = np.array([max(inliers[pair], 1) for pair in pairs], np.float64)
    closed = _closed_triplets(ends, turns, weights, max_error)
    cameras = _along(_tree(ends, np.lexsort((-weights, -closed))), ends, turns)
    for scale in _SCALES:
        left = _vectors(_differences(ends, turns, cameras))
        shares = 1 / (1 + (np.linalg.norm(left, axis=1) / np.radians(scale * max_error)) ** 2)
        cameras = cameras @ _rotations(_potentials(ends, left, weights * shares, len(number)))
    errors = np.degrees(np.linalg.norm(_vectors(_differences(ends, turns, cameras)), axis=1))
    needed = set(_tree(ends, np.lexsort((-weights, errors > max_error))))
    return [pair for place, pair in enumerate(pairs) if errors[place] > max_error and place not in needed]


def _closed_triplets(ends: _Ints, turns: Float64, weights: Float64, max_error: float) -> Float64:
    """For each pair the sum, over the triplets that it closes to `max_error` degrees, of the weaker other pair, [E]."""
    first, second = ends.T
    count, total = int(ends.max()) + 1, len(ends)
    places = np.full((count, count), -1)
    places[first, second], places[second, first] = np.arange(total), np.arange(total, 2 * total)
    both, strength = np.concatenate([turns, turns.transpose(0, 2, 1)]), np.concatenate([weights, weights])
    result = np.zeros(total)
    for place, (one, other) in enumerate(ends):
        thirds = np.flatnonzero((places[one] >= 0) & (places[other] >= 0))
        there, back = places[one, thirds], places[thirds, other]
        closes = np.linalg.norm(_vectors(turns[place].T @ both[back] @ both[there]), axis=1) <= np.radians(max_error)
        result[place] = np.minimum(strength[there], strength[back])[closes].sum()
    return result


def _tree(ends: _Ints, order: _Ints) -> list[int]:
    """The places of pairs that connect all that can be connected (Kruskal), the first in `order` before others."""
    group = np.arange(int(ends.max()) + 1)
    chosen = []
    for place in order.tolist():
        one, other = group[ends[place]]
        if one != other:
            group[group == other] = one
            chosen.append(place)
    return chosen


def _along(tree: list[int], ends: _Ints, turns: Float64) -> Float64:
    """Rotations of the cameras with which the pairs of a tree agree, [N, 3, 3]."""
    neighbours: list[list[tuple[int, Float64]]] = [[] for _ in range(int(ends.max()) + 1)]
    for place in tree:
        first, second = ends[place].tolist()
        neighbours[first].append((second, turns[place]))
        neighbours[second].append((first, turns[place].T))
    cameras = np.full((len(neighbours), 3, 3), np.nan)
    for root in range(len(neighbours)):
        if np.isnan(cameras[root, 0, 0]):
            cameras[root] = np.eye(3)
            waiting = [root]
            while waiting:
                image = waiting.pop()
                for other, turn in neighbours[image]:
                    if np.isnan(cameras[other, 0, 0]):
                        cameras[other] = turn @ cameras[image]
                        waiting.append(other)
    return cameras


def _differences(ends: _Ints, turns: Float64, cameras: Float64) -> Float64:
    """What each pair's rotation says beyond that of its cameras, in the world's frame, [E, 3, 3]."""
    first, second = ends.T
    return np.asarray(cameras[second].transpose(0, 2, 1) @ turns @ cameras[first])


def _potentials(ends: _Ints, differences: Float64, weights: Float64, count: int) -> Float64:
    """Vectors [N, 3] of the images whose weighted differences along the pairs are nearest to those given, [E, 3]."""
    first, second = ends.T
    laplacian = 1e-9 * weights.mean() * np.eye(count)  # as the images of a component may all be moved together
    right = np.zeros((count, 3))
    for one, other, sign in ((first, second, -1), (second, first, 1)):
        np.add.at(laplacian, (one, one), weights)
        np.add.at(laplacian, (one, other), -weights)
        np.add.at(right, one, sign * weights[:, None] * differences)
    return np.asarray(np.linalg.solve(laplacian, right))


def _vectors(rotations: Float64) -> Float64:
    """Axes times angles in radians, [K, 3], of rotations [K, 3, 3]."""
    return np.array([cv2.Rodrigues(rotation)[0].ravel() for rotation in rotations], np.float64).reshape(-1, 3)


def _rotations(vectors: Float64) -> Float64:
    """Rotations [K, 3, 3] from axes times angles in radians, [K, 3]."""
    return np.array([cv2.Rodrigues(vector)[0] for vector in vectors], np.float64).reshape(-1, 3, 3)
