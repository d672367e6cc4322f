"""Cut a scene's images and pairs into chunks of work.

Without a time limit, pairs that share images are grouped, so that features are read once per block. With a time limit,
pairs nearly keep the given order, most useful first.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice, repeat, takewhile
from math import inf
from typing import TypeVar

from imc_kit.runtime import deadline
from imc_kit.runtime.executors import width
from imc_kit.types import Pair

T = TypeVar("T")

IMAGES_PER_CHUNK = 4
"""Maximum. A chunk's images are in memory together; larger chunks leave workers idle at the end of a small scene."""
PAIRS_PER_CHUNK = 4, 256
"""Minimum and maximum. Each chunk is one file in the store: smaller chunks make more files, larger ones lose more work
when a worker dies."""
LIMITED_PAIRS_PER_CHUNK = 8
"""With a time limit, chunks are small, because those that have not started when time runs out are skipped."""
LIMITED_BAND = 64
"""With a time limit, this many consecutive pairs (one full block) are sorted by block, so that the given order is
nearly kept."""
MAX_IMAGES_OF_PAIRS = 48
"""Maximum number of images in a chunk of pairs: their features are in memory together. 256 pairs of four neighbouring
full blocks have 40 images, so this limit cuts only scattered pairs."""
BLOCK = 8
"""Pairs are ordered in blocks of 8 × 8 images, so that 64 pairs need the features of only 16 images."""


def by_blocks(pairs: Sequence[Pair], images: Iterable[str], until: float) -> list[Pair]:
    """Group pairs that share images; with a time limit, only within each `LIMITED_BAND`.

    images: all images, in scene order.
    """
    rank = {name: number for number, name in enumerate(images)}
    band = max(1, len(pairs)) if until == inf else LIMITED_BAND

    def block(pair: Pair) -> tuple[int, ...]:
        first, second = rank[pair[0]], rank[pair[1]]
        return first // BLOCK, second // BLOCK, first, second

    return [pair for part in _cut(pairs, repeat(band)) for pair in sorted(part, key=block)]


def image_chunks(items: Sequence[T], executor: Executor, until: float) -> list[list[T]]:
    """Cut images into chunks; with a time limit, one image per chunk."""
    most = IMAGES_PER_CHUNK if until == inf else 1
    return _cut(items, _shrinking_sizes(len(items), 1, most, executor))


def pair_chunks(pairs: Sequence[Pair], most: int, executor: Executor, until: float) -> list[list[Pair]]:
    """Cut pairs, in order, into chunks of at most `most` pairs and `MAX_IMAGES_OF_PAIRS` images."""
    sizes: Iterable[int] = repeat(LIMITED_PAIRS_PER_CHUNK)
    if until == inf:
        sizes = _shrinking_sizes(len(pairs), PAIRS_PER_CHUNK[0], most, executor)
    return [part for chunk in _cut(pairs, sizes) for part in _with_few_images(chunk)]


def batches(items: Sequence[T], until: float, limited: int) -> Iterator[list[T]]:
    """All items in one batch; with a time limit, at most `limited` items per batch until time runs out."""
    for batch in _cut(items, repeat(max(1, len(items)) if until == inf else limited)):
        if deadline.left(until):
            yield batch


def _shrinking_sizes(count: int, least: int, most: int, executor: Executor) -> Iterator[int]:
    """Sizes of chunks that shrink towards the end, so that all workers finish at about the same time.

    Guided self-scheduling (Polychronopoulos and Kuck 1987): each chunk is half of a worker's share of what is left.
    """
    while count > 0:
        size = max(least, min(most, count // (2 * width(executor))))
        yield min(count, size)
        count -= size


def _cut(items: Sequence[T], sizes: Iterable[int]) -> list[list[T]]:
    """Cut items into consecutive parts of these sizes, until none are left; the last part may be smaller."""
    left = iter(items)
    return list(takewhile(len, (list(islice(left, size)) for size in sizes)))


def _with_few_images(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Cut pairs into consecutive parts of at most `MAX_IMAGES_OF_PAIRS` images."""
    parts: list[list[Pair]] = []
    images: set[str] = set()
    for pair in pairs:
        images.update(pair)
        if not parts or len(images) > MAX_IMAGES_OF_PAIRS:
            parts.append([])
            images = set(pair)
        parts[-1].append(pair)
    return parts
