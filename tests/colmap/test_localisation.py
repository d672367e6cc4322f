"""Images that a model lacks come back, where they see enough of it; all that is not so stays out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import localisation
from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.options import Known
from imc_kit.colmap.steps import LocalisationConfig, localise
from imc_kit.errors import KitError
from imc_kit.types import Model
from synthetic_models import Synthetic, camera_models, errors, part, shuffle, synthesize, unmatch, with_camera_model

COUNT, POINTS = 12, 200
ALL = range(1, COUNT + 1)
WITHHELD = (2, 5, 9, 12)
GIVEN = sorted(set(ALL) - set(WITHHELD))

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
    return lambda ids: part(synthetic.scene, ids, tmp_path / f"part-{min(ids)}-{max(ids)}")


def find(synthetic: Synthetic, model: Model, folder: Path | None = None, **options: Any) -> Model:
    folder = folder or synthetic.database.parent
    run = Workplace(folder / "localised", folder / "log.txt", threads=1)
    return localise(synthetic.database, model, LocalisationConfig(**options), run)


def assert_is_right(model: Model, synthetic: Synthetic, ids: Collection[int] = ALL, limit: float = 2e-3) -> None:
    assert set(model.poses) == synthetic.names(ids)
    off, degrees = errors(model.poses, synthetic.poses)
    assert off < limit
    assert degrees < 0.2
    assert model.reprojection_error < 1


def unverify(synthetic: Synthetic) -> None:
    """Leave the raw matches of the withheld images alone: as if verification had failed."""
    unmatch(synthetic, WITHHELD, ALL, raw=False)


@pytest.mark.parametrize(("name", "per_image"), [("OPENCV", False), ("SIMPLE_PINHOLE", True)])
def test_the_model_may_have_another_camera_model_than_the_database(tmp_path: Path, name: str, per_image: bool) -> None:
    cameras = {"num_rigs": COUNT, "num_frames_per_rig": 1} if per_image else {}
    synthetic = synthesize(tmp_path / "scene", COUNT, points=POINTS, camera_params=[1280, 512, 384, 0], **cameras)
    unverify(synthetic)
    changed = with_camera_model(part(synthetic.scene, GIVEN, tmp_path / "part"), name, tmp_path / "changed")
    model = find(synthetic, changed)
    assert_is_right(model, synthetic, limit=5e-3)
    assert camera_models(model) == {name}


def test_withheld_images_come_back(synthetic: Synthetic, make: Make) -> None:
    unverify(synthetic)
    given = make(GIVEN)
    before = {path: path.read_bytes() for path in given.folder.iterdir()}
    model, again = find(synthetic, given), find(synthetic, given)
    assert_is_right(model, synthetic)
    assert all((model.poses[name].translation == again.poses[name].translation).all() for name in model.poses)
    assert model.observations > given.observations + 0.9 * len(WITHHELD) * POINTS
    assert {path: path.read_bytes() for path in before} == before
    old, new = (errors({name: one.poses[name] for name in given.poses}, synthetic.poses) for one in (given, model))
    assert new[0] < old[0] + 1e-4
    assert new[1] < old[1] + 0.01


def test_the_poses_of_the_model_can_stay(synthetic: Synthetic, make: Make) -> None:
    unverify(synthetic)
    given = make(GIVEN)
    run = Workplace(synthetic.database.parent / "localised", synthetic.database.parent / "log.txt", threads=1)
    model = localise(synthetic.database, given, LocalisationConfig(), run, fixed=True)
    assert_is_right(model, synthetic)
    for name, pose in given.poses.items():
        assert np.abs(model.poses[name].translation - pose.translation).max() < 1e-12


def test_half_of_the_matches_are_wrong(tmp_path: Path) -> None:
    hard = synthesize(tmp_path / "hard", 9, points=150, inlier_match_ratio=0.4)
    model = find(hard, part(hard.scene, range(1, 7), tmp_path / "given"), tmp_path)
    assert_is_right(model, hard, range(1, 10))


def test_images_that_only_localised_ones_see(synthetic: Synthetic, make: Make) -> None:
    """9 and 12 are matched with 5 alone, and 5 with images of the model."""
    unverify(synthetic)
    unmatch(synthetic, (9, 12), sorted(set(ALL) - {5}))
    assert_is_right(find(synthetic, make(GIVEN)), synthetic)


def test_good_ones_come_in_and_those_with_random_matches_do_not(tmp_path: Path) -> None:
    small = synthesize(tmp_path / "small", 9, points=80)
    given = part(small.scene, range(1, 7), tmp_path / "given")
    shuffle(small, (7, 9), range(1, 10))
    model = find(small, given, tmp_path)
    assert_is_right(model, small, [*range(1, 7), 8])
    shuffle(small, (8,), range(1, 7))
    assert find(small, given, tmp_path) is given


def test_few_random_matches(synthetic: Synthetic, make: Make) -> None:
    """So few that a pose could fit many of them by chance."""
    unmatch(synthetic, WITHHELD, ALL)
    random = np.random.default_rng(0)
    with pycolmap.Database.open(synthetic.database) as database:
        for image in WITHHELD:
            for other in GIVEN[:3]:
                matches = np.stack([random.permutation(POINTS)[:10] for _ in range(2)], 1)
                database.write_matches(image, other, matches.astype(np.uint32))
    given = make(GIVEN)
    assert find(synthetic, given) is given


def test_the_focal_length_is_found_too(tmp_path: Path) -> None:
    per_image = synthesize(tmp_path / "own", 1, points=POINTS, num_rigs=COUNT)
    with pycolmap.Database.open(per_image.database) as database:
        assert database.num_cameras() == COUNT
        for camera in database.read_all_cameras():
            if camera.camera_id in WITHHELD:
                camera.params = [700, *camera.params[1:3], 0]  # the true one is 1280
                database.update_camera(camera)
    given = part(per_image.scene, GIVEN, tmp_path / "given")
    model = find(per_image, given, tmp_path)
    assert_is_right(model, per_image, limit=5e-3)
    for camera in pycolmap.Reconstruction(model.folder).cameras.values():
        assert camera.mean_focal_length() == pytest.approx(1280, rel=0.02)


def test_a_model_that_adjustment_would_bend_keeps_its_poses(
    synthetic: Synthetic, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make(GIVEN)
    right = localisation.adjust

    def adjust(
        reconstruction: Any, graph: Any, per_image: bool, threads: int, seed: int, known: Known, fixed: Any = ()
    ) -> None:
        right(reconstruction, graph, per_image, threads, seed, known, fixed)
        if not fixed:
            frame = reconstruction.images[GIVEN[0]].frame
            motion = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, 0.1, 0])), np.zeros(3))
            frame.rig_from_world = motion * frame.rig_from_world

    monkeypatch.setattr(localisation, "adjust", adjust)
    output = synthetic.database.parent / "here"
    output.mkdir()
    localisation.localise_job(
        str(synthetic.database), str(given.folder), str(output), LocalisationConfig(), fixed=False, threads=1, seed=0
    )
    model = read_model(output)
    assert_is_right(model, synthetic)
    for name, pose in given.poses.items():
        np.testing.assert_array_equal(model.poses[name].translation, pose.translation)


def test_there_is_nothing_to_localise(synthetic: Synthetic, make: Make, tmp_path: Path) -> None:
    whole, single, part = make(ALL), make([3]), make(GIVEN)
    with pycolmap.Database.open(tmp_path / "empty.db"):
        pass
    empty = Synthetic(tmp_path / "empty.db", synthetic.scene, synthetic.poses)
    assert find(synthetic, whole) is whole
    assert find(synthetic, single) is single
    assert find(empty, part) is part


def test_images_without_keypoints_or_matches(synthetic: Synthetic, make: Make) -> None:
    unmatch(synthetic, (5,), ALL)
    with pycolmap.Database.open(synthetic.database) as database:
        camera, rig = database.read_all_cameras()[0], database.read_all_rigs()[0]
        image = pycolmap.Image(name="blank.jpg", camera_id=camera.camera_id)
        image.image_id = database.write_image(image)
        frame = pycolmap.Frame(rig_id=rig.rig_id)
        frame.add_data_id(image.data_id)
        database.write_frame(frame)
    assert_is_right(find(synthetic, make(GIVEN)), synthetic, sorted(set(ALL) - {5}))


def test_other_keypoints_than_the_model_has_are_refused(synthetic: Synthetic, make: Make) -> None:
    given = make(GIVEN)
    with pycolmap.Database.open(synthetic.database) as database:
        database.update_keypoints(GIVEN[0], database.read_keypoints(GIVEN[0])[:-1])
    with pytest.raises(ColmapError, match="localisation of images ended with exit status 1"):
        find(synthetic, given)
    assert "keypoints" in (synthetic.database.parent / "log.txt").read_text()


def test_a_crash_is_one_clear_error(synthetic: Synthetic, make: Make) -> None:
    given = make(GIVEN)
    with pytest.raises(ColmapError, match="localisation of images was stopped at its time limit"):
        find(synthetic, given, time_limit=0.01)
    synthetic.database.write_bytes(b"no database")
    with pytest.raises(ColmapError, match="localisation of images ended with"):
        find(synthetic, given)


def test_limits_that_make_no_sense_are_refused() -> None:
    wrong = {"min_inliers": 3, "min_inlier_ratio": 1.1, "max_loss": -0.1, "max_error": 0.0, "rounds": 0,
             "max_match_error": float("nan"), "time_limit": -1.0}  # fmt: skip
    for option, value in wrong.items():
        with pytest.raises(KitError, match=f"{option} of the localisation of images must be"):
            LocalisationConfig(**{option: value})  # type: ignore[arg-type]
