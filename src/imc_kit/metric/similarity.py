"""Search for the similarities that bring the most camera centres close to the true ones.

The scores of 2024 and 2025 use this search. It fits a similarity to each triplet of points. For each threshold it then
fits a second similarity to the inliers of the first one. Only second similarities count. A similarity is a matrix
[3, 4]: A, a rotation times a scale, and b. It maps x to A·x + b.

Sets of points are stored as bits: uint64 [words], 64 points per word.
"""

import heapq
from collections.abc import Iterator, Sequence
from math import comb, gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Mask

EXHAUSTIVE = 300
"""Up to this many points, all triplets are tried if needed: 4.5 million, up to 140 s (docs/benchmarks.md)."""
SAMPLED = 200_000
"""Triplets tried for more points: about 10 s for 1000 points (docs/benchmarks.md)."""
BOUNDED = 3000
"""Up to this many points, upper bounds are computed. Their distance matrices take 16·n² bytes, here 144 MB."""
_TRIPLETS = 1 << 14
"""Triplets per batch. A batch fits equal inlier sets once, so larger batches save fits but take memory."""
_ELEMENTS = 1 << 16
"""Distances per piece of work: 512 KB, which stays in a processor's cache. Larger pieces are several times slower."""
_SPLITS = 32
"""How many times a range of scales is split for an upper bound."""
_HUGE = 1e200
"""Larger numbers are clipped, because their squares overflow."""

_Sets = NDArray[np.uint64]


def register(source: Float64, target: Float64, thresholds: Float64) -> "Search":
    """Search for the similarities that bring the most points within each threshold of their targets.

    source, target: [3, n], finite.

    Up to `EXHAUSTIVE` points all triplets are tried. The search ends early, with the same result, if the counts reach
    the upper bound of `_at_most`. For more points, `SAMPLED` triplets are tried and the counts are lower bounds. Half
    of these triplets are spread evenly over all; the other half are divided among the thresholds and spread over the
    inliers of each threshold's best model so far. Beyond `BOUNDED` points the upper bound is n. Deterministic.
    """
    from threadpoolctl import threadpool_limits

    # One thread: the products are small, and on a busy machine, threads that wait for each other take 100 times longer.
    # Floating-point errors are ignored: models of degenerate sets are nan, which is within no threshold.
    with threadpool_limits(1), np.errstate(all="ignore"):
        search = Search(source, target, thresholds)
        search.run()
    return search


class Search:
    """The best second similarities so far.

    counts: for each threshold, the largest number of points that one second similarity brings within it, [T].
    most: upper bounds of the counts if all triplets were tried; equal to the counts where these are final.
    models: the best second similarity for each threshold, [T, 3, 4].
    total, model: the largest sum over the thresholds of one similarity's inliers, and that similarity [3, 4], or the
        first with this sum; nan if there is none.
    tried: the number of triplets tried.
    """

    def __init__(self, source: Float64, target: Float64, thresholds: Float64) -> None:
        self.source, self.target, self.thresholds = source, target, thresholds
        self.n = source.shape[1]
        self.counts = np.zeros(len(thresholds), np.int64)
        self.most = np.full(len(thresholds), self.n)
        self.models = np.full((len(thresholds), 3, 4), np.nan)
        self.total, self.model = 0, np.full((3, 4), np.nan)
        self.tried = 0
        # A second fit needs the sums of these 18 terms over its points, relative to the median for accuracy:
        # 1, x, y, |x|², |y|² and y·xᵀ.
        self.medians = [np.median(points, axis=1) if self.n else np.zeros(3) for points in (source, target)]
        x, y = (points - median[:, None] for points, median in zip((source, target), self.medians, strict=True))
        squares = [np.square(points).sum(axis=0)[None] for points in (x, y)]
        terms = np.concatenate([np.ones((1, self.n)), x, y, *squares, (y[:, None] * x).reshape(9, self.n)])
        self.terms = np.clip(terms.T, -_HUGE, _HUGE)  # 0 · infinity would be nan

    def run(self) -> None:
        """Try triplets."""
        total = comb(self.n, 3)
        for triplets in _triplets(self.n, total if self.n <= EXHAUSTIVE else SAMPLED // 2):
            is_first = self.tried == 0
            self.try_triplets(triplets)
            if is_first and self.tried < total and self.n <= BOUNDED:
                self.most = self.at_most()
            if (self.counts == self.most).all():
                return
        if self.n <= EXHAUSTIVE:
            self.most = self.counts
        for place in np.flatnonzero(self.counts < self.most):
            inliers = _inliers(self.models[place, None], self.source, self.target, self.thresholds[place, None])
            near = np.flatnonzero(_members(inliers[:, 0], self.n))
            for triplets in _triplets(len(near), SAMPLED // 2 // len(self.most)):
                self.try_triplets(near[triplets])

    def at_most(self) -> NDArray[np.int64]:
        """For each threshold, an upper bound on the number of points that any similarity brings within it."""
        from scipy.spatial.distance import cdist

        apart, true_apart = (cdist(points.T, points.T) for points in (self.source, self.target))
        scales = np.cbrt(np.linalg.det(self.models[:, :, :3]))
        found = zip(self.thresholds.tolist(), self.counts.tolist(), scales.tolist(), strict=True)
        return np.array([_at_most(apart, true_apart, *each) for each in found])

    def try_triplets(self, triplets: NDArray[np.intp]) -> None:
        """Fit twice and keep the best. triplets: [K, 3], indices of points."""
        self.tried += len(triplets)
        corners, true_corners = (points[:, triplets].transpose(1, 0, 2) for points in (self.source, self.target))
        models = _similarities(corners, true_corners, np.ones(triplets.shape))
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
        """The similarity [S, 3, 4] of each set [S, words], from sums of `terms`."""
        sums = np.concatenate([_members(piece, self.n) @ self.terms for piece in _pieces(sets, self.n)])
        size, x, y, xx, yy, yx = np.split(sums, (1, 4, 7, 8, 9), axis=1)
        x, y = x / size, y / size
        x_spread, y_spread = xx - size * np.square(x).sum(1)[:, None], yy - size * np.square(y).sum(1)[:, None]
        covariance = yx.reshape(-1, 3, 3) - size[:, None] * y[:, :, None] * x[:, None]
        means = x + self.medians[0], y + self.medians[1]
        models = _from_moments(size[:, 0], means, (x_spread[:, 0], y_spread[:, 0]), covariance)
        # For sets that are small and far from the median, the differences lose too many digits: fit these directly.
        accurate = (x_spread > 1e-4 * xx) & (y_spread > 1e-4 * yy) & (np.maximum(xx, yy) < _HUGE)
        for piece in _pieces(np.flatnonzero(~accurate), self.n):
            models[piece] = _similarities(self.source, self.target, _members(sets[piece], self.n))
        return models


def _triplets(n: int, number: int) -> Iterator[NDArray[np.intp]]:
    """Up to `number` distinct triplets of 0 … n − 1, spread evenly over all, in batches [≤ _TRIPLETS, 3]."""
    total = comb(n, 3)
    # Golden-ratio steps are spread evenly; a step coprime to the total repeats no triplet.
    step = next((s for s in range(int((5**0.5 - 1) / 2 * total), total) if gcd(s, total) == 1), 1)
    # The triplets i < j < k, ordered by k, then j, then i, have the numbers C(k, 3) + C(j, 2) + i.
    threes, twos = (np.array([comb(i, size) for i in range(n + 1)]) for size in (3, 2))
    for start in range(0, min(number, total), _TRIPLETS):
        count = min(_TRIPLETS, number - start, total - start)
        rest = (start * step % total + step * np.arange(count)) % total
        k = np.searchsorted(threes, rest, "right") - 1
        rest -= threes[k]
        j = np.searchsorted(twos, rest, "right") - 1
        yield np.stack([rest - twos[j], j, k], axis=1)


def _pieces(rows: NDArray[Any], n: int) -> Iterator[NDArray[Any]]:
    """Split the rows of an array into pieces of about `_ELEMENTS` distances, with n distances per row."""
    step = max(1, _ELEMENTS // n)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _similarities(source: Float64, target: Float64, members: Float64) -> Float64:
    """Fit a similarity [K, 3, 4] from source to target to each of K sets of points; nan for degenerate sets.

    source, target: [3, N], the same for all sets, or [K, 3, N].
    members: [K, N], 1 where a point is in the set, else 0.
    """
    size = members.sum(axis=1)
    means = [points @ members[..., None] / size[:, None, None] for points in (source, target)]
    source, target = ((points - mean) * members[:, None] for points, mean in zip((source, target), means, strict=True))
    spreads = [np.einsum("kin,kin->k", points, points) for points in (source, target)]
    return _from_moments(size, [mean[..., 0] for mean in means], spreads, target @ source.transpose(0, 2, 1))


def _from_moments(size: Float64, means: Sequence[Float64], spreads: Sequence[Float64], covariance: Float64) -> Float64:
    """Fit similarities [K, 3, 4] to the moments of K sets of points; nan for degenerate sets.

    size: [K]. means: of source and target, [K, 3] each. spreads: sums of squared distances from the mean, of source and
    target, [K] each. covariance: sums of products about the means, [K, 3, 3].

    Kabsch's rotation with determinant +1 (Acta Cryst. A32, 1976) and Horn's symmetric scale, the ratio of the root mean
    square distances from the centroids (J. Opt. Soc. Am. A 4, 1987).
    """
    (source_mean, target_mean), (source_spread, target_spread) = means, spreads
    rounding = 8 * np.finfo(np.float64).eps * np.abs(source_mean).max(axis=1)
    usable = (source_spread > size * rounding**2) & np.isfinite(source_spread)
    usable &= np.isfinite(covariance).all(axis=(1, 2))
    u, _, vt = np.linalg.svd(np.where(usable[:, None, None], covariance, 0))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    scale = np.where(usable, np.sqrt(target_spread / source_spread), np.nan)
    linear = scale[:, None, None] * (u @ vt)
    return np.concatenate([linear, target_mean[:, :, None] - linear @ source_mean[:, :, None]], axis=2)


def _members(sets: _Sets, n: int) -> Float64:
    """Unpack sets [S, words] of n points to [S, n]: 1 where a point is in the set, else 0."""
    return np.unpackbits(sets.view(np.uint8), axis=1, count=n).astype(np.float64)


def _inliers(models: Float64, source: Float64, target: Float64, thresholds: Float64) -> _Sets:
    """The inliers of each of K models at each of T thresholds, as sets: [K, T, words]."""
    n = source.shape[1]
    # [A b −1] times the points (x, 1, y) gives the residuals A·x + b − y in one product.
    points = np.concatenate([source, np.ones((1, n)), target])
    models = np.concatenate([models, np.broadcast_to(-np.eye(3), (len(models), 3, 3))], axis=2)
    packed = np.zeros((len(models), len(thresholds), -(-n // 64) * 8), np.uint8)
    for piece, bits in zip(_pieces(models, n), _pieces(packed, n), strict=True):
        residuals = piece.transpose(1, 0, 2) @ points
        squared = np.square(residuals, out=residuals).sum(axis=0)
        bits[..., : -(-n // 8)] = np.packbits(squared[:, None] < np.square(thresholds)[:, None], axis=-1)
    return packed.view(np.uint64)


def _distinct(sets: _Sets) -> _Sets:
    """The distinct sets [S, words] with at least three points among [K, T, words]."""
    sets = sets.reshape(-1, sets.shape[-1])
    sets = sets[np.bitwise_count(sets).sum(axis=1) >= 3]
    # Sorting by a hash makes equal sets adjacent. A chance collision of hashes only costs a repeated fit.
    factors = np.random.default_rng(0).integers(1 << 63, size=sets.shape[1], dtype=np.uint64)
    sets = sets[np.argsort(sets @ factors)]
    is_new = np.ones(len(sets), bool)
    is_new[1:] = (sets[1:] != sets[:-1]).any(axis=1)
    return sets[is_new]


def _at_most(apart: Float64, true_apart: Float64, threshold: float, reached: int, scale: float) -> int:
    """An upper bound on the number of points that any similarity brings within the threshold.

    apart, true_apart: distances [n, n] between the points and between their targets.
    reached: the largest number already found. The bound is not searched below it.
    scale: the likely scale of the best similarity.

    If a similarity of scale s brings x and x' within t of y and y', then |s·|x − x'| − |y − y'|| < 2t. Call such points
    partners at s. All inliers of the similarity are partners of each other. So a point with fewer partners than inliers
    is not an inlier and can be removed, as a partner too (`_largest_core`). This is a branch and bound over ranges of
    scales. Points are partners in a range if they are partners at any of its scales. The range with the largest bound
    is split.
    """
    # The margins are far larger than rounding errors.
    most_apart = (true_apart + 2 * threshold) * (1 + 1e-9)
    least_apart = true_apart - 2 * threshold - 1e-9 * most_apart

    def bounded(low: float, high: float) -> tuple[int, float, float]:
        partners = ~(low * apart >= most_apart) & ~(high * apart <= least_apart)  # also where 0 · inf is nan
        return -_largest_core(partners, reached), low, high

    ranges = [bounded(0, np.inf)]  # a heap: the range with the largest bound is first
    for _ in range(_SPLITS):
        bound, low, high = ranges[0]
        if -bound <= reached:
            break
        if high < np.inf:
            middle = np.sqrt(low * high) if low else high / 2
        else:
            middle = 2 * low if low else scale if 0 < scale < np.inf else 1.0
        heapq.heapreplace(ranges, bounded(low, middle))
        heapq.heappush(ranges, bounded(middle, high))
    return -ranges[0][0]


def _largest_core(partners: Mask, reached: int) -> int:
    """The largest k such that some points each have k partners among these points, itself included; at least `reached`.

    partners: [n, n], symmetric.
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
