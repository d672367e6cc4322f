"""The slow work of a scene, in chunks, by an executor: results go to the store, and what is there is not done again.

Each function takes photographs and a table and fills the table. A chunk names its input, so that a lost worker loses
one chunk; networks are loaded once a process, on each GPU. At the moment `until` (see `clock`) what has not begun is
left out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from imc_kit.data import images, masks
from imc_kit.data.images import ImageInfo, Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.data.store import Table, pair_key
from imc_kit.detectors import Detector, DetectorConfig, extract
from imc_kit.errors import KitError
from imc_kit.matchers import DetectorFreeConfig, DetectorFreeMatcher, Matcher, MatcherConfig
from imc_kit.retrieval import Network, NetworkDescriptorConfig
from imc_kit.runtime import deadline
from imc_kit.runtime.executors import fan_out, set_torch_threads, width
from imc_kit.runtime.torch_utils import gpu_of_thread
from imc_kit.types import Correspondences, Features, Float32, Matches, Pair, Scene

T = TypeVar("T")

MOST_IMAGES_PER_CHUNK = 4
MOST_PAIRS_PER_CHUNK = 256
FEWEST_PAIRS_PER_CHUNK = 4
HURRIED_CHUNK = 8
"""Pairs in a chunk when the time is limited."""
HURRIED_BAND = 64
"""When the time is limited, so many pairs at a time are put block by block: the most useful still come first."""
MOST_IMAGES_OF_PAIRS = 48
"""Images of the pairs in a chunk: all are in memory together. Full blocks have fewer, and are not cut by this."""
TILE = 8
"""Pairs are matched in blocks of so many images against so many, so that each is read from the store once a block."""
_loading = threading.Lock()
_loaded_features: WeakValueDictionary[tuple[Path, str], Features] = WeakValueDictionary()
_recent: deque[Features] = deque(maxlen=32)
"""Those that the next chunk may want, too: chunks that follow one another share images."""


@dataclass(frozen=True)
class ImageRecord:
    """An image of a scene that can be used: where it is, what its header says, and what its content is named."""

    path: Path
    info: ImageInfo
    digest: str
    mask: str = ""
    """Names the content of its mask, if it has one in a folder."""

    @property
    def key(self) -> str:
        """Names all that features depend on, but for the configuration."""
        turn = f"@{self.info.turn}" if self.info.turn else ""
        return "".join([self.digest, turn, self.mask and f"+{self.mask}"])

    def load(self, long_side: int | None) -> Photo:
        """All of it."""
        return images.load(self.path, long_side, self.info.turn)


def inspect(scene: Scene, config: MaskConfig, executor: Executor) -> tuple[dict[str, ImageRecord], list[str]]:
    """The images that can be used, in the scene's order, and a note on each of the others."""
    records, notes = {}, []
    folder = config.folder
    found = [masks.find(name, folder) if folder else None for name in scene.images]
    looks = executor.map(_look, [scene.path(name) for name in scene.images], found)
    for name, look in zip(scene.images, looks, strict=True):
        if isinstance(look, str):
            notes.append(look)
        else:
            records[name] = look
    if not records:
        raise KitError(f"none of the {len(scene.images)} images can be used: {notes[0]}")
    return records, notes


def _look(path: Path, mask: Path | None) -> ImageRecord | str:
    try:
        return ImageRecord(path, images.probe(path), images.digest(path), images.digest(mask) if mask else "")
    except KitError as error:
        return str(error)


def detect(
    records: Mapping[str, ImageRecord],
    features: Table[Features],
    config: DetectorConfig,
    mask: MaskConfig,
    executor: Executor,
    label: str,
    until: float = inf,
) -> list[str]:
    """Fill the table; returns a note on each image that could not be decoded after all."""
    missing = _missing(records, features)
    chunks = [(features, config, mask, chunk, until) for chunk in _image_chunks(missing, executor, until)]
    return _filled(
        executor, _detect_chunk, chunks, f"{label}: {config.name} keypoints", "image", len(missing), features
    )


def _detect_chunk(
    features: Table[Features],
    config: DetectorConfig,
    mask: MaskConfig,
    chunk: Sequence[tuple[str, ImageRecord]],
    until: float,
) -> tuple[int, list[str]]:
    if not deadline.left(until):
        return 0, []
    detector = detector_of(config)
    photos: dict[str, Photo] = {}
    of_key = {record.key: record for _, record in chunk}
    allowed, notes = [], []
    for name, record in chunk:
        try:
            photo = record.load(config.load_side)
            allowed.append(masks.mask(photo, name, mask))
            photos[record.key] = photo
        except KitError as error:
            notes.append(str(error))
    try:
        found = dict(zip(photos, extract(detector, list(photos.values()), allowed), strict=True))
    except (KitError, RuntimeError, ValueError, MemoryError):  # one image must not cost the others
        found = {}
        for (key, photo), one in zip(photos.items(), allowed, strict=True):
            try:
                (found[key],) = extract(detector, [photo], [one])
            except (KitError, RuntimeError, ValueError, MemoryError) as error:
                notes.append(f"no keypoints in {of_key[key].path}: {error}")
    features.put(found)
    return len(chunk), notes


def describe(
    records: Mapping[str, ImageRecord],
    table: Table[Float32],
    config: NetworkDescriptorConfig,
    executor: Executor,
    label: str,
    until: float = inf,
) -> list[str]:
    """Fill the table with global descriptors; returns a note on each image that has none."""
    missing = _missing(records, table)
    chunks = [(table, config, chunk, until) for chunk in _image_chunks(missing, executor, inf)]
    return _filled(executor, _describe_chunk, chunks, f"{label}: {config.name}", "image", len(missing), table)


def _describe_chunk(
    table: Table[Float32], config: NetworkDescriptorConfig, chunk: Sequence[tuple[str, ImageRecord]], until: float
) -> tuple[int, list[str]]:
    if not deadline.left(until):
        return 0, []
    photos, notes = {}, []
    for _, record in chunk:
        try:
            photos[record.key] = record.load(config.long_side)
        except KitError as error:
            notes.append(str(error))
    rows = network_of(config).describe([photo.pixels for photo in photos.values()])
    table.put(dict(zip(photos, rows, strict=True)))
    return len(chunk), notes


def match(
    records: Mapping[str, ImageRecord],
    pairs: Sequence[Pair],
    features: Table[Features],
    matches: Table[Matches],
    config: MatcherConfig,
    kind: str,
    executor: Executor,
    label: str,
    until: float = inf,
) -> list[str]:
    """Fill the table with the matches of `pairs`, whose descriptors are of this kind.

    With all the time there is, pairs that share images are matched together; else about in the order given.
    """
    missing = _missing_pairs(records, pairs, matches, until)
    chunks = [
        (features, matches, config, kind, [(records[a].key, records[b].key) for a, b in chunk], until)
        for chunk in _pair_chunks(missing, MOST_PAIRS_PER_CHUNK, executor, until)
    ]
    try:
        return _filled(executor, _match_chunk, chunks, f"{label}: {config.name} matches", "pair", len(missing), matches)
    finally:
        _recent.clear()


def _match_chunk(
    features: Table[Features],
    matches: Table[Matches],
    config: MatcherConfig,
    kind: str,
    pairs: Sequence[tuple[str, str]],
    until: float,
) -> tuple[int, list[str]]:
    if not deadline.left(until):
        return 0, []
    loaded = {key: _in_memory(features, key) for key in {key for pair in pairs for key in pair}}
    matcher = matcher_of(config, kind)
    found: list[Matches] = []
    for batch in _batches(pairs, until):
        found += matcher.match_batch([(loaded[first], loaded[second]) for first, second in batch])
    matches.put({pair_key(*pair): one for pair, one in zip(pairs, found, strict=False)})
    return len(found), []


def _in_memory(table: Table[Features], key: str) -> Features:
    """Features as matchers take them: the same object while another thread has it, with what that made of it."""
    known = _loaded_features.get((table.folder, key))
    if known is None:
        known = table[key]
        if known.descriptors.dtype == np.float16:  # as it is on disk; arithmetic wants more
            known = replace(known, descriptors=known.descriptors.astype(np.float32))
        _loaded_features[table.folder, key] = known
        _recent.append(known)
    return known


def match_images(
    records: Mapping[str, ImageRecord],
    pairs: Sequence[Pair],
    table: Table[Correspondences],
    config: DetectorFreeConfig,
    executor: Executor,
    label: str,
    until: float = inf,
) -> list[str]:
    """Fill the table with what a detector-free matcher finds; returns a note on each image that cannot be decoded."""
    missing = _missing_pairs(records, pairs, table, until)
    chunks = [
        (table, config, [(records[a], records[b]) for a, b in chunk], until)
        for chunk in _pair_chunks(missing, TILE * TILE, executor, until)
    ]
    return _filled(executor, _match_images_chunk, chunks, f"{label}: {config.name}", "pair", len(missing), table)


def _match_images_chunk(
    table: Table[Correspondences],
    config: DetectorFreeConfig,
    pairs: Sequence[tuple[ImageRecord, ImageRecord]],
    until: float,
) -> tuple[int, list[str]]:
    if not deadline.left(until):
        return 0, []
    photos: dict[str, Photo] = {}
    notes = []
    for record in {record.key: record for pair in pairs for record in pair}.values():
        try:
            photos[record.key] = record.load(config.long_side)
        except KitError as error:
            notes.append(str(error))
    keys = [(a.key, b.key) for a, b in pairs if a.key in photos and b.key in photos]
    matcher = detector_free_matcher_of(config)
    found: list[Correspondences] = []
    for batch in _batches(keys, until):
        found += matcher.match_batch([(photos[a], photos[b]) for a, b in batch])
    table.put({pair_key(*key): one for key, one in zip(keys, found, strict=False)})
    return len(pairs) - len(keys) + len(found), notes


def detector_of(config: DetectorConfig) -> Detector:
    """The detector, loaded once for each GPU."""
    detector: Detector = _loaded(config)
    return detector


def matcher_of(config: MatcherConfig, kind: str) -> Matcher:
    """The matcher for this kind of descriptors, loaded once for each GPU."""
    matcher: Matcher = _loaded(config, kind)
    return matcher


def detector_free_matcher_of(config: DetectorFreeConfig) -> DetectorFreeMatcher:
    """The detector-free matcher, loaded once for each GPU."""
    matcher: DetectorFreeMatcher = _loaded(config)
    return matcher


def network_of(config: NetworkDescriptorConfig) -> Network:
    """The network for global descriptors, loaded once for each GPU."""
    network: Network = _loaded(config)
    return network


def _loaded(config: Any, *kind: str) -> Any:
    with _loading:  # else every thread would load it
        return _created(config, gpu_of_thread(getattr(config, "device", "cpu")), *kind)


@lru_cache(maxsize=16)
def _created(config: Any, gpu: int, *kind: str) -> Any:
    created = config.create(*kind)
    set_torch_threads(1)  # this may have loaded torch, which starts with a thread a core: we bring the threads
    return created


def _filled(
    executor: Executor, function: Any, chunks: Sequence[tuple[Any, ...]], label: str, unit: str, total: int, table: Any
) -> list[str]:
    notes = fan_out(executor, function, chunks, label, unit, total)
    table.refresh()
    return notes


def _missing(records: Mapping[str, ImageRecord], table: Table[Any]) -> list[tuple[str, ImageRecord]]:
    """The images that the table lacks, of those with the same content one."""
    of_key = {record.key: (name, record) for name, record in reversed(list(records.items()))}
    return [of_key[key] for key in table.missing(record.key for record in records.values())]


def _missing_pairs(
    records: Mapping[str, ImageRecord], pairs: Sequence[Pair], table: Table[Any], until: float
) -> list[Pair]:
    """The pairs that the table lacks, block by block, so that those which share images are near each other; when time
    is limited a band of them after the other."""
    rank = {name: number for number, name in enumerate(records)}
    of_key = {pair_key(records[a].key, records[b].key): (a, b) for a, b in reversed(pairs)}
    missing = [of_key[key] for key in table.missing(pair_key(records[a].key, records[b].key) for a, b in pairs)]
    band = max(1, len(missing)) if until == inf else HURRIED_BAND

    def block(pair: Pair) -> tuple[int, ...]:
        first, second = rank[pair[0]], rank[pair[1]]
        return first // TILE, second // TILE, first, second

    return [pair for some in _cut(missing, repeat(band)) for pair in sorted(some, key=block)]


def _guided(count: int, most: int, least: int, executor: Executor) -> Iterator[int]:
    """Sizes of chunks: the fewer are left the smaller, so that all workers end at about the same time (guided
    self-scheduling, Polychronopoulos and Kuck 1987)."""
    while count > 0:
        yield min(count, size := max(least, min(most, count // (2 * width(executor)))))
        count -= size


def _image_chunks(items: Sequence[T], executor: Executor, until: float) -> list[Sequence[T]]:
    return _cut(items, _guided(len(items), MOST_IMAGES_PER_CHUNK if until == inf else 1, 1, executor))


def _pair_chunks(pairs: Sequence[Pair], most: int, executor: Executor, until: float) -> list[Sequence[Pair]]:
    """The pairs in their order, each chunk of at most `MOST_IMAGES_OF_PAIRS` images."""
    least = FEWEST_PAIRS_PER_CHUNK
    sizes = _guided(len(pairs), most, least, executor) if until == inf else repeat(HURRIED_CHUNK)
    return [part for chunk in _cut(pairs, sizes) for part in _of_few_images(chunk)]


def _batches(items: Sequence[T], until: float) -> Iterator[Sequence[T]]:
    """All of them at once, or, when time is limited, one after another until it has run out."""
    for batch in _cut(items, repeat(max(1, len(items)) if until == inf else 1)):
        if deadline.left(until):
            yield batch


def _cut(items: Sequence[T], sizes: Iterable[int]) -> list[Sequence[T]]:
    """The items in their order, in parts of these sizes, the last of what is left."""
    parts, start = [], 0
    for size in sizes:
        if start >= len(items):
            break
        parts.append(items[start : start + size])
        start += size
    return parts


def _of_few_images(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in their order, in parts of at most `MOST_IMAGES_OF_PAIRS` images."""
    parts: list[list[Pair]] = []
    images: set[str] = set()
    for pair in pairs:
        images.update(pair)
        if not parts or len(images) > MOST_IMAGES_OF_PAIRS:
            parts.append([])
            images = set(pair)
        parts[-1].append(pair)
    return parts
