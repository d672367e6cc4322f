"""Partial models of one scene, whose true cameras are known, are merged where something links them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import merging
from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.model_files import read_model, read_models
from imc_kit.colmap.steps import MergingConfig, merge_models
from imc_kit.errors import KitError
from imc_kit.types import Model
from synthetic_models import Synthetic, camera_models, errors, part, shuffle, synthesize, unmatch, with_camera_model

COUNT = 14
LEFT, RIGHT = range(1, 10), range(7, COUNT + 1)
"""Blocks of nine and eight images, which share 7, 8 and 9."""
POINTS = 200
FAR = range(10, COUNT + 1)
"""The images of the second block alone."""

Make = Callable[[Collection[int]], Model]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthesize(tmp_path_factory.mktemp("scene"), COUNT, points=POINTS)


@pytest.fixture
def synthetic(whole: Synthetic, tmp_path: Path) -> Synthetic:
    """With a database that a test may change."""
    return Synthetic(shutil.copyfile(whole.database, tmp_path / "database.db"), whole.scene, whole.poses)


@pytest.fixture
def make(synthetic: Synthetic, tmp_path: Path) -> Make:
    return lambda ids: part(synthetic.scene, ids, tmp_path / f"part-{min(ids)}-{max(ids)}", seed=min(ids))


def merge(synthetic: Synthetic, *models: Model, **options: Any) -> list[Model]:
    folder = synthetic.database.parent
    run = Workplace(folder / "merged", folder / "log.txt", threads=1)
    return merge_models(synthetic.database, models, MergingConfig(**options), run)


def assert_is_whole(models: list[Model], synthetic: Synthetic, ids: Collection[int] = range(1, COUNT + 1)) -> None:
    (model,) = models
    assert set(model.poses) == synthetic.names(ids)
    off, degrees = errors(model.poses, synthetic.poses)
    assert off < 2e-3
    assert degrees < 0.1
    assert model.reprojection_error < 1


def same_poses(one: Model, other: Model) -> bool:
    return one.poses.keys() == other.poses.keys() and all(
        np.allclose(one.poses[name].rotation, other.poses[name].rotation)
        and np.allclose(one.poses[name].translation, other.poses[name].translation)
        for name in one.poses
    )


def test_blocks_that_share_three_images_become_one(synthetic: Synthetic, make: Make) -> None:
    unmatch(synthetic, range(1, 7), FAR)
    small, large = make(RIGHT), make(LEFT)
    merged = merge(synthetic, small, large)
    assert_is_whole(merged, synthetic)
    assert {path.name for path in merged[0].folder.parent.iterdir()} == {"0"}
    assert len(merged[0].points) == pytest.approx(POINTS, abs=5)  # each is seen by both, and is one point
    assert merged[0].observations == pytest.approx(COUNT * POINTS, rel=0.02)


def test_the_larger_one_gives_the_frame_and_neither_is_changed(synthetic: Synthetic, make: Make) -> None:
    small, large = make(RIGHT), make(LEFT)
    before = {path: path.read_bytes() for model in (small, large) for path in model.folder.iterdir()}
    (merged,) = merge(synthetic, small, large)
    centers = [np.array([model.poses[name].center for name in sorted(large.poses)]) for model in (merged, large)]
    np.testing.assert_allclose(centers[0], centers[1], atol=2e-3 * np.ptp(centers[1], axis=0).max())
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("name", "per_image"), [("SIMPLE_PINHOLE", False), ("OPENCV", True)])
def test_models_may_have_another_camera_model_than_the_database(tmp_path: Path, name: str, per_image: bool) -> None:
    cameras = {"num_rigs": COUNT, "num_frames_per_rig": 1} if per_image else {}
    synthetic = synthesize(tmp_path / "scene", COUNT, points=POINTS, camera_params=[1280, 512, 384, 0], **cameras)
    models = [part(synthetic.scene, ids, tmp_path / f"part-{min(ids)}") for ids in (LEFT, RIGHT)]
    changed = [with_camera_model(model, name, tmp_path / f"changed-{n}") for n, model in enumerate(models)]
    (model,) = merge(synthetic, *changed)
    assert set(model.poses) == set(synthetic.poses)
    assert errors(model.poses, synthetic.poses) < (5e-3, 0.2)
    assert camera_models(model) == {name}


def test_blocks_that_share_two_images_become_one(synthetic: Synthetic, make: Make) -> None:
    models = make(LEFT), make(range(8, COUNT + 1))
    (first,), (again,) = merge(synthetic, *models), merge(synthetic, *models)
    assert_is_whole([first], synthetic)
    assert all((first.poses[name].translation == again.poses[name].translation).all() for name in first.poses)


def test_blocks_that_share_nothing_are_joined_by_matches(synthetic: Synthetic, make: Make) -> None:
    unmatch(synthetic, range(1, 6), FAR)  # only 6 to 9 are matched with them
    unmatch(synthetic, range(6, 10), range(12, COUNT + 1))
    assert_is_whole(merge(synthetic, make(LEFT), make(FAR)), synthetic)


def test_three_blocks_in_a_chain(synthetic: Synthetic, make: Make) -> None:
    """The middle one is the smallest; the others can only be merged through it."""
    unmatch(synthetic, range(1, 6), range(9, COUNT + 1))
    unmatch(synthetic, range(6, 9), range(10, COUNT + 1))
    blocks = make(range(1, 7)), make(range(5, 10)), make(range(8, COUNT + 1))
    assert_is_whole(merge(synthetic, *blocks), synthetic)


def test_outliers_among_the_points_do_no_harm(synthetic: Synthetic, make: Make, tmp_path: Path) -> None:
    small, large = make(RIGHT), make(LEFT)
    random = np.random.default_rng(0)
    reconstruction = pycolmap.Reconstruction(small.folder)
    for number, point in enumerate(reconstruction.points3D.values()):
        if number % 3 == 0:
            point.xyz = point.xyz + random.normal(0, np.ptp(small.points, axis=0).max(), 3)
    (tmp_path / "bad").mkdir()
    reconstruction.write(tmp_path / "bad")
    assert_is_whole(merge(synthetic, read_model(tmp_path / "bad"), large), synthetic)


def test_blocks_without_matches_stay_two_models(synthetic: Synthetic, make: Make) -> None:
    unmatch(synthetic, LEFT, FAR)
    small, large = make(FAR), make(LEFT)
    merged = merge(synthetic, small, large)
    assert [len(model.poses) for model in merged] == [len(LEFT), len(FAR)]
    assert same_poses(merged[0], large)
    assert same_poses(merged[1], small)
    assert [model.folder.name for model in merged] == ["0", "1"]


def test_a_wrong_link_is_refused(synthetic: Synthetic, make: Make) -> None:
    shuffle(synthetic, LEFT, FAR)
    merged = merge(synthetic, make(FAR), make(LEFT))
    assert [len(model.poses) for model in merged] == [len(LEFT), len(FAR)]


@pytest.mark.parametrize(
    ("wrong", "block"),
    [
        (pycolmap.Sim3d(1, pycolmap.Rotation3d(np.array([0, 1.5, 0])), np.zeros(3)), RIGHT),
        (pycolmap.Sim3d(2, pycolmap.Rotation3d(), np.zeros(3)), FAR),
        (pycolmap.Sim3d(1, pycolmap.Rotation3d(), np.full(3, 5.0)), RIGHT),
    ],
    ids=["rotated", "scaled", "moved"],
)
def test_a_merge_that_the_matches_contradict_is_undone(
    synthetic: Synthetic, make: Make, monkeypatch: pytest.MonkeyPatch, wrong: Any, block: range
) -> None:
    small, large = make(block), make(LEFT)
    right = merging.find_similarity

    def find_similarity(*arguments: Any) -> Any:
        return wrong * right(*arguments)

    def merge_here() -> list[Model]:
        output = synthetic.database.parent / "merged"
        output.mkdir(exist_ok=True)
        folders = [str(model.folder) for model in (small, large)]
        merging.merge_job(str(synthetic.database), folders, str(output), MergingConfig(), threads=1, seed=0)
        return read_models(output)

    monkeypatch.setattr(merging, "find_similarity", find_similarity)
    first, second = merge_here()
    assert same_poses(first, large)
    assert same_poses(second, small)


def test_matches_between_the_models_count(synthetic: Synthetic, make: Make) -> None:
    """Half of them are wrong."""
    shuffle(synthetic, LEFT, range(10, 13))
    models = make(LEFT), make(FAR)
    assert len(merge(synthetic, *models, min_agreement=0.6)) == 2
    assert_is_whole(merge(synthetic, *models, min_agreement=0.4), synthetic)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_join(synthetic: Synthetic, make: Make, count: int) -> None:
    models = [make(LEFT)][:count]
    merged = merge(synthetic, *models)
    assert len(merged) == count
    assert all(same_poses(one, other) for one, other in zip(merged, models, strict=True))
    assert not any(model.folder == given.folder for model, given in zip(merged, models, strict=True))


def test_a_model_within_another_and_one_of_a_single_image(synthetic: Synthetic, make: Make) -> None:
    merged = merge(synthetic, make(range(1, 6)), make(LEFT), make([COUNT]))
    assert [len(model.poses) for model in merged] == [len(LEFT), 5, 1]


def test_an_empty_database(synthetic: Synthetic, make: Make, tmp_path: Path) -> None:
    models = make(LEFT), make(FAR)
    with pycolmap.Database.open(tmp_path / "empty.db"):
        pass
    empty = Synthetic(tmp_path / "empty.db", synthetic.scene, synthetic.poses)
    assert [len(model.poses) for model in merge(empty, *models)] == [len(LEFT), len(FAR)]


def test_a_crash_is_one_clear_error(synthetic: Synthetic, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [make(LEFT), make(FAR)]
    synthetic.database.write_bytes(b"no database")
    with pytest.raises(ColmapError, match="merging of models ended with"):
        merge(synthetic, *models)
    with pytest.raises(ColmapError, match="time limit"):
        merge(synthetic, *models, time_limit=0.01)
    assert read_models(models[0].folder.parent)


def test_limits_that_make_no_sense_are_refused() -> None:
    wrong = {"min_links": 2, "min_link_ratio": 1.1, "max_loss": -0.1, "max_error": 0.0,
             "min_kept": float("nan"), "time_limit": -1.0}  # fmt: skip
    for option, value in wrong.items():
        with pytest.raises(KitError, match=f"{option} of the merging of models must be"):
            MergingConfig(**{option: value})  # type: ignore[arg-type]
