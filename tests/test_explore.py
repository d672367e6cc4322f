"""Exploring: the input that is found, what can run here, views, matches and neighbours."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import imc_kit
from imc_kit import explore, metric
from imc_kit.data import images
from imc_kit.data.images import Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors import extract
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.opencv import OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.explore import ImageView
from imc_kit.matchers.adalam import AdalamConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline.results import SceneResult
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.pairs import exhaustive
from imc_kit.runtime import weights
from imc_kit.synthetic.plaza import Camera, look_at, paint, plaza, render, write_scene
from imc_kit.types import Features, Scene

ENDS = {"truth": ".csv", "thresholds": ".json"}
SIFT = SiftConfig(max_keypoints=600)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two views of the plaza from close together, and one of something else."""
    root = tmp_path_factory.mktemp("scene")
    camera, target = Camera.centred((400, 300)), np.array([0.0, 0, 1.2])
    centers = [np.array([-8.0, 0, 2.6]), np.array([-7.8, 1.2, 2.6])]
    photos = [render(plaza(), camera, look_at(center, target), samples=1) for center in centers]
    photos.append(paint(np.random.default_rng(7), (4, 3), ("204060", "a0c0e0"), texel=0.01))
    for name, photo in zip(("a.png", "b.png", "other.png"), photos, strict=True):
        cv2.imwrite(str(root / name), photo[..., ::-1])
    return Scene("plaza", root, ("a.png", "b.png", "other.png"))


@pytest.fixture(scope="module")
def views(scene: Scene) -> dict[str, ImageView]:
    return explore.views(scene, SIFT)


@pytest.fixture(scope="module")
def small_render(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered scene of one small view."""
    root = tmp_path_factory.mktemp("render")
    write_scene(root, views=1, size=(32, 32))
    return root


@pytest.fixture
def nothing_rendered(small_render: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small scene in place of the one that is rendered, and no input from outside."""
    explore._rendered.cache_clear()
    monkeypatch.delenv("IMC_KIT_INPUT", raising=False)
    monkeypatch.setattr(
        explore.plaza, "write_scene", lambda root: shutil.copytree(small_render, root, dirs_exist_ok=True)
    )


# The input


def competition(root: Path) -> Path:
    (root / "test/church/images").mkdir(parents=True)
    (root / "test/church/images/1.jpg").write_bytes(b"?")
    (root / "sample_submission.csv").write_text(
        "image_path,dataset,scene,rotation_matrix,translation_vector\n"
        "test/church/images/1.jpg,church,church,1;0;0;0;1;0;0;0;1,0;0;0\n"
    )
    return root


@pytest.mark.usefixtures("nothing_rendered")
def test_without_an_input_a_scene_is_rendered_once() -> None:
    task = explore.open_input()
    assert [scene.name for scene in task.scenes] == ["plaza"]
    assert (task.root / "truth.csv").is_file()
    assert explore.open_input(truth=True).root == task.root


@pytest.mark.usefixtures("nothing_rendered")
@pytest.mark.parametrize("inside", ["", "competitions/rehearsal"])
def test_an_attached_competition_is_found(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = competition(tmp_path / inside)
    monkeypatch.setenv("IMC_KIT_INPUT", str(tmp_path))
    assert explore.open_input().root == root.resolve()
    assert [scene.name for scene in explore.open_input(truth=True).scenes] == ["plaza"]  # it has no truth
    (root / "truth.csv").touch()
    assert explore.open_input(truth=True).root == root.resolve()


def test_a_folder_of_photos(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMC_KIT_INPUT", str(scene.root))
    assert explore.open_input().scenes[0].images == scene.images
    monkeypatch.setenv("IMC_KIT_INPUT", "/nowhere")
    assert explore.open_input(scene.root).scenes[0].images == scene.images  # what is given comes first
    with pytest.raises(KitError, match="/nowhere is not a folder"):
        explore.open_input()
    with pytest.raises(KitError, match=r"has no truth\.csv"):
        explore.open_input(scene.root, truth=True)


def test_two_competitions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        competition(tmp_path / name)
    monkeypatch.setenv("IMC_KIT_INPUT", str(tmp_path))
    with pytest.raises(KitError, match=r"several competitions are attached: .*one, .*two; set INPUT"):
        explore.open_input()


def test_scores_are_of_the_scenes_of_the_task(shared: Path, tmp_path: Path) -> None:
    task = explore.open_input(shared / "scenes", truth=True).only("herzjesu_P8", "scan65_skull49")
    found = explore.score(task, task.root / "truth.csv")
    assert {name: scene.score for name, scene in found.scenes.items()} == {"herzjesu_P8": 1, "scan65_skull49": 1}
    thresholds = json.loads((task.root / "thresholds.json").read_text())
    assert found.scenes["scan65_skull49"].thresholds == tuple(thresholds["scan65_skull49"])
    assert thresholds["scan65_skull49"] != thresholds["herzjesu_P8"]
    (tmp_path / "truth.csv").write_text((task.root / "truth.csv").read_text())
    assert explore.truth(task) == {"truth": task.root / "truth.csv"}
    elsewhere = replace(task.only("herzjesu_P8"), root=tmp_path)
    assert explore.score(elsewhere, tmp_path / "truth.csv").scenes["herzjesu_P8"].thresholds == metric.THRESHOLDS
    assert explore.truth(elsewhere) == {"truth": tmp_path / "truth.csv"}
    (tmp_path / "thresholds.json").write_text("{")
    with pytest.raises(KitError, match=r"cannot read .*thresholds\.json"):
        explore.score(elsewhere, tmp_path / "truth.csv")


# What can run


def test_usable_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "places", lambda: [tmp_path])
    choices = {"sift": SIFT, "orb": OrbConfig(), "aliked": AlikedConfig()}
    found, left_out = explore.usable(choices)
    assert list(found) == ["sift", "orb"]
    assert left_out == "Without aliked: no weight files here (imc-kit weights get aliked-n16.pth)."
    assert explore.usable({"sift": SIFT}) == ({"sift": SIFT}, "All of them: sift.")
    found_matchers, left_out = explore.usable({"nearest": NearestConfig(), "adalam": AdalamConfig()}, "orb")
    assert list(found_matchers) == ["nearest"]
    assert left_out.startswith("Without adalam: matcher 'adalam' cannot match orb descriptors")


# Views


def test_views_hold_what_the_detector_finds(scene: Scene, views: dict[str, ImageView]) -> None:
    assert list(views) == list(scene.images)
    (expected,) = extract(SIFT.create(), [images.load(scene.path("b.png"), SIFT.long_side)])
    np.testing.assert_array_equal(views["b.png"].features.keypoints, expected.keypoints)
    assert views["b.png"].photo.size == (400, 300)
    assert str(views["b.png"]).startswith(f"{len(expected):,} keypoints in ")
    assert "scales" in str(views["b.png"])
    assert list(explore.views(scene, SIFT, most=2)) == ["a.png", "other.png"]
    assert list(explore.views(scene, SIFT, most=1)) == ["a.png"]


def test_a_view_without_keypoints_can_be_printed(scene: Scene, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64, 3), np.uint8))
    black = explore.view(Scene("dark", tmp_path, ("black.png",)), "black.png", SIFT)
    assert len(black.features) == 0
    assert str(black).startswith("0 keypoints in ")
    assert "scales" not in str(black)


def test_a_mask_keeps_keypoints_out(scene: Scene, tmp_path: Path) -> None:
    left = np.full((300, 400), 255, np.uint8)
    left[:, 200:] = 0
    cv2.imwrite(str(tmp_path / "a.png"), left)
    points = explore.view(scene, "a.png", SIFT, MaskConfig(folder=tmp_path)).features.keypoints
    assert len(points) > 50
    assert points[:, 0].max() < 200
    assert explore.view(scene, "a.png", SIFT).features.keypoints[:, 0].max() > 200


# Neighbours


def test_neighbours_are_ranked_by_similarity(views: dict[str, ImageView]) -> None:
    rows = explore.describe(views, VladConfig(size=8))
    assert len(rows) == 3
    (name, photo), others = explore.neighbours(views, rows, "a.png")
    assert (name, photo) == ("a.png", views["a.png"].photo)
    assert [other for other, _, _ in others] == ["b.png", "other.png"]
    assert [similarity for _, _, similarity in others] == pytest.approx(
        [rows[0] @ rows[1], rows[0] @ rows[2]], abs=1e-6
    )
    assert len(explore.neighbours(views, rows, "a.png", 1)[1]) == 1


# Matches


def test_matches_are_verified(views: dict[str, ImageView]) -> None:
    pairs = exhaustive(list(views))
    found = explore.match(views, pairs, NearestConfig(ratio=0.8))
    assert list(found) == pairs
    near = found["a.png", "b.png"]
    with threadpool_limits(1):  # as the kit computes: with several threads sums may round otherwise
        direct = NearestConfig(ratio=0.8).create().match(views["a.png"].features, views["b.png"].features)
    order = np.argsort(-direct.scores, kind="stable")
    assert near.matches.scores.tolist() == direct.scores[order].tolist()
    sides = (("a.png", near.matches.first), ("b.png", near.matches.second))
    for side, (name, points) in enumerate(sides):
        expected = views[name].features.keypoints[direct.indices[order, side]]
        np.testing.assert_allclose(points, expected, atol=1e-4)
    assert near.inliers.sum() > 40
    # One fundamental matrix, estimated by OpenCV, explains what COLMAP verified.
    _, mask = cv2.findFundamentalMat(near.matches.first, near.matches.second, cv2.USAC_MAGSAC, 2.0)
    assert mask[near.inliers].mean() > 0.95
    assert found["a.png", "other.png"].inliers.sum() < explore.ENOUGH
    matches, inliers = explore.counts(found)
    assert matches["a.png", "b.png"] == len(direct)
    assert inliers["a.png", "b.png"] == near.inliers.sum()
    assert str(near).startswith(f"{len(direct)} matches, {near.inliers.sum()} inliers (")
    assert explore.match(views, [], NearestConfig()) == {}


def test_one_pair_with_several_matchers(views: dict[str, ImageView]) -> None:
    pair = ("a.png", "b.png")
    matchers = {"all": NearestConfig(), "some": NearestConfig(ratio=0.7), "some again": NearestConfig(ratio=0.7)}
    found = explore.match_with(views, pair, matchers)
    alone = explore.match(views, [pair], matchers["some"])[pair]
    np.testing.assert_array_equal(found["some"].matches.first, alone.matches.first)
    np.testing.assert_array_equal(found["some"].inliers, alone.inliers)
    np.testing.assert_array_equal(found["some again"].matches.first, alone.matches.first)
    assert len(found["all"].matches) > len(found["some"].matches)


def test_no_keypoints_have_no_matches(views: dict[str, ImageView]) -> None:
    nothing = replace(views["a.png"], features=Features.empty((400, 300), 128))
    found = explore.match({"a": nothing, "b": views["b.png"]}, [("a", "b")], NearestConfig())["a", "b"]
    assert len(found.matches) == len(found.inliers) == 0
    assert str(found).startswith("0 matches, 0 inliers, in ")


def test_a_wrong_matcher_is_refused(scene: Scene) -> None:
    orb = {name: explore.view(scene, name, OrbConfig(max_keypoints=50)) for name in ("a.png", "b.png")}
    with pytest.raises(KitError, match="cannot match orb descriptors"):
        explore.match(orb, [("a.png", "b.png")], AdalamConfig())


def test_judge_counts_the_good_pairs_that_are_kept() -> None:
    inliers = {("a", "b"): 40, ("a", "c"): 14, ("b", "c"): 15}
    said = explore.judge([("b", "a"), ("a", "c")], inliers)
    assert said == "2 of 3 pairs, with 1 of the 2 that have 15 inliers or more"
    assert explore.judge([], {}) == "0 of 0 pairs, with 0 of the 0 that have 15 inliers or more"


# Solved scenes


def test_counts_of_a_solved_scene(scene: Scene, tmp_path: Path) -> None:
    run = imc_kit.solve(
        scene.root, tmp_path, imc_kit.preset("sift", {"detector.max_keypoints": 600, "subpixel.on": False})
    )
    (name,) = run.scenes
    matches, inliers = explore.scene_counts(tmp_path, name)
    assert inliers["a.png", "b.png"] > 40
    assert matches["a.png", "b.png"] >= inliers["a.png", "b.png"]
    assert len(explore.largest_model(run.scenes[name]).poses) in (0, 2)
    with pytest.raises(KitError, match=r"there is no .*elsewhere.*database.db: solve the scene again"):
        explore.scene_counts(tmp_path, "elsewhere")


def test_the_largest_model_of_none() -> None:
    assert explore.largest_model(SceneResult({})).poses == {}


def test_views_show_photos_at_the_size_that_the_detector_saw(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((40, 400, 3), np.uint8))
    seen = explore.view(Scene("s", tmp_path, ("wide.png",)), "wide.png", SiftConfig(long_side=100))
    assert isinstance(seen.photo, Photo)
    assert (seen.photo.size, seen.photo.pixels.shape) == ((400, 40), (10, 100, 3))
