"""The similarities that bring the most camera centres near to the true ones: the search behind the challenges' scores.

A model is [3, 4]: A, a rotation times a scale, and b; it maps x to A·x + b. Each triplet of points has one, which is
fitted again to the points that it brings within a threshold; these second models count.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from math import comb, gcd
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Mask

EXHAUSTIVE = 300
"""Points of which every triplet is tried, if need be."""
SAMPLED = 200_000
"""Triplets that are tried of more points."""
BOUNDED = 3000
"""Points for which an upper bound is looked for: the distances between more take too much memory."""
_TRIPLETS = 1 << 14
"""Triplets whose inlier sets are compared with each other before the second fit."""
_ELEMENTS = 1 << 16
"""Distances computed in one piece: what stays in a processor's cache is several times faster."""
_SPLITS = 32
"""How often a range of scales is halved for an upper bound."""
_HUGE = 1e200
"""Of numbers larger than that the squares have no place in a float."""

_Counts = NDArray[np.int64]
_Numbers = NDArray[np.intp]
_Sets = NDArray[np.uint64]
_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Registration:
    """What a search has found.

    counts: for each threshold the largest number of points that a second model brings nearer than that.
    most: what these would be at most if all triplets were tried; the same where nothing more can be found.
    model: of those tried, the one with the largest sum of such numbers (the first of several); nan if there is none.
    tried: how many triplets.
    """

    counts: _Counts
    most: _Counts
    model: Float64
    tried: int


def register(source: Float64, target: Float64, thresholds: Float64) -> Registration:
    """Search for the similarities that bring the most points within each threshold of their targets.

    source, target: [3, n], finite.

    Every triplet of up to `EXHAUSTIVE` points is tried. The search ends earlier, and has the same result, when the
    numbers found are an upper bound for any similarity, see `_at_most`. Of more points `SAMPLED` triplets are tried:
    half of them spread evenly over all, the others, for each threshold, over the points that the best model so far
    brings within it. The numbers are then lower bounds. Of more than `BOUNDED` points no upper bound is known but their
    number. The same points always give the same answer.
    """
    from threadpoolctl import threadpool_limits

    # Many small products: threads that wait for each other take a hundred times as long on a busy machine.
    # Models of degenerate sets are nan, and nothing is within nan.
    with threadpool_limits(1), np.errstate(all="ignore"):
        search = _Search(source, target, thresholds)
        most = search.run()
    return Registration(search.counts, most, search.model, search.tried)


class _Search:
    """The best models so far: of all, and for each threshold."""

    def __init__(self, source: Float64, target: Float64, thresholds: Float64) -> None:
        self.source, self.target, self.thresholds = source, target, thresholds
        self.n = source.shape[1]
        self.counts = np.zeros(len(thresholds), np.int64)
        self.models = np.full((len(thresholds), 3, 4), np.nan)
        self.total, self.model = 0, np.full((3, 4), np.nan)
        self.tried = 0
        # What the second fits need are sums over their points of these terms, taken about the middle of all points.
        self.middles = [np.median(points, axis=1) if self.n else np.zeros(3) for points in (source, target)]
        x, y = (points - middle[:, None] for points, middle in zip((source, target), self.middles, strict=True))
        squares = [np.square(points).sum(axis=0)[None] for points in (x, y)]
        terms = np.concatenate([np.ones((1, self.n)), x, y, *squares, (y[:, None] * x).reshape(9, self.n)])
        self.terms = np.clip(terms.T, -_HUGE, _HUGE)  # 0 times infinity is not 0

    def run(self) -> _Counts:
        """Try triplets; gives the upper bounds."""
        triplets = comb(self.n, 3)
        most = np.full(len(self.thresholds), self.n)
        for numbers in _triplets(self.n, triplets if self.n <= EXHAUSTIVE else SAMPLED // 2):
            first = self.tried == 0
            self.try_triplets(numbers)
            if first and self.tried < triplets and self.n <= BOUNDED:
                most = self.at_most()
            if (self.counts == most).all():
                return most
        if self.n <= EXHAUSTIVE:
            return self.counts
        for place in np.flatnonzero(self.counts < most):
            inliers = _inliers(self.models[place, None], self.source, self.target, self.thresholds[place, None])
            near = np.flatnonzero(_members(inliers[:, 0], self.n))
            for numbers in _triplets(len(near), SAMPLED // 2 // len(most)):
                self.try_triplets(near[numbers])
        return most

    def at_most(self) -> _Counts:
        """For each threshold, a number of points that no similarity brings more of within it."""
        apart = _distances(self.source), _distances(self.target)
        scales = np.cbrt(np.linalg.det(self.models[:, :, :3]))
        found = zip(self.thresholds.tolist(), self.counts.tolist(), scales.tolist(), strict=True)
        return np.array([_at_most(*apart, *one) for one in found])

    def try_triplets(self, numbers: _Numbers) -> None:
        """numbers: [K, 3], of points."""
        self.tried += len(numbers)
        corners, true_corners = (points[:, numbers].transpose(1, 0, 2) for points in (self.source, self.target))
        models = _similarities(corners, true_corners, np.ones(numbers.shape))
        sets = _distinct(_inliers(models, self.source, self.target, self.thresholds))
        for start in range(0, len(sets), _TRIPLETS):
            models = self._fit_again(sets[start : start + _TRIPLETS])
            inliers = _inliers(models, self.source, self.target, self.thresholds)
            counts = np.bitwise_count(inliers).sum(axis=-1, dtype=np.int64)
            better = counts.max(axis=0) > self.counts
            self.models[better] = models[counts.argmax(axis=0)[better]]
            self.counts = np.maximum(self.counts, counts.max(axis=0))
            totals = counts.sum(axis=1)
            if totals.max() > self.total:
                self.total, self.model = int(totals.max()), models[totals.argmax()]

    def _fit_again(self, sets: _Sets) -> Float64:
        """The similarity [S, 3, 4] of each of the sets [S, words]."""
        sums = np.concatenate([_members(piece, self.n) @ self.terms for piece in _pieces(sets, self.n)])
        size, x, y, xx, yy, yx = np.split(sums, (1, 4, 7, 8, 9), axis=1)
        x, y = x / size, y / size
        x_spread, y_spread = xx - size * np.square(x).sum(1)[:, None], yy - size * np.square(y).sum(1)[:, None]
        covariance = yx.reshape(-1, 3, 3) - size[:, None] * y[:, :, None] * x[:, None]
        x_mean, y_mean = (mean + middle for mean, middle in zip((x, y), self.middles, strict=True))
        models = _fitted(size[:, 0], x_mean, y_mean, x_spread[:, 0], y_spread[:, 0], covariance)
        # Points near to each other and far from the middle leave too few digits.
        fine = (x_spread > 1e-4 * xx) & (y_spread > 1e-4 * yy) & (np.maximum(xx, yy) < _HUGE)
        for piece in _pieces(np.flatnonzero(~fine), self.n):
            models[piece] = _similarities(self.source, self.target, _members(sets[piece], self.n))
        return models


def _triplets(n: int, number: int) -> Iterator[_Numbers]:
    """Different triplets of 0 … n − 1, at most so many, spread evenly over all, as arrays [≤ _TRIPLETS, 3]."""
    total = comb(n, 3)
    # Steps of the golden section of all fall evenly; without a common divisor none comes twice.
    step = next((s for s in range(int((5**0.5 - 1) / 2 * total), total) if gcd(s, total) == 1), 1)
    # The place of i < j < k among all, ordered by k, then j, then i, is C(k, 3) + C(j, 2) + i.
    threes, twos = (np.array([comb(i, size) for i in range(n + 1)]) for size in (3, 2))
    for start in range(0, min(number, total), _TRIPLETS):
        count = min(_TRIPLETS, number - start, total - start)
        rest = (start * step % total + step * np.arange(count)) % total
        k = np.searchsorted(threes, rest, "right") - 1
        rest -= threes[k]
        j = np.searchsorted(twos, rest, "right") - 1
        yield np.stack([rest - twos[j], j, k], axis=1)


def _pieces(rows: NDArray[_Value], n: int) -> Iterator[NDArray[_Value]]:
    """The rows of an array in pieces for which n distances each are computed at a time."""
    step = max(1, _ELEMENTS // n)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _similarities(source: Float64, target: Float64, members: Float64) -> Float64:
    """The similarity [K, 3, 4] from source to target of each of K sets of points; nan where a set fixes none.

    source, target: [3, N], the same for all sets, or [K, 3, N].
    members: [K, N], 1 where a point is in the set, else 0.
    """
    size = members.sum(axis=1)
    source_mean = source @ members[..., None] / size[:, None, None]
    target_mean = target @ members[..., None] / size[:, None, None]
    source, target = source - source_mean, target - target_mean
    source *= members[:, None]
    target *= members[:, None]
    source_spread = np.einsum("kin,kin->k", source, source)
    target_spread = np.einsum("kin,kin->k", target, target)
    covariance = target @ source.transpose(0, 2, 1)
    return _fitted(size, source_mean[..., 0], target_mean[..., 0], source_spread, target_spread, covariance)


def _fitted(
    size: Float64,
    source_mean: Float64,
    target_mean: Float64,
    source_spread: Float64,
    target_spread: Float64,
    covariance: Float64,
) -> Float64:
    """The similarities [K, 3, 4] of K sets from their sizes [K], means [K, 3] and, about these, sums of squares [K] and
    of products [K, 3, 3]; nan where a set fixes none.

    Kabsch's rotation with determinant +1 (Acta Cryst. A32, 1976); the scale is Horn's symmetric one, the ratio of the
    root mean square distances from the centroids (J. Opt. Soc. Am. A 4, 1987).
    """
    rounding = 8 * np.finfo(np.float64).eps * np.abs(source_mean).max(axis=1)
    usable = (source_spread > size * rounding**2) & np.isfinite(source_spread)
    usable &= np.isfinite(covariance).all(axis=(1, 2))
    u, _, vt = np.linalg.svd(np.where(usable[:, None, None], covariance, 0))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    scale = np.where(usable, np.sqrt(target_spread / source_spread), np.nan)
    linear = scale[:, None, None] * (u @ vt)
    return np.concatenate([linear, target_mean[:, :, None] - linear @ source_mean[:, :, None]], axis=2)


def _members(sets: _Sets, n: int) -> Float64:
    """[S, n], 1 where a point is in the set [S, words], else 0."""
    return np.unpackbits(sets.view(np.uint8), axis=1, count=n).astype(np.float64)


def _inliers(models: Float64, source: Float64, target: Float64, thresholds: Float64) -> _Sets:
    """Which of n points each of K models brings within each of T thresholds: [K, T, words], one bit a point."""
    n = source.shape[1]
    points = np.concatenate([source, np.ones((1, n)), target])
    # Beside A and b stands −1, so that one product gives the residuals A·x + b − y.
    models = np.concatenate([models, np.broadcast_to(-np.eye(3), (len(models), 3, 3))], axis=2)
    packed = np.zeros((len(models), len(thresholds), -(-n // 64) * 8), np.uint8)
    for piece, bits in zip(_pieces(models, n), _pieces(packed, n), strict=True):
        residuals = piece.transpose(1, 0, 2) @ points
        squared = np.square(residuals, out=residuals).sum(axis=0)
        bits[..., : -(-n // 8)] = np.packbits(squared[:, None] < np.square(thresholds)[:, None], axis=-1)
    return packed.view(np.uint64)


def _distinct(sets: _Sets) -> _Sets:
    """The different sets [S, words] of three or more among [K, T, words]."""
    sets = sets.reshape(-1, sets.shape[-1])
    sets = sets[np.bitwise_count(sets).sum(axis=1) >= 3]
    factors = np.random.default_rng(0).integers(1 << 63, size=sets.shape[1], dtype=np.uint64)
    sets = sets[np.argsort(sets @ factors)]  # brings the same together; different ones seldom have the same number
    new = np.ones(len(sets), bool)
    new[1:] = (sets[1:] != sets[:-1]).any(axis=1)
    return sets[new]


def _at_most(apart: Float64, true_apart: Float64, threshold: float, reached: int, scale: float) -> int:
    """A number of points that no similarity brings more of within the threshold.

    apart, true_apart: the distances [n, n] between the points and between their targets.
    reached: what has been found. No smaller number is looked for.
    scale: where the largest number is likely.

    If a similarity with scale s brings x and x' within t of y and y', then |s·|x − x'| − |y − y'|| < 2t: call the two
    partners at s. All points that it brings that near are partners of each other, so points with fewer partners are not
    among them, nor count as partners of others. Scales are looked at in ranges, where partners are those at any scale
    of the range, and the range that allows the most points is halved.
    """
    # The margins are far more than what rounding does.
    most_apart = (true_apart + 2 * threshold) * (1 + 1e-9)
    least_apart = true_apart - 2 * threshold - 1e-9 * most_apart

    def allowing(low: float, high: float) -> tuple[int, float, float]:
        partners = ~(low * apart >= most_apart) & ~(high * apart <= least_apart)  # also where 0 · inf is nan
        return -_largest_core(partners, reached), low, high

    ranges = [allowing(0, np.inf)]
    for _ in range(_SPLITS):
        _, low, high = ranges[0]
        if -ranges[0][0] <= reached:
            break
        if high < np.inf:
            middle = np.sqrt(low * high) if low else high / 2
        else:
            middle = 2 * low if low else scale if 0 < scale < np.inf else 1.0
        heapq.heapreplace(ranges, allowing(low, middle))
        heapq.heappush(ranges, allowing(middle, high))
    return -ranges[0][0]


def _distances(points: Float64) -> Float64:
    """[n, n], between all points [3, n]."""
    return np.asarray(np.sqrt(sum(np.square(row[:, None] - row) for row in points)))


def _largest_core(partners: Mask, reached: int) -> int:
    """The largest k for which there are points that each have k partners among them, themselves included.

    partners: [n, n], symmetric. Where k is no larger than `reached`, that is the answer.
    """
    degrees, left = partners.sum(axis=0), np.ones(len(partners), bool)
    while True:
        weak = left & (degrees <= reached)
        if weak.any():
            left &= ~weak
            degrees -= partners[weak].sum(axis=0)
        elif left.any():
            reached = int(degrees[left].min())
        else:
            return reached
