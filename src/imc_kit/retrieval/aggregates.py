"""VLAD and Fisher vectors: all local descriptors of an image summed up in one vector, with no weight file.

What they sum up is how the descriptors differ from a vocabulary, which is learned from the scene's own. Binary
descriptors are taken as vectors of bits. Everything here is NumPy, whose threads are the caller's to limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from imc_kit.matchers import kmeans
from imc_kit.retrieval.base import AggregateConfig
from imc_kit.types import Features, Float32, Float64

Numbers = TypeVar("Numbers", Float32, Float64)

_SAMPLED_IMAGES = 256
"""Images from which the vocabulary is learned, at most."""
_MIXTURE_ROUNDS = 30
_LEAST_SPREAD = 1e-2
"""A component's variance is at least this share of the whole sample's, so that none shrinks to a point."""
_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class VladConfig(AggregateConfig):
    """VLAD (Jégou et al. 2010): for each cluster, the sum of differences to its centre."""

    name: ClassVar[str] = "vlad"

    intra: bool = True
    """Each cluster's part is brought to length 1 (Arandjelović and Zisserman 2013), so that none outweighs the rest."""

    def create(self) -> Vlad:
        return Vlad(self)


@dataclass(frozen=True)
class FisherConfig(AggregateConfig):
    """Improved Fisher vectors (Perronnin et al. 2010): for each component of a mixture of Gaussians, in which direction
    its mean and its variances would move to fit the image's descriptors better."""

    name: ClassVar[str] = "fisher"

    size: int = 64
    dimension: int = 64
    """Local descriptors are reduced to so many principal components first, if they have more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.dimension >= 1, "dimension", "at least 1")

    def create(self) -> Fisher:
        return Fisher(self)


class Vlad:
    """As `Aggregate` says."""

    def __init__(self, config: VladConfig) -> None:
        self.config: VladConfig = config

    def describe(self, images: Sequence[str], features: Callable[[str], Features]) -> Float32:
        """As `Aggregate.describe` says."""
        sample = _sample(images, features, self.config)
        if not len(sample):
            return np.zeros((len(images), 0), np.float32)
        centres = kmeans.k_means(sample, self.config.size, self.config.seed)
        del sample  # the rows of hundreds of images take more memory than it
        rows = np.zeros((len(images), centres.size), np.float32)
        for row, name in zip(rows, images, strict=True):
            row[:] = vlad(_vectors(features(name), self.config), centres, self.config.power, self.config.intra)
        return rows


class Fisher:
    """As `Aggregate` says."""

    def __init__(self, config: FisherConfig) -> None:
        self.config: FisherConfig = config

    def describe(self, images: Sequence[str], features: Callable[[str], Features]) -> Float32:
        """As `Aggregate.describe` says."""
        sample = _sample(images, features, self.config)
        if not len(sample):
            return np.zeros((len(images), 0), np.float32)
        axes = principal_axes(sample, self.config.dimension)
        mixture = fit_mixture(sample @ axes, self.config.size, self.config.seed)
        del sample
        rows = np.zeros((len(images), 2 * mixture.means.size), np.float32)
        for row, name in zip(rows, images, strict=True):
            row[:] = fisher(_vectors(features(name), self.config) @ axes, mixture, self.config.power)
        return rows


def vlad(points: Float32, centres: Float32, power: float, intra: bool) -> Float32:
    """The VLAD of points [N, D], with the vocabulary `centres` [K, D]: [K·D], of length 1, or 0 if there are none."""
    nearest = kmeans.nearest(points, centres)
    member = (nearest[:, None] == np.arange(len(centres))).astype(np.float32)
    sums = member.T @ points - member.sum(0)[:, None] * centres
    sums = _powered(sums, power)
    if intra:
        sums = _unit(sums)
    return _unit(sums.ravel())


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians with diagonal covariances: weights [K], means [K, D], variances [K, D]."""

    weights: Float64
    means: Float64
    variances: Float64

    def shares(self, points: NDArray[np.floating]) -> Float64:
        """How much each component answers for each of the points [N, D]: [N, K], rows that sum to 1."""
        precision = 1 / self.variances
        log = points @ (self.means * precision).T - (points**2) @ precision.T / 2
        log += np.log(self.weights) - ((self.means**2 * precision).sum(1) + np.log(self.variances).sum(1)) / 2
        log -= log.max(1, keepdims=True)
        shares = np.exp(log)
        shares /= shares.sum(1, keepdims=True)
        return shares


def fisher(points: NDArray[np.floating], mixture: Mixture, power: float) -> Float64:
    """The Fisher vector of points [N, D]: [2·K·D], of length 1, or 0 if there are none.

    First the gradients by the means, then those by the standard deviations, each [K, D].
    """
    points = points.astype(np.float64)
    shares = mixture.shares(points)
    spread = np.sqrt(mixture.variances)
    count, first, second = shares.sum(0)[:, None], shares.T @ points, shares.T @ points**2
    by_mean = (first - count * mixture.means) / spread
    by_spread = (second - 2 * mixture.means * first + count * mixture.means**2) / mixture.variances - count
    scale = np.sqrt(mixture.weights)[:, None] * max(len(points), 1)
    gradient = np.concatenate([by_mean / scale, by_spread / (np.sqrt(2) * scale)])
    return _unit(_powered(gradient.ravel(), power))


def fit_mixture(points: NDArray[np.floating], size: int, seed: int) -> Mixture:
    """A mixture of `size` Gaussians (or of fewer, as `k_means` says) for the points [N, D]."""
    centres = kmeans.k_means(points.astype(np.float32), size, seed)
    nearest = kmeans.nearest(points.astype(np.float32), centres)
    shares = (nearest[:, None] == np.arange(len(centres))).astype(np.float64)
    return expectation_maximisation(points.astype(np.float64), shares, _MIXTURE_ROUNDS)


def expectation_maximisation(points: Float64, shares: Float64, rounds: int) -> Mixture:
    """The mixture for points [N, D] that starts from `shares` [N, K] (see `Mixture.shares`), after so many rounds."""
    least = np.maximum(_LEAST_SPREAD * points.var(0), 1e-12)
    for number in range(rounds):
        count = shares.sum(0)[:, None] + 1e-12
        means = shares.T @ points / count
        variances = np.maximum(shares.T @ points**2 / count - means**2, least)
        weights = np.maximum(count[:, 0] / len(points), _LEAST_WEIGHT)
        mixture = Mixture(weights / weights.sum(), means, variances)
        if number + 1 < rounds:
            shares = mixture.shares(points)
    return mixture


def principal_axes(points: Float32, dimension: int) -> Float32:
    """The orthonormal directions [D, d] in which the points [N, D] vary most, d = `dimension` or D if that is less."""
    centred = points - points.mean(0)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return axes[:, ::-1][:, :dimension].astype(np.float32)


def _vectors(features: Features, config: AggregateConfig) -> Float32:
    """The strongest local descriptors as vectors, [N, D]."""
    descriptors = features.descriptors[: config.keypoints]
    if descriptors.dtype == np.uint8:
        descriptors = np.unpackbits(descriptors, axis=1)
    return descriptors.astype(np.float32)


def _sample(images: Sequence[str], features: Callable[[str], Features], config: AggregateConfig) -> Float32:
    """Local descriptors from images all over the scene, [at most config.sample, D]."""
    random = np.random.default_rng(config.seed)
    wanted = min(len(images), _SAMPLED_IMAGES, config.sample)
    parts: list[Float32] = []
    for place in random.permutation(len(images)):
        points = _vectors(features(images[place]), config)
        if len(points):
            parts.append(points[random.permutation(len(points))[: config.sample // wanted]])
        if len(parts) == wanted:
            break
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _powered(values: Numbers, power: float) -> Numbers:
    return np.copysign(np.abs(values) ** power, values)


def _unit(values: Numbers) -> Numbers:
    """Along the last axis of length 1; what is 0 stays."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit = np.zeros_like(values)
    np.divide(values, length, out=unit, where=length > 0)
    return unit
