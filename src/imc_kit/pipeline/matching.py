"""From the photographs of a scene to matches: every stage before COLMAP, on a store and an executor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from math import inf

import numpy as np

from imc_kit import retrieval
from imc_kit.config import CHEAP, Config, FeaturePipeline, fingerprint
from imc_kit.data.store import Store, Table, pair_key
from imc_kit.matchers import DetectorFreeConfig, merge
from imc_kit.matchers.combine import join_features, join_matches
from imc_kit.pipeline import tasks
from imc_kit.pipeline.tasks import ImageRecord
from imc_kit.retrieval import AggregateConfig, DescriptorConfig, NetworkDescriptorConfig
from imc_kit.runtime import deadline
from imc_kit.types import Features, Float32, Float64, Matches, Pair, Scene
from imc_kit.viewgraph import lowres
from imc_kit.viewgraph.lowres import LowResConfig, PairOverlap
from imc_kit.viewgraph.orientation import assign_rotations

log = logging.getLogger(__name__)

_DETECTION = 0.85
"""The share of the time up to the end of matching that detection may take: an image without features is lost, while of
the pairs the most useful come first."""
_OVERVIEW = 0.5
"""The share of that time that looking at pairs may take. Where there is a quick answer, its matches are used again."""
_DESCRIPTION = 0.3
"""Seconds an image that describing its features may take: it is not begun when less time is left."""
_FEW, _STRONG = 4000, 2000
"""Features from which a vocabulary is learned that need not tell images apart well, and those of each image then."""
_LOOKS_AT_ONCE = 1024
"""Pairs, in the overview."""


@dataclass(frozen=True)
class Found:
    """The features of an image, and the matches of a pair, by name."""

    features: Callable[[str], Features]
    matches: Callable[[str, str], Matches]


class Matching:
    """The stages of one scene up to its matches; what went wrong on the way, one sentence each, is in `notes`.

    Of what is not done at the moment `until` (see `clock`) the most useful is done first, and the rest left out.
    """

    def __init__(self, scene: Scene, store: Store, config: Config, executor: Executor, until: float = inf) -> None:
        self.scene = scene
        self.store = store
        self.config = config
        self.executor = executor
        self.until = until
        self.notes: list[str] = []
        self._mask = replace(config.masks, pictures=False)

    def upright(self, records: Mapping[str, ImageRecord]) -> dict[str, ImageRecord]:
        """The same images, turned so that all are the same way up."""
        views = self._look(records)
        turns = assign_rotations(list(records), {pair: (view.quarters, view.weight) for pair, view in views.items()})
        turned = [name for name, turn in turns.items() if turn]
        if turned:
            log.info("%s: %d images are turned upright", self.scene.name, len(turned))
        return {name: replace(record, info=record.info.turned(turns[name])) for name, record in records.items()}

    def detect(self, records: Mapping[str, ImageRecord]) -> dict[str, ImageRecord]:
        """Fill the tables of all feature_pipelines; gives the images that are in all of them."""
        usable = dict(records)
        until = deadline.portion(self.until, _DETECTION)
        sparse = self.config.sparse
        for number, feature_pipeline in enumerate(sparse):
            table = self._features(feature_pipeline)
            label = self.scene.name
            share = deadline.portion(until, 1 / (len(sparse) - number))
            self.notes += tasks.detect(
                usable, table, feature_pipeline.detector, self._mask, self.executor, label, share
            )
            usable = {name: record for name, record in usable.items() if record.key in table}
        return usable

    def select(self, records: Mapping[str, ImageRecord], given: Sequence[Pair] | None) -> list[Pair]:
        """The pairs to match, when time is limited the most useful first."""
        pairs = self._select(records, given)
        return (
            pairs if self.until == inf else retrieval.nearest_first(list(records), pairs, self._guessed(records, pairs))
        )

    def _guessed(self, records: Mapping[str, ImageRecord], pairs: Sequence[Pair]) -> Float64:
        """How alike images probably are, [N, N], at no cost: by the matches of the quick answer, if there is one, and
        of equals those nearer to each other in the list, as they often come one after the other."""
        row = {name: number for number, name in enumerate(records)}
        numbers = np.arange(len(records))
        alike = -np.abs(numbers[:, None] - numbers) / max(1, len(records))
        key = {name: replace(record, info=replace(record.info, turn=0)).key for name, record in records.items()}
        quick = self.store.matches(fingerprint(CHEAP.detector, CHEAP.matcher, self._mask))
        for first, second in pairs:
            if (pair := pair_key(key[first], key[second])) in quick:
                alike[row[first], row[second]] += len(quick[pair])
                alike[row[second], row[first]] = alike[row[first], row[second]]
        return np.asarray(alike, np.float64)

    def _select(self, records: Mapping[str, ImageRecord], given: Sequence[Pair] | None) -> list[Pair]:
        if given is not None:
            return [(first, second) for first, second in given if first in records and second in records]
        config = self.config.pairs
        if config.method == "matches" and len(records) > config.exhaustive_up_to:
            counts = {pair: view.inliers for pair, view in self._look(records).items()}
            return retrieval.by_matches(
                list(records),
                counts,
                config.k,
                min_count=config.min_matches,
                min_per_image=config.min_per_image,
                max_pairs=config.max_pairs,
            )
        names = self.scene.images if config.method == "file" else list(records)  # a list may name what cannot be read
        pairs = retrieval.select(names, config, lambda descriptor: self._describe(records, descriptor))
        return [(first, second) for first, second in pairs if first in records and second in records]

    def match(self, records: Mapping[str, ImageRecord], pairs: Sequence[Pair]) -> Found:
        """The features and matches of all feature pipelines, joined."""
        found = [self._match(pipeline, records, pairs) for pipeline in self.config.feature_pipelines]
        if len(found) == 1:
            return found[0]
        joined = {name: join_features([one.features(name) for one in found], self.config.combine) for name in records}

        def matches(first: str, second: str) -> Matches:
            parts = [one.matches(first, second) for one in found]
            return join_matches(parts, joined[first][1], joined[second][1])

        return Found(lambda name: joined[name][0], matches)

    def similarity(self, records: Mapping[str, ImageRecord], until: float = inf) -> Callable[[str, str], float | None]:
        """How alike two images look by the VLAD of their features, −1 … 1, computed when first asked for; None where
        one of them has none, or there is no time for it until the moment `until`."""
        row = {name: number for number, name in enumerate(records)}

        @cache
        def described() -> Float32 | None:
            enough = deadline.left(until) > _DESCRIPTION * len(records)
            return self._describe(records, retrieval.VladConfig(sample=_FEW, keypoints=_STRONG)) if enough else None

        def alike(first: str, second: str) -> float | None:
            if first not in row or second not in row or (rows := described()) is None:
                return None
            return float(rows[row[first]] @ rows[row[second]])

        return alike

    def _match(
        self, feature_pipeline: FeaturePipeline, records: Mapping[str, ImageRecord], pairs: Sequence[Pair]
    ) -> Found:
        def key(first: str, second: str) -> str:
            return pair_key(records[first].key, records[second].key)

        label = self.scene.name
        if isinstance(feature_pipeline.matcher, DetectorFreeConfig):
            table = self.store.correspondences(fingerprint(feature_pipeline.matcher))
            self.notes += tasks.match_images(
                records, pairs, table, feature_pipeline.matcher, self.executor, label, self.until
            )
            everything = {pair: table[key(*pair)] for pair in pairs if key(*pair) in table}
            sizes = {name: record.info.size for name, record in records.items()}
            merged, of_pair = merge(everything, sizes, self.config.merge)
            return Found(merged.__getitem__, lambda first, second: of_pair.get((first, second), Matches.empty()))
        features = self._features(feature_pipeline)
        matches = self.store.matches(fingerprint(feature_pipeline.detector, feature_pipeline.matcher, self._mask))
        kind = feature_pipeline.detector.kind
        self.notes += tasks.match(
            records, pairs, features, matches, feature_pipeline.matcher, kind, self.executor, label, self.until
        )

        def matches_of(first: str, second: str) -> Matches:
            return matches[key(first, second)] if key(first, second) in matches else Matches.empty()

        return Found(lambda name: features[records[name].key], matches_of)

    def _features(self, feature_pipeline: FeaturePipeline) -> Table[Features]:
        return self.store.features(fingerprint(feature_pipeline.detector, self._mask))

    def _look(self, records: Mapping[str, ImageRecord]) -> dict[Pair, PairOverlap]:
        """What cheap matches say of pairs of images, all or the most similar."""
        cheap = self._cheap()
        seen = cheap.detect(records)
        pairs = retrieval.select(list(seen), cheap.config.pairs, lambda descriptor: cheap._describe(seen, descriptor))
        found = cheap.match(seen, pairs)
        slim = {name: _without_descriptors(found.features(name)) for name in seen}
        views: dict[Pair, PairOverlap] = {}
        for start in range(0, len(pairs), _LOOKS_AT_ONCE):  # an executor takes in all that it is given
            some = pairs[start : start + _LOOKS_AT_ONCE]
            looks = self.executor.map(
                _look_until,
                [slim[first] for first, _ in some],
                [slim[second] for _, second in some],
                [found.matches(*pair) for pair in some],
                repeat(self.config.overview),
                repeat(cheap.until),
                chunksize=64,
            )
            views |= {pair: view for pair, view in zip(some, looks, strict=True) if view}
        if len(views) < len(pairs):
            self.notes.append(
                f"{self.scene.name}: {deadline.RAN_OUT}, {len(views)} of {len(pairs)} pairs were looked at"
            )
        return views

    def _describe(self, records: Mapping[str, ImageRecord], descriptor: DescriptorConfig) -> Float32:
        """A global descriptor of every image, [N, D]."""
        if isinstance(descriptor, NetworkDescriptorConfig):
            table = self.store.descriptors(fingerprint(descriptor))
            self.notes += tasks.describe(records, table, descriptor, self.executor, self.scene.name, self.until)
            rows = {name: table[record.key] for name, record in records.items() if record.key in table}
            nothing = np.zeros_like(next(iter(rows.values()), np.empty(0, np.float32)))
            return np.array([rows.get(name, nothing) for name in records], np.float32)
        assert isinstance(descriptor, AggregateConfig)
        sparse = self.config.sparse
        if not sparse:
            cheap = self._cheap()
            cheap.detect(records)
            return cheap._describe(records, descriptor)
        shelf_of = self._features(sparse[0])

        def features(name: str) -> Features:
            record = records[name]
            return shelf_of[record.key] if record.key in shelf_of else Features.empty(record.info.size, 0)

        return descriptor.create().describe(list(records), features)

    def _cheap(self) -> Matching:
        return Matching(self.scene, self.store, CHEAP, self.executor, deadline.portion(self.until, _OVERVIEW))


def _look_until(
    first: Features, second: Features, matches: Matches, config: LowResConfig, until: float
) -> PairOverlap | None:
    return lowres.look(first, second, matches, config) if deadline.left(until) else None


def _without_descriptors(features: Features) -> Features:
    """Where keypoints are, and which way up: a twentieth of the memory."""
    return replace(features, descriptors=np.empty((len(features), 0), np.uint8))
