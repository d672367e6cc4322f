"""From the photos of a scene to matches: every stage before COLMAP, with a store and an executor."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from math import inf
from typing import Any, TypeVar

import numpy as np

from imc_kit.config import CHEAP, Config, FeaturePipeline, fingerprint
from imc_kit.data.imported import aliases
from imc_kit.data.store import Store, Table, pair_key
from imc_kit.matchers import DetectorFreeConfig
from imc_kit.matchers.combine import join_features, join_matches
from imc_kit.matchers.detector_free import merge
from imc_kit.matchers.imported import ImportedFeatures, ImportedMatches
from imc_kit.pipeline.imported import Imported
from imc_kit.pipeline.positions import Positions
from imc_kit.pipeline.records import ImageRecord
from imc_kit.pipeline.tasks import Records, Tasks
from imc_kit.retrieval import AggregateConfig, DescriptorConfig, NetworkDescriptorConfig
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.listed import read_pairs
from imc_kit.retrieval.nearby import nearby
from imc_kit.retrieval.pairs import by_matches, nearest_first, select
from imc_kit.runtime import deadline, faults, progress
from imc_kit.types import Features, Float32, Float64, Matches, Pair, Scene
from imc_kit.viewgraph import lowres
from imc_kit.viewgraph.lowres import PairOverlap
from imc_kit.viewgraph.orientation import assign_rotations
from imc_kit.viewgraph.static import examine, static_keypoints

log = logging.getLogger(__name__)
T = TypeVar("T")

_DETECTION = 0.85
"""Detection's share of the time for detection and matching. It is large because an image without features is lost,
whereas the most useful pairs are matched first. Chosen with time limits on the open scenes."""
_LOW_RESOLUTION = 0.5
"""Share of the time for low-resolution matching; the rest is for full resolution. After a quick answer, these matches
are already in the store."""
_DESCRIPTION = 0.3
"""Seconds per image to aggregate local features into a global descriptor; skipped if less time is left."""
_SAMPLE, _KEYPOINTS = 4000, 2000
"""The VLAD of `similarity`: number of local descriptors sampled to train the vocabulary, and of strongest keypoints per
image. Few suffice, because it only ranks candidates for unregistered images (docs/benchmarks.md)."""
_PAIRS_AT_ONCE = 1024
"""Pairs submitted to the executor at once: their matches are in memory together."""


@dataclass(frozen=True)
class MatchedFeatures:
    """The features of an image by name, and the matches of a pair by names (empty if it was not matched).

    first: the number of keypoints of the first feature pipeline, by image; None if there is one pipeline.
    """

    features: Callable[[str], Features]
    matches: Callable[[str, str], Matches]
    first: Mapping[str, int] | None = None

    def strong(self, pairs: Sequence[Pair], least: int) -> Iterator[tuple[str, str, Matches]]:
        """The pairs with at least `least` matches, and their matches, for `colmap.database`."""
        for pair in pairs:
            if len(matches := self.matches(*pair)) >= least:
                yield *pair, matches


class Matching:
    """The stages of one scene up to its matches. `notes` collects what went wrong, one sentence each.

    The most useful work comes first; what is left at the deadline `until` (`runtime.deadline`) is skipped.
    `positions` are those of the scene's images, if they may select pairs.
    """

    def __init__(self, scene: Scene, store: Store, config: Config, executor: Executor, until: float = inf) -> None:
        self.scene = scene
        self.store = store
        self.config = config
        self.executor = executor
        self.until = until
        self.notes: list[str] = []
        self.positions = Positions()
        self._mask = replace(config.masks, pictures=False)

    def upright(self, records: Records) -> dict[str, ImageRecord]:
        """The same images, each with the 90° rotation that makes it upright according to low-resolution matches."""
        overlaps = self._low_resolution_overlaps(records)
        votes = {pair: (overlap.rotation_quarters, overlap.weight) for pair, overlap in overlaps.items()}
        rotations = assign_rotations(list(records), votes)
        if count := sum(rotation != 0 for rotation in rotations.values()):
            log.info("%s: %d images are rotated upright", self.scene.name, count)
        return {name: replace(record, info=record.info.rotated(rotations[name])) for name, record in records.items()}

    def upright_like(self, records: Records, known: Records) -> dict[str, ImageRecord]:
        """The same images, each with the 90° rotation that agrees best with images whose rotations are `known`."""
        unrotated = {name: replace(one, info=one.info.rotated(-one.info.extra_quarters)) for name, one in known.items()}
        pairs = [(name, other) for other in records for name in known]
        overlaps = self._low_resolution_overlaps({**unrotated, **records}, pairs)
        weights = {name: np.zeros(4) for name in records}
        for (name, other), overlap in overlaps.items():
            quarters = known[name].info.extra_quarters + overlap.rotation_quarters
            weights[other][quarters % 4] += overlap.weight
        return {
            name: replace(record, info=record.info.rotated(int(weights[name].argmax())))
            for name, record in records.items()
        }

    def detect(self, records: Records) -> dict[str, ImageRecord]:
        """Detect features with every feature pipeline; returns the images on which all of them succeeded."""
        usable = dict(records)
        until = deadline.portion(self.until, _DETECTION)
        for left, pipeline in zip(range(len(self.config.sparse), 0, -1), self.config.sparse, strict=True):
            table, keyed = self._features(pipeline), self._keyed(pipeline, usable)
            if isinstance(pipeline.detector, ImportedFeatures):
                self.notes += self._imported.fill_features(table, usable)
            else:
                tasks = self._tasks(usable, deadline.portion(until, 1 / left))
                self.notes += tasks.detect(table, pipeline.detector, self._mask)
            usable = {name: usable[name] for name, record in keyed.items() if record.key in table}
        return usable

    def select(self, records: Records, given: Sequence[Pair] | None) -> list[Pair]:
        """The pairs to match, most useful first if time is limited.

        given: the caller's pairs; None selects them by `config.pairs`.
        """
        pairs = self._selected(records) if given is None else given
        pairs = [(first, second) for first, second in pairs if first in records and second in records]
        if self.until == inf:
            return pairs
        return nearest_first(list(records), pairs, self._expected_overlap(records, pairs))

    def match(self, records: Records, pairs: Sequence[Pair]) -> MatchedFeatures:
        """Match the pairs with every feature pipeline, and join their features and matches."""
        found = [self._match(pipeline, records, pairs) for pipeline in self.config.feature_pipelines]
        if len(found) == 1:
            return found[0]
        joined = {name: join_features([one.features(name) for one in found], self.config.combine) for name in records}

        def matches(first: str, second: str) -> Matches:
            parts = [one.matches(first, second) for one in found]
            return join_matches(parts, joined[first][1], joined[second][1])

        first = {name: len(rows[0]) for name, (_, rows) in joined.items()}
        return MatchedFeatures(lambda name: joined[name][0], matches, first)

    def stored(self, records: Records) -> dict[str, Any]:
        """Where the store has the features of these images: the table, their kind, and their keys by image name.

        Empty if they were joined from several feature pipelines, or come from a detector-free matcher.
        """
        pipeline, *others = self.config.feature_pipelines
        if others or not self.config.sparse:
            return {}
        keys = {name: record.key for name, record in self._keyed(pipeline, records).items()}
        return {"table": self._features(pipeline).folder.name, "kind": pipeline.detector.kind, "keys": keys}

    def without_static(self, found: MatchedFeatures, records: Records, pairs: Sequence[Pair]) -> MatchedFeatures:
        """The same without matches on watermarks, date stamps and backgrounds that do not move with the scene."""
        if not self.config.static.on:
            return found
        keypoints = {name: _without_descriptors(found.features(name)) for name in records}
        examined = partial(self._each_pair, "static overlays", examine, keypoints, found.matches)
        static = static_keypoints(keypoints, found.matches, pairs, examined)
        if not (shares := [mask.mean() for mask in static.values() if mask.any()]):
            return found
        self.notes.append(
            f"{len(shares)} of {len(records)} images show something that does not move with the scene, such as a "
            f"watermark, a date or a background: {np.mean(shares):.0%} of their keypoints are ignored "
            "(--static.no-on keeps them)"
        )

        def moving(first: str, second: str) -> Matches:
            matches = found.matches(first, second)
            one, two = matches.indices.T
            kept = ~(static[first][one] | static[second][two])
            return Matches(matches.indices[kept], matches.scores[kept])

        return MatchedFeatures(found.features, moving, found.first)

    def similarity(self, records: Records, until: float = inf) -> Callable[[str, str], float | None]:
        """A function of two image names: how alike the images look, −1 … 1, by the VLAD of their features.

        The first call computes the VLAD. The function returns None for an image that is not in `records`, and for all
        images if the time until the deadline `until` is too short.
        """
        row = {name: number for number, name in enumerate(records)}

        @cache
        def descriptors() -> Float32 | None:
            if deadline.left(until) <= _DESCRIPTION * len(records):
                return None
            return self._describe(records, VladConfig(sample=_SAMPLE, keypoints=_KEYPOINTS))

        def similarity(first: str, second: str) -> float | None:
            if first not in row or second not in row or (rows := descriptors()) is None:
                return None
            return float(rows[row[first]] @ rows[row[second]])

        return similarity

    # ---- the pairs ----

    def _selected(self, records: Records) -> Sequence[Pair]:
        config, imported = self.config.pairs, self.config.imported
        if imported.pairs:
            return read_pairs(imported.pairs, self.scene.images, self.notes, aliases(self.scene))
        if imported.has_matches:
            return self._imported.pairs(records)
        if self.positions.select_pairs(list(records), self.config.positions, config):
            return self._nearby(records)
        if config.method == "matches" and len(records) > config.exhaustive_up_to:
            overlaps = self._low_resolution_overlaps(records)
            counts = {pair: overlap.inliers for pair, overlap in overlaps.items()}
            return by_matches(list(records), counts, config)
        names = self.scene.images if config.method == "file" else list(records)  # a file may name unreadable images
        return select(names, config, lambda descriptor: self._describe(records, descriptor), self.notes)

    def _nearby(self, records: Records) -> Sequence[Pair]:
        """The pairs of images taken near each other, and retrieval's pairs of images without positions."""
        config, names = self.config, list(records)
        pairs = nearby(names, self.positions.table(names), config.positions.k)
        if nowhere := {name for name in names if name not in self.positions.metres}:
            found = select(names, config.pairs, lambda descriptor: self._describe(records, descriptor))
            pairs = sorted({*pairs, *(pair for pair in found if not nowhere.isdisjoint(pair))}, key=_order(names))
        return pairs

    def _expected_overlap(self, records: Records, pairs: Sequence[Pair]) -> Float64:
        """An estimate of how much images overlap, [N, N], from stored results only.

        This is the number of matches in the quick answer, if there was one. Ties go to images close together in the
        list, because photos are often taken in order.
        """
        row = {name: number for number, name in enumerate(records)}
        numbers = np.arange(len(records), dtype=np.float64)
        overlap = -np.abs(numbers[:, None] - numbers) / max(1, len(records))
        # The quick answer rotates images by EXIF only, not by the rotation estimated from matches.
        key = {name: replace(one, info=replace(one.info, extra_quarters=0)).key for name, one in records.items()}
        quick = self.store.matches(fingerprint(CHEAP.detector, CHEAP.matcher, self._mask))
        for first, second in pairs:
            if (pair := pair_key(key[first], key[second])) in quick:
                overlap[row[first], row[second]] += len(quick[pair])
                overlap[row[second], row[first]] = overlap[row[first], row[second]]
        return overlap

    # ---- features and matches of one feature pipeline ----

    @cached_property
    def _imported(self) -> Imported:
        return Imported(self.config.imported, self.scene)

    def _keyed(self, pipeline: FeaturePipeline, records: Records) -> Records:
        """The images that may have features, with their keys in the pipeline's tables."""
        return self._imported.keyed(records) if isinstance(pipeline.detector, ImportedFeatures) else records

    def _tasks(self, records: Records, until: float | None = None) -> Tasks:
        return Tasks(records, self.executor, self.until if until is None else until)

    def _features(self, pipeline: FeaturePipeline) -> Table[Features]:
        return self.store.features(fingerprint(pipeline.detector, self._mask))

    def _match(self, pipeline: FeaturePipeline, records: Records, pairs: Sequence[Pair]) -> MatchedFeatures:
        if isinstance(pipeline.matcher, DetectorFreeConfig):
            return self._match_images(pipeline.matcher, records, pairs)
        detector, matcher = pipeline.detector, pipeline.matcher
        features, records = self._features(pipeline), self._keyed(pipeline, records)
        matches = self.store.matches(fingerprint(detector, matcher, self._mask))
        if isinstance(matcher, ImportedMatches):
            self._imported.fill_matches(matches, features, records, pairs)
        else:
            self.notes += self._tasks(records).match(pairs, features, matches, matcher, detector.kind)

        def matches_of(first: str, second: str) -> Matches:
            key = pair_key(records[first].key, records[second].key)
            return matches[key] if key in matches else Matches.empty()

        return MatchedFeatures(lambda name: features[records[name].key], matches_of)

    def _match_images(self, matcher: DetectorFreeConfig, records: Records, pairs: Sequence[Pair]) -> MatchedFeatures:
        table = self.store.correspondences(fingerprint(matcher))
        self.notes += self._tasks(records).match_images(pairs, table, matcher)
        keys = {(first, second): pair_key(records[first].key, records[second].key) for first, second in pairs}
        found = {pair: table[key] for pair, key in keys.items() if key in table}
        sizes = {name: record.info.size for name, record in records.items()}
        features, matches = merge(found, sizes, self.config.merge)
        return MatchedFeatures(features.__getitem__, lambda a, b: matches.get((a, b), Matches.empty()))

    # ---- low-resolution matching ----

    def _low_resolution(self) -> "Matching":
        config = replace(CHEAP, static=self.config.static, positions=self.config.positions)
        cheap = Matching(self.scene, self.store, config, self.executor, deadline.portion(self.until, _LOW_RESOLUTION))
        cheap.positions = self.positions
        return cheap

    @progress.titled("low resolution")
    def _low_resolution_overlaps(
        self, records: Records, given: Sequence[Pair] | None = None
    ) -> dict[Pair, PairOverlap]:
        """The overlap of the given pairs; by default of all pairs, or of the most similar ones in a large scene."""
        cheap = self._low_resolution()
        usable = cheap.detect(records)
        pairs = cheap._selected(usable) if given is None else [pair for pair in given if usable.keys() >= {*pair}]
        found = cheap.without_static(cheap.match(usable, pairs), usable, pairs)
        self.notes += [note for note in cheap.notes if faults.happened([note])]
        keypoints = {name: _without_descriptors(found.features(name)) for name in usable}
        work = partial(lowres.pair_overlap, config=self.config.lowres)
        overlaps = cheap._each_pair("overlaps", work, keypoints, found.matches, pairs)
        if len(overlaps) < len(pairs):
            done = f"{len(overlaps)} of {len(pairs)} pairs were compared at low resolution"
            self.notes.append(f"{deadline.RAN_OUT}, {done}")
        return overlaps

    def _each_pair(
        self,
        what: str,
        work: Callable[[Features, Features, Matches], T | None],
        keypoints: Mapping[str, Features],
        matches: Callable[[str, str], Matches],
        pairs: Sequence[Pair],
    ) -> dict[Pair, T]:
        """The result of `work` for each pair that has one and was reached before the deadline."""
        found: dict[Pair, T] = {}
        with progress.bar(what, len(pairs), "pair") as bar:
            for start in range(0, len(pairs), _PAIRS_AT_ONCE):
                part = pairs[start : start + _PAIRS_AT_ONCE]
                firsts, seconds = ([keypoints[pair[side]] for pair in part] for side in (0, 1))
                given = [matches(*pair) for pair in part]
                results = self.executor.map(partial(_in_time, work, self.until), firsts, seconds, given, chunksize=64)
                for pair, result in zip(part, results, strict=True):
                    bar.update()
                    found |= {pair: result} if result is not None else {}
        return found

    # ---- global descriptors ----

    def _describe(self, records: Records, descriptor: DescriptorConfig) -> Float32:
        """A global descriptor of every image, [N, D]."""
        if isinstance(descriptor, NetworkDescriptorConfig):
            return self._describe_by_network(records, descriptor)
        assert isinstance(descriptor, AggregateConfig)
        if not self.config.sparse:
            return self._describe_low_resolution(records, descriptor)
        table, keyed = self._features(self.config.sparse[0]), self._keyed(self.config.sparse[0], records)

        def features(name: str) -> Features:
            found = name in keyed and keyed[name].key in table
            return table[keyed[name].key] if found else Features.empty(records[name].info.size, 0)

        if not any(features(name).descriptors.shape[1] for name in records):  # imported features may have none
            return self._describe_low_resolution(records, descriptor)
        return descriptor.create().describe(list(records), features)

    def _describe_low_resolution(self, records: Records, descriptor: AggregateConfig) -> Float32:
        cheap = self._low_resolution()
        cheap.detect(records)
        return cheap._describe(records, descriptor)

    def _describe_by_network(self, records: Records, descriptor: NetworkDescriptorConfig) -> Float32:
        """The same from a network. An image that cannot be described gets zeros, which are similar to nothing."""
        table = self.store.descriptors(fingerprint(descriptor))
        self.notes += self._tasks(records).describe(table, descriptor)
        rows = {name: table[record.key] for name, record in records.items() if record.key in table}
        zeros = np.zeros_like(next(iter(rows.values()), np.empty(0, np.float32)))
        return np.array([rows.get(name, zeros) for name in records], np.float32)


def _in_time(work: Callable[..., T], until: float, *arguments: Any) -> T | None:
    return work(*arguments) if deadline.left(until) else None


def _order(names: Sequence[str]) -> Callable[[Pair], tuple[int, int]]:
    """A key that sorts pairs in the order of the images."""
    number = {name: i for i, name in enumerate(names)}
    return lambda pair: (number[pair[0]], number[pair[1]])


def _without_descriptors(features: Features) -> Features:
    """The same features in a twentieth of the memory."""
    return replace(features, descriptors=np.empty((len(features), 0), np.uint8))
