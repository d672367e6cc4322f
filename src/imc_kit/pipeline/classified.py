"""A pair classifier of the user's, such as Doppelgangers++, which tells pairs of one place from pairs of places that
look alike."""

import hashlib
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap.database import delete_pairs, id_pair_counts, image_ids, reading
from imc_kit.config import fingerprint
from imc_kit.data.images import Photo
from imc_kit.data.store import Store, pair_key
from imc_kit.errors import require
from imc_kit.pipeline.matching import MatchedFeatures
from imc_kit.pipeline.records import ImageRecord
from imc_kit.runtime import deadline, faults, progress, versions
from imc_kit.types import Float32, Pair

log = logging.getLogger(__name__)

_RECENT_PHOTOS = 32
"""Photos that stay decoded for the next pairs: 75 MB at 1024 × 768 pixels."""
_PAIRS_AT_ONCE = 64
"""Pairs in a chunk of the store: a killed run loses at most these answers."""


@dataclass(frozen=True)
class PairClassifier:
    """A function that judges verified pairs, and what follows from it. Raises KitError for an invalid option.

    probability: takes both photos and their verified matches, float32 [K, 4]: x and y in the first photo, then in the
        second, in pixels of `Photo.pixels`, where (0, 0) is the centre of the top-left pixel. Returns how likely the
        photos show the same place, 0 … 1. It is called by one thread, and its answers are kept in the store.
    long_side: of the photos, at most, in pixels.
    least: pairs with a smaller probability are left out; by default those that more likely show two places.
    per_image: however, each image keeps this many pairs, its most probable ones.
    """

    probability: Callable[[Photo, Photo, Float32], float]
    long_side: int = 1024
    least: float = 0.5
    per_image: int = 1

    def __post_init__(self) -> None:
        require(self.long_side >= 1, "long_side of a pair classifier", "at least 1", self.long_side)
        require(0 <= self.least <= 1, "least of a pair classifier", "between 0 and 1", self.least)
        require(self.per_image >= 0, "per_image of a pair classifier", "at least 0", self.per_image)

    @property
    def identity(self) -> list[Any]:
        """What results depend on, for `config.fingerprint`: its options and code, but not the state of an object."""
        return [self._answers, self.least, self.per_image]

    @property
    def _answers(self) -> list[Any]:
        """What its answers depend on."""
        code = self.probability if inspect.isroutine(self.probability) else type(self.probability)
        return [versions.of_code(code), self.long_side]

    def remove_improbable(
        self, path: Path, records: Mapping[str, ImageRecord], found: MatchedFeatures, store: Store, until: float = inf
    ) -> list[str]:
        """Remove improbable pairs from the verified ones of the database `path`. Returns notes.

        found: what the database was written from. until: the deadline (`runtime.deadline`). Pairs that were not judged
        by then stay, and those for which the function fails.
        """
        judged, total, failed = self._judge(path, records, found, store, until)
        improbable = self._improbable(judged)
        delete_pairs(path, "two_view_geometries", improbable)
        notes = []
        if left := total - len(judged) - failed.total():
            notes.append(f"{deadline.RAN_OUT}: {left} of {total} verified pairs were not judged by the pair classifier")
        if failed:
            (reason, _), *_ = failed.most_common(1)
            notes.append(f"the pair classifier failed for {failed.total()} of {total} pairs, most often by {reason}")
        if improbable:
            notes.append(f"the pair classifier leaves out {len(improbable)} of {total} verified pairs")
        return notes

    def _judge(
        self, path: Path, records: Mapping[str, ImageRecord], found: MatchedFeatures, store: Store, until: float
    ) -> tuple[dict[Pair, float], int, Counter[str]]:
        """The probabilities of verified pairs, the number of these pairs, and why it failed for how many."""
        table = store.probabilities(fingerprint(self._answers))
        photo = lru_cache(_RECENT_PHOTOS)(lambda name: records[name].load(self.long_side))
        judged: dict[Pair, float] = {}
        failed = Counter[str]()

        def answer(pair: Pair, points: list[Float32]) -> Float32:
            photos = photo(pair[0]), photo(pair[1])
            seen = [one.from_original(xy) for one, xy in zip(photos, points, strict=True)]
            value = float(self.probability(*photos, np.hstack(seen)))
            if not 0 <= value <= 1:
                raise ValueError(f"its answer is {value} instead of a probability")
            return np.array([value], np.float32)

        with reading(path) as opened:
            names = {number: name for name, number in image_ids(opened).items()}
            pairs = list(id_pair_counts(opened, verified=True))
            with progress.bar("pair classifier", len(pairs), "pair") as bar:
                for start in range(0, len(pairs), _PAIRS_AT_ONCE):
                    new: dict[str, Float32] = {}
                    for first, second in pairs[start : start + _PAIRS_AT_ONCE]:
                        pair = names[first], names[second]
                        indices = opened.read_two_view_geometry(first, second).inlier_matches.T
                        points = [found.features(name).keypoints[i] for name, i in zip(pair, indices, strict=True)]
                        key = _key(records, pair, points)
                        if key in table:
                            judged[pair] = float(table[key][0])
                            continue
                        if not deadline.left(until):
                            continue
                        try:
                            new[key] = answer(pair, points)
                            judged[pair] = float(new[key][0])
                        except Exception as error:  # of any kind: the function is anyone's
                            log.debug("the pair classifier failed", exc_info=error)
                            failed[faults.told(error)] += 1
                    table.put(new)
                    bar.update(min(_PAIRS_AT_ONCE, len(pairs) - start))
        return judged, len(pairs), failed

    def _improbable(self, judged: Mapping[Pair, float]) -> list[Pair]:
        """The pairs to leave out: none of an image's `per_image` most probable ones."""
        degree = Counter[str]()
        improbable = []
        for pair in sorted(judged, key=lambda pair: -judged[pair]):
            if judged[pair] < self.least and all(degree[name] >= self.per_image for name in pair):
                improbable.append(pair)
            else:
                degree.update(pair)
        return improbable


def _key(records: Mapping[str, ImageRecord], pair: Pair, points: list[Float32]) -> str:
    """The key of a pair and its verified matches in the store."""
    matches = hashlib.sha256(np.hstack(points).tobytes()).hexdigest()[:16]
    return f"{pair_key(records[pair[0]].key, records[pair[1]].key)}-{matches}"
