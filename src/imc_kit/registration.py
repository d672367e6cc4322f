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

WORK = 1_400_000_000
"""Triplets times points that are tried at most: all triplets of 302 points, one in 120 of those of 1000."""
_TRIPLETS = 1 << 14
"""Triplets whose inlier sets are compared with each other before the second fit."""
_ELEMENTS = 1 << 16
"""Distances computed in one piece: what stays in a processor's cache is several times faster."""
_SPLITS = 64
"""Ranges of scales that are looked at for an upper bound."""

_Counts = NDArray[np.int64]
_Numbers = NDArray[np.intp]
_Sets = NDArray[np.uint64]
_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Registration:
    """What a search has found.

    counts: for each threshold the largest number of points that a model brings nearer than that.
    most: what those would be at most if all triplets were tried; the same where that is proved.
    model: the model with the largest sum of such numbers (the first found, if several have it); nan if there is none.
    tried: the number of triplets.
    """

    counts: _Counts
    most: _Counts
    model: Float64
    tried: int


def register(source: Float64, target: Float64, thresholds: Float64) -> Registration:
    """Search for the similarities that bring the most points within each threshold of their targets.

    source, target: [3, n], finite.

    The answer is that of all triplets where these are affordable (`WORK`), and where the numbers found reach an upper
    bound on those of any similarity, see `_at_most`; the search ends there. Otherwise half of the work goes to triplets
    spread evenly over all, and half to those of the points that the best model so far brings within each threshold:
    the numbers are then lower bounds. The same points always give the same answer.
    """
    from threadpoolctl import threadpool_limits

    # Threads that wait for each other make these small products a hundred times slower on a busy machine.
    with threadpool_limits(1), np.errstate(all="ignore"):  # models of degenerate sets are nan, and nothing is within nan
        return _search(source, target, thresholds)


def _search(source: Float64, target: Float64, thresholds: Float64) -> Registration:
    n = source.shape[1]
    best = _Best(source, target, thresholds)
    affordable = max(WORK // max(n, 1), _TRIPLETS)
    exhaustive = comb(n, 3) <= affordable
    most = np.full(len(thresholds), n)
    for numbers in _triplets(n, affordable if exhaustive else affordable // 2):
        best.try_triplets(numbers)
        if best.tried == _TRIPLETS < comb(n, 3):
            most = _at_most(source, target, thresholds, best)
        if (best.counts == most).all():
            break
    else:
        if exhaustive:
            most = best.counts
        for place in range(0 if exhaustive else len(thresholds)):
            (near,) = np.nonzero(_members(_inliers(best.models[place, None], source, target, thresholds)[:, place], n)[0])
            for numbers in _triplets(len(near), affordable // 2 // len(thresholds)):
                best.try_triplets(near[numbers])
    return Registration(best.counts, most, best.model, best.tried)


class _Best:
    """The best models among those tried."""

    def __init__(self, source: Float64, target: Float64, thresholds: Float64) -> None:
        self.source, self.target, self.thresholds = source, target, thresholds
        self.counts = np.zeros(len(thresholds), np.int64)
        self.models = np.full((len(thresholds), 3, 4), np.nan)
        self.total, self.model = 0, np.full((3, 4), np.nan)
        self.tried = 0
        self._moments = _Moments(source, target)

    def try_triplets(self, triplets: _Numbers) -> None:
        """triplets: [K, 3], numbers of points."""
        self.tried += len(triplets)
        corners, true_corners = (points[:, triplets].transpose(1, 0, 2) for points in (self.source, self.target))
        models = _similarities(corners, true_corners, np.ones(triplets.shape))
        sets = _distinct(_inliers(models, self.source, self.target, self.thresholds))
        if not len(sets):
            return
        models = self._moments.similarities(sets)
        inliers = _inliers(models, self.source, self.target, self.thresholds)
        counts = np.bitwise_count(inliers).sum(axis=-1, dtype=np.int64)
        better = counts.max(axis=0) > self.counts
        self.models[better] = models[counts.argmax(axis=0)[better]]
        self.counts = np.maximum(self.counts, counts.max(axis=0))
        totals = counts.sum(axis=1)
        if totals.max() > self.total:
            self.total, self.model = int(totals.max()), models[totals.argmax()]


def _triplets(n: int, number: int) -> Iterator[_Numbers]:
    """Different triplets of 0 … n − 1, at most so many, spread evenly over all, as arrays [≤ _TRIPLETS, 3]."""
    total = comb(n, 3)
    step = next((s for s in range(int(0.618 * total), total) if gcd(s, total) == 1), 1)
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


class _Moments:
    """Fits to many sets of the same points: a product of matrices gives the sums that they need."""

    def __init__(self, source: Float64, target: Float64) -> None:
        self.source, self.target = source, target
        self.centers = [np.median(points, axis=1) if points.size else np.zeros(3) for points in (source, target)]
        x, y = source - self.centers[0][:, None], target - self.centers[1][:, None]
        n = source.shape[1]
        products = (y[:, None] * x).reshape(9, n)
        terms = [np.ones((1, n)), x, y, np.square(x).sum(0)[None], np.square(y).sum(0)[None], products]
        self.terms = np.clip(np.concatenate(terms).T, -_HUGE, _HUGE)  # finite, so that 0 times it is 0

    def similarities(self, sets: _Sets) -> Float64:
        """The similarity [S, 3, 4] of each of the sets [S, words]."""
        n = self.source.shape[1]
        sums = np.concatenate([_members(piece, n) @ self.terms for piece in _pieces(sets, n)])
        size, x, y, xx, yy, yx = np.split(sums, (1, 4, 7, 8, 9), axis=1)
        x, y = x / size, y / size
        source_spread = (xx - size * np.square(x).sum(axis=1, keepdims=True))[:, 0]
        target_spread = (yy - size * np.square(y).sum(axis=1, keepdims=True))[:, 0]
        covariance = (yx.reshape(-1, 3, 3)) - size[:, :, None] * y[:, :, None] * x[:, None]
        models = _fitted(size[:, 0], x + self.centers[0], y + self.centers[1], source_spread, target_spread, covariance)
        # Where points are near to each other and far from the centre, too few digits are left.
        rough = ~((source_spread > 1e-4 * xx[:, 0]) & (target_spread > 1e-4 * yy[:, 0]))
        rough |= np.maximum(xx, yy)[:, 0] >= _HUGE
        (rough,) = np.nonzero(rough)
        for piece in _pieces(rough, n):
            models[piece] = _similarities(self.source, self.target, _members(sets[piece], n))
        return models


_HUGE = 1e200


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


def _at_most(source: Float64, target: Float64, thresholds: Float64, best: _Best) -> _Counts:
    """For each threshold, a number of points that no similarity brings more of within it.

    If a similarity with scale s brings x and x' within t of y and y', then |s·|x − x'| − |y − y'|| < 2t: call the points
    partners at s. All that it brings that near are partners of each other, so when points with fewer partners than
    that are left out, again and again, these are not among them. Scales are looked at in ranges, where partners are
    those at any scale of the range; the range that allows the most points is halved, `_SPLITS` times at most.
    """
    apart, true_apart = (_distances(points) for points in (source, target))
    found = []
    for threshold, reached, model in zip(thresholds, best.counts.tolist(), best.models, strict=True):
        # The margins are far more than what rounding does.
        most_apart = (true_apart + 2 * threshold) * (1 + 1e-9)
        least_apart = true_apart - 2 * threshold - 1e-9 * most_apart

        def allowed(low: float, high: float) -> int:
            partners = ~(low * apart >= most_apart) & ~(high * apart <= least_apart)  # also where inf · 0 is nan
            return _largest_core(partners, reached)

        scale = np.cbrt(np.linalg.det(model[:, :3]))
        split = float(scale) if 0 < scale < np.inf else 1.0
        ranges = [(-allowed(0, split), 0.0, split), (-allowed(split, np.inf), split, np.inf)]
        heapq.heapify(ranges)
        for _ in range(_SPLITS):
            if -ranges[0][0] <= reached:
                break
            _, low, high = heapq.heappop(ranges)
            middle = high / 2 if low == 0 else low * 2 if high == np.inf else np.sqrt(low * high)
            for part in ((low, middle), (middle, high)):
                heapq.heappush(ranges, (-allowed(*part), *part))
        found.append(-ranges[0][0])
    return np.array(found)


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
