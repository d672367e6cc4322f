"""Clusters of vectors, by k-means. NumPy's threads are the caller's to limit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float32, Float64

_ROUNDS = 25
_BLOCK = 8192
"""Points that are compared with the centres at once."""


def k_means(points: Float32, size: int, seed: int) -> Float32:
    """Centres [K, D] of `size` clusters of the points [N, D], or of fewer if there are fewer different points.

    Lloyd's algorithm, from the seeds of k-means++ (Arthur and Vassilvitskii 2007).
    """
    random = np.random.default_rng(seed)
    centres = [points[random.integers(len(points))]]
    apart = squared(points - centres[0])  # distance to the nearest centre so far
    while len(centres) < size and apart.any():
        centres.append(points[random.choice(len(points), p=apart / apart.sum())])
        apart = np.minimum(apart, squared(points - centres[-1]))
    return lloyd(points, np.array(centres), _ROUNDS)


def lloyd(points: Float32, centres: Float32, rounds: int) -> Float32:
    """Centres [K, D] after up to `rounds` moves, each to the mean of the points [N, D] to which it is nearest."""
    previous = None
    for _ in range(rounds):
        at = nearest(points, centres)
        if previous is not None and (at == previous).all():
            break
        previous = at
        order = np.argsort(at, kind="stable")
        filled, start = np.unique(at[order], return_index=True)
        centres = centres.copy()  # of which one without points stays
        counts = np.diff(np.append(start, len(points)))[:, None]
        centres[filled] = np.add.reduceat(points[order], start, axis=0, dtype=np.float64) / counts
    return centres


def nearness(points: Float32, centres: Float32) -> Float32:
    """How near each of the points [N, D] is to each of the centres [K, D]: [N, K], larger is nearer."""
    return np.asarray(points @ centres.T - (squared(centres) / 2).astype(np.float32), np.float32)


def nearest(points: Float32, centres: Float32) -> NDArray[np.intp]:
    """The nearest of the centres [K, D] to each of the points [N, D]; of several as near, the first."""
    starts = range(0, len(points), _BLOCK)
    blocks = [nearness(points[start : start + _BLOCK], centres).argmax(1) for start in starts]
    return np.concatenate([np.empty(0, np.intp), *blocks])


def squared(vectors: Float32) -> Float64:
    """The squared lengths [N] of vectors [N, D]."""
    lengths: Float64 = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return lengths
