"""Which pairs of images to match: all, the most similar, neighbours in a sequence, or those that a file lists.

Every selection names each pair once, the images of a pair and the pairs in the order of the images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.base import DescriptorConfig, NetworkDescriptorConfig
from imc_kit.types import Float32, Float64, Pair

_BLOCK = 2**22
"""Similarities that are computed at once."""
_SEPARATORS = ("\t", ",", " ")


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs of a scene's images to match. Raises `KitError` when an option makes no sense."""

    method: Literal["exhaustive", "similar", "matches", "sequential", "file"] = "similar"
    """exhaustive: all pairs; similar: each image with those most similar to it; matches: each image with those that it
    has most verified matches with at low resolution; sequential: each image with those that follow it, in the order of
    their names; file: the pairs that `file` lists."""
    exhaustive_up_to: int = 60
    """similar, matches and sequential: scenes of at most so many images get all pairs."""
    descriptors: tuple[DescriptorConfig, ...] = (VladConfig(),)
    """similar: what images are compared by; with several, the pairs of each."""
    k: int = 30
    """similar and matches: so many images are chosen for each, by each descriptor; others may choose it too."""
    min_similarity: float | None = None
    """similar: pairs of a lower cosine (−1 … 1) are left out. Each descriptor has a scale of its own."""
    min_matches: int = 8
    """matches: pairs of which fewer matches are verified in the overview are left out; strangers have up to 11."""
    min_per_image: int = 8
    """similar and matches: so many of the k of each image stay, however low their similarity, the number of their
    matches and `max_pairs` are."""
    max_pairs: int | None = None
    """similar and matches: at most so many pairs, the most similar; several descriptors take turns."""
    window: int = 10
    """sequential: each image is paired with so many that follow it."""
    quadratic: bool = False
    """sequential: and with those 1, 2, 4, … 2^(window − 1) places after it."""
    loop: bool = False
    """sequential: the first image follows the last, as on a turntable."""
    file: Path | None = None
    """file: a text that names one pair a line (see `read_pairs`)."""

    def __post_init__(self) -> None:
        methods = get_args(get_type_hints(PairsConfig)["method"])
        self._require(self.method in methods, "method", f"one of {', '.join(methods)}")
        self._require(self.exhaustive_up_to >= 0, "exhaustive_up_to", "at least 0")
        self._require(self.method != "similar" or len(self.descriptors) > 0, "descriptors", "at least one")
        self._require(self.k >= 1, "k", "at least 1")
        self._require(
            self.min_similarity is None or -1 <= self.min_similarity <= 1, "min_similarity", "in −1 … 1, or None"
        )
        self._require(self.min_matches >= 0, "min_matches", "at least 0")
        self._require(self.min_per_image >= 0, "min_per_image", "at least 0")
        self._require(self.max_pairs is None or self.max_pairs >= 0, "max_pairs", "at least 0, or None")
        self._require(self.window >= 1, "window", "at least 1")
        self._require(self.method != "file" or self.file is not None, "file", "the path of a list of pairs")

    def _require(self, right: bool, option: str, wanted: str) -> None:
        if not right:
            raise KitError(f"{option} of the selection of pairs must be {wanted}, not {getattr(self, option)!r}")

    def check(self) -> None:
        """Raise KitError when the file of a network, or the list of pairs, is missing."""
        if self.method == "file" and self.file is not None and not self.file.is_file():
            raise KitError(f"there is no list of pairs {self.file}: give a text that names two images a line")
        for descriptor in self._asked:
            if isinstance(descriptor, NetworkDescriptorConfig):
                descriptor.create()

    def weight_files(self) -> tuple[str, ...]:
        """The names, in the manifest of weights, of the files that are looked for in the usual places."""
        return tuple(name for descriptor in self._asked for name in descriptor.weight_files())

    @property
    def _asked(self) -> tuple[DescriptorConfig, ...]:
        return self.descriptors if self.method == "similar" else ()


def select(images: Sequence[str], config: PairsConfig, describe: Callable[[DescriptorConfig], Float32]) -> list[Pair]:
    """The pairs of a scene's images that `config` wants.

    describe: gives the rows of all images, [N, D], of length 1 or 0, by the configuration of a descriptor. It is asked
        for nothing that is not needed.

    Raises `KitError` for a list of pairs that cannot be used.
    """
    if config.method == "file" and config.file is not None:
        return read_pairs(config.file, images)
    if config.method == "exhaustive" or len(images) <= config.exhaustive_up_to:
        return exhaustive(images)
    if config.method == "sequential":
        followed = sorted(images, key=_by_number)
        return sequential(images, followed, config.window, quadratic=config.quadratic, loop=config.loop)
    return similar(
        images,
        [describe(descriptor) for descriptor in config.descriptors],
        config.k,
        min_similarity=config.min_similarity,
        min_per_image=config.min_per_image,
        max_pairs=config.max_pairs,
    )


def exhaustive(images: Sequence[str]) -> list[Pair]:
    """Every pair of `images` once, in their order: n · (n − 1) / 2."""
    return list(combinations(images, 2))


def similar(
    images: Sequence[str],
    descriptors: Sequence[Float32],
    k: int,
    *,
    min_similarity: float | None = None,
    min_per_image: int = 0,
    max_pairs: int | None = None,
) -> list[Pair]:
    """Each image with the k most similar to it by each of the descriptors; see `PairsConfig` for the options.

    descriptors: float32 [N, D], of any D, a row for each image, of length 1 or 0. Their product is the similarity; of
        images that are as similar the first are chosen.
    """
    for matrix in descriptors:
        if matrix.ndim != 2 or len(matrix) != len(images):
            raise ValueError(f"descriptors must be [{len(images)}, D], not {list(matrix.shape)}")
        if not np.isfinite(matrix).all():
            raise ValueError("descriptors must be finite")
    choices = [_most_similar(matrix, k) for matrix in descriptors]
    return _union(images, choices, min_similarity, min_per_image, max_pairs)


def nearest_first(images: Sequence[str], pairs: Sequence[Pair], similarity: Float64) -> list[Pair]:
    """`pairs` in the order in which they are worth matching when time is short: every image's most similar partner,
    then every image's second, and so on; of equal rank the more similar first.

    similarity: of `images`, [N, N], symmetric; larger is more alike.
    """
    row = {name: number for number, name in enumerate(images)}
    similarity = similarity.copy()
    np.fill_diagonal(similarity, np.inf)
    ranks = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1)

    def worth(pair: Pair) -> tuple[int, float]:
        first, second = (row[name] for name in pair)
        return int(min(ranks[first, second], ranks[second, first])), -float(similarity[first, second])

    return sorted(pairs, key=worth)


def by_matches(
    images: Sequence[str],
    counts: Mapping[Pair, int],
    k: int,
    *,
    min_count: int = 1,
    min_per_image: int = 0,
    max_pairs: int | None = None,
) -> list[Pair]:
    """Each image with the k that it has most matches with: what a quick first matching says of candidate pairs.

    counts: verified matches by pair, in either order of its images (of both, the larger counts). A pair without any is
        none of an image's k.
    min_count: pairs with fewer are left out, but `min_per_image` of each image's best stay (if they have any).

    `max_pairs` is as in `PairsConfig`. Raises `KitError` for a pair of names that are not two of `images`.
    """
    number = {name: i for i, name in enumerate(images)}
    best: dict[tuple[int, int], int] = {}
    for (first, second), count in counts.items():
        for name in (first, second):
            if name not in number:
                raise KitError(f"matches are counted for {name!r}, which is not an image of the scene")
        if first == second:
            raise KitError(f"the pair {first!r}, {second!r} is one image: count the matches of two")
        i, j = sorted((number[first], number[second]))
        if count > best.get((i, j), 0):
            best[i, j] = count
    edges = np.array(list(best), np.int64).reshape(-1, 2)
    image = edges.ravel()
    other = edges[:, ::-1].ravel()
    score = np.repeat(np.array(list(best.values()), np.float64), 2)
    order = np.lexsort((other, -score, image))
    image, other, score = image[order], other[order], score[order]
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    chosen = rank < k
    choices = _Choices(image[chosen], other[chosen], score[chosen], rank[chosen])
    return _union(images, [choices], min_count, min_per_image, max_pairs)


def sequential(
    images: Sequence[str],
    followed: Sequence[str] | None = None,
    window: int = 10,
    *,
    quadratic: bool = False,
    loop: bool = False,
) -> list[Pair]:
    """Each image with the `window` that follow it; see `PairsConfig` for the options.

    followed: all of `images` in the order in which they were taken; their own when left out.
    """
    number = {name: i for i, name in enumerate(images)}
    place = np.array([number[name] for name in (images if followed is None else followed)], np.int64)
    steps = {*range(1, window + 1), *(2**i for i in range(window) if quadratic)}
    codes = [np.empty(0, np.int64)]
    for step in steps:
        if step < len(images):
            codes.append(_codes(place[:-step], place[step:], len(images)))
            if loop:
                codes.append(_codes(place[-step:], place[:step], len(images)))
    return _named(images, np.unique(np.concatenate(codes)))


def read_pairs(path: Path, images: Sequence[str]) -> list[Pair]:
    """The pairs that a text file lists: two names a line, with a tab, a comma or a space between them.

    Spaces around names are dropped. Names may hold commas and spaces themselves: the line is divided where both sides
    are names of `images`, at a tab if it has one. Blank lines, and lines that start with # and name no pair, are passed
    over. A pair that comes again, in either order, counts once.

    Raises `KitError`, naming the line, where this leaves no pair or more than one, and for files that are not UTF-8.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"cannot read the list of pairs {path}: {error}") from error
    number = {name: i for i, name in enumerate(images)}
    codes = set()
    for count, line in enumerate(lines, 1):
        found = {(number[a], number[b]) for a, b in _divisions(line) if a in number and b in number}
        if not found and (not line.strip() or line.startswith("#")):
            continue
        reason = _flaw(line, found, images)
        if reason:
            raise KitError(f"{path}, line {count}: {reason}")
        ((i, j),) = found
        codes.add(min(i, j) * len(images) + max(i, j))
    return _named(images, np.array(sorted(codes), np.int64))


def _divisions(line: str) -> Iterator[Pair]:
    """All ways to read a line as two names."""
    for separator in ("\t",) if "\t" in line else _SEPARATORS:
        for place in (match.start() for match in re.finditer(re.escape(separator), line)):
            yield line[:place].strip(), line[place + 1 :].strip()


def _flaw(line: str, found: set[tuple[int, int]], images: Sequence[str]) -> str | None:
    """What is wrong with a line that can be read as the pairs `found`."""
    if len(found) > 1:
        return f"{line!r} can be read as several pairs: put a tab between the names"
    if found:
        return f"{line!r} names one image twice" if len(set(*found)) == 1 else None
    divisions = set(_divisions(line))
    if len(divisions) == 1:
        unknown = next(name for name in divisions.pop() if name not in images)
        return f"{unknown!r} is not an image of the scene"
    return f"{line!r} does not name two images of the scene: write two names with a tab between them"


class _Choices(NamedTuple):
    """What images choose: `other` [M] is chosen by `image` [M], as its best (rank [M] is 0), second best, …"""

    image: NDArray[np.int64]
    other: NDArray[np.int64]
    score: NDArray[np.floating]
    rank: NDArray[np.int64]


def _most_similar(descriptors: Float32, k: int) -> _Choices:
    """The k that each row of [N, D] has the largest product with, itself left out."""
    n = len(descriptors)
    k = max(0, min(k, n - 1))
    others, scores = [np.empty((0, k), np.int64)], [np.empty((0, k), np.float32)]
    rows = max(1, _BLOCK // max(n, 1))
    for start in range(0, n, rows):
        block = descriptors[start : start + rows] @ descriptors.T
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        best = np.argsort(-block, axis=1, kind="stable")[:, :k].copy()  # a view would keep all N columns
        others.append(best)
        scores.append(np.take_along_axis(block, best, 1))
    image, rank = np.divmod(np.arange(n * k), max(k, 1))
    return _Choices(image, np.concatenate(others).ravel(), np.concatenate(scores).ravel(), rank)


def _union(
    images: Sequence[str],
    choices: Sequence[_Choices],
    min_score: float | None,
    min_per_image: int,
    max_pairs: int | None,
) -> list[Pair]:
    """All pairs that some image has chosen in one of the `choices`; see `PairsConfig` for the options."""
    ordered, certain = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    turns = [np.empty(0, np.int64)]
    for image, other, score, rank in choices:
        sure = rank < min_per_image
        allowed = sure | (score >= (-np.inf if min_score is None else min_score))
        codes = _codes(image, other, len(images))
        certain.append(codes[sure])
        best_first = codes[allowed][np.argsort(-score[allowed], kind="stable")]
        ordered.append(_first_of_equals(best_first))
        turns.append(np.arange(len(ordered[-1])))
    order = np.argsort(np.concatenate(turns), kind="stable")
    pairs = _first_of_equals(np.concatenate(ordered)[order])
    if max_pairs is not None:
        keep = np.isin(pairs, np.concatenate(certain))
        spare = np.flatnonzero(~keep)[: max(0, max_pairs - np.count_nonzero(keep))]
        keep[spare] = True
        pairs = pairs[keep]
    return _named(images, np.sort(pairs))


def _codes(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Pairs of numbers below n as one number each, whatever the order in a pair; sorted, they are as `exhaustive`'s."""
    codes: NDArray[np.int64] = np.minimum(first, second) * n + np.maximum(first, second)
    return codes


def _first_of_equals(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value once, where it first occurs."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


def _named(images: Sequence[str], codes: NDArray[np.int64]) -> list[Pair]:
    return [(images[i], images[j]) for i, j in zip(*np.divmod(codes, max(len(images), 1)), strict=True)]


def _by_number(name: str) -> list[Any]:
    """A key that sorts names as people count: 9.jpg before 10.jpg."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]
