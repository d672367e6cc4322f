"""From features and matches to poses, on scenes that pycolmap makes up: cameras are known, and there are no images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import child
from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import write_database
from imc_kit.colmap.mapping import MappingConfig, map_scene
from imc_kit.colmap.mapping_runs import MappingRun
from imc_kit.colmap.model_files import gather, read_model, read_models
from imc_kit.colmap.support import judge
from imc_kit.colmap.verification import inlier_counts, verify
from imc_kit.errors import KitError
from imc_kit.types import Features, Matches, Model, Pose
from imc_kit.viewgraph.strengths import strengths
from imc_kit.viewgraph.two_view import VerificationConfig


@dataclass
class Truth:
    poses: dict[str, Pose]
    features: dict[str, Features]
    points: dict[str, list[int]]
    """For each keypoint the number of the point that it shows; unique negative numbers for none."""
    camera: Any


def synthesize(seed: int, images: int, prefix: str = "") -> Truth:
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=images, num_points3D=150)
    scene = pycolmap.synthesize_dataset(options)
    truth = Truth({}, {}, {}, next(iter(scene.cameras.values())))
    for image in scene.images.values():
        name = f"{prefix}{image.image_id}.jpg"
        matrix = image.cam_from_world().matrix()
        truth.poses[name] = Pose(matrix[:, :3], matrix[:, 3])
        points = np.array([point.xy for point in image.points2D]) - 0.5
        count = len(points)
        size = (truth.camera.width, truth.camera.height)
        truth.features[name] = Features(
            points.astype(np.float32), np.ones(count, np.float32), np.zeros((count, 1), np.uint8), size
        )
        truth.points[name] = [
            point.point3D_id if point.has_point3D() else -number - 1 for number, point in enumerate(image.points2D)
        ]
    return truth


def matched(truth: Truth) -> list[tuple[str, str, Matches]]:
    """All pairs with all right matches; the keypoints that show nothing are matched at random, wrongly."""
    pairs = []
    for first, second in combinations(truth.points, 2):
        where = {point: index for index, point in enumerate(truth.points[second])}
        indices = [(i, where[point]) for i, point in enumerate(truth.points[first]) if point in where and point >= 0]
        indices += zip(
            (i for i, point in enumerate(truth.points[first]) if point < 0),
            (i for i, point in reversed(list(enumerate(truth.points[second]))) if point < 0),
            strict=False,
        )
        pairs.append((first, second, Matches(np.array(indices, np.int32), np.ones(len(indices), np.float32))))
    return pairs


def write(folder: Path, *truths: Truth) -> Path:
    path = folder / "database.db"
    features = {name: value for truth in truths for name, value in truth.features.items()}
    entries = [ImageEntry(name, folder / name, value.image_size) for name, value in features.items()]
    pairs = [pair for truth in truths for pair in matched(truth)]
    write_database(path, entries, features.__getitem__, pairs, CameraConfig("size"))
    with ThreadPoolExecutor(1) as pool:
        verify(path, VerificationConfig(), pool)
    return path


@pytest.fixture(scope="module")
def truth() -> Truth:
    return synthesize(5, 8)


@pytest.fixture(scope="module")
def database(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scene"), truth)


def solve(database: Path, folder: Path, mapper: Any = "incremental", seed: int = 3, **options: Any) -> list[Model]:
    at = Workplace(folder / "models", folder / "log.txt", 1, seed)
    return map_scene(database, database.parent, MappingConfig(mapper, options), at)


def assert_poses_are_right(found: dict[str, Pose], truth: dict[str, Pose]) -> None:
    """After the similarity (Umeyama 1991) that takes the found centres to the true ones."""
    names = sorted(found)
    source, target = (np.array([poses[name].center for name in names]) for poses in (found, truth))
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = np.trace(np.diag(s) @ flip) / (a**2).sum()
    size = np.linalg.norm(b, axis=1).max()
    np.testing.assert_allclose(scale * a @ rotation.T, b, atol=1e-3 * size)
    for name in names:
        between = found[name].rotation @ rotation.T @ truth[name].rotation.T
        assert np.degrees(np.linalg.norm(between - between.T) / np.sqrt(8)) < 0.05
        assert np.trace(between) > 2.9


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_poses_are_right(database: Path, truth: Truth, tmp_path: Path, mapper: str) -> None:
    (model,) = solve(database, tmp_path, mapper)
    assert set(model.poses) == set(truth.poses)
    assert_poses_are_right(model.poses, truth.poses)
    assert len(model.points) == pytest.approx(150, abs=3)
    assert np.isfinite(model.points).all()
    assert model.observations == pytest.approx(150 * 8, rel=0.03)
    assert model.reprojection_error < 0.01


def test_half_a_pixel_is_where_colmap_wants_it(database: Path, truth: Truth, tmp_path: Path) -> None:
    """With the principal point fixed in the middle, keypoints off by half a pixel would show in the errors."""
    solve(database, tmp_path, **{"triangulation.ignore_two_view_tracks": True})  # those of two may be wrong matches
    found = pycolmap.Reconstruction(tmp_path / "models" / "0")
    assert found.compute_mean_reprojection_error() < 0.005
    (camera,) = found.cameras.values()
    np.testing.assert_allclose(camera.params, truth.camera.params, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def noisy(truth: Truth) -> Truth:
    """The same with keypoints that are off by a pixel or two, so that it matters which of them RANSAC draws."""
    random = np.random.default_rng(0)
    moved = {
        name: (value.keypoints + random.normal(0, 1.5, value.keypoints.shape)).clip(0, 767).astype(np.float32)
        for name, value in truth.features.items()
    }
    return replace(
        truth, features={name: replace(value, keypoints=moved[name]) for name, value in truth.features.items()}
    )


@pytest.fixture(scope="module")
def noisy_database(noisy: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("noisy"), noisy)


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_one_thread_and_one_seed_give_the_same_poses(noisy_database: Path, tmp_path: Path, mapper: str) -> None:
    seeds = (1, 1, 2) if mapper == "incremental" else (1, 1)
    runs = [solve(noisy_database, tmp_path / str(n), mapper, seed=seed)[0].poses for n, seed in enumerate(seeds)]
    assert set(runs[0]) == set(runs[1])
    for name, pose in runs[0].items():
        np.testing.assert_array_equal(pose.rotation, runs[1][name].rotation)
        np.testing.assert_array_equal(pose.translation, runs[1][name].translation)
    if len(runs) > 2:
        assert any((pose.translation != runs[2][name].translation).any() for name, pose in runs[0].items())


def test_inlier_counts_are_of_the_right_matches(database: Path, truth: Truth) -> None:
    counts = inlier_counts(database)
    assert {frozenset(pair) for pair in counts} == {frozenset(pair) for pair in combinations(truth.poses, 2)}
    for count in counts.values():  # ten of each pair's matches are wrong
        assert 140 <= count <= 154


def test_scenes_that_do_not_meet_give_models_of_their_own(tmp_path: Path) -> None:
    small, large = synthesize(1, 5, "small/"), synthesize(2, 7, "large/")
    database = write(tmp_path, small, large)
    (alone,) = solve(database, tmp_path, min_model_size=10)  # COLMAP's own default: it drops smaller second models
    assert set(alone.poses) == set(large.poses)
    models = solve(database, tmp_path)
    assert [set(model.poses) for model in models] == [set(large.poses), set(small.poses)]
    assert_poses_are_right(models[0].poses, large.poses)
    assert_poses_are_right(models[1].poses, small.poses)


@pytest.mark.parametrize(("mapper", "images"), [("incremental", 0), ("global", 1), ("incremental", 3)])
def test_nothing_to_reconstruct(truth: Truth, tmp_path: Path, mapper: str, images: int) -> None:
    names: Sequence[str] = list(truth.features)[:images]
    entries = [ImageEntry(name, tmp_path / name, truth.features[name].image_size) for name in names]
    pairs = [(*pair, Matches.empty()) for pair in combinations(names, 2)]
    write_database(tmp_path / "database.db", entries, truth.features.__getitem__, pairs, CameraConfig())
    with ThreadPoolExecutor(1) as pool:
        verify(tmp_path / "database.db", VerificationConfig(), pool)
    assert inlier_counts(tmp_path / "database.db") == {}
    assert solve(tmp_path / "database.db", tmp_path, mapper) == []


def test_unknown_options_are_found_before_any_work() -> None:
    with pytest.raises(
        KitError, match="unknown incremental mapping option 'min_model_sise': did you mean 'min_model_size'"
    ):
        MappingConfig(options={"min_model_sise": 9}).check()
    MappingConfig("global", {"mapper.ba_num_iterations": 2}).check()


def test_older_models_do_not_stay(database: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "7").mkdir(parents=True)
    (tmp_path / "models" / "7" / "images.bin").write_bytes(b"old")
    assert len(solve(database, tmp_path)) == 1


@pytest.fixture(scope="module")
def models(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    solve(database, folder)
    return folder / "models"


def test_read_models(models: Path, tmp_path: Path) -> None:
    for number in (0, 2, 10):
        shutil.copytree(models / "0", tmp_path / str(number))
    (tmp_path / "1").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    found = read_models(tmp_path)
    assert {model.folder.name for model in found} == {"0", "2", "10"}
    assert read_models(tmp_path / "1") == []


@pytest.mark.parametrize("file", ["cameras.bin", "rigs.bin", "frames.bin", "images.bin", "points3D.bin"])
def test_a_damaged_model_is_a_clear_error(models: Path, tmp_path: Path, file: str) -> None:
    whole = (models / "0" / file).read_bytes()
    shutil.copytree(models / "0", tmp_path / "0")
    for content in (None, b"", b"\0", b"\xff" * 2000, b"not a model " * 200):
        (tmp_path / "0" / file).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "0" / file).write_bytes(content)
        with pytest.raises(KitError, match=r"cannot read the COLMAP model in .*0"):
            read_model(tmp_path / "0")
    for share in (0.3, 0.6, 0.9, 0.99):
        (tmp_path / "0" / file).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(KitError, match=r"cannot read the COLMAP model in .*0"):
            read_models(tmp_path)


def test_models_are_gathered_in_a_folder_of_their_own(models: Path, tmp_path: Path) -> None:
    given = []
    for number, place in enumerate(("partial/merged/3", "partial/refined", "partial/models-0/1")):
        shutil.copytree(models / "0", tmp_path / place)
        (tmp_path / place / "mark").write_text(str(number))
        given.append(read_model(tmp_path / place))
    (tmp_path / "models/7").mkdir(parents=True)
    found = gather(given, tmp_path / "models")
    assert [model.folder for model in found] == [tmp_path / f"models/{number}" for number in range(3)]
    assert [(model.folder / "mark").read_text() for model in found] == ["0", "1", "2"]
    assert not (tmp_path / "models/7").exists()
    assert [model.poses for model in found] == [model.poses for model in given]
    assert set(read_model(found[1].folder).poses) == set(given[1].poses)
    assert gather([], tmp_path / "models") == []
    assert not (tmp_path / "models").exists()


def test_colours_of_points_and_what_the_cameras_see_are_read(tmp_path: Path) -> None:
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=3, num_points3D=5)
    scene = pycolmap.synthesize_dataset(options)
    for number, point in enumerate(scene.points3D.values()):
        point.color = np.array([number, 10 * number, 255 - number], np.uint8)
    scene.write(tmp_path)
    model = read_model(tmp_path)
    assert model.colors.dtype == np.uint8
    assert sorted(model.colors.tolist()) == [[n, 10 * n, 255 - n] for n in range(5)]
    for point, color in zip(model.points, model.colors, strict=True):
        (same,) = [one for one in scene.points3D.values() if np.allclose(one.xyz, point)]
        assert (same.color == color).all()
    camera = next(iter(scene.cameras.values()))
    corner = np.linalg.inv(camera.calibration_matrix()) @ [camera.width, camera.height, 1]
    assert set(model.frames) == set(model.poses)
    for frame in model.frames.values():
        np.testing.assert_allclose(frame, corner[:2])


def moved(model: Model, image: str, folder: Path, degrees: float) -> Model:
    """The model with one camera rotated about the vertical, so that it contradicts its matches."""
    reconstruction = pycolmap.Reconstruction(model.folder)
    found = next(one for one in reconstruction.images.values() if one.name == image)
    motion = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, np.radians(degrees), 0])), np.zeros(3))
    found.frame.rig_from_world = motion * found.frame.rig_from_world
    folder.mkdir()
    reconstruction.write(folder)
    return read_model(folder)


def share(database: Path, model: Model, pairs: Sequence[tuple[str, str]]) -> float:
    return judge(database, model, pairs).support


def test_support_is_the_share_of_matches_that_agree(truth: Truth, database: Path, tmp_path: Path) -> None:
    (model,) = solve(database, tmp_path)
    inliers = inlier_counts(database)
    assert share(database, model, list(inliers)) > 0.99
    wrong = moved(model, "1.jpg", tmp_path / "moved", 5)
    own = [pair for pair in inliers if "1.jpg" in pair]
    others = [pair for pair in inliers if "1.jpg" not in pair]
    assert share(database, wrong, own) < 0.2
    assert share(database, wrong, others) > 0.99
    expected = share(database, wrong, own) * sum(inliers[pair] for pair in own)
    expected += share(database, wrong, others) * sum(inliers[pair] for pair in others)
    assert share(database, wrong, list(inliers)) == pytest.approx(expected / sum(inliers.values()))
    assert share(database, model, []) == share(database, model, [("1.jpg", "absent.jpg")]) == 0

    assert MappingRun([wrong], judge(database, wrong, list(inliers))).registered == 7


def test_weak_pairs_are_left_out_of_a_copy(truth: Truth, database: Path, tmp_path: Path) -> None:
    database = shutil.copyfile(database, tmp_path / "database.db")
    with pycolmap.Database.open(database) as opened:  # without noise all pairs are as strong
        for number, pair in enumerate(combinations(range(1, 9), 2)):
            geometry = opened.read_two_view_geometry(*pair)
            geometry.inlier_matches = geometry.inlier_matches[3 * number :]
            opened.delete_two_view_geometry(*pair)
            opened.write_two_view_geometry(*pair, geometry)
    inliers = inlier_counts(database)
    limit = sorted(strengths(inliers).values())[len(inliers) // 2]
    config = MappingConfig(min_strength=limit)
    (model,) = map_scene(database, tmp_path, config, Workplace(tmp_path / "models", tmp_path / "log", 1))
    left = inlier_counts(tmp_path / "models.db")
    assert left == {pair: inliers[pair] for pair, strength in strengths(inliers).items() if strength >= limit}
    assert len(left) < len(inliers)
    assert_poses_are_right(model.poses, truth.poses)
    assert inlier_counts(database) == inliers


def test_values_that_make_no_sense_are_refused() -> None:
    wrong: dict[str, tuple[Any, ...]] = {
        "min_strength": (-0.1, 1.1, math.nan),
        "max_keypoints": (0,),
        "time_limit": (0.0, math.nan),
    }
    for option, values in wrong.items():
        for value in values:
            with pytest.raises(KitError, match=f"{option} of a mapping run must be"):
                MappingConfig(**{option: value})


@pytest.mark.parametrize(("sharing", "mapper", "error", "two"), [
    ("image", "incremental", 2.0, None), ("size", "incremental", None, False), ("image", "global", None, None),
])  # fmt: skip
def test_what_points_must_be_like_depends_on_the_cameras(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: Any, mapper: Any, error: Any, two: Any
) -> None:
    entries = [ImageEntry(name, tmp_path / name, value.image_size) for name, value in truth.features.items()]
    path = tmp_path / "database.db"
    write_database(path, entries, truth.features.__getitem__, matched(truth), CameraConfig(sharing))
    jobs: list[dict[str, Any]] = []
    monkeypatch.setattr(child, "run", lambda job, *_: jobs.append(dict(job)))
    for config in (
        MappingConfig(mapper),
        MappingConfig(mapper, {"mapper.filter_max_reproj_error": 5.0}),
        MappingConfig(mapper, by_cameras=False),
    ):
        map_scene(path, tmp_path, config, Workplace(tmp_path / "models", tmp_path / "log"))
    assert [job["options"].get("mapper.filter_max_reproj_error") for job in jobs] == [error, 5.0, None]
    assert [job["options"].get("triangulation.ignore_two_view_tracks") for job in jobs] == [two, two, None]
