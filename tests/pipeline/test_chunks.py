"""How work is cut into chunks, and in which order pairs are matched when time is limited and when it is not."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from imc_kit.data.images import ImageInfo
from imc_kit.data.store import Store, Table, pair_key
from imc_kit.matchers import MatcherConfig
from imc_kit.pipeline import chunks, tasks
from imc_kit.pipeline.chunks import (
    BLOCK,
    IMAGES_PER_CHUNK,
    LIMITED_BAND,
    MAX_IMAGES_OF_PAIRS,
    image_chunks,
    pair_chunks,
)
from imc_kit.pipeline.records import ImageRecord
from imc_kit.pipeline.tasks import Tasks
from imc_kit.runtime import deadline
from imc_kit.types import Features, Matches

COUNT = 20
NAMES = [f"{number:02}" for number in range(COUNT)]
now = [0.0]
asked: list[tuple[int, int]] = []


@dataclass(frozen=True)
class SlowConfig(MatcherConfig):
    """Finds one match in every pair, and takes a second for it."""

    name: ClassVar[str] = "slow"

    def create(self, kind: str) -> Slow:
        return Slow()


class Slow:
    def match_batch(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        now[0] += len(pairs)
        asked.extend((first.image_size[0], second.image_size[0]) for first, second in pairs)
        return [Matches(np.zeros((1, 2), np.int32), np.ones(1, np.float32)) for _ in pairs]


@pytest.fixture(autouse=True)
def start(monkeypatch: pytest.MonkeyPatch) -> None:
    now[0] = 0.0
    asked.clear()
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])


def match(folder: Path, pairs: Sequence[tuple[str, str]], until: float) -> tuple[Table[Any], list[str]]:
    """Match with one worker; the width of an image is its number."""
    features, matches = Store(folder).features("f"), Store(folder).matches("m")
    one = np.ones(1, np.float32)
    features.put(
        {name: Features(one[None, [0, 0]], one, one[None], (number + 9, 9)) for number, name in enumerate(NAMES)}
    )
    records = {name: ImageRecord(Path(name), ImageInfo((9, 9), 0, False), name) for name in NAMES}
    with ThreadPoolExecutor(1) as executor:
        notes = Tasks(records, executor, until).match(pairs, features, matches, SlowConfig(), "kind")
    return matches, notes


def shuffled_pairs() -> list[tuple[str, str]]:
    pairs = list(combinations(NAMES, 2))
    return [pairs[row] for row in np.random.default_rng(0).permutation(len(pairs))]


def blocks() -> list[tuple[int, int]]:
    return [((first - 9) // BLOCK, (second - 9) // BLOCK) for first, second in asked]


def test_pairs_are_matched_about_in_the_order_given_until_time_runs_out(tmp_path: Path) -> None:
    pairs = shuffled_pairs()
    matches, notes = match(tmp_path, pairs, 70.0)
    named = [(NAMES[a - 9], NAMES[b - 9]) for a, b in asked]
    assert sorted(named[:LIMITED_BAND]) == sorted(pairs[:LIMITED_BAND])  # the first ones, by block
    assert set(named[LIMITED_BAND:]) < set(pairs[LIMITED_BAND : 2 * LIMITED_BAND])
    assert blocks()[:LIMITED_BAND] == sorted(blocks()[:LIMITED_BAND])
    missing = matches.missing(pair_key(*pair) for pair in pairs)
    assert sorted(missing) == sorted(pair_key(*pair) for pair in pairs if pair not in named)
    assert notes == [f"slow matches: {deadline.RAN_OUT}, 70 of 190 pairs were done"]

    matches, notes = match(tmp_path, pairs, inf)  # another run does the rest, and only that
    assert matches.missing(pair_key(*pair) for pair in pairs) == []
    assert notes == []
    assert len(asked) == len(pairs)


def test_nothing_begins_after_the_deadline(tmp_path: Path) -> None:
    matches, notes = match(tmp_path, shuffled_pairs(), -1.0)
    assert len(matches) == len(asked) == 0
    assert deadline.ran_out(notes)
    assert match(tmp_path, [], -1.0)[1] == []


def test_without_a_time_limit_pairs_of_the_same_images_are_together(tmp_path: Path) -> None:
    matches, notes = match(tmp_path, shuffled_pairs(), inf)
    assert len(matches) == COUNT * (COUNT - 1) // 2
    assert notes == []
    assert blocks() == sorted(blocks())


@pytest.mark.parametrize("step", [1, 7, 100])
def test_a_chunk_of_pairs_has_few_images(step: int) -> None:
    pairs = list(combinations([f"{number:03}" for number in range(200)], 2))[::step]
    with ThreadPoolExecutor(2) as executor:
        parts = pair_chunks(pairs, 256, executor, inf)
        assert pair_chunks([], 256, executor, inf) == []
    assert [pair for part in parts for pair in part] == pairs
    assert all(0 < len(part) <= 256 for part in parts)
    assert max(len({name for pair in part for name in pair}) for part in parts) <= MAX_IMAGES_OF_PAIRS


def test_full_blocks_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "width", lambda _: 2)
    names = [f"{number:03}" for number in range(160)]
    pairs = chunks.by_blocks(list(combinations(names, 2)), names, inf)
    with ThreadPoolExecutor(2) as executor:
        assert len(pair_chunks(pairs, 256, executor, inf)) <= len(pairs) / 256 + 24


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("count", [0, 1, 11, 300])
def test_all_workers_end_at_about_the_same_time(monkeypatch: pytest.MonkeyPatch, workers: int, count: int) -> None:
    monkeypatch.setattr(chunks, "width", lambda _: workers)
    with ThreadPoolExecutor(1) as executor:
        parts = image_chunks(range(count), executor, inf)
        assert [len(part) for part in image_chunks(range(count), executor, 5.0)] == [1] * count
    assert [image for part in parts for image in part] == list(range(count))
    ends = [0] * workers
    for part in parts:
        ends[ends.index(min(ends))] += len(part)
    assert max(ends) - min(ends) <= 1
    assert len(parts) <= count / IMAGES_PER_CHUNK + 6 * workers


def test_features_are_read_once_while_they_may_be_wanted(tmp_path: Path) -> None:
    table = Store(tmp_path).features("f")
    one = np.ones(1, np.float32)
    table.put({"a": Features(one[None, [0, 0]], one, one[None].astype(np.float16), (9, 9))})
    first = tasks._in_memory(table, "a")
    assert first.descriptors.dtype == np.float32
    assert tasks._in_memory(Store(tmp_path).features("f"), "a") is first
    del first
    gc.collect()
    assert [key for key in tasks._loaded_features if key[0] == table.folder]
    with ThreadPoolExecutor(1) as executor:  # after matching they are not
        Tasks({}, executor).match([], table, Store(tmp_path).matches("m"), SlowConfig(), "f")
    gc.collect()
    assert not [key for key in tasks._loaded_features if key[0] == table.folder]
