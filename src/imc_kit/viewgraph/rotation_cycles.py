"""Pairs of images whose relative rotations the cycles of the view graph contradict."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Pair

_SCALES = (8.0, 4.0, 2.0, 1.0, 0.5, 0.5, 0.5)
"""Rounds of averaging. In each, a pair that is off by this multiple of the limit counts half. The first rounds are
tolerant, because the start may be poor; the last ones ignore contradicted pairs."""
_ANCHOR = 1e-9
"""Weight, as a share of the mean weight, that keeps cameras at their place where no pair says anything."""

_Ints = NDArray[np.int64]


def contradicted(rotations: Mapping[Pair, Float64], inliers: Mapping[Pair, int], max_error: float) -> list[Pair]:
    """The pairs whose rotation differs by more than `max_error` degrees from that of the averaged cameras.

    rotations: from the first image's camera to the second's, [3, 3], by pair. One that is not finite is ignored.
    inliers: the verified matches of each of these pairs: their weights.

    The averaging is iteratively reweighted least squares (Chatterjee & Govindu, "Efficient and Robust Large-Scale
    Rotation Averaging", ICCV 2013). It starts along the spanning tree of the pairs that close the most triplets (after
    Zach et al., "Disambiguating Visual Relations Using Loop Constraints", CVPR 2010).

    In a cycle alone, the weakest pair is contradicted. A pair outside all cycles never is, nor one that is needed to
    keep images connected. Repeated structures that are only shifted, such as the houses of a street, close all cycles.
    """
    pairs = [pair for pair, rotation in rotations.items() if np.isfinite(rotation).all()]
    if not pairs:
        return []
    number = {name: place for place, name in enumerate(sorted({image for pair in pairs for image in pair}))}
    ends = np.array([[number[image] for image in pair] for pair in pairs])
    relative = np.array([rotations[pair] for pair in pairs], np.float64)
    weights = np.array([max(inliers[pair], 1) for pair in pairs], np.float64)
    closed = _closed_triplets(ends, relative, weights, max_error)
    cameras = _along(_tree(ends, np.lexsort((-weights, -closed))), ends, relative)
    for scale in _SCALES:
        left = _rotation_vectors(_differences(ends, relative, cameras))
        shares = 1 / (1 + (np.linalg.norm(left, axis=1) / np.radians(scale * max_error)) ** 2)
        cameras = cameras @ _matrices(_potentials(ends, left, weights * shares, len(number)))
    errors = np.degrees(np.linalg.norm(_rotation_vectors(_differences(ends, relative, cameras)), axis=1))
    needed = set(_tree(ends, np.lexsort((-weights, errors > max_error))).tolist())
    return [pair for place, pair in enumerate(pairs) if errors[place] > max_error and place not in needed]


def _closed_triplets(ends: _Ints, relative: Float64, weights: Float64, max_error: float) -> Float64:
    """For each pair, [E]: the sum of the weaker other pair over the triplets that it closes to `max_error` degrees."""
    first, second = ends.T
    count, total = int(ends.max()) + 1, len(ends)
    places = np.full((count, count), -1)
    places[first, second], places[second, first] = np.arange(total), np.arange(total, 2 * total)
    both = np.concatenate([relative, relative.transpose(0, 2, 1)])
    strength = np.concatenate([weights, weights])
    least_trace = 1 + 2 * np.cos(np.radians(max_error))  # the trace of a rotation falls as its angle grows
    result = np.zeros(total)
    for place, (one, other) in enumerate(ends):
        thirds = np.flatnonzero((places[one] >= 0) & (places[other] >= 0))
        there, back = places[one, thirds], places[thirds, other]
        closes = np.einsum("ji,tjk,tki->t", relative[place], both[back], both[there]) >= least_trace
        result[place] = np.minimum(strength[there], strength[back])[closes].sum()
    return result


def _tree(ends: _Ints, order: _Ints) -> _Ints:
    """The places of pairs that connect all that can be connected; pairs that are earlier in `order` come first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    count = int(ends.max()) + 1
    ranks = np.empty(len(order), np.float64)
    ranks[order] = np.arange(1, len(order) + 1)
    tree = minimum_spanning_tree(coo_array((ranks, tuple(ends.T)), shape=(count, count)).tocsr())
    return np.asarray(order[tree.data.astype(np.int64) - 1])


def _along(tree: _Ints, ends: _Ints, relative: Float64) -> Float64:
    """Rotations of the cameras, [N, 3, 3], with which the pairs of a tree agree."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    count = int(ends.max()) + 1
    steps = {(a, b): relative[place] for place, (a, b) in zip(tree, ends[tree].tolist(), strict=True)}
    steps |= {(b, a): step.T for (a, b), step in steps.items()}
    graph = coo_array((np.ones(len(tree)), tuple(ends[tree].T)), shape=(count, count)).tocsr()
    cameras = np.tile(np.eye(3), (count, 1, 1))
    _, labels = connected_components(graph, directed=False)
    for root in np.unique(labels, return_index=True)[1]:
        images, before = breadth_first_order(graph, root, directed=False)
        for image in images[1:].tolist():
            cameras[image] = steps[int(before[image]), image] @ cameras[before[image]]
    return cameras


def _differences(ends: _Ints, relative: Float64, cameras: Float64) -> Float64:
    """What is left of each pair's rotation after that of its cameras, in the world's frame, [E, 3, 3]."""
    first, second = ends.T
    return np.asarray(cameras[second].transpose(0, 2, 1) @ relative @ cameras[first])


def _potentials(ends: _Ints, differences: Float64, weights: Float64, count: int) -> Float64:
    """Vectors [N, 3] of the images whose weighted differences along the pairs are nearest to those given, [E, 3]."""
    first, second = ends.T
    laplacian = _ANCHOR * weights.mean() * np.eye(count)
    right = np.zeros((count, 3))
    for one, other, sign in ((first, second, -1), (second, first, 1)):
        np.add.at(laplacian, (one, one), weights)
        np.add.at(laplacian, (one, other), -weights)
        np.add.at(right, one, sign * weights[:, None] * differences)
    return np.asarray(np.linalg.solve(laplacian, right))


def _rotation_vectors(rotations: Float64) -> Float64:
    """Axes times angles in radians, [K, 3], of rotations [K, 3, 3]."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_matrix(rotations).as_rotvec(), np.float64)


def _matrices(vectors: Float64) -> Float64:
    """Rotations [K, 3, 3] from axes times angles in radians, [K, 3]."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(vectors).as_matrix(), np.float64)
