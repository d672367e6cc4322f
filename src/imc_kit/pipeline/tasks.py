"""The slow work of a scene, in chunks, through an executor: detection, description and matching.

Each method adds the missing entries to a table of the store, and returns notes about failures. A bad image or pair
costs only itself, whatever a detector or matcher raises: smaller batches are tried, down to one item. A chunk names all
its inputs, so a lost worker costs one chunk. Networks are loaded once per process and GPU. Chunks that have not started
by the deadline `until` (see `runtime.deadline`) are skipped.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from imc_kit.data.images import Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.data.store import Table, pair_key
from imc_kit.detectors import DetectorConfig, extract
from imc_kit.matchers import MatcherConfig, PhotoMatcherConfig, View
from imc_kit.pipeline.chunks import BLOCK, PAIRS_PER_CHUNK, batches, by_blocks, image_chunks, pair_chunks
from imc_kit.pipeline.records import ImageRecord
from imc_kit.retrieval import NetworkDescriptorConfig
from imc_kit.runtime import deadline, faults
from imc_kit.runtime.executors import fan_out, set_torch_threads
from imc_kit.runtime.torch_utils import gpu_of_thread
from imc_kit.types import Correspondences, Features, Float32, Mask, Matches, Pair

log = logging.getLogger(__name__)
T = TypeVar("T")
V = TypeVar("V")

Records = Mapping[str, ImageRecord]
NamedRecord = tuple[str, ImageRecord]
RecordPair = tuple[ImageRecord, ImageRecord]
Done = tuple[dict[str, T], int, list[str]]
"""The result of the work on a chunk: values by store key, the number of finished items, and notes. For pairs, a note
is why one failed."""
Work = Callable[[Any, float], Done[T]]
"""The work on a chunk, until a deadline."""

_RECENT_IMAGES = 32
"""Number of images whose features stay in memory for the next chunks: those of two blocks of pairs. With fewer,
features are read from the store more often."""
_loading = threading.Lock()
_loaded_features: WeakValueDictionary[tuple[Path, str], Features] = WeakValueDictionary()
_recent: deque[Features] = deque(maxlen=_RECENT_IMAGES)


@dataclass(frozen=True)
class Tasks:
    """The slow work on these images of one scene."""

    records: Records
    executor: Executor
    until: float = inf

    def detect(self, features: Table[Features], config: DetectorConfig, mask: MaskConfig) -> list[str]:
        """Detect features in every image."""
        chunks = image_chunks(self._missing_images(features), self.executor, self.until)
        return self._fill(features, partial(_detect, config, mask), chunks, f"{config.name} keypoints", "image")

    def describe(self, table: Table[Float32], config: NetworkDescriptorConfig) -> list[str]:
        """Compute a global descriptor of every image."""
        chunks = image_chunks(self._missing_images(table), self.executor, inf)
        return self._fill(table, partial(_describe, config), chunks, config.name, "image")

    def match(
        self, pairs: Sequence[Pair], features: Table[Features], table: Table[Matches], config: MatcherConfig, kind: str
    ) -> list[str]:
        """Match the features of every pair. kind: descriptor kind (`DetectorConfig.kind`)."""
        chunks = self._pair_chunks(pairs, table, PAIRS_PER_CHUNK[1])
        try:
            work = partial(_match, features, config, kind)
            return self._fill(table, work, chunks, f"{config.name} matches", "pair")
        finally:
            _recent.clear()

    def match_photos(
        self,
        pairs: Sequence[Pair],
        features: Table[Features] | None,
        table: Table[Correspondences],
        config: PhotoMatcherConfig,
    ) -> list[str]:
        """Match the photos of every pair. features: those of the photos; None for the detector `none`."""
        chunks = self._pair_chunks(pairs, table, BLOCK * BLOCK)
        return self._fill(table, partial(_match_photos, features, config), chunks, config.name, "pair")

    def _missing_images(self, table: Table[Any]) -> list[NamedRecord]:
        """The images missing from the table; one image per content."""
        of_key = {record.key: (name, record) for name, record in reversed(list(self.records.items()))}
        return [of_key[key] for key in table.missing(record.key for record in self.records.values())]

    def _pair_chunks(self, pairs: Sequence[Pair], table: Table[Any], most: int) -> list[list[RecordPair]]:
        """The pairs missing from the table, in chunks, in matching order."""
        records = self.records
        keys = [pair_key(records[first].key, records[second].key) for first, second in pairs]
        of_key = dict(zip(reversed(keys), reversed(pairs), strict=True))
        ordered = by_blocks([of_key[key] for key in table.missing(keys)], records, self.until)
        chunks = pair_chunks(ordered, most, self.executor, self.until)
        return [[(records[first], records[second]) for first, second in chunk] for chunk in chunks]

    def _fill(self, table: Table[T], work: Work[T], chunks: Sequence[Sequence[Any]], what: str, unit: str) -> list[str]:
        """Run `work` on all chunks, and write its values to the table; returns the notes."""
        arguments = [(work, table, chunk, self.until) for chunk in chunks]
        total = sum(map(len, chunks))
        notes = fan_out(self.executor, _fill_chunk, arguments, what, unit, total)
        table.refresh()
        failed = Counter(note for note in notes if unit == "pair" and not deadline.ran_out([note]))
        if failed:
            (reason, _), *_ = failed.most_common(1)
            count = f"{failed.total()} of {total} pairs failed, most often because of {reason}"
            notes = [note for note in notes if note not in failed]
            notes.append(f"{what}: {count}")
        return notes


# ---- the work on one chunk, in a worker ----


def _fill_chunk(work: Work[T], table: Table[T], chunk: Sequence[Any], until: float) -> tuple[int, list[str]]:
    if not deadline.left(until):
        return 0, []
    values, done, notes = work(chunk, until)
    table.put(values)
    return done, notes


def _detect(config: DetectorConfig, masking: MaskConfig, chunk: Sequence[NamedRecord], until: float) -> Done[Features]:
    detector = loaded(config)

    def load(item: NamedRecord) -> tuple[Photo, Mask | None]:
        photo = item[1].load(config.long_side)
        return photo, item[1].allowed(photo, item[0], masking)

    def detect(photos: Sequence[tuple[Photo, Mask | None]]) -> list[Features]:
        return extract(detector, [photo for photo, _ in photos], [mask for _, mask in photos])

    items = {record.key: (name, record) for name, record in chunk}
    photos, unread = _each(load, items)
    found, failed = _together(detect, photos)
    return found, len(chunk), _notes("keypoints", chunk, unread | failed)


def _describe(config: NetworkDescriptorConfig, chunk: Sequence[NamedRecord], until: float) -> Done[Float32]:
    network = loaded(config)
    photos, unread = _each(lambda record: record.load(config.long_side), {record.key: record for _, record in chunk})
    rows, failed = _together(lambda some: network.describe([photo.pixels for photo in some]), photos)
    return rows, len(chunk), _notes(f"{config.name} descriptor", chunk, unread | failed)


def _notes(what: str, chunk: Sequence[NamedRecord], failed: Mapping[str, str]) -> list[str]:
    """A note about each image of a chunk that failed."""
    paths = {record.key: str(record.path) for _, record in chunk}
    return [why if paths[key] in why else f"no {what} of {paths[key]}: {why}" for key, why in failed.items()]


def _match(
    features: Table[Features], config: MatcherConfig, kind: str, chunk: Sequence[RecordPair], until: float
) -> Done[Matches]:
    keys = dict.fromkeys(record.key for pair in chunk for record in pair)
    of_key, unread = _each(partial(_in_memory, features), {key: key for key in keys})
    return _match_until(loaded(config, kind), of_key, unread, chunk, until)


def _match_photos(
    features: Table[Features] | None, config: PhotoMatcherConfig, chunk: Sequence[RecordPair], until: float
) -> Done[Correspondences]:
    def view(record: ImageRecord) -> View:
        photo = record.load(config.long_side)
        return View(photo, features[record.key] if features is not None else Features.empty(photo.size, 0))

    views, unread = _each(view, {record.key: record for pair in chunk for record in pair})
    return _match_until(loaded(config), views, unread, chunk, until)


def _match_until(
    matcher: Any, images: Mapping[str, Any], unread: Mapping[str, str], chunk: Sequence[RecordPair], until: float
) -> Done[Any]:
    """Match the pairs until time runs out; the notes say why each of the others failed.

    images: the features or views by key. unread: why others could not be read.
    """
    pairs = {pair_key(first.key, second.key): (first.key, second.key) for first, second in chunk}
    found: dict[str, Any] = {}
    failed = {key: unread[one] for key, pair in pairs.items() for one in pair if one in unread}
    at_once = getattr(matcher, "batch", 1)  # of LightGlue on a GPU, where a few pairs take as long as one
    for batch in batches([key for key in pairs if key not in failed], until, at_once):
        of_pair = {key: (images[pairs[key][0]], images[pairs[key][1]]) for key in batch}
        more, others = _together(matcher.match_batch, of_pair)
        found, failed = found | more, failed | others
    return found, len(found) + len(failed), list(failed.values())


def _each(function: Callable[[T], V], items: Mapping[str, T]) -> tuple[dict[str, V], dict[str, str]]:
    """Apply `function` to each item. Returns the values, and for each item that fails, why."""
    values, failed = {}, {}
    for key, item in items.items():
        try:
            values[key] = function(item)
        except Exception as error:
            failed[key] = _reason(error)
    return values, failed


def _together(
    function: Callable[[list[T]], Iterable[V]], items: Mapping[str, T]
) -> tuple[dict[str, V], dict[str, str]]:
    """Apply `function` to all items at once; if it fails, to halves, so that a bad item costs only itself.

    Returns as `_each` does.
    """
    if len(items) <= 1:
        return _each(lambda item: next(iter(function([item]))), items)
    with suppress(Exception):  # of any kind: detectors and matchers may be anyone's
        return dict(zip(items, function(list(items.values())), strict=True)), {}
    keys = list(items)
    parts = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    (values, failed), (more, others) = (_together(function, {key: items[key] for key in part}) for part in parts)
    return values | more, failed | others


def _reason(error: Exception) -> str:
    """Why an item failed, in one line. The log has the rest, if it has debug messages."""
    log.debug("an item failed", exc_info=error)
    return faults.told(error)


def _in_memory(table: Table[Features], key: str) -> Features:
    """Features with float32 descriptors, shared by all threads and by the next few chunks.

    Sharing the object also shares what a matcher computes and caches for it.
    """
    known = _loaded_features.get((table.folder, key))
    if known is None:
        known = table[key]
        if known.descriptors.dtype == np.float16:  # as stored
            known = replace(known, descriptors=known.descriptors.astype(np.float32))
        _loaded_features[table.folder, key] = known
        _recent.append(known)
    return known


# ---- detectors, matchers and networks ----


def loaded(config: Any, *kind: str) -> Any:
    """The detector, matcher or network from `config.create(*kind)`, loaded once per process and GPU."""
    with _loading:  # one thread loads, the others wait
        return _created(config, gpu_of_thread(getattr(config, "device", "cpu")), *kind)


@lru_cache(maxsize=16)  # the preset `ensemble` has seven networks, on each of Kaggle's two GPUs
def _created(config: Any, gpu: int, *kind: str) -> Any:
    """gpu: part of the cache's key; `create` loads onto the thread's GPU."""
    created = config.create(*kind)
    set_torch_threads(1)  # loading torch starts a thread per core, but there is already a worker per core
    return created
