"""Where to draw the images of a view graph: an order for the rows of a matrix, and places in the plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.spatial.distance import pdist, squareform

from imc_kit.types import Float64

_APART = 1.3
"""The distance between images without a path, as a multiple of the longest path: parts of a scene do not overlap."""
_STEPS = 60
"""Steps of the layout. Half as many move dots by 3 % of the figure's width (castle_P19), twice as many by under 1 %."""


def grouped_order(counts: Float64) -> list[int]:
    """An order of n images, by a symmetric matrix [n, n] of match counts, in which images with many matches are near.

    Connected components follow one another, the largest first. Within a component the order is that of the Fiedler
    vector of the normalised Laplacian of log(1 + count), which sorts a chain of overlapping photos (Atkins, Boman and
    Hendrickson, 1998).
    """
    weights = np.log1p(counts)
    component = connected_components(weights, directed=False)[1]
    groups = [np.flatnonzero(component == number) for number in np.unique(component)]
    order: list[int] = []
    for group in sorted(groups, key=lambda group: (-len(group), int(group[0]))):
        if len(group) > 2:
            inside = weights[np.ix_(group, group)]
            root = 1 / np.sqrt(inside.sum(axis=1))
            fiedler = np.linalg.eigh(np.eye(len(group)) - root[:, None] * inside * root)[1][:, 1] * root
            if fiedler[0] > fiedler[-1]:  # both directions are right: take the one nearer to the given order
                fiedler = -fiedler
            group = group[np.argsort(fiedler, kind="stable")]
        order += group.tolist()
    return order


def places(counts: Float64) -> Float64:
    """Places [n, 2] for n images, whose distances resemble those along the edges of the view graph.

    counts: inliers of each pair, symmetric [n, n]. An edge is 1.5 long where there are few inliers, 0.5 where there are
    most. Classical multidimensional scaling gives the start; stress majorisation (Gansner, Koren and North, 2004)
    improves it.
    """
    n = len(counts)
    if n < 2:
        return np.zeros((n, 2))
    lengths = np.where(counts > 0, 1.5 - np.log1p(counts) / np.log1p(max(counts.max(), 1)), 0)
    distance = shortest_path(lengths, directed=False)
    finite = np.isfinite(distance)
    distance[~finite] = _APART * max(distance[finite].max(), 1.0)
    centred = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centred @ distance**2 @ centred)
    found = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-9))
    # Images with the same distances to all others start at one place, from where the steps could not part them.
    found = found + np.random.default_rng(0).normal(0, 1e-3, found.shape)
    weights = _inverse(distance) ** 2
    solve = np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)
    for _ in range(_STEPS):
        pull = weights * distance * _inverse(squareform(pdist(found)))
        found = solve @ ((np.diag(pull.sum(axis=1)) - pull) @ found)
    return np.asarray(found, np.float64)


def _inverse(values: NDArray[np.float64]) -> Float64:
    """1 / values, and 0 where these are 0."""
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)
