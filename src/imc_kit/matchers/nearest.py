"""Mutual nearest neighbours: two features match when each is the other's nearest neighbour.

The distance is Euclidean for float descriptors and Hamming (differing bits) for binary ones. Of neighbours at exactly
the same distance, the one with the lowest index is the nearest, as in `cv2.BFMatcher(crossCheck=True)`. Rounding of
float descriptors, an inverted index or a GPU can break such ties differently.

By default all descriptors are compared, in blocks of rows that fit into the processor's cache. Only one block exists at
a time, so memory stays small.

`NearestConfig.cells` uses an `inverted_index` instead: it misses some neighbours, but is several times faster.

The caller limits the threads of NumPy and OpenBLAS.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from imc_kit.matchers import MatcherConfig, OneByOne, check_comparable, inverted_index, nearest_gpu, register
from imc_kit.matchers.inverted_index import Block
from imc_kit.runtime.torch_utils import Device, gpu_of_thread
from imc_kit.types import Features, Float32, Int32, Matches

_CPU_BLOCK = 2**20
"""Distances per block: 4 MB, which fit into a core's share of the cache. It affects the speed only."""
_HAMMING_ROWS = 16
"""Rows per block of binary descriptors."""
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
        cells = f"{inverted_index.PROBES} to {inverted_index.MAX_CELLS}, or None"
        self._require(
            self.cells is None or inverted_index.PROBES <= self.cells <= inverted_index.MAX_CELLS, "cells", cells
        )

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
    cells: inverted_index.Cells | None = None

    def shifted(self, centre: Float32) -> "_Prepared":
        """The same descriptors minus `centre` [D]."""
        vectors = self.rows[:, :-2]
        centre_there = centre if isinstance(vectors, np.ndarray) else vectors.new_tensor(centre)
        return _prepared(vectors - centre_there, self.mean - centre, self.order, self.cells)


def _prepared(vectors: Any, mean: Float32, order: NDArray[np.intp], cells: inverted_index.Cells | None) -> _Prepared:
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
        self._torch = None if config.device == "cpu" else nearest_gpu.torch_with_gpu(config.device)
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
            elif self.config.cells and (count := inverted_index.cell_count(len(vectors), self.config.cells)):
                cells, order = inverted_index.build(vectors, count)
                vectors = vectors[order]
            self._prepared[features] = known = _prepared(vectors, mean, order, cells)
        return known

    def _neighbours(self, a: _Prepared, b: _Prepared) -> _Neighbours:
        """The mutual nearest neighbours, sorted by the index in the first image."""
        probes = None if a.cells is None else inverted_index.probes(a.cells, b.rows[:, :-2], -b.rows[:, -2])
        # Descriptors near the origin lose fewer digits below. The shift is a whole number, so that integer descriptors
        # stay exact; it is 0 for descriptors of length 1.
        centre = np.round((a.mean + b.mean) / 2).astype(np.float32)
        if centre.any():
            a, b = a.shifted(centre), b.shifted(centre)
        left, right = _left(a.rows), b.rows
        if self._torch is not None:
            pairs, nearness, next_nearness = _agreeing(*nearest_gpu.neighbours(self._torch, left, right))
        else:
            blocks = _products(left, right) if probes is None else inverted_index.products(left, right, probes)
            pairs, nearness, next_nearness = _mutual(blocks, len(left), len(right))
        pairs = np.stack([a.order[pairs[:, 0]], b.order[pairs[:, 1]]], 1).astype(np.int32)
        by_first = np.argsort(pairs[:, 0])
        return pairs[by_first], nearness[by_first], next_nearness[by_first]


def _left(rows: Any) -> Any:
    """Reorder rows [d, −|d|²/2, 1] to [d, 1, −|d|²/2]: their product with a row of `_Prepared` is −distance²/2."""
    left = rows + 0
    left[:, -2], left[:, -1] = rows[:, -1], rows[:, -2]
    return left


def _products(left: Float32, right: Float32) -> Iterator[Block]:
    """left @ right.T in blocks of rows. Each block overwrites the previous one."""
    right = np.ascontiguousarray(right.T)  # makes the products a tenth faster
    columns = np.arange(right.shape[1])
    height = max(1, _CPU_BLOCK // len(columns))
    space = np.empty((min(height, len(left)), len(columns)), np.float32)
    for start in range(0, len(left), height):
        part = left[start : start + height]
        yield start, columns, np.matmul(part, right, out=space[: len(part)])


def _differing_bits(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Iterator[Block]:
    """Minus the number of bits that differ between descriptors [N, bytes] and [M, bytes], as in `_products`."""
    from imc_kit.matchers import nearest_numba  # numba loads slowly

    padding = (0, 0), (0, -a.shape[1] % 8)
    left, right = (np.pad(one, padding).view(np.uint64) for one in (a, b))
    right, columns = np.ascontiguousarray(right.T), np.arange(len(b))
    for start in range(0, len(a), _HAMMING_ROWS):
        yield start, columns, nearest_numba.differing_bits(left[start : start + _HAMMING_ROWS], right)


def _mutual(blocks: Iterator[Block], rows: int, columns: int) -> _Neighbours:
    """Mutual nearest neighbours from blocks of nearness. A row may be in at most one block."""
    from imc_kit.matchers import nearest_numba  # numba loads slowly

    of_rows, of_columns = (
        (np.full(count, -1, np.int32), np.full(count, -np.inf, np.float32), np.full(count, -np.inf, np.float32))
        for count in (rows, columns)
    )
    for start, numbers, block in blocks:
        nearest_numba.update_neighbours(block, start, numbers, of_rows, of_columns)
    return _agreeing(of_rows, of_columns)


def _agreeing(of_rows: Any, of_columns: Any) -> _Neighbours:
    """The pairs that choose each other. of_…: the nearest neighbour of each row or column, and its best two values."""
    (nearest, best, second), (column_nearest, _, column_second) = of_rows, of_columns
    first = np.flatnonzero(column_nearest[nearest] == np.arange(len(nearest)))
    at = nearest[first]
    return np.stack([first, at], 1).astype(np.int32), best[first], np.maximum(second[first], column_second[at])
