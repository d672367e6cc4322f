"""Further feature pipelines that are used only where the first one alone does not solve a scene."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pycolmap
import pytest

from imc_kit.config import Config, FeaturePipeline
from imc_kit.data import scenes
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.matchers.combine import CombineConfig
from imc_kit.pipeline.earlier import is_final
from imc_kit.types import Features, Scene
from point_scenes import CONFIG, FIRST, ONE_RUN, POINTS, SECOND, Points, PointsConfig, solve_scene, write_photographs


@dataclass(frozen=True)
class SomeConfig(PointsConfig):
    """Sees nothing in photos `first` to `end` - 1 and at most `of_second` points of the second place; may fail."""

    name: ClassVar[str] = "some"
    first: int = 0
    end: int = 0
    of_second: int = POINTS
    broken: bool = False

    def create(self) -> Some:
        return Some(self)


class Some(Points):
    config: SomeConfig
    detected: ClassVar[list[SomeConfig]] = []

    def detect(self, images: Sequence[Any], masks: Sequence[Any]) -> list[Features]:
        if self.config.broken:
            raise KitError("the network of this detector is broken")
        Some.detected.append(self.config)
        return super().detect(images, masks)

    def seen(self, number: int) -> Features:
        found, config = super().seen(number), self.config
        most = config.of_second if FIRST <= number < FIRST + SECOND else POINTS
        most = 0 if config.first <= number < config.end else most
        return Features(found.keypoints[:most], found.scores[:most], found.descriptors[:most], found.image_size)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    (scene,) = scenes.load(write_photographs(tmp_path_factory.mktemp("photos") / "mixed")).scenes
    return scene


@pytest.fixture
def executor() -> Iterator[Executor]:
    Some.detected.clear()
    with ThreadPoolExecutor(1) as pool:
        yield pool


def config(first: SomeConfig, further: SomeConfig) -> Config:
    also = (FeaturePipeline(further, CONFIG.matcher),)
    return replace(ONE_RUN, detector=first, also=also, combine=CombineConfig(when="if_needed"), enough=0.5)


def keypoints(folder: Path) -> int:
    with pycolmap.Database.open(folder / "database.db") as database:
        return int(database.num_keypoints())


SEES_ALL, BROKEN = SomeConfig(), SomeConfig(broken=True)
MOST, FEW = SomeConfig(first=3, end=6), SomeConfig(first=3, end=FIRST)
"""Detectors that see nothing in three photos of the first place, and in all but three."""


def test_a_trusted_model_of_the_first_pipeline_needs_no_others(
    scene: Scene, executor: Executor, tmp_path: Path
) -> None:
    result = solve_scene(scene, tmp_path, Store(tmp_path / "store"), config(SEES_ALL, BROKEN), executor)
    assert result.counts["registered"] == FIRST + 1
    assert result.notes == []


def test_all_pipelines_are_joined_where_the_first_one_lacks_images(
    scene: Scene, executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store")
    alone = solve_scene(scene, tmp_path / "alone", store, replace(config(MOST, FEW), also=()), executor)
    assert alone.counts["registered"] < FIRST
    with caplog.at_level(logging.INFO, "imc_kit"):
        result = solve_scene(scene, tmp_path / "joined", store, config(MOST, SEES_ALL), executor)
    assert "a model of the first features alone is not trusted, so all are used" in caplog.text
    assert result.counts["registered"] == FIRST + 1
    assert result.notes == []
    assert keypoints(tmp_path / "joined") > keypoints(tmp_path / "alone")
    read = solve_scene(scene, tmp_path / "joined", store, config(MOST, SEES_ALL), executor)
    assert read.seconds == result.seconds


@pytest.mark.parametrize(("further", "final"), [(FEW, True), (BROKEN, False)])
def test_the_first_pipelines_model_stays_unless_another_is_better(
    scene: Scene, executor: Executor, tmp_path: Path, further: SomeConfig, final: bool
) -> None:
    """Nor is anything lost if the others fail."""
    store, both = Store(tmp_path / "store"), config(MOST, further)
    alone = solve_scene(scene, tmp_path / "alone", store, replace(both, also=()), executor)
    result = solve_scene(scene, tmp_path / "both", store, both, executor)
    assert (Some.detected[-1] == further) == final  # it was tried
    assert is_final(result.notes) == final
    assert result.counts["registered"] == alone.counts["registered"]
    assert keypoints(tmp_path / "both") == keypoints(tmp_path / "alone")


def test_each_place_uses_what_it_needs(scene: Scene, executor: Executor, tmp_path: Path) -> None:
    """As in 2025: only the further detector sees most of the second place, and its model of the first is worse."""
    both = replace(config(SomeConfig(of_second=60), SomeConfig(first=0, end=6)), trusted=2.0)
    store = Store(tmp_path / "store")
    alone, result = (
        solve_scene(scene, tmp_path / folder, store, one, executor, separate=True)
        for folder, one in (("alone", replace(both, also=())), ("both", both))
    )
    assert [len(model.poses) for model in result.models] == [len(model.poses) for model in alone.models]
    assert [len(model.poses) for model in result.models] == [FIRST, SECOND]
    (first, second), (same, more) = ([model.observations for model in one.models] for one in (alone, result))
    assert same == first
    assert more > 1.5 * second
    assert keypoints(tmp_path / "both") > keypoints(tmp_path / "alone")
    assert is_final(result.notes)
