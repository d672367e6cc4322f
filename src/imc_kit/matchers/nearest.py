"""Mutual nearest neighbours: two features match when each is the other's nearest neighbour.

The distance is Euclidean for float descriptors and Hamming (differing bits) for binary ones. Of neighbours at exactly
the same distance, the one with the lowest index is the nearest, as in `cv2.BFMatcher(crossCheck=True)`. Rounding of
float descriptors, an inverted index or a GPU can break such ties differently.

By default all descriptors are compared, in blocks of rows that fit into the processor's cache. Only one block exists at
a time, so memory stays small.

`NearestConfig.cells` uses an inverted index instead, like `faiss.IndexIVFFlat` (Sivic and Zisserman 2003; Jégou et al.
2011). K-means divides the first image's descriptors into cells around cluster centres, and each descriptor of the
second image is compared only with those in the few nearest cells. This misses some neighbours, but is several times
faster if an image has thousands of descriptors.

The caller limits the threads of NumPy and OpenBLAS.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.matchers import MatcherConfig, OneByOne, check_comparable, kmeans, register
from imc_kit.runtime.torch_utils import Device, gpu_of_thread
from imc_kit.types import Features, Float32, Int32, Matches

_CPU_BLOCK = 2**20
"""Distances per block: 4 MB, which fit into a core's share of the cache. It affects the speed only."""
_GPU_BLOCK = 2**26
"""Distances per block on a GPU: 256 MB, enough to keep it fully busy."""
_HAMMING_ROWS = 16
"""Rows per block of binary descriptors."""
_PER_CELL = 64
"""Mean number of descriptors per cell of the inverted index. With half as many there are twice as many centres, and
comparing with these costs more than the smaller cells save."""
_MIN_CELLS = 12
"""With fewer cells the inverted index is no faster than comparing all descriptors."""
_PROBES = 6
"""Cells in which a descriptor's neighbours are searched, at most. See `_MAX_DISTANCE_RATIO`."""
_MAX_DISTANCE_RATIO = 1.4
"""Ignore cells whose centre's squared distance exceeds this times that of the nearest centre. Six cells with this limit
find as many matches as five cells without it, in a sixth fewer comparisons."""
_MAX_CELLS = 2**15 - 1
"""Cell numbers are int16, which NumPy sorts in linear time."""
_SAMPLE_PER_CELL = 32
"""Descriptors sampled per cell to train k-means. faiss warns below 39, but here good centres matter little."""
_KMEANS_ROUNDS = 4
"""Iterations of k-means. Centres that have not converged still divide the work evenly enough."""
_ROUNDING = 1e-6
"""Tolerance for rounding errors of −d²/2, relative to half the squared lengths: eight times float32's precision."""


@register
@dataclass(frozen=True)
class NearestConfig(MatcherConfig):
    """Mutual nearest neighbours, for all descriptors. Equal descriptors have the score 1.

    The score of float descriptors is 1 − d²/2, the cosine if their length is 1. The score of binary descriptors is the
    fraction of equal bits.
    """

    name: ClassVar[str] = "nearest"

    ratio: float | None = None
    """Lowe's ratio test: keep a match only if its distance is less than this times the distance to the second nearest
    neighbour, in both directions. 0.8 is usual for SIFT; None disables the test."""
    min_score: float | None = None
    """Keep a match only if its score is at least this."""
    cells: int | None = None
    """Maximum cells of an inverted index for float descriptors; None compares all descriptors. 64 is several times
    faster for thousands of keypoints per image, and changes one match in fifty. Ignored on a GPU."""
    device: Device = "cpu"
    """Where it runs; auto uses a GPU if there is one (this loads torch). Binary descriptors stay on the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.ratio is None or 0 < self.ratio <= 1, "ratio", "larger than 0 and at most 1, or None")
        self._require(self.min_score is None or self.min_score <= 1, "min_score", "at most 1, or None")
        cells = f"{_PROBES} to {_MAX_CELLS}, or None"
        self._require(self.cells is None or _PROBES <= self.cells <= _MAX_CELLS, "cells", cells)

    def looser(self) -> "NearestConfig":
        """The same matcher with a ratio half as far from 1 and no minimum score."""
        ratio = None if self.ratio is None else (1 + self.ratio) / 2
        return replace(self, ratio=ratio, min_score=None)

    def create(self, kind: str | None = None) -> "NearestMatcher":
        """See `MatcherConfig.create`. The kind does not matter."""
        return NearestMatcher(self)


_Neighbours = tuple[Int32, Float32, Float32]
"""Pairs of mutual nearest neighbours [K, 2], their nearness −d²/2 [K], and the nearness of the second nearest neighbour
[K], the nearer one of the two directions; −∞ if there is none."""
_Block = tuple[int, NDArray[np.intp], Float32]
"""The index of the first row, the indices of the columns [W], and a block of nearness [R, W]."""


@dataclass(frozen=True, eq=False)
class _Cells:
    """An inverted index of one image's descriptors."""

    centres: Float32
    """[K, D]."""
    bounds: NDArray[np.intp]
    """[K + 1]: cell k holds the rows bounds[k] … bounds[k + 1] − 1."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The descriptors of one image, prepared for comparison. On a GPU, `rows` is a torch tensor."""

    rows: Any
    """[N, D + 2]: a descriptor d, then −|d|²/2 and 1. The rows of a cell are consecutive."""
    mean: Float32
    """[D]: the mean descriptor."""
    max_half: float
    """The largest |d|²/2."""
    order: NDArray[np.intp]
    """[N]: the index of the feature in each row."""
    cells: _Cells | None = None

    def shifted(self, centre: Float32) -> "_Prepared":
        """The same descriptors minus `centre` [D]."""
        vectors = self.rows[:, :-2]
        centre_there = centre if isinstance(vectors, np.ndarray) else vectors.new_tensor(centre)
        return _prepared(vectors - centre_there, self.mean - centre, self.order, self.cells)


def _prepared(vectors: Any, mean: Float32, order: NDArray[np.intp], cells: _Cells | None) -> _Prepared:
    """vectors: [N, D], in their final order; a NumPy array or a torch tensor."""
    half, shape = (vectors * vectors).sum(1) / 2, (len(vectors), vectors.shape[1] + 2)
    rows = np.ones(shape, np.float32) if isinstance(vectors, np.ndarray) else vectors.new_ones(shape)
    rows[:, :-2], rows[:, -2] = vectors, -half
    return _Prepared(rows, mean, float(half.max()), order, cells)


class NearestMatcher(OneByOne):
    """See `Matcher`. A `Features` object is indexed, or moved to the GPU, only once."""

    def __init__(self, config: NearestConfig) -> None:
        """Raises `KitError` when numba cannot be loaded, or when the requested GPU, or torch for it, is missing."""
        import_module("imc_kit.matchers.nearest_numba")  # fail now, not after all features are detected
        self.config = config
        self._torch = None if config.device == "cpu" else _torch_with_gpu(config.device)
        self._gpu = f"cuda:{gpu_of_thread(config.device)}"
        self._prepared: WeakKeyDictionary[Features, _Prepared] = WeakKeyDictionary()

    def match(self, first: Features, second: Features) -> Matches:
        """See `Matcher.match`. Raises `KitError` when the descriptors cannot be compared."""
        check_comparable(first, second)
        if not len(first) or not len(second):
            return Matches.empty()
        if first.descriptors.dtype == np.uint8:
            blocks = _differing_bits(first.descriptors, second.descriptors)
            pairs, nearness, next_nearness = _mutual(blocks, len(first), len(second))
            distances, next_distances = -nearness, -next_nearness
            scores = 1 - distances / np.float32(8 * first.descriptors.shape[1])
        else:
            a, b = self._prepare(first), self._prepare(second)
            pairs, nearness, next_nearness = self._neighbours(a, b)
            # Assume that rounding moved the second neighbour away: the ratio test must fail if both distances are 0.
            next_nearness = next_nearness + _ROUNDING * (a.max_half + b.max_half)
            distances, next_distances = (np.sqrt(np.maximum(-2 * near, 0)) for near in (nearness, next_nearness))
            scores = 1 - distances**2 / 2
        keep = np.full(len(pairs), True)
        if self.config.ratio is not None:
            keep &= distances < self.config.ratio * next_distances
        if self.config.min_score is not None:
            keep &= scores >= self.config.min_score
        return Matches(pairs[keep], scores[keep])

    def _prepare(self, features: Features) -> _Prepared:
        """Prepare an object once, and always in the same way. Otherwise ties and rounding would depend on whether it
        was the first or the second image of an earlier pair."""
        known = self._prepared.get(features)
        if known is None:
            vectors: Any = features.descriptors.astype(np.float32, copy=False)
            mean, order, cells = vectors.mean(0), np.arange(len(vectors)), None
            if self._torch is not None:
                vectors = self._torch.tensor(vectors, dtype=self._torch.float32, device=self._gpu)
            elif count := self._cell_count(len(vectors)):
                cells, order = _inverted_index(vectors, count)
                vectors = vectors[order]
            self._prepared[features] = known = _prepared(vectors, mean, order, cells)
        return known

    def _cell_count(self, descriptors: int) -> int:
        """Number of cells for an image with this many descriptors; 0 if comparing all is as fast."""
        if self.config.cells is None:
            return 0
        cells = min(self.config.cells, descriptors // _PER_CELL)
        return cells if cells >= min(self.config.cells, _MIN_CELLS) else 0

    def _neighbours(self, a: _Prepared, b: _Prepared) -> _Neighbours:
        """The mutual nearest neighbours, sorted by the index in the first image."""
        probes = None if a.cells is None else _probes(a.cells, b.rows[:, :-2], -b.rows[:, -2])
        # Descriptors near the origin lose fewer digits below. The shift is a whole number, so that integer descriptors
        # stay exact; it is 0 for descriptors of length 1.
        centre = np.round((a.mean + b.mean) / 2).astype(np.float32)
        if centre.any():
            a, b = a.shifted(centre), b.shifted(centre)
        if self._torch is not None:
            pairs, nearness, next_nearness = _mutual_on_gpu(self._torch, _left(a.rows), b.rows)
        else:
            blocks = _products(_left(a.rows), b.rows) if probes is None else _cell_products(a.rows, b.rows, probes)
            pairs, nearness, next_nearness = _mutual(blocks, len(a.rows), len(b.rows))
        pairs = np.stack([a.order[pairs[:, 0]], b.order[pairs[:, 1]]], 1).astype(np.int32)
        by_first = np.argsort(pairs[:, 0])
        return pairs[by_first], nearness[by_first], next_nearness[by_first]


def _left(rows: Any) -> Any:
    """Reorder rows [d, −|d|²/2, 1] to [d, 1, −|d|²/2]: their product with a row of `_Prepared` is −distance²/2."""
    left = rows + 0
    left[:, -2], left[:, -1] = rows[:, -1], rows[:, -2]
    return left


def _products(left: Float32, right: Float32) -> Iterator[_Block]:
    """left @ right.T in blocks of rows. Each block overwrites the previous one."""
    right = np.ascontiguousarray(right.T)  # makes the products a tenth faster
    columns = np.arange(right.shape[1])
    height = max(1, _CPU_BLOCK // len(columns))
    space = np.empty((min(height, len(left)), len(columns)), np.float32)
    for start in range(0, len(left), height):
        part = left[start : start + height]
        yield start, columns, np.matmul(part, right, out=space[: len(part)])


def _differing_bits(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Iterator[_Block]:
    """Minus the number of bits that differ between descriptors [N, bytes] and [M, bytes], as in `_products`."""
    from imc_kit.matchers import nearest_numba  # numba loads slowly

    padding = (0, 0), (0, -a.shape[1] % 8)
    left, right = (np.pad(one, padding).view(np.uint64) for one in (a, b))
    right, columns = np.ascontiguousarray(right.T), np.arange(len(b))
    for start in range(0, len(a), _HAMMING_ROWS):
        yield start, columns, nearest_numba.differing_bits(left[start : start + _HAMMING_ROWS], right)


def _cell_products(rows: Float32, right: Float32, probes: list[tuple[slice, NDArray[np.intp]]]) -> Iterator[_Block]:
    """Like `_products(_left(rows), right)`, but only within each cell. probes: from `_probes`."""
    space = np.empty((max(len(columns) for _, columns in probes), right.shape[1]), np.float32)
    for cell, columns in probes:
        if cell.start < cell.stop and len(columns):
            # np.take with `out` is several times faster than right[columns].
            selected = np.take(right, columns, 0, space[: len(columns)], "clip")
            yield cell.start, columns, _left(rows[cell]) @ selected.T


def _inverted_index(points: Float32, count: int) -> tuple[_Cells, NDArray[np.intp]]:
    """The inverted index of points [N, D], and the order [N] that sorts the points by cell."""
    random = np.random.default_rng(0)
    sample = points[random.permutation(len(points))[: _SAMPLE_PER_CELL * count]]
    centres = kmeans.lloyd(sample, sample[:count], _KMEANS_ROUNDS)
    order, bounds = _grouped(kmeans.nearest(points, centres), count)
    return _Cells(centres, bounds), order


def _probes(cells: _Cells, points: Float32, halves: Float32) -> list[tuple[slice, NDArray[np.intp]]]:
    """For each cell, its rows and the indices of the points [M, D] to compare with them.

    halves: [M], |point|²/2.
    """
    from imc_kit.matchers import nearest_numba  # numba loads slowly

    near = kmeans.nearness(points, cells.centres)
    chosen = nearest_numba.nearest_cells(near, np.ascontiguousarray(halves), _PROBES, _MAX_DISTANCE_RATIO)
    order, bounds = _grouped(chosen.ravel(), len(cells.centres))
    return [
        (slice(*rows), order[slice(*found)] // _PROBES)
        for rows, found in zip(pairwise(cells.bounds), pairwise(bounds), strict=True)
    ]


def _grouped(groups: NDArray[Any], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The stable order of group numbers [N], and the bounds [count + 1] of the `count` groups in it. Negative numbers
    belong to no group."""
    groups = groups.astype(np.int16, copy=False)
    order = np.argsort(groups, kind="stable")
    return order, np.searchsorted(groups[order], np.arange(count + 1, dtype=np.int16))


def _mutual(blocks: Iterator[_Block], rows: int, columns: int) -> _Neighbours:
    """Mutual nearest neighbours from blocks of nearness. A row may be in at most one block."""
    from imc_kit.matchers import nearest_numba  # numba loads slowly

    of_rows, of_columns = (
        (np.full(count, -1, np.int32), np.full(count, -np.inf, np.float32), np.full(count, -np.inf, np.float32))
        for count in (rows, columns)
    )
    for start, numbers, block in blocks:
        nearest_numba.update_neighbours(block, start, numbers, of_rows, of_columns)
    return _agreeing(of_rows, of_columns)


def _mutual_on_gpu(torch: ModuleType, left: Any, right: Any) -> _Neighbours:
    """Like `_mutual`, for left @ right.T of torch tensors."""
    of_rows = []
    column_nearest = torch.full((len(right),), -1, device=right.device)
    column_top = right.new_full((2, len(right)), -np.inf)
    height = max(1, _GPU_BLOCK // len(right))
    for start in range(0, len(left), height):
        # Two rows above the block hold the columns' best two so far; an extra column ensures two values per row.
        block = torch.nn.functional.pad(left[start : start + height] @ right.T, (0, 1, 2, 0), value=-np.inf)
        values, at = block[2:].topk(2, 1)
        of_rows.append((at[:, 0], values[:, 0], values[:, 1]))
        block[:2, :-1] = column_top
        column_top, at = block[:, :-1].topk(2, 0)
        column_nearest = torch.where(at[0] < 2, column_nearest, start + at[0] - 2)
    by_row = [torch.cat(parts).cpu().numpy() for parts in zip(*of_rows, strict=True)]
    return _agreeing(by_row, [values.cpu().numpy() for values in (column_nearest, *column_top)])


def _agreeing(of_rows: Any, of_columns: Any) -> _Neighbours:
    """The pairs that choose each other. of_…: the nearest neighbour of each row or column, and its best two values."""
    (nearest, best, second), (column_nearest, _, column_second) = of_rows, of_columns
    first = np.flatnonzero(column_nearest[nearest] == np.arange(len(nearest)))
    at = nearest[first]
    return np.stack([first, at], 1).astype(np.int32), best[first], np.maximum(second[first], column_second[at])


def _torch_with_gpu(wanted: Device) -> ModuleType | None:
    """The torch module if there is a GPU, else None. Raises `KitError` if cuda is wanted and torch or the GPU is
    missing."""
    try:
        import torch
    except ImportError as error:
        if wanted == "cuda":
            raise KitError(f'matching on a GPU needs torch (pip install "imc-kit[learned]"): {error}') from error
        return None
    if wanted == "cuda" and not torch.cuda.is_available():
        raise KitError("torch finds no GPU: set the device of matcher 'nearest' to auto or cpu")
    return torch if torch.cuda.is_available() else None
