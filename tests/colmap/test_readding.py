"""Pairs that were left out come back where the model says that they are right, and only there."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import readding
from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.mapping import MappingConfig, map_scene
from imc_kit.colmap.steps import ReaddingConfig, readd
from imc_kit.errors import KitError
from imc_kit.types import Model, Pair
from synthetic_models import Synthetic, errors, shuffle, synthesize, unmatch

COUNT = 8
LINK = 4, 5
FEW = 35
LEFT_OUT = [pair for pair in product(range(1, 5), range(5, COUNT + 1)) if pair != LINK]
"""The model is made of two halves with so few matches between them, of one pair, that most points are there twice."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Synthetic, Model]:
    """A scene, and a model of it without the matches of these pairs."""
    folder = tmp_path_factory.mktemp("scene")
    scene = synthesize(folder, COUNT, points=200)
    less = Synthetic(Path(shutil.copyfile(scene.database, folder / "less.db")), scene.scene, scene.poses)
    for first, second in LEFT_OUT:
        unmatch(less, [first], [second])
    with pycolmap.Database.open(less.database) as database:
        geometry = database.read_two_view_geometry(*LINK)
        geometry.inlier_matches = geometry.inlier_matches[:FEW]
        database.delete_two_view_geometry(*LINK)
        database.write_two_view_geometry(*LINK, geometry)
    (model,) = map_scene(
        less.database, folder, MappingConfig(), Workplace(folder / "models", folder / "log.txt", threads=1)
    )
    assert len(model.poses) == COUNT
    assert len(model.points) > 300
    return scene, model


@pytest.fixture
def synthetic(whole: tuple[Synthetic, Model], tmp_path: Path) -> Synthetic:
    """With a database that a test may change."""
    scene, _ = whole
    return Synthetic(Path(shutil.copyfile(scene.database, tmp_path / "database.db")), scene.scene, scene.poses)


@pytest.fixture
def model(whole: tuple[Synthetic, Model]) -> Model:
    return whole[1]


def names(synthetic: Synthetic, pairs: list[tuple[int, int]]) -> list[Pair]:
    images = synthetic.scene.images
    return [(images[first].name, images[second].name) for first, second in pairs]


def widen(synthetic: Synthetic, model: Model, pairs: list[Pair] | None = None, **options: Any) -> Model:
    folder = synthetic.database.parent
    pairs = names(synthetic, LEFT_OUT) if pairs is None else pairs
    run = Workplace(folder / "out", folder / "log.txt", threads=1)
    return readd(synthetic.database, model, pairs, ReaddingConfig(**options), run)


def said(synthetic: Synthetic) -> str:
    return (synthetic.database.parent / "log.txt").read_text()


def test_right_pairs_come_back_and_hold_the_cameras_better(synthetic: Synthetic, model: Model) -> None:
    found = widen(synthetic, model)
    assert f"{len(LEFT_OUT)} of {len(LEFT_OUT)} left-out pairs agree" in said(synthetic)
    assert found.poses.keys() == model.poses.keys()
    assert len(found.points) == 200  # those that were there twice have met
    assert found.observations > 0.95 * model.observations
    before, after = (errors(one.poses, synthetic.poses)[0] for one in (model, found))
    assert after < before


def test_wrong_pairs_stay_out(synthetic: Synthetic, model: Model) -> None:
    for first, second in LEFT_OUT:
        shuffle(synthetic, [first], [second])
    assert widen(synthetic, model) is model
    assert f"0 of {len(LEFT_OUT)} left-out pairs agree" in said(synthetic)


def test_of_right_and_wrong_pairs_the_right_ones_come_back(synthetic: Synthetic, model: Model) -> None:
    shuffle(synthetic, [1], [COUNT])
    found = widen(synthetic, model)
    assert found is not model
    assert f"{len(LEFT_OUT) - 1} of {len(LEFT_OUT)} left-out pairs agree" in said(synthetic)
    assert errors(found.poses, synthetic.poses)[0] < errors(model.poses, synthetic.poses)[0]


@pytest.mark.parametrize("harm", ["none", "bent", "lost"])
def test_a_model_that_would_get_worse_stays_as_it_is(
    synthetic: Synthetic, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    def adjust(reconstruction: Any, *_: Any) -> None:
        image = reconstruction.images[3]
        if harm == "lost":
            reconstruction.deregister_frame(image.frame_id)
        if harm == "bent":
            shift = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([0.5, 0.0, 0.0]))
            image.frame.set_cam_from_world(image.camera_id, shift * image.cam_from_world())

    monkeypatch.setattr(readding, "adjust", adjust)
    (tmp_path / "out").mkdir()
    readding.readd_job(
        str(synthetic.database), str(model.folder), names(synthetic, LEFT_OUT), str(tmp_path / "out"),
        ReaddingConfig(), threads=1, seed=0,
    )  # fmt: skip
    assert (tmp_path / "out/images.bin").is_file() == (harm == "none")


def test_pairs_that_are_not_there(synthetic: Synthetic, model: Model) -> None:
    assert widen(synthetic, model, []) is model
    assert widen(synthetic, model, [("nowhere.png", "never.png")]) is model


def test_a_damaged_model(synthetic: Synthetic, model: Model, tmp_path: Path) -> None:
    shutil.copytree(model.folder, tmp_path / "damaged")
    (tmp_path / "damaged/images.bin").unlink()
    damaged = Model(tmp_path / "damaged", model.poses)
    with pytest.raises(ColmapError, match="re-adding of pairs ended with"):
        widen(synthetic, damaged)


def test_limits_that_make_no_sense_are_refused() -> None:
    for option, value in {"min_agreement": 1.1, "max_loss": -0.1, "max_error": 0.0, "time_limit": -1.0}.items():
        with pytest.raises(KitError, match=f"{option} of the re-adding of pairs must be"):
            ReaddingConfig(**{option: value})  # type: ignore[arg-type]
