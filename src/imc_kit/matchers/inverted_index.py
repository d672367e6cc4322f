"""An inverted index of descriptors, like `faiss.IndexIVFFlat` (Sivic and Zisserman 2003; Jégou et al. 2011).

K-means divides the first image's descriptors into cells around cluster centres, and each descriptor of the second image
is compared only with those in the few nearest cells. This misses some neighbours, but is several times faster if an
image has thousands of descriptors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.matchers import kmeans
from imc_kit.types import Float32

Block = tuple[int, NDArray[np.intp], Float32]
"""The index of the first row, the indices of the columns [W], and a block of nearness [R, W]."""
_PER_CELL = 64
"""Mean number of descriptors per cell of the inverted index. With half as many there are twice as many centres, and
comparing with these costs more than the smaller cells save."""
_MIN_CELLS = 12
"""With fewer cells the inverted index is no faster than comparing all descriptors."""
PROBES = 6
"""Cells in which a descriptor's neighbours are searched, at most. See `_MAX_DISTANCE_RATIO`."""
_MAX_DISTANCE_RATIO = 1.4
"""Ignore cells whose centre's squared distance exceeds this times that of the nearest centre. Six cells with this limit
find as many matches as five cells without it, in a sixth fewer comparisons."""
MAX_CELLS = 2**15 - 1
"""Cell numbers are int16, which NumPy sorts in linear time."""
_SAMPLE_PER_CELL = 32
"""Descriptors sampled per cell to train k-means. faiss warns below 39, but here good centres matter little."""
_KMEANS_ROUNDS = 4
"""Iterations of k-means. Centres that have not converged still divide the work evenly enough."""


@dataclass(frozen=True, eq=False)
class Cells:
    """An inverted index of one image's descriptors."""

    centres: Float32
    """[K, D]."""
    bounds: NDArray[np.intp]
    """[K + 1]: cell k holds the rows bounds[k] … bounds[k + 1] − 1."""


def cell_count(descriptors: int, most: int) -> int:
    """Number of cells, at most `most`, for an image with this many descriptors; 0 if comparing all is as fast."""
    cells = min(most, descriptors // _PER_CELL)
    return cells if cells >= min(most, _MIN_CELLS) else 0


def build(points: Float32, count: int) -> tuple[Cells, NDArray[np.intp]]:
    """The inverted index of points [N, D], and the order [N] that sorts the points by cell."""
    random = np.random.default_rng(0)
    sample = points[random.permutation(len(points))[: _SAMPLE_PER_CELL * count]]
    centres = kmeans.lloyd(sample, sample[:count], _KMEANS_ROUNDS)
    order, bounds = _grouped(kmeans.nearest(points, centres), count)
    return Cells(centres, bounds), order


def probes(cells: Cells, points: Float32, halves: Float32) -> list[tuple[slice, NDArray[np.intp]]]:
    """For each cell, its rows and the indices of the points [M, D] to compare with them.

    halves: [M], |point|²/2.
    """
    from imc_kit.matchers import nearest_numba  # numba loads slowly

    near = kmeans.nearness(points, cells.centres)
    chosen = nearest_numba.nearest_cells(near, np.ascontiguousarray(halves), PROBES, _MAX_DISTANCE_RATIO)
    order, bounds = _grouped(chosen.ravel(), len(cells.centres))
    return [
        (slice(*rows), order[slice(*found)] // PROBES)
        for rows, found in zip(pairwise(cells.bounds), pairwise(bounds), strict=True)
    ]


def _grouped(groups: NDArray[Any], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The stable order of group numbers [N], and the bounds [count + 1] of the `count` groups in it. Negative numbers
    belong to no group."""
    groups = groups.astype(np.int16, copy=False)
    order = np.argsort(groups, kind="stable")
    return order, np.searchsorted(groups[order], np.arange(count + 1, dtype=np.int16))


def products(left: Float32, right: Float32, probes: list[tuple[slice, NDArray[np.intp]]]) -> Iterator[Block]:
    """left @ right.T in blocks, but only within each cell. probes: from `probes`."""
    space = np.empty((max(len(columns) for _, columns in probes), right.shape[1]), np.float32)
    for cell, columns in probes:
        if cell.start < cell.stop and len(columns):
            # np.take with `out` is several times faster than right[columns].
            selected = np.take(right, columns, 0, space[: len(columns)], "clip")
            yield cell.start, columns, left[cell] @ selected.T
