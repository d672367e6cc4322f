"""VLAD: the local descriptors of an image summed up in one vector. It needs no weight file.

VLAD sums the differences between descriptors and their nearest cluster centres. The centres, the vocabulary, are
trained on the scene's own descriptors. The caller limits NumPy's threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imc_kit.matchers import as_vectors, kmeans
from imc_kit.retrieval import AggregateConfig, register
from imc_kit.runtime import progress
from imc_kit.types import Features, Float32

_SAMPLED_IMAGES = 256
"""Train the vocabulary on at most this many images. It limits the time for reading features."""


@register
@dataclass(frozen=True)
class VladConfig(AggregateConfig):
    """VLAD (Jégou et al. 2010): for each cluster, the sum of the differences to its centre.

    Each cluster's part has length 1 (Arandjelović and Zisserman 2013), so that no cluster dominates.
    """

    name: ClassVar[str] = "vlad"

    def create(self) -> "Vlad":
        return Vlad(self)


class Vlad:
    """See `Aggregate`."""

    def __init__(self, config: VladConfig) -> None:
        self.config: VladConfig = config

    def describe(self, images: Sequence[str], features: Callable[[str], Features]) -> Float32:
        """See `Aggregate.describe`."""
        sample = _sample(images, features, self.config)
        if not len(sample):
            return np.zeros((len(images), 0), np.float32)
        centres = kmeans.k_means(sample, self.config.size, self.config.seed)
        del sample  # it takes more memory than the vectors of hundreds of images
        rows = np.zeros((len(images), centres.size), np.float32)
        with progress.bar("global descriptors", len(images), "image") as bar:
            for row, name in zip(rows, images, strict=True):
                row[:] = vlad(_vectors(features(name), self.config), centres, self.config.power)
                bar.update()
        return rows


def vlad(points: Float32, centres: Float32, power: float) -> Float32:
    """The VLAD [K·D] of points [N, D] for the vocabulary `centres` [K, D]: of length 1, or 0 if there are no points.

    power: as in `VladConfig`.
    """
    member = (kmeans.nearest(points, centres)[:, None] == np.arange(len(centres))).astype(np.float32)
    sums = member.T @ points - member.sum(0)[:, None] * centres
    return _unit(_unit(np.copysign(np.abs(sums) ** power, sums)).ravel())


def _vectors(features: Features, config: AggregateConfig) -> Float32:
    """The strongest local descriptors as vectors [N, D]."""
    return as_vectors(features.descriptors[: config.keypoints])


def _sample(images: Sequence[str], features: Callable[[str], Features], config: AggregateConfig) -> Float32:
    """Random local descriptors [≤ config.sample, D] from random images."""
    random = np.random.default_rng(config.seed)
    wanted = min(len(images), _SAMPLED_IMAGES, config.sample)
    parts: list[Float32] = []
    for index in random.permutation(len(images)):
        points = _vectors(features(images[index]), config)
        if len(points):
            parts.append(points[random.permutation(len(points))[: config.sample // wanted]])
        if len(parts) == wanted:
            break
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _unit(values: Float32) -> Float32:
    """Scale to length 1 along the last axis; 0 stays 0."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit = np.zeros_like(values)
    np.divide(values, length, out=unit, where=length > 0)
    return unit
