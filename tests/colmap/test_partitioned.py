"""A scene with known cameras, mapped in partitions: the model, resuming, and what happens when parts do not fit."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import partitioned
from imc_kit.colmap.child import ColmapError, LargeScenes, Workplace, loading
from imc_kit.colmap.mapping import MappingConfig, map_scene
from imc_kit.errors import KitError
from imc_kit.runtime import deadline
from imc_kit.types import Model
from synthetic_models import Synthetic, errors, part, synthesize, unmatch

COUNT, REACH = 20, 4
"""Images in a row, each matched with the next four."""
SIZE, PARTS = 8, 3
CONFIG = MappingConfig("global", partition=SIZE)


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    made = synthesize(tmp_path_factory.mktemp("scene"), COUNT, points=200)
    for one in made.ids:
        unmatch(made, [one], [other for other in made.ids if other > one + REACH])
    return made


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Workplace]:
    with loading(), ThreadPoolExecutor(2) as executor:
        large = LargeScenes(tmp_path / "parts", executor)
        yield Workplace(tmp_path / "models", tmp_path / "log.txt", threads=1, large=large)


def mapped(scene: Synthetic, at: Workplace, config: MappingConfig = CONFIG, cancelled: Event | None = None) -> Model:
    (model,) = map_scene(scene.database, scene.database.parent, config, at, cancelled)
    return model


def kept(at: Workplace) -> dict[str, int]:
    """The kept partitions, with the time at which each was written."""
    assert at.large
    return {path.name: path.stat().st_mtime_ns for path in at.large.folder.iterdir() if path.is_dir()}


@pytest.mark.parametrize("mapper", ["global", "incremental"])
def test_the_model_is_that_of_the_whole_scene(row: Synthetic, at: Workplace, mapper: Any) -> None:
    config = replace(CONFIG, mapper=mapper)
    model = mapped(row, at, config)
    assert len(kept(at)) == PARTS
    assert model.poses.keys() == row.poses.keys()
    off, degrees = errors(model.poses, row.poses)
    assert (off, degrees) < (2e-3, 0.1)
    whole = mapped(row, replace(at, folder=at.folder.with_name("whole")), replace(config, partition=0))
    assert errors(model.poses, whole.poses) < (2e-3, 0.1)
    assert len(model.points) == pytest.approx(len(whole.points), rel=0.02)
    assert model.observations == pytest.approx(whole.observations, rel=0.02)
    assert model.reprojection_error == pytest.approx(whole.reprojection_error, rel=0.02)


def test_partitions_use_few_tracks_unless_told_otherwise(row: Synthetic, at: Workplace) -> None:
    """Joining triangulates the others."""
    assert at.large
    points = []
    for options in ({}, {"mapper.track_required_tracks_per_view": 70}):
        model = mapped(row, at, replace(CONFIG, options=options))
        kept_points = [pycolmap.Reconstruction(path).num_points3D() for path in at.large.folder.glob("*/0")]
        points.append((sum(kept_points), len(model.points)))
        shutil.rmtree(at.large.folder)
    (few, joined), (many, joined_many) = points
    assert few < 0.7 * many
    assert joined == pytest.approx(joined_many, rel=0.02)


def test_a_stopped_run_maps_only_what_is_missing(row: Synthetic, at: Workplace) -> None:
    model, before = mapped(row, at), kept(at)
    assert at.large
    lost = sorted(before)[1]
    shutil.rmtree(at.large.folder / lost)
    again, after = mapped(row, at), kept(at)
    assert {name for name in before if before[name] != after[name]} == {lost}
    assert all((again.poses[name].translation == model.poses[name].translation).all() for name in model.poses)
    mapped(row, at, replace(CONFIG, min_model_size=4))  # other options have partitions of their own
    assert len(kept(at)) == 2 * PARTS


def test_small_scenes_are_mapped_as_a_whole(row: Synthetic, at: Workplace) -> None:
    model = mapped(row, at, replace(CONFIG, partition=COUNT // 2))
    assert at.large
    assert not at.large.folder.exists()
    whole = mapped(row, replace(at, large=None))
    assert all((whole.poses[name].translation == model.poses[name].translation).all() for name in model.poses)


def test_a_scene_is_mapped_as_a_whole_when_a_partition_fails(
    row: Synthetic, at: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: Any) -> None:
        raise ColmapError("COLMAP crashed")

    monkeypatch.setattr(partitioned, "_map_partition", crash)
    with caplog.at_level(logging.WARNING):
        assert mapped(row, at).poses.keys() == row.poses.keys()
    assert "in 3 partitions failed (COLMAP crashed): the scene is mapped as a whole" in caplog.text


def test_no_further_mapping_without_time_or_need(row: Synthetic, at: Workplace) -> None:
    cancelled = Event()
    cancelled.set()
    with pytest.raises(KitError, match="cancelled"):
        mapped(row, at, cancelled=cancelled)
    assert at.large
    with pytest.raises(KitError, match=deadline.STOPPED):
        mapped(row, replace(at, large=replace(at.large, until=deadline.after(0))))


def join(row: Synthetic, at: Workplace, *models: Model) -> list[int]:
    """The numbers of images of the joined models."""
    folders = [[str(model.folder)] for model in models]
    at.run("join", "joining", 60, database=row.database, parts=folders, known={"ids": (), "fixed": False})
    return [pycolmap.Reconstruction(path).num_reg_images() for path in sorted(at.folder.iterdir())]


def test_models_that_share_images_must_fit(row: Synthetic, at: Workplace, tmp_path: Path) -> None:
    first, second, third = (
        part(row.scene, ids, tmp_path / f"{min(ids)}", seed=min(ids))
        for ids in (range(1, 10), range(6, 15), range(11, COUNT + 1))
    )
    assert join(row, at, first, second, third) == [COUNT]
    assert join(row, at, first, third) == [COUNT - 10, 9]  # they share no image
    scrambled = pycolmap.Reconstruction(second.folder)
    places = np.random.default_rng(0).permutation([point.xyz for point in scrambled.points3D.values()])
    for point, place in zip(scrambled.points3D.values(), places, strict=True):
        point.xyz = place
    scrambled.write(second.folder)
    with pytest.raises(ColmapError):
        join(row, at, first, second)
    assert "share 4 images, but their models do not fit together" in at.log.read_text()
