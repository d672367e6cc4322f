"""Mutual nearest neighbours: two features match when each is the other's nearest, by the distance of descriptors.

The distance is Euclidean for float descriptors, of any length, and Hamming's (differing bits) for binary ones. Of
neighbours at exactly the same distance the one of the lowest index is nearest, as in `cv2.BFMatcher(crossCheck=True)`.
(Rounding may tell apart float descriptors that are equally near, or the reverse; and in cells it is another of them.)

All pairs of descriptors are compared, in blocks of rows that stay in the processor's cache while both directions are
read off them, so memory is bounded by the size of a block; or, several times faster, only those that lie in the same
of the `cells` around cluster centres, as in an inverted file (Sivic and Zisserman 2003; Jégou et al. 2011). NumPy's and
OpenBLAS's threads are the caller's to limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.matchers import kmeans
from imc_kit.matchers.base import PHOTOGRAPHS, MatcherConfig, check_comparable
from imc_kit.runtime.torch_utils import Device, gpu_of_thread
from imc_kit.types import Features, Float32, Int32, Matches

_CPU_BLOCK, _GPU_BLOCK = 2**20, 2**26
"""Elements in a block."""
_PER_CELL, _WORTH_IT = 64, 12
"""There is one cell for so many descriptors: more would cost more than they save. With fewer cells than so many,
comparing all is as fast."""
_PROBES, _FARTHEST = 6, 1.4
"""Each descriptor of the second image is looked up in at most so many cells, the nearest, and of these in those whose
centre is at most at so many times the squared distance of the nearest: as many matches are found as with five cells,
and a sixth fewer products are made."""
_MOST_CELLS = 2**15 - 1
"""So that their numbers are short, see `_sorted`."""
_CELL_SAMPLE, _CELL_ROUNDS = 32, 4
"""Descriptors a cell from which its centre is learned, and how often it moves."""
_HAMMING_ROWS = 16
"""Rows whose differing bits are counted together: few enough that they stay in the fastest cache."""


@dataclass(frozen=True)
class NearestConfig(MatcherConfig):
    """Mutual nearest neighbours. The score of a match is 1 for equal descriptors: for float ones 1 − d²/2, which is the
    cosine when their length is 1; for binary ones the share of equal bits."""

    name: ClassVar[str] = "nearest"

    ratio: float | None = None
    """Keep a match only if its distance is less than this times that to the second nearest, in both directions: Lowe's
    test, 0.8 is usual for SIFT; None keeps all."""
    max_distance: float | None = None
    """Keep a match only if its distance is at most this: Euclidean, or differing bits for binary descriptors."""
    min_score: float | None = None
    """Keep a match only if its score is at least this."""
    cells: int | None = None
    """Divide the float descriptors of the first image among at most so many clusters, and compare each of the second
    with those of the nearest few only: with 64, several times faster where an image has thousands, and one match in
    fifty is another one. On the CPU only. None compares all."""
    device: Device = "cpu"
    """Where float descriptors are compared: auto is the GPU if there is one, which takes loading torch to find out.
    Binary ones always are on the CPU."""

    def __post_init__(self) -> None:
        self.require(self.ratio is None or 0 < self.ratio <= 1, "ratio", "larger than 0 and at most 1, or None")
        self.require(self.max_distance is None or self.max_distance >= 0, "max_distance", "at least 0, or None")
        self.require(self.min_score is None or self.min_score <= 1, "min_score", "at most 1, or None")
        fits = self.cells is None or _PROBES <= self.cells <= _MOST_CELLS
        self.require(fits, "cells", f"{_PROBES} to {_MOST_CELLS}, or None")
        self.require(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")

    def accepts(self, kind: str) -> bool:
        """All descriptors: it needs no more than a distance."""
        return kind != PHOTOGRAPHS

    def looser(self) -> NearestConfig:
        """With a ratio half as far from 1, and no other limit."""
        ratio = None if self.ratio is None else (1 + self.ratio) / 2
        return replace(self, ratio=ratio, max_distance=None, min_score=None)

    def create(self, kind: str | None = None) -> NearestMatcher:
        """As `MatcherConfig.create` says; the kind makes no difference."""
        return NearestMatcher(self)


@dataclass(frozen=True, eq=False)
class _Ready:
    """The float descriptors of an image, ready to be compared. Arrays of NumPy or torch."""

    rows: Any
    """[N, D + 2]: descriptors, −|descriptor|²/2 and 1; those of a cell one after the other."""
    mean: Float32
    """[D], of the descriptors."""
    longest: float
    """The largest |descriptor|²/2."""
    order: NDArray[np.intp]
    """[N]: the number of the feature in each row."""
    cells: _Cells | None = None


@dataclass(frozen=True, eq=False)
class _Cells:
    """How descriptors are divided among cells around cluster centres."""

    centres: Float32
    """[K, D]."""
    bounds: NDArray[np.intp]
    """[K + 1]: the first row of each cell, and the number of all."""


class NearestMatcher:
    """As `Matcher` says."""

    def __init__(self, config: NearestConfig) -> None:
        """Raises `KitError` when the GPU that was asked for, or torch for it, is missing, or numba cannot be loaded."""
        import_module("imc_kit.matchers.nearest_numba")  # now, and not after all features are found
        self.config = config
        self._known: WeakKeyDictionary[Features, _Ready] = WeakKeyDictionary()
        self._xp: ModuleType = np if config.device == "cpu" else _gpu_or_numpy(config.device)
        self._gpu = f"cuda:{gpu_of_thread(config.device)}"

    def match(self, first: Features, second: Features) -> Matches:
        """As `Matcher.match` says. Raises `KitError` for descriptors between which there is no distance."""
        return self.match_batch([(first, second)])[0]

    def match_batch(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """As `Matcher.match_batch` says; for features that are in several pairs the cells are made once, and what goes
        to a GPU goes there once, in calls for other pairs too."""
        return [self._match(first, second) for first, second in pairs]

    def _ready(self, features: Features) -> _Ready:
        """Made once for the same object, whether it is the first of a pair or the second: else what is at exactly the
        same distance, and rounding, would depend on which it was before."""
        known = self._known.get(features)
        if known is None:
            self._known[features] = known = self._made(features.descriptors)
        return known

    def _cells_of(self, count: int) -> int | None:
        """How many cells so many descriptors are divided among; None where all are compared."""
        if self.config.cells is None or self._xp is not np:
            return None
        cells = min(self.config.cells, count // _PER_CELL)
        return cells if cells >= min(self.config.cells, _WORTH_IT) else None

    def _made(self, descriptors: NDArray[Any]) -> _Ready:
        descriptors = descriptors.astype(np.float32, copy=False)
        mean, order, cells = descriptors.mean(0), np.arange(len(descriptors)), None
        if count := self._cells_of(len(descriptors)):
            cells, order = _in_cells(descriptors, count)
            descriptors = descriptors[order]
        vectors = descriptors
        if self._xp is not np:
            vectors = self._xp.tensor(descriptors, dtype=self._xp.float32, device=self._gpu)
        return _prepared(self._xp, vectors, mean, order, cells)

    def _match(self, first: Features, second: Features) -> Matches:
        check_comparable(first, second)
        a, b = first.descriptors, second.descriptors
        binary = a.dtype == np.uint8
        if not len(a) or not len(b):
            return Matches.empty()
        if binary:
            pairs, nearness, next_nearness = _mutual(_bits(a, b), len(a), len(b))
            distances, next_distances = -nearness, -next_nearness
            scores = 1 - distances / np.float32(8 * a.shape[1])
        else:
            one, other = self._ready(first), self._ready(second)
            pairs, distances, next_distances = _euclidean(self._xp, one, other)
            scores = 1 - distances**2 / 2
        keep = np.full(len(pairs), True)
        if self.config.ratio is not None:
            keep &= distances < self.config.ratio * next_distances
        if self.config.max_distance is not None:
            keep &= distances <= self.config.max_distance
        if self.config.min_score is not None:
            keep &= scores >= self.config.min_score
        return Matches(pairs[keep], scores[keep])


_Neighbours = tuple[Int32, Float32, Float32]
"""Pairs of mutual nearest neighbours [K, 2], their distances [K], and the distance [K] to the second nearest of either,
the nearer of the two: infinite where there is none."""


def _prepared(xp: ModuleType, vectors: Any, mean: Float32, order: NDArray[np.intp], cells: _Cells | None) -> _Ready:
    half = (vectors * vectors).sum(1)[:, None] / 2
    rows = xp.concatenate([vectors, -half, xp.ones_like(half)], 1)
    return _Ready(rows, mean, float(half.max()), order, cells)


def _moved(xp: ModuleType, one: _Ready, centre: Float32) -> _Ready:
    vectors = one.rows[:, :-2] - xp.asarray(centre, device=one.rows.device)
    return _prepared(xp, vectors, one.mean - centre, one.order, one.cells)


def _euclidean(xp: ModuleType, a: _Ready, b: _Ready) -> _Neighbours:
    candidates = None if a.cells is None else _candidates(a.cells, b.rows[:, :-2], -b.rows[:, -2])
    # Moving all of them changes no distance, and near the origin fewer digits cancel in the next step. It is by whole
    # numbers, so that whole numbers stay exact; descriptors of length 1 are near enough.
    centre = np.round((a.mean + b.mean) / 2).astype(np.float32)
    if centre.any():
        a, b = _moved(xp, a, centre), _moved(xp, b, centre)
    # −d²/2 = a·b − |a|²/2 − |b|²/2 in one product of the rows, when those of one have their last two columns exchanged.
    if candidates is None:
        blocks = _products(xp, _exchanged(a.rows), b.rows)
    else:
        blocks = _products_in_cells(a.rows, b.rows, candidates)
    if xp is np:
        pairs, nearness, next_nearness = _mutual(blocks, len(a.rows), len(b.rows))
    else:
        pairs, nearness, next_nearness = _mutual_on_gpu(xp, blocks, a.rows, b.rows)
    if a.cells or b.cells:
        pairs = np.stack([a.order[pairs[:, 0]], b.order[pairs[:, 1]]], 1).astype(np.int32)
        by_first = np.argsort(pairs[:, 0])
        pairs, nearness, next_nearness = pairs[by_first], nearness[by_first], next_nearness[by_first]
    # The second is taken for as near as rounding allows: the ratio must not pass when both distances are really 0.
    rounding = 1e-6 * (a.longest + b.longest)
    return pairs, _distance(nearness), _distance(next_nearness + rounding)


def _exchanged(rows: Any) -> Any:
    """A copy with the last two columns exchanged."""
    copy = rows + 0
    copy[:, -2], copy[:, -1] = rows[:, -1], rows[:, -2]
    return copy


def _distance(nearness: Float32) -> Float32:
    """The d of −d²/2."""
    return np.sqrt(np.maximum(-2 * nearness, 0))


_Block = tuple[Any, Any, Any]
"""Which of the first image's descriptors, which of the second's (slices or indices), and how near each is to each."""


def _products(xp: ModuleType, left: Any, right: Any) -> Iterator[_Block]:
    """left @ right.T in blocks of rows, each gone when the next is asked for."""
    right = np.ascontiguousarray(right.T) if xp is np else right.T  # a tenth faster
    rows = max(1, (_CPU_BLOCK if xp is np else _GPU_BLOCK) // right.shape[1])
    space = None
    for start in range(0, len(left), rows):
        part = left[start : start + rows]
        space = part @ right if space is None else space
        block = space[: len(part)]
        if start:
            xp.matmul(part, right, out=block)
        yield slice(start, start + len(part)), slice(None), block


def _in_cells(points: Float32, count: int) -> tuple[_Cells, NDArray[np.intp]]:
    """The cells of points [N, D], and the numbers [N] of the points in the order of their cells."""
    random = np.random.default_rng(0)
    sample = points[random.permutation(len(points))[: _CELL_SAMPLE * count]]
    centres = kmeans.lloyd(sample, sample[:count], _CELL_ROUNDS)
    order, bounds = _sorted(kmeans.nearest(points, centres), count)
    return _Cells(centres, bounds), order


def _sorted(cells: NDArray[np.intp], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order [N] that sorts the numbers of cells, and the first place of each of `count`, and the last one's end."""
    cells = cells.astype(np.int16)  # of so short numbers it sorts in linear time
    order = np.argsort(cells, kind="stable")
    return order, np.searchsorted(cells[order], np.arange(count + 1))


def _candidates(cells: _Cells, points: Float32, halves: Float32) -> list[tuple[slice, NDArray[np.intp]]]:
    """The rows of each cell, and which of `points` [M, D] are looked up in it. halves: [M], half of |point|²."""
    from imc_kit.matchers import nearest_numba  # numba takes a while to load

    near = kmeans.nearness(points, cells.centres)
    who, bounds = nearest_numba.lookups(near, np.ascontiguousarray(halves), _PROBES, _FARTHEST)
    return [
        (slice(*rows), who[slice(*found)]) for rows, found in zip(pairwise(cells.bounds), pairwise(bounds), strict=True)
    ]


def _products_in_cells(left: Float32, right: Float32, candidates: Any) -> Iterator[_Block]:
    """As `_products` of `left` with its last columns exchanged and `right`, of those in each cell."""
    most = max(len(columns) for _, columns in candidates)
    space = np.empty((most, right.shape[1]), np.float32)
    for rows, columns in candidates:
        if rows.start < rows.stop and len(columns):
            # Several times as fast as right[columns].
            some = np.take(right, columns, 0, space[: len(columns)], "clip")
            yield rows, columns, _exchanged(left[rows]) @ some.T


def _bits(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Iterator[_Block]:
    """Minus the number of differing bits, [N, M], in blocks of rows, each gone when the next is asked for.

    a: [N, bytes], b: [M, bytes].
    """
    padding = (0, 0), (0, -a.shape[1] % 8)
    left = np.pad(a, padding).view(np.uint64)
    right = np.ascontiguousarray(np.pad(b, padding).view(np.uint64).T)
    rows = max(1, _CPU_BLOCK // len(b))
    space = np.empty((min(rows, len(a)), len(b)), np.float32)
    for start in range(0, len(a), rows):
        part = left[start : start + rows]
        block = space[: len(part)]
        for low in range(0, len(part), _HAMMING_ROWS):
            words = part[low : low + _HAMMING_ROWS]
            counts = np.zeros((len(words), len(b)), np.int16)
            for column, row in zip(words.T, right, strict=True):
                counts -= np.bitwise_count(column[:, None] ^ row)
            block[low : low + _HAMMING_ROWS] = counts
        yield slice(start, start + len(part)), slice(None), block


def _mutual(blocks: Iterator[_Block], rows: int, columns: int) -> _Neighbours:
    """As `_Neighbours` says, but by nearness (larger is nearer, −∞ where there is no second) instead of distance.

    blocks: of the nearness of some of so many rows to some of so many columns, each row in one of them at most.
    """
    from imc_kit.matchers import nearest_numba  # numba takes a while to load

    every = np.arange(columns)
    nearest, best, second = _none_yet(rows)
    column_nearest, column_best, column_second = _none_yet(columns)
    for some, others, block in blocks:
        nearest_numba.note(
            block, every[others], some.start, nearest[some], best[some], second[some],
            column_nearest, column_best, column_second,
        )  # fmt: skip
    first = np.flatnonzero(column_nearest[nearest] == np.arange(rows))
    at = nearest[first]
    return np.stack([first, at], 1).astype(np.int32), best[first], np.maximum(second[first], column_second[at])


def _none_yet(count: int) -> tuple[Int32, Float32, Float32]:
    """Of so many descriptors the number of the nearest, how near that is, and the next one."""
    return np.full(count, -1, np.int32), np.full(count, -np.inf, np.float32), np.full(count, -np.inf, np.float32)


def _mutual_on_gpu(torch: ModuleType, blocks: Iterator[_Block], a: Any, b: Any) -> _Neighbours:
    """As `_mutual`, of blocks of some of the rows `a` to all of `b`, arrays of torch. The blocks are overwritten."""

    def filled(like: Any, value: float, dtype: Any) -> Any:
        return torch.full((len(like),), value, dtype=dtype, device=like.device)

    nearest, mutual = filled(a, 0, torch.int64), filled(a, False, torch.bool)
    best, second = (filled(a, -np.inf, torch.float32) for _ in range(2))
    column_best, column_second = (filled(b, -np.inf, torch.float32) for _ in range(2))
    for rows, _, block in blocks:
        here = torch.arange(len(block), device=block.device)
        at = block.argmax(1)
        block_best, before = torch.amax(block, 0), column_best
        nearest[rows], best[rows] = at, (value := block[here, at])
        # Is the row the nearest to its nearest column, of the rows so far, and the first of those as near?
        likely = (value == block_best[at]) & (value > before[at])
        chosen = here[likely]
        likely[chosen] = block[:, at[chosen]].argmax(0) == chosen
        mutual[rows] = likely
        column_best = torch.maximum(before, block_best)
        block[here, at] = -np.inf
        second[rows] = torch.amax(block, 1)
        column_second = torch.maximum(column_second, torch.amax(block, 0))

    gathered = [values.cpu().numpy() for values in (nearest, best, mutual, second, column_best, column_second)]
    nearest, best, mutual, second, column_best, column_second = gathered
    first = np.flatnonzero(mutual & (best == column_best[nearest]))  # else a later block has a nearer row
    at = nearest[first]
    # What `column_second` lacks are the other rows to which the column is nearest.
    best_of_others = best.copy()
    best_of_others[first] = -np.inf
    np.maximum.at(column_second, nearest, best_of_others)
    pairs = np.stack([first, at], 1).astype(np.int32)
    return pairs, best[first], np.maximum(second[first], column_second[at])


def _gpu_or_numpy(wanted: Device) -> ModuleType:
    """torch if there is a GPU for it, else NumPy. Raises `KitError` when `wanted` is cuda and cannot be had."""
    try:
        import torch
    except ImportError as error:
        if wanted == "auto":
            return np
        raise KitError(f'matching on a GPU needs torch (pip install "imc-kit[learned]"): {error}') from error
    if torch.cuda.is_available():
        return torch
    if wanted == "auto":
        return np
    raise KitError("torch finds no GPU: set the device of matcher 'nearest' to auto or cpu")
