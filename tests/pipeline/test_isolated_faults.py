"""One bad image or pair costs only itself, whatever a detector, matcher or descriptor raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from imc_kit.data.images import probe
from imc_kit.data.masks import MaskConfig
from imc_kit.data.store import Store, pair_key
from imc_kit.detectors import DetectorConfig
from imc_kit.errors import KitError
from imc_kit.matchers import MatcherConfig, PhotoMatcherConfig
from imc_kit.pipeline.completion import SceneContext
from imc_kit.pipeline.records import ImageRecord
from imc_kit.pipeline.tasks import Tasks
from imc_kit.retrieval import NetworkDescriptorConfig
from imc_kit.runtime import faults
from imc_kit.types import Correspondences, Features, Matches

NAMES = [f"{number}.png" for number in range(6)]
BAD = 4
"""The number of the bad image; it is also the brightness of its pixels."""
ERRORS = (
    cv2.error("assertion failed\n  in the second line"),
    MemoryError(),
    RuntimeError("CUDA out of memory. " + "Tried to allocate. " * 100),
    KitError("this image is refused"),
    KeyError("a bug"),
)
MOST = 2
"""More images or pairs at once do not fit into memory."""


class Fragile:
    """Does everything for images and features of one brightness, but not for the bad one, nor for many at once."""

    dimension = 1

    def __init__(self, config: Any) -> None:
        self.config = config

    def _refuse(self, items: Sequence[Any], numbers: Callable[[Any], Sequence[int]]) -> None:
        if len(items) > MOST:
            raise MemoryError
        if any(BAD in numbers(item) for item in items):
            raise ERRORS[self.config.error]

    def detect(self, images: Sequence[Any], masks: Sequence[Any]) -> list[Features]:
        self._refuse(images, lambda image: [image[0, 0, 0]])
        return [Features.empty((16, 16), 1) for _ in images]

    def describe(self, images: Sequence[Any]) -> Any:
        self._refuse(images, lambda image: [image[0, 0, 0]])
        return np.ones((len(images), 3), np.float32)

    def match_batch(self, pairs: Sequence[Any]) -> list[Any]:
        if isinstance(self.config, PhotoMatcherConfig):
            self._refuse(pairs, lambda pair: [view.photo.pixels[0, 0, 0] for view in pair])
            nothing = np.empty((0, 2), np.float32)
            return [Correspondences(nothing, nothing, nothing[:, 0]) for _ in pairs]
        self._refuse(pairs, lambda pair: [len(features) for features in pair])
        return [Matches.empty() for _ in pairs]


@dataclass(frozen=True)
class FragileDetectorConfig(DetectorConfig):
    name: ClassVar[str] = "fragile"
    error: int = 0

    def create(self) -> Any:
        return Fragile(self)


@dataclass(frozen=True)
class FragileMatcherConfig(MatcherConfig):
    name: ClassVar[str] = "fragile"
    error: int = 0

    def create(self, kind: str) -> Any:
        return Fragile(self)


@dataclass(frozen=True)
class FragilePhotoMatcherConfig(PhotoMatcherConfig):
    name: ClassVar[str] = "fragile"
    error: int = 0

    def create(self) -> Any:
        return Fragile(self)


@dataclass(frozen=True)
class FragileDescriptorConfig(NetworkDescriptorConfig):
    name: ClassVar[str] = "fragile"
    multiple: ClassVar[int] = 1
    error: int = 0

    def create(self) -> Any:
        return Fragile(self)


@pytest.fixture
def records(tmp_path: Path) -> dict[str, ImageRecord]:
    paths = [tmp_path / name for name in NAMES]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((16, 16, 3), number, np.uint8))
    return {path.name: ImageRecord(path, probe(path), path.stem) for path in paths}


@pytest.mark.parametrize("error", range(len(ERRORS)))
def test_a_bad_image_costs_only_itself(tmp_path: Path, records: dict[str, ImageRecord], error: int) -> None:
    store = Store(tmp_path / "store")
    with ThreadPoolExecutor(1) as pool:
        tasks = Tasks(records, pool)
        features, vectors = store.features("f"), store.descriptors("d")
        noted = [
            tasks.detect(features, FragileDetectorConfig(error=error), MaskConfig()),
            tasks.describe(vectors, FragileDescriptorConfig(device="cpu", error=error)),
        ]
    for table, notes in zip((features, vectors), noted, strict=True):
        assert table.missing(record.key for record in records.values()) == [str(BAD)]
        (note,) = notes
        assert f"{BAD}.png" in note
        assert faults.happened(notes) != isinstance(ERRORS[error], KitError)  # which would be refused again
        assert len(note.splitlines()) == 1
        assert len(note) < 500


@pytest.mark.parametrize("error", range(len(ERRORS)))
@pytest.mark.parametrize("until", [inf, 1e12])
def test_a_bad_pair_costs_only_itself(
    tmp_path: Path, records: dict[str, ImageRecord], error: int, until: float
) -> None:
    store, pairs = Store(tmp_path / "store"), list(combinations(NAMES, 2))
    bad = [pair for pair in pairs if f"{BAD}.png" in pair]
    features = store.features("f")
    features.put(
        {
            record.key: Features(*(np.zeros((n, *shape), np.float32) for shape in ((2,), (), (1,))), (16, 16))
            for n, record in enumerate(records.values())
        }
    )
    with ThreadPoolExecutor(1) as pool:
        tasks = Tasks(records, pool, until)
        matches, correspondences = store.matches("m"), store.correspondences("c")
        noted = [
            tasks.match(pairs, features, matches, FragileMatcherConfig(error=error), "kind"),
            tasks.match_photos(pairs, None, correspondences, FragilePhotoMatcherConfig(error=error)),
        ]
    for table, notes in zip((matches, correspondences), noted, strict=True):
        missing = table.missing(pair_key(*(records[name].key for name in pair)) for pair in pairs)
        assert sorted(missing) == sorted(pair_key(*(records[name].key for name in pair)) for pair in bad)
        (note,) = notes
        assert f"{len(bad)} of {len(pairs)} pairs failed" in note
        assert type(ERRORS[error]).__name__ in note or str(ERRORS[error]) in note
        assert faults.happened(notes) != isinstance(ERRORS[error], KitError)


def test_a_photo_that_vanishes_costs_its_pairs_only(tmp_path: Path, records: dict[str, ImageRecord]) -> None:
    records["0.png"].path.unlink()
    table, pairs = Store(tmp_path / "store").correspondences("c"), [(NAMES[0], NAMES[1]), (NAMES[1], NAMES[2])]
    with ThreadPoolExecutor(1) as pool:
        (note,) = Tasks(records, pool).match_photos(pairs, None, table, FragilePhotoMatcherConfig())
    assert table.missing(["0-1", "1-2"]) == ["0-1"]
    assert "1 of 2 pairs failed" in note
    assert "0.png" in note


@pytest.mark.parametrize("error", ERRORS)
def test_an_optional_step_costs_only_itself(error: Exception) -> None:
    def step() -> str:
        raise error

    context: Any = SimpleNamespace(until=inf, notes=[])
    assert SceneContext.optional(context, "the merging of models", "before", step) == "before"
    (note,) = context.notes
    assert note.startswith("the merging of models failed: ")
    assert faults.happened(context.notes)
