"""k-means clustering of vectors. The caller limits NumPy's threads.

OpenCV's `kmeans` is as fast, but all threads share its random generator, so results would not be reproducible. The
k-means++ initialisation of SciPy's `kmeans2` takes ten times as long.
"""

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float32, Float64

_ROUNDS = 25
"""Maximum iterations of `k_means`."""
_BLOCK = 8192
"""Points compared with the centres at once. It limits memory and does not affect the result."""


def k_means(points: Float32, size: int, seed: int) -> Float32:
    """The centres [K, D] of `size` clusters of points [N, D]; fewer if there are fewer distinct points.

    Lloyd's algorithm, initialised by k-means++ (Arthur and Vassilvitskii 2007).
    """
    random = np.random.default_rng(seed)
    centres = [points[random.integers(len(points))]]
    distances = _squared(points - centres[0])  # to the nearest centre so far
    while len(centres) < size and distances.any():
        centres.append(points[random.choice(len(points), p=distances / distances.sum())])
        distances = np.minimum(distances, _squared(points - centres[-1]))
    return lloyd(points, np.array(centres), _ROUNDS)


def lloyd(points: Float32, centres: Float32, rounds: int) -> Float32:
    """Lloyd's algorithm: move each centre [K, D] to the mean of its nearest points [N, D], up to `rounds` times."""
    previous = None
    for _ in range(rounds):
        at = nearest(points, centres)
        if previous is not None and (at == previous).all():
            break
        previous = at
        order = np.argsort(at, kind="stable")
        filled, starts, counts = np.unique(at[order], return_index=True, return_counts=True)
        centres = centres.copy()
        # A centre without points stays where it is.
        centres[filled] = np.add.reduceat(points[order], starts, axis=0, dtype=np.float64) / counts[:, None]
    return centres


def nearness(points: Float32, centres: Float32) -> Float32:
    """The nearness [N, K] of points [N, D] to centres [K, D]: (|point|² − distance²) / 2; larger is nearer."""
    return np.asarray(points @ centres.T - (_squared(centres) / 2).astype(np.float32), np.float32)


def nearest(points: Float32, centres: Float32) -> NDArray[np.intp]:
    """The index [N] of the centre [K, D] nearest to each point [N, D]; the first of equally near ones."""
    starts = range(0, len(points), _BLOCK)
    blocks = [nearness(points[start : start + _BLOCK], centres).argmax(1) for start in starts]
    return np.concatenate([np.empty(0, np.intp), *blocks])


def _squared(vectors: Float32) -> Float64:
    """The squared lengths [N] of vectors [N, D]."""
    lengths: Float64 = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return lengths
