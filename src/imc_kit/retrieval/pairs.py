"""Which pairs of images to match: all, similar images, neighbours in a sequence, or the pairs in a file.

Every selection lists each pair once. Pairs, and the two images of a pair, are in the order of the images.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from imc_kit.data.text import read_text
from imc_kit.errors import KitError, require
from imc_kit.retrieval import DescriptorConfig, NetworkDescriptorConfig
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.listed import read_pairs
from imc_kit.types import Float32, Float64, Pair

_BLOCK = 2**22
"""Similarities computed at once, 16 MB. It limits memory and does not affect the result."""


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs of a scene's images to match. Raises `KitError` for an invalid value."""

    method: Literal["exhaustive", "similar", "matches", "sequential", "file"] = "similar"
    """exhaustive: all pairs; similar: each image with the most similar ones; matches: each image with those that share
    most verified low-resolution matches; sequential: each image with those that follow it by name; file: the pairs in
    `file`."""
    exhaustive_up_to: int = 60
    """similar, matches and sequential: take all pairs in scenes of at most this many images."""
    descriptors: tuple[DescriptorConfig, ...] = (VladConfig(),)
    """similar: the global descriptors that compare images. Each one selects its own pairs."""
    k: int = 30
    """similar and matches: each image selects this many others, per descriptor. More may select it in turn."""
    min_similarity: float | None = None
    """similar: drop pairs with a lower cosine similarity (−1 … 1). Each descriptor has its own scale."""
    min_matches: int = 8
    """matches: drop pairs with fewer verified low-resolution matches. Unrelated images have up to 11."""
    min_per_image: int = 8
    """similar and matches: always keep each image's best N candidates, whatever their similarity and their number of
    matches."""
    window: int = 10
    """sequential: pair each image with this many that follow it."""
    file: Path | None = None
    """file: a text file with one pair per line (see `read_pairs`)."""

    def __post_init__(self) -> None:
        methods = get_args(get_type_hints(PairsConfig)["method"])
        low = self.min_similarity
        for valid, option, wanted in (
            (self.method in methods, "method", f"one of {', '.join(methods)}"),
            (self.exhaustive_up_to >= 0, "exhaustive_up_to", "at least 0"),
            (self.method != "similar" or len(self.descriptors) > 0, "descriptors", "at least one"),
            (self.k >= 1, "k", "at least 1"),
            (low is None or -1 <= low <= 1, "min_similarity", "in −1 … 1, or None"),
            (self.min_matches >= 0, "min_matches", "at least 0"),
            (self.min_per_image >= 0, "min_per_image", "at least 0"),
            (self.window >= 1, "window", "at least 1"),
            (self.method != "file" or self.file is not None, "file", "the path of a list of pairs"),
        ):
            require(valid, f"{option} of the selection of pairs", wanted, getattr(self, option))

    def check(self) -> None:
        """Raise `KitError` when a network's weight file is missing, and when `file` is empty or not asked for."""
        if self.file is not None and self.method != "file":
            raise KitError(f"the list of pairs {self.file} needs --pairs.method file; the method is {self.method}")
        if self.file is not None and not any(line.strip(" \t\r,") for line in read_text(self.file).split("\n")):
            raise KitError(f"the list of pairs {self.file} is empty: write two images on each line")
        for descriptor in self._asked:
            if isinstance(descriptor, NetworkDescriptorConfig):
                descriptor.create()

    def weight_files(self) -> tuple[str, ...]:
        """The weight files that the descriptors need, by name in the manifest."""
        return tuple(name for descriptor in self._asked for name in descriptor.weight_files())

    @property
    def _asked(self) -> tuple[DescriptorConfig, ...]:
        return self.descriptors if self.method == "similar" else ()


def select(
    images: Sequence[str],
    config: PairsConfig,
    describe: Callable[[DescriptorConfig], Float32],
    notes: list[str] | None = None,
) -> list[Pair]:
    """Select pairs of a scene's images.

    describe: returns the vectors [N, D] of all images for a descriptor, of length 1 or 0. It is called only if needed.
    notes: gets a sentence about lines of a list of pairs that cannot be used.

    The method `matches` is treated as `similar`, to select the candidates for low-resolution matching. Raises
    `KitError` for an unusable list of pairs.
    """
    if config.method == "file" and config.file is not None:
        return read_pairs(config.file, images, notes)
    if config.method == "exhaustive" or len(images) <= config.exhaustive_up_to:
        return exhaustive(images)
    if config.method == "sequential":
        return sequential(images, config.window)
    return similar(images, [describe(descriptor) for descriptor in config.descriptors], config)


def exhaustive(images: Sequence[str]) -> list[Pair]:
    """All n · (n − 1) / 2 pairs of images."""
    return list(combinations(images, 2))


def similar(images: Sequence[str], descriptors: Sequence[Float32], config: PairsConfig) -> list[Pair]:
    """Pair each image with the k most similar ones, per descriptor. See `PairsConfig` for the options.

    descriptors: for each, float32 [N, D] with a vector of length 1 or 0 per image. The similarity of two images is the
        dot product of their vectors. Of equally similar images the first are selected.
    """
    for matrix in descriptors:
        if matrix.ndim != 2 or len(matrix) != len(images):
            raise ValueError(f"descriptors must be [{len(images)}, D], not {list(matrix.shape)}")
        if not np.isfinite(matrix).all():
            raise ValueError("descriptors must be finite")
    least = -np.inf if config.min_similarity is None else config.min_similarity
    chosen = [_best(partial(_products, matrix), len(images), least, config) for matrix in descriptors]
    return named(images, np.concatenate(chosen))


def nearest_first(images: Sequence[str], pairs: Sequence[Pair], similarity: Float64) -> list[Pair]:
    """Sort `pairs` so that the most useful ones are matched first when time is short.

    Every image's most similar partner comes first, then every image's second, and so on. Within a rank, the more
    similar pair comes first.

    similarity: symmetric [N, N], of `images`; larger is more similar.
    """
    number = {name: i for i, name in enumerate(images)}
    similarity = similarity.copy()
    np.fill_diagonal(similarity, np.inf)
    ranks = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    first, second = np.array([(number[a], number[b]) for a, b in pairs], np.int64).reshape(-1, 2).T
    rank = np.minimum(ranks[first, second], ranks[second, first])
    return [pairs[i] for i in np.lexsort((-similarity[first, second], rank))]


def by_matches(images: Sequence[str], counts: Mapping[Pair, int], config: PairsConfig) -> list[Pair]:
    """Pair each image with the k others that share most low-resolution matches with it.

    counts: the number of verified matches by pair. A pair without matches is never selected. See `PairsConfig` for the
        options.
    """
    number = {name: i for i, name in enumerate(images)}
    table = np.full((len(images), len(images)), -np.inf, np.float32)
    for (first, second), count in counts.items():
        i, j = number[first], number[second]
        table[i, j] = table[j, i] = count or -np.inf
    return named(images, _best(table.__getitem__, len(images), config.min_matches, config))


def sequential(images: Sequence[str], window: int) -> list[Pair]:
    """Pair each image with the `window` images that follow it by name."""
    by_name = sorted(range(len(images)), key=lambda i: _natural(images[i]))
    pairs = [(one, other) for i, one in enumerate(by_name) for other in by_name[i + 1 : i + 1 + window]]
    return named(images, np.array(pairs, np.int64).reshape(-1, 2))


def _products(descriptors: Float32, rows: slice) -> Float32:
    """The similarity of some images to all images, from descriptors [N, D]."""
    return descriptors[rows] @ descriptors.T


def _best(scores: Callable[[slice], Float32], n: int, least: float, config: PairsConfig) -> NDArray[np.int64]:
    """The pairs [M, 2] of each of n images with the k others of the largest scores, `least` and more.

    scores: returns some rows of the matrix [n, n]. Each image keeps its first `min_per_image`, whatever their scores,
        except −∞.
    """
    k = max(0, min(config.k, n - 1))
    pairs = [np.empty((0, 2), np.int64)]
    rows = max(1, _BLOCK // max(n, 1))
    for start in range(0, n, rows):
        block = scores(slice(start, start + rows))
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        best = np.argsort(-block, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(block, best, 1)
        always = np.arange(k) < config.min_per_image
        image, rank = np.nonzero((values > -np.inf) & (always | (values >= least)))
        pairs.append(np.stack([start + image, best[image, rank]], axis=1))
    return np.concatenate(pairs)


def named(images: Sequence[str], pairs: NDArray[np.int64]) -> list[Pair]:
    """Pairs of numbers of images [M, 2], each once and in the order of the images, by name."""
    return [(images[i], images[j]) for i, j in np.unique(np.sort(pairs, axis=1), axis=0).tolist()]


def _natural(name: str) -> list[Any]:
    """A key for natural sorting: 9.jpg comes before 10.jpg."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]
