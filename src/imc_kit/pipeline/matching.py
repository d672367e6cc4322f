"""Detect and match the features of a scene's photos, with every feature pipeline, a store and an executor."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from imc_kit.config import Config, FeaturePipeline, fingerprint
from imc_kit.data.store import Store, Table, pair_key
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.matchers import PhotoMatcherConfig
from imc_kit.matchers.combine import join_features, join_matches
from imc_kit.matchers.imported import ImportedFeatures, ImportedMatches
from imc_kit.matchers.photo_points import merge
from imc_kit.pipeline.imported import Imported
from imc_kit.pipeline.positions import Positions
from imc_kit.pipeline.records import ImageRecord
from imc_kit.pipeline.tasks import Records, Tasks
from imc_kit.runtime import deadline
from imc_kit.types import Features, Matches, Pair, Scene

_DETECTION = 0.85
"""Detection's share of the time for detection and matching. It is large because an image without features is lost,
whereas the most useful pairs are matched first. Chosen with time limits on the open scenes."""


@dataclass(frozen=True)
class MatchedFeatures:
    """The features of an image by name, and the matches of a pair by names (empty if it was not matched)."""

    features: Callable[[str], Features]
    matches: Callable[[str, str], Matches]

    def strong(self, pairs: Sequence[Pair], least: int) -> Iterator[tuple[str, str, Matches]]:
        """The pairs with at least `least` matches, and their matches, for `colmap.database`."""
        for pair in pairs:
            if len(matches := self.matches(*pair)) >= least:
                yield *pair, matches


class Matching:
    """Detection and matching in one scene. `notes` collects what went wrong, one sentence each.

    The most useful work comes first; what is left at the deadline `until` (`runtime.deadline`) is skipped.
    `positions` are those of the scene's images, if they may select pairs (`selection`).
    """

    def __init__(self, scene: Scene, store: Store, config: Config, executor: Executor, until: float = inf) -> None:
        self.scene = scene
        self.store = store
        self.config = config
        self.executor = executor
        self.until = until
        self.notes: list[str] = []
        self.positions = Positions()

    def detect(self, records: Records) -> dict[str, ImageRecord]:
        """Detect features with every feature pipeline; returns the images on which all of them succeeded."""
        usable = dict(records)
        until = deadline.portion(self.until, _DETECTION)
        for left, pipeline in zip(range(len(self.config.sparse), 0, -1), self.config.sparse, strict=True):
            table, keyed = self.features(pipeline), self.keyed(pipeline, usable)
            if isinstance(pipeline.detector, ImportedFeatures):
                self.notes += self.imported.fill_features(table, usable)
            else:
                tasks = self.tasks(usable, deadline.portion(until, 1 / left))
                self.notes += tasks.detect(table, pipeline.detector, self.config.masks)
            usable = {name: usable[name] for name, record in keyed.items() if record.key in table}
        return usable

    def match(self, records: Records, pairs: Sequence[Pair]) -> MatchedFeatures:
        """Match the pairs with every feature pipeline, and join their features and matches."""
        found = [self._match(pipeline, records, pairs) for pipeline in self.config.feature_pipelines]
        if len(found) == 1:
            return found[0]
        joined = {name: join_features([one.features(name) for one in found], self.config.combine) for name in records}

        def matches(first: str, second: str) -> Matches:
            parts = [one.matches(first, second) for one in found]
            return join_matches(parts, joined[first][1], joined[second][1])

        return MatchedFeatures(lambda name: joined[name][0], matches)

    def stored(self, records: Records) -> dict[str, Any]:
        """Where the store has the features of these images: the table, their kind, and their keys by image name.

        Empty if they were joined from several feature pipelines, or with points of a photo matcher.
        """
        pipeline, *others = self.config.feature_pipelines
        if others or self.config.matches_photos:
            return {}
        keys = {name: record.key for name, record in self.keyed(pipeline, records).items()}
        return {"table": self.features(pipeline).folder.name, "kind": pipeline.detector.kind, "keys": keys}

    @cached_property
    def imported(self) -> Imported:
        return Imported(self.config.imported, self.scene)

    def keyed(self, pipeline: FeaturePipeline, records: Records) -> Records:
        """The images that may have features, with their keys in the pipeline's tables."""
        return self.imported.keyed(records) if isinstance(pipeline.detector, ImportedFeatures) else records

    def tasks(self, records: Records, until: float | None = None) -> Tasks:
        return Tasks(records, self.executor, self.until if until is None else until)

    def features(self, pipeline: FeaturePipeline) -> Table[Features]:
        return self.store.features(fingerprint(pipeline.detector, self.config.masks))

    def _match(self, pipeline: FeaturePipeline, records: Records, pairs: Sequence[Pair]) -> MatchedFeatures:
        if isinstance(pipeline.matcher, PhotoMatcherConfig):
            return self._match_photos(pipeline, pipeline.matcher, records, pairs)
        detector, matcher = pipeline.detector, pipeline.matcher
        features, records = self.features(pipeline), self.keyed(pipeline, records)
        matches = self.store.matches(fingerprint(detector, matcher, self.config.masks))
        if isinstance(matcher, ImportedMatches):
            self.imported.fill_matches(matches, features, records, pairs)
        else:
            self.notes += self.tasks(records).match(pairs, features, matches, matcher, detector.kind)

        def matches_of(first: str, second: str) -> Matches:
            key = pair_key(records[first].key, records[second].key)
            return matches[key] if key in matches else Matches.empty()

        return MatchedFeatures(lambda name: features[records[name].key], matches_of)

    def _match_photos(
        self, pipeline: FeaturePipeline, matcher: PhotoMatcherConfig, records: Records, pairs: Sequence[Pair]
    ) -> MatchedFeatures:
        if isinstance(pipeline.detector, NoDetectorConfig):
            given, table = None, self.store.correspondences(fingerprint(matcher))
        else:
            given, records = self.features(pipeline), self.keyed(pipeline, records)
            table = self.store.correspondences(fingerprint(pipeline.detector, matcher, self.config.masks))
        self.notes += self.tasks(records).match_photos(pairs, given, table, matcher)
        keys = {(first, second): pair_key(records[first].key, records[second].key) for first, second in pairs}
        found = {pair: table[key] for pair, key in keys.items() if key in table}
        known = {
            name: given[record.key].without_descriptors() if given is not None else Features.empty(record.info.size, 0)
            for name, record in records.items()
        }
        features, matches = merge(found, known, self.config.merge)
        return MatchedFeatures(features.__getitem__, lambda a, b: matches.get((a, b), Matches.empty()))
