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

from imc_kit import clock, overview, retrieval, work
from imc_kit.colmap.verification import by_magsac
from imc_kit.combine import join_features, join_matches
from imc_kit.config import CHEAP, Branch, Config, fingerprint
from imc_kit.crops import crop_of
from imc_kit.matchers import DenseConfig, merge
from imc_kit.orientation import assign_turns
from imc_kit.overview import OverviewConfig, PairView
from imc_kit.retrieval import AggregateConfig, DescriptorConfig, NetworkConfig, Pair
from imc_kit.store import Shelf, Store, pair_key
from imc_kit.types import Features, Float32, Float64, Int32, Matches, Scene
from imc_kit.work import Shot

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
_VERIFIED_AT_ONCE = 64
"""Pairs, for crops."""


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

    def upright(self, shots: Mapping[str, Shot]) -> dict[str, Shot]:
        """The same images, turned so that all are the same way up."""
        views = self._look(shots)
        turns = assign_turns(list(shots), {pair: (view.quarters, view.weight) for pair, view in views.items()})
        turned = [name for name, turn in turns.items() if turn]
        if turned:
            log.info("%s: %d images are turned upright", self.scene.name, len(turned))
        return {name: replace(shot, info=shot.info.turned(turns[name])) for name, shot in shots.items()}

    def detect(self, shots: Mapping[str, Shot]) -> dict[str, Shot]:
        """Fill the shelves of all branches; gives the images that are in all of them."""
        usable = dict(shots)
        until = clock.portion(self.until, _DETECTION)
        sparse = self.config.sparse
        for number, branch in enumerate(sparse):
            shelf = self._features(branch)
            label = self.scene.name
            share = clock.portion(until, 1 / (len(sparse) - number))
            self.notes += work.detect(usable, shelf, branch.detector, self._mask, self.executor, label, share)
            usable = {name: shot for name, shot in usable.items() if shot.key in shelf}
        return usable

    def select(self, shots: Mapping[str, Shot], given: Sequence[Pair] | None) -> list[Pair]:
        """The pairs to match, when time is limited the most useful first."""
        pairs = self._select(shots, given)
        return pairs if self.until == inf else retrieval.nearest_first(list(shots), pairs, self._guessed(shots, pairs))

    def _guessed(self, shots: Mapping[str, Shot], pairs: Sequence[Pair]) -> Float64:
        """How alike images probably are, [N, N], at no cost: by the matches of the quick answer, if there is one, and
        of equals those nearer to each other in the list, as they often come one after the other."""
        row = {name: number for number, name in enumerate(shots)}
        numbers = np.arange(len(shots))
        alike = -np.abs(numbers[:, None] - numbers) / max(1, len(shots))
        key = {name: replace(shot, info=replace(shot.info, turn=0)).key for name, shot in shots.items()}
        quick = self.store.matches(fingerprint(CHEAP.detector, CHEAP.matcher, self._mask))
        for first, second in pairs:
            if (pair := pair_key(key[first], key[second])) in quick:
                alike[row[first], row[second]] += len(quick[pair])
                alike[row[second], row[first]] = alike[row[first], row[second]]
        return np.asarray(alike, np.float64)

    def _select(self, shots: Mapping[str, Shot], given: Sequence[Pair] | None) -> list[Pair]:
        if given is not None:
            return [(first, second) for first, second in given if first in shots and second in shots]
        config = self.config.pairs
        if config.method == "matches" and len(shots) > config.exhaustive_up_to:
            counts = {pair: view.inliers for pair, view in self._look(shots).items()}
            return retrieval.by_matches(
                list(shots),
                counts,
                config.k,
                min_count=config.min_matches,
                min_per_image=config.min_per_image,
                max_pairs=config.max_pairs,
            )
        names = self.scene.images if config.method == "file" else list(shots)  # a list may name what cannot be read
        pairs = retrieval.select(names, config, lambda descriptor: self._describe(shots, descriptor))
        return [(first, second) for first, second in pairs if first in shots and second in shots]

    def match(self, shots: Mapping[str, Shot], pairs: Sequence[Pair], crops: Mapping[str, Shot] | None = None) -> Found:
        """The features and matches of all branches, joined.

        crops: of some images, as `crop` gives them. Each detector is then a further branch, of these and of the whole
            of the other images, for the pairs that have a crop. Its keypoints come last.
        """
        crops = crops or {}
        branches = self.config.branches
        again = self.config.sparse if crops else []
        closer = [pair for pair in pairs if pair[0] in crops or pair[1] in crops]
        found = [self._match(branch, shots, pairs) for branch in branches]
        found += [self._match(branch, {**shots, **crops}, closer) for branch in again]
        if len(found) == 1:
            return found[0]
        whole = [*range(len(branches)), *map(branches.index, again)]

        def join(name: str) -> tuple[Features, tuple[Int32, ...]]:
            if name in crops:
                return join_features([one.features(name) for one in found], self.config.combine)
            parts = [one.features(name) for one in found[: len(branches)]]
            features, rows = join_features(parts, self.config.combine)
            return features, tuple(rows[number] for number in whole)

        joined = {name: join(name) for name in shots}

        def matches(first: str, second: str) -> Matches:
            parts = [one.matches(first, second) for one in found]
            return join_matches(parts, joined[first][1], joined[second][1])

        return Found(lambda name: joined[name][0], matches)

    def crop(self, shots: Mapping[str, Shot], pairs: Sequence[Pair], found: Found) -> dict[str, Shot]:
        """The crops of those images whose verified matches are in a small part of them, with features in the store."""
        keypoints = {name: found.features(name).keypoints for name in shots}
        matched = {name: np.zeros(len(points), np.bool_) for name, points in keypoints.items()}
        for start in range(0, len(pairs), _VERIFIED_AT_ONCE):
            if not clock.left(self.until):
                self.notes.append(f"{self.scene.name}: {clock.RAN_OUT} for crops")
                return {}
            some = pairs[start : start + _VERIFIED_AT_ONCE]
            rows = [found.matches(*pair).indices for pair in some]
            firsts, seconds = (
                [keypoints[pair[side]][one[:, side]] for pair, one in zip(some, rows, strict=True)] for side in (0, 1)
            )
            looks = self.executor.map(by_magsac, firsts, seconds, repeat(self.config.verification))
            for pair, one, (_, agrees) in zip(some, rows, looks, strict=True):
                for name, indices in zip(pair, one[agrees].T, strict=True):
                    matched[name][indices] = True
        long_side = min((side for branch in self.config.sparse if (side := branch.detector.load_side)), default=None)
        boxes = {
            name: crop_of(keypoints[name][matched[name]], shot.info.size, long_side, self.config.crops)
            for name, shot in shots.items()
        }
        crops = self.detect({name: replace(shots[name], crop=box) for name, box in boxes.items() if box})
        log.info("%s: %d images are looked at again in a part of them", self.scene.name, len(crops))
        return crops

    def similarity(self, shots: Mapping[str, Shot], until: float = inf) -> Callable[[str, str], float | None]:
        """How alike two images look by the VLAD of their features, −1 … 1, computed when first asked for; None where
        one of them has none, or there is no time for it until the moment `until`."""
        row = {name: number for number, name in enumerate(shots)}

        @cache
        def described() -> Float32 | None:
            enough = clock.left(until) > _DESCRIPTION * len(shots)
            return self._describe(shots, retrieval.VladConfig(sample=_FEW, keypoints=_STRONG)) if enough else None

        def alike(first: str, second: str) -> float | None:
            if first not in row or second not in row or (rows := described()) is None:
                return None
            return float(rows[row[first]] @ rows[row[second]])

        return alike

    def _match(self, branch: Branch, shots: Mapping[str, Shot], pairs: Sequence[Pair]) -> Found:
        def key(first: str, second: str) -> str:
            return pair_key(shots[first].key, shots[second].key)

        label = self.scene.name
        if isinstance(branch.matcher, DenseConfig):
            shelf = self.store.correspondences(fingerprint(branch.matcher))
            self.notes += work.match_images(shots, pairs, shelf, branch.matcher, self.executor, label, self.until)
            everything = {pair: shelf[key(*pair)] for pair in pairs if key(*pair) in shelf}
            sizes = {name: shot.info.size for name, shot in shots.items()}
            merged, of_pair = merge(everything, sizes, self.config.merge)
            return Found(merged.__getitem__, lambda first, second: of_pair.get((first, second), Matches.empty()))
        features = self._features(branch)
        matches = self.store.matches(fingerprint(branch.detector, branch.matcher, self._mask))
        kind = branch.detector.kind
        self.notes += work.match(
            shots, pairs, features, matches, branch.matcher, kind, self.executor, label, self.until
        )

        def matches_of(first: str, second: str) -> Matches:
            return matches[key(first, second)] if key(first, second) in matches else Matches.empty()

        return Found(lambda name: features[shots[name].key], matches_of)

    def _features(self, branch: Branch) -> Shelf[Features]:
        return self.store.features(fingerprint(branch.detector, self._mask))

    def _look(self, shots: Mapping[str, Shot]) -> dict[Pair, PairView]:
        """What cheap matches say of pairs of images, all or the most similar."""
        cheap = self._cheap()
        seen = cheap.detect(shots)
        pairs = retrieval.select(list(seen), cheap.config.pairs, lambda descriptor: cheap._describe(seen, descriptor))
        found = cheap.match(seen, pairs)
        slim = {name: _without_descriptors(found.features(name)) for name in seen}
        views: dict[Pair, PairView] = {}
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
            self.notes.append(f"{self.scene.name}: {clock.RAN_OUT}, {len(views)} of {len(pairs)} pairs were looked at")
        return views

    def _describe(self, shots: Mapping[str, Shot], descriptor: DescriptorConfig) -> Float32:
        """A global descriptor of every image, [N, D]."""
        if isinstance(descriptor, NetworkConfig):
            shelf = self.store.descriptors(fingerprint(descriptor))
            self.notes += work.describe(shots, shelf, descriptor, self.executor, self.scene.name, self.until)
            rows = {name: shelf[shot.key] for name, shot in shots.items() if shot.key in shelf}
            nothing = np.zeros_like(next(iter(rows.values()), np.empty(0, np.float32)))
            return np.array([rows.get(name, nothing) for name in shots], np.float32)
        assert isinstance(descriptor, AggregateConfig)
        sparse = self.config.sparse
        if not sparse:
            cheap = self._cheap()
            cheap.detect(shots)
            return cheap._describe(shots, descriptor)
        shelf_of = self._features(sparse[0])

        def features(name: str) -> Features:
            shot = shots[name]
            return shelf_of[shot.key] if shot.key in shelf_of else Features.empty(shot.info.size, 0)

        return descriptor.create().describe(list(shots), features)

    def _cheap(self) -> Matching:
        return Matching(self.scene, self.store, CHEAP, self.executor, clock.portion(self.until, _OVERVIEW))


def _look_until(
    first: Features, second: Features, matches: Matches, config: OverviewConfig, until: float
) -> PairView | None:
    return overview.look(first, second, matches, config) if clock.left(until) else None


def _without_descriptors(features: Features) -> Features:
    """Where keypoints are, and which way up: a twentieth of the memory."""
    return replace(features, descriptors=np.empty((len(features), 0), np.uint8))
