"""Mutual nearest neighbours: two features match when each is the other's nearest, by the distance of descriptors.

The distance is Euclidean for float descriptors, of any length, and Hamming's (differing bits) for binary ones. Of
neighbours at exactly the same distance the one of the lowest index is nearest, as in `cv2.BFMatcher(crossCheck=True)`.
(Rounding may tell apart float descriptors that are equally near, or the reverse.)

All pairs of descriptors are compared, in blocks of rows that stay in the processor's cache while both directions are
read off them, so memory is bounded by the size of a block. NumPy's and OpenBLAS's threads are the caller's to limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.learned import Device
from imc_kit.matchers.base import PHOTOGRAPHS, MatcherConfig, OneByOne, check_comparable
from imc_kit.types import Features, Float32, Int32, Matches

_CPU_BLOCK, _GPU_BLOCK = 2**20, 2**26
"""Elements in a block."""
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
    device: Device = "cpu"
    """Where float descriptors are compared: auto is the GPU if there is one, which takes loading torch to find out.
    Binary ones always are on the CPU."""

    def __post_init__(self) -> None:
        self.require(self.ratio is None or 0 < self.ratio <= 1, "ratio", "larger than 0 and at most 1, or None")
        self.require(self.max_distance is None or self.max_distance >= 0, "max_distance", "at least 0, or None")
        self.require(self.min_score is None or self.min_score <= 1, "min_score", "at most 1, or None")
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


class NearestMatcher(OneByOne):
    """As `Matcher` says."""

    def __init__(self, config: NearestConfig) -> None:
        """Raises `KitError` when the GPU that was asked for, or torch for it, is missing."""
        self.config = config
        self._xp: ModuleType = np if config.device == "cpu" else _gpu_or_numpy(config.device)

    def match(self, first: Features, second: Features) -> Matches:
        """As `Matcher.match` says. Raises `KitError` for descriptors between which there is no distance."""
        check_comparable(first, second)
        a, b = first.descriptors, second.descriptors
        binary = a.dtype == np.uint8
        if not len(a) or not len(b):
            return Matches.empty()
        with_second = self.config.ratio is not None
        if binary:
            pairs, nearness, next_nearness = _mutual(np, _bits(a, b), with_second)
            distances, next_distances = -nearness, -next_nearness
            scores = 1 - distances / np.float32(8 * a.shape[1])
        else:
            xp = self._xp
            if xp is np:
                a, b = (x.astype(np.float32, copy=False) for x in (a, b))
            else:
                a, b = (xp.tensor(x, dtype=xp.float32, device="cuda") for x in (a, b))
            pairs, distances, next_distances = _euclidean(xp, a, b, with_second)
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
the nearer of the two: infinite where there is none, and of no meaning unless it is asked for (`with_second`)."""


def _euclidean(xp: ModuleType, a: Any, b: Any, with_second: bool) -> _Neighbours:
    """a: float32 [N, D], b: float32 [M, D], arrays of `xp`, which is NumPy or torch."""
    # Moving all of them changes no distance, and near the origin fewer digits cancel in the next step. It is by whole
    # numbers, so that whole numbers stay exact.
    centre = xp.round((a.mean(0) + b.mean(0)) / 2)
    a, b = a - centre, b - centre
    # −d²/2 = a·b − |a|²/2 − |b|²/2 in one product, with the squares in two more columns.
    half_a, half_b = ((x * x).sum(1)[:, None] / 2 for x in (a, b))
    left = xp.concatenate([a, -half_a, xp.ones_like(half_a)], 1)
    right = xp.concatenate([b, xp.ones_like(half_b), -half_b], 1).T
    pairs, nearness, next_nearness = _mutual(xp, _products(xp, left, right), with_second)
    # The second is taken for as near as rounding allows: the ratio must not pass when both distances are really 0.
    rounding = 1e-6 * float(half_a.max() + half_b.max())
    return pairs, _distance(nearness), _distance(next_nearness + rounding)


def _distance(nearness: Float32) -> Float32:
    """The d of −d²/2."""
    return np.sqrt(np.maximum(-2 * nearness, 0))


def _products(xp: ModuleType, left: Any, right: Any) -> Iterator[Any]:
    """left @ right in blocks of rows, each gone when the next is asked for."""
    rows = max(1, (_CPU_BLOCK if xp is np else _GPU_BLOCK) // right.shape[1])
    block = left[:rows] @ right
    yield block
    for start in range(rows, len(left), rows):
        part = left[start : start + rows]
        yield xp.matmul(part, right, out=block[: len(part)])


def _bits(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Iterator[Float32]:
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
        yield block


def _mutual(xp: ModuleType, blocks: Iterator[Any], with_second: bool) -> _Neighbours:
    """As `_Neighbours` says, but by nearness (larger is nearer, −∞ where there is no second) instead of distance.

    blocks: blocks of rows, arrays of `xp`, of the nearness [N, M] of each in a to each in b. They are overwritten.
    """
    per_row = []
    for number, block in enumerate(blocks):
        rows = xp.arange(len(block), device=block.device)
        nearest = block.argmax(1)
        best = block[rows, nearest]
        block_best = xp.amax(block, 0)
        if number == 0:
            column_best = column_second = xp.full_like(block_best, -np.inf)
        # Is the row the nearest to its nearest column, of the rows so far, and the first of those as near?
        mutual = (best == block_best[nearest]) & (best > column_best[nearest])
        likely = rows[mutual]
        mutual[likely] = block[:, nearest[likely]].argmax(0) == likely
        column_best = xp.maximum(column_best, block_best)
        second = xp.full_like(best, -np.inf)
        if with_second:
            block[rows, nearest] = -np.inf
            second = xp.amax(block, 1)
            column_second = xp.maximum(column_second, xp.amax(block, 0))
        per_row.append((nearest, best, mutual, second))

    gathered = [xp.concatenate(parts) for parts in zip(*per_row, strict=True)] + [column_best, column_second]
    if xp is not np:
        gathered = [values.cpu().numpy() for values in gathered]
    nearest, best, mutual, second, column_best, column_second = gathered
    first = np.flatnonzero(mutual & (best == column_best[nearest]))  # else a later block has a nearer row
    columns = nearest[first]
    # What `column_second` lacks are the other rows to which the column is nearest.
    best_of_others = best.copy()
    best_of_others[first] = -np.inf
    np.maximum.at(column_second, nearest, best_of_others)
    pairs = np.stack([first, columns], 1).astype(np.int32)
    return pairs, best[first], np.maximum(second[first], column_second[columns])


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
