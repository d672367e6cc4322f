"""Cut a large view graph into overlapping partitions, which are mapped separately.

Recursive bisection by normalised cuts (Shi and Malik, 2000), as in COLMAP's hierarchical mapper and in GTSfM.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Pair

_SHIFT = 1e-3
"""Makes the Laplacian invertible. Its eigenvalues are between 0 and 2; those searched for are the closest to 0."""
_SLACK = 0.1
"""A cut may be this share of the images away from where both sides have the planned number, if it is cheaper there.
With more, partitions are smaller than they could be."""
_LEAST = 6
"""A partition is extended by at least this many images: two neighbours of a small one share three each."""
_FEW = 16
"""Fewer images are cut with a dense eigenvalue solver: the sparse one needs more than two."""


def partitions(inliers: Mapping[Pair, int], most: int, overlap: float) -> list[list[str]]:
    """Cut the images of a view graph into partitions that share images with their neighbours.

    inliers: the number of verified matches of each pair, at least 1. most: the maximum size of a partition before it is
    extended (at least 1). overlap: each is extended by at most this share of its own size, but by six, with images of
    others, ring by ring, the best connected first; 0: by none.

    Returns the names of each partition's images, sorted; every image is in at least one. A graph of at most `most`
    images is one partition. Separate components are only put together where they fit into one partition.
    """
    names = sorted({name for pair in inliers for name in pair})
    if len(names) <= most:
        return [names] if names else []
    number = {name: index for index, name in enumerate(names)}
    pairs = np.array([(number[first], number[second]) for first, second in inliers])
    weights = np.array([*inliers.values()], np.float64)
    neighbours: dict[int, dict[int, float]] = defaultdict(dict)
    for (first, second), weight in zip(pairs.tolist(), weights.tolist(), strict=True):
        neighbours[first][second] = neighbours[second][first] = weight
    pieces = _cut(set(neighbours), neighbours, pairs, weights, most)
    extended = [
        _extended(piece, neighbours, max(_LEAST, int(overlap * len(piece))) if overlap else 0) for piece in pieces
    ]
    return [sorted(names[index] for index in piece) for piece in extended]


def _components(members: Collection[int], neighbours: Mapping[int, Collection[int]]) -> list[list[int]]:
    """The connected components of a part of the graph, largest first."""
    left, found = set(members), []
    while left:
        component, waiting = [], [min(left)]
        left.discard(waiting[0])
        while waiting:
            component.append(waiting.pop())
            new = left.intersection(neighbours[component[-1]])
            left -= new
            waiting += sorted(new)
        found.append(sorted(component))
    return sorted(found, key=lambda component: (-len(component), component))


def _packed(components: Sequence[list[int]], most: int) -> list[list[int]]:
    """Small components put together, first fit; those of more than `most` images stay alone."""
    packed: list[list[int]] = []
    for component in components:
        home = next((group for group in packed if len(group) + len(component) <= most), None)
        if home is None:
            packed.append([*component])
        else:
            home += component
    return packed


def _cut(
    members: Collection[int], neighbours: Mapping[int, Collection[int]], pairs: NDArray[np.int64], weights: Float64,
    most: int,
) -> list[list[int]]:  # fmt: skip
    """Cut a part of the graph into few pieces of at most `most` images."""
    pieces = []
    for group in _packed(_components(members, neighbours), most):
        halves = [group] if len(group) <= most else _bisected(np.array(group), pairs, weights, most)
        for half in halves:
            pieces += [half] if len(half) <= most else _cut(half, neighbours, pairs, weights, most)
    return pieces


def _bisected(group: NDArray[np.int64], pairs: NDArray[np.int64], weights: Float64, most: int) -> list[list[int]]:
    """Cut connected images in two such that they become as few pieces as possible, of about the same size."""
    inside = np.isin(pairs, group).all(1)
    ends = np.searchsorted(group, pairs[inside])
    order = np.argsort(_fiedler(ends, weights[inside], len(group)), kind="stable")
    ranks = np.sort(np.argsort(order)[ends], 1)
    steps = np.zeros(len(group) + 1)
    np.add.at(steps, ranks[:, 0] + 1, weights[inside])
    np.add.at(steps, ranks[:, 1] + 1, -weights[inside])
    costs = steps.cumsum()  # of a cut before each rank: the weights of the pairs that it separates
    count = -(-len(group) // most)
    share = count // 2 / count
    slack = int(_SLACK * min(share, 1 - share) * len(group))
    low = max(round(share * len(group)) - slack, len(group) - (count - count // 2) * most)
    high = min(round(share * len(group)) + slack, count // 2 * most)
    at = low + int(np.argmin(costs[low : high + 1]))
    return [sorted(group[side].tolist()) for side in (order[:at], order[at:])]


def _fiedler(pairs: NDArray[np.int64], weights: Float64, count: int) -> Float64:
    """The place of each image along the graph, [N]: the second eigenvector of its normalised Laplacian, scaled."""
    from scipy.sparse import coo_array, diags_array, eye_array
    from scipy.sparse.linalg import eigsh

    one_way = coo_array((weights, pairs.T), (count, count)).tocsr()
    both = one_way + one_way.T
    scale = 1 / np.sqrt(np.maximum(both.sum(1), 1e-12))
    laplacian = eye_array(count) - diags_array(scale) @ both @ diags_array(scale)
    if count < _FEW:
        vectors = np.linalg.eigh(laplacian.toarray())[1]
    else:
        vectors = eigsh(laplacian.tocsc(), k=2, sigma=-_SHIFT, v0=np.linspace(1, 2, count))[1]
    return np.asarray(vectors[:, 1] * scale)


def _extended(core: Sequence[int], neighbours: Mapping[int, Mapping[int, float]], count: int) -> list[int]:
    """A piece with up to `count` more images around it."""
    members = set(core)
    edge: Collection[int] = core
    while count > 0 and edge:
        ring: dict[int, float] = defaultdict(float)
        for image in edge:
            for other, weight in neighbours[image].items():
                if other not in members:
                    ring[other] += weight
        edge = sorted(ring, key=lambda image: (-ring[image], image))[:count]
        members.update(edge)
        count -= len(edge)
    return sorted(members)
