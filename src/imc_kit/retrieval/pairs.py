"""Which pairs of images to match: all, similar images, neighbours in a sequence, or the pairs in a file.

Every selection lists each pair once. Pairs, and the two images of a pair, are in the order of the images.
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from imc_kit.data.listing import few
from imc_kit.data.text import read_text
from imc_kit.errors import KitError, require
from imc_kit.retrieval import DescriptorConfig, NetworkDescriptorConfig
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.types import Float32, Float64, Pair

_BLOCK = 2**22
"""Similarities computed at once, 16 MB. It limits memory and does not affect the result."""

_SHOWN = 80
"""Characters of a wrong line that a note repeats."""


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
    """similar and matches: always keep each image's best N candidates, whatever their similarity, their number of
    matches and `max_pairs`."""
    max_pairs: int | None = None
    """similar and matches: keep at most this many pairs, the most similar ones. Several descriptors take turns."""
    window: int = 10
    """sequential: pair each image with this many that follow it."""
    quadratic: bool = False
    """sequential: also pair each image with those 1, 2, 4, … 2^(window − 1) places after it."""
    loop: bool = False
    """sequential: the first image follows the last, as on a turntable."""
    file: Path | None = None
    """file: a text file with one pair per line (see `read_pairs`)."""

    def __post_init__(self) -> None:
        methods = get_args(get_type_hints(PairsConfig)["method"])
        low, most = self.min_similarity, self.max_pairs
        for valid, option, wanted in (
            (self.method in methods, "method", f"one of {', '.join(methods)}"),
            (self.exhaustive_up_to >= 0, "exhaustive_up_to", "at least 0"),
            (self.method != "similar" or len(self.descriptors) > 0, "descriptors", "at least one"),
            (self.k >= 1, "k", "at least 1"),
            (low is None or -1 <= low <= 1, "min_similarity", "in −1 … 1, or None"),
            (self.min_matches >= 0, "min_matches", "at least 0"),
            (self.min_per_image >= 0, "min_per_image", "at least 0"),
            (most is None or most >= 0, "max_pairs", "at least 0, or None"),
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
        return sequential(images, config)
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
    selections = [_best(partial(_products, matrix), len(images), config.k) for matrix in descriptors]
    return _union(images, selections, config.min_similarity, config)


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

    counts: the number of verified matches by pair, in either order of its images (the larger number counts). A pair
        without matches is never selected. See `PairsConfig` for the options.

    Raises `KitError` for a pair that does not name two of the images.
    """
    number = {name: i for i, name in enumerate(images)}
    table = np.zeros((len(images), len(images)), np.float32)
    for pair, count in counts.items():
        for name in pair:
            if name not in number:
                raise KitError(f"matches are counted for {name!r}, which is not an image of the scene")
        i, j = (number[name] for name in pair)
        if i == j:
            raise KitError(f"the pair {pair[0]!r}, {pair[1]!r} is one image: count the matches of two")
        table[i, j] = table[j, i] = max(table[i, j], count)
    image, other, score, rank = _best(table.__getitem__, len(images), config.k)
    some = score > 0
    chosen = _Selection(image[some], other[some], score[some], rank[some])
    return _union(images, [chosen], config.min_matches, config)


def sequential(images: Sequence[str], config: PairsConfig) -> list[Pair]:
    """Pair each image with those that follow it by name. See `PairsConfig` for the options."""
    count = len(images)
    by_name = np.array(sorted(range(count), key=lambda i: _natural(images[i])), np.int64)
    steps = {*range(1, config.window + 1), *(2**i for i in range(config.window) if config.quadratic)}
    codes = [np.empty(0, np.int64)]
    for step in steps:
        if step < count:
            ahead = _codes(by_name, np.roll(by_name, -step), count)
            codes.append(ahead if config.loop else ahead[:-step])
    return _named(images, np.unique(np.concatenate(codes)))


def nearby(images: Sequence[str], places: Float64, k: int) -> list[Pair]:
    """Pair each image with the k nearest ones, and with its neighbours in all directions.

    places: x, y, z [N, 3] in metres; images whose place is nan are in no pair.

    Where photos follow each other closely, the k nearest are all on one flight line. So there are also the edges of a
    Delaunay triangulation in the plane in which the places extend most: they join every line to the next.
    """
    from scipy.spatial import Delaunay, QhullError

    known = np.flatnonzero(np.isfinite(places).all(axis=1))
    places = places[known]
    others = neighbours(places, k)[1]
    codes = [_codes(known[:, None], known[others], len(images)).ravel()]
    if len(known) >= 4:  # as Qhull needs
        centred = places - places.mean(axis=0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        with suppress(QhullError):  # they lie on a line
            triangles = known[Delaunay(plane).simplices]
            codes += [_codes(triangles[:, i], triangles[:, i - 1], len(images)) for i in range(3)]
    return _named(images, np.unique(np.concatenate(codes)))


def neighbours(places: Float64, k: int) -> tuple[Float64, NDArray[np.int64]]:
    """The distances of the k places nearest to each, and their row numbers, both [N, k], nearest first.

    places: finite, [N, 3]. Of fewer than k others, all.
    """
    from scipy.spatial import KDTree

    count = len(places)
    k = max(0, min(k, count - 1))
    if not k:
        return np.empty((count, 0)), np.empty((count, 0), np.int64)
    distances, others = KDTree(places).query(places, k + 1)
    # Each place is among its own neighbours, but not always first; of many equal places it may be missing.
    own = others == np.arange(count)[:, None]
    own[~own.any(axis=1), -1] = True
    return distances[~own].reshape(count, k), others[~own].reshape(count, k).astype(np.int64)


def read_pairs(
    path: Path, images: Sequence[str], notes: list[str] | None = None, aliases: Mapping[str, str] | None = None
) -> list[Pair]:
    """Read the pairs in a text file: two names per line, separated by a tab, a comma or a space.

    Names may contain commas and spaces: the line is split where both sides are names in `images`, at a tab if it has
    one. Ignores spaces around names, blank lines, and lines that start with # and name no pair. A repeated pair, in
    either order, counts once. A line with no meaning or several is left out; `notes` gets a sentence with its number.

    aliases: images by other names that the file may use.

    Raises `KitError` when no pair is left, and for a file that is not text in UTF-8.
    """
    number = {name: i for i, name in enumerate(images)}
    number = {alias: number[name] for alias, name in (aliases or {}).items()} | number
    codes: set[int] = set()
    flaws: list[str] = []
    for count, line in enumerate(read_text(path).split("\n"), 1):
        divisions = set(_divisions(line))
        found = [(number[a], number[b]) for a, b in divisions if a in number and b in number]
        if not found and "\\" in line:  # a list from Windows
            divisions = set(_divisions(line.replace("\\", "/")))
            found = [(number[a], number[b]) for a, b in divisions if a in number and b in number]
        if not found and (not line.strip() or line.startswith("#")):
            continue
        if reason := _flaw(line, divisions, found, number):
            flaws.append(f"line {count}: {reason}")
        else:
            codes.add(min(found[0]) * len(images) + max(found[0]))
    if not codes:
        reason = flaws[0] if flaws else "it is empty"
        raise KitError(f"the list of pairs {path} names no two images of the scene: {reason}")
    if flaws and notes is not None:
        notes.append(f"{len(flaws)} lines of the list of pairs {path} are left out: {few(flaws)}")
    return _named(images, np.array(sorted(codes), np.int64))


def _divisions(line: str) -> Iterator[Pair]:
    """All ways to read a line as two names."""
    for index, character in enumerate(line):
        if character in ("\t" if "\t" in line else ", "):
            yield line[:index].strip(), line[index + 1 :].strip()


def _flaw(line: str, divisions: set[Pair], found: list[tuple[int, int]], images: Container[str]) -> str | None:
    """The error in a line that can be read as the pairs `found`, or None."""
    line = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
    if len(found) > 1:
        return f"{line!r} can be read as several pairs: put a tab between the names"
    if found:
        return f"{line!r} names one image twice" if found[0][0] == found[0][1] else None
    if len(divisions) == 1:
        unknown = next(name for name in divisions.pop() if name not in images)
        return f"{unknown[:_SHOWN]!r} is not an image of the scene"
    return f"{line!r} does not name two images of the scene: write two names with a tab between them"


class _Selection(NamedTuple):
    """Selected images, as columns [M]: `image` selects `other` with `score`, as its best (`rank` 0), second, …"""

    image: NDArray[np.int64]
    other: NDArray[np.int64]
    score: NDArray[np.floating]
    rank: NDArray[np.int64]


def _products(descriptors: Float32, rows: slice) -> Float32:
    """The similarity of some images to all images, from descriptors [N, D]."""
    return descriptors[rows] @ descriptors.T


def _best(scores: Callable[[slice], Float32], n: int, k: int) -> _Selection:
    """For each of n images, the k others with the largest scores. scores: returns some rows of the matrix [n, n]."""
    k = max(0, min(k, n - 1))
    others, values = [np.empty((0, k), np.int64)], [np.empty((0, k), np.float32)]
    rows = max(1, _BLOCK // max(n, 1))
    for start in range(0, n, rows):
        block = scores(slice(start, start + rows))
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        best = np.argsort(-block, axis=1, kind="stable")[:, :k].copy()  # a view would keep all n columns in memory
        others.append(best)
        values.append(np.take_along_axis(block, best, 1))
    image, rank = np.divmod(np.arange(n * k), max(k, 1))
    return _Selection(image, np.concatenate(others).ravel(), np.concatenate(values).ravel(), rank)


def _union(
    images: Sequence[str], selections: Sequence[_Selection], min_score: float | None, config: PairsConfig
) -> list[Pair]:
    """Merge the pairs of all selections. See `PairsConfig` for the options."""
    lists, protected = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for image, other, score, rank in selections:
        codes = _codes(image, other, len(images))
        always = rank < config.min_per_image
        allowed = np.full(len(score), True) if min_score is None else always | (score >= min_score)
        best_first = np.argsort(-score[allowed], kind="stable")
        lists.append(_without_repetition(codes[allowed][best_first]))
        protected.append(codes[always])
    # The best pair of each selection, then the second of each, …
    rank_in_list = np.concatenate([np.arange(len(codes)) for codes in lists])
    pairs = _without_repetition(np.concatenate(lists)[np.argsort(rank_in_list, kind="stable")])
    if config.max_pairs is not None:
        keep = np.isin(pairs, np.concatenate(protected))
        keep[np.flatnonzero(~keep)[: max(0, config.max_pairs - np.count_nonzero(keep))]] = True
        pairs = pairs[keep]
    return _named(images, np.sort(pairs))


def _codes(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Encode each pair of numbers below n, in either order, as one number. Codes sort like `exhaustive`'s pairs."""
    codes: NDArray[np.int64] = np.minimum(first, second) * n + np.maximum(first, second)
    return codes


def _without_repetition(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the first occurrence of each value."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


def _named(images: Sequence[str], codes: NDArray[np.int64]) -> list[Pair]:
    return [(images[i], images[j]) for i, j in zip(*np.divmod(codes, max(len(images), 1)), strict=True)]


def _natural(name: str) -> list[Any]:
    """A key for natural sorting: 9.jpg comes before 10.jpg."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]
