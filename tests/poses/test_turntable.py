"""Views on a circle: the tour, its confidence, the cameras, and the decision to use them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

import imc_kit
from imc_kit.data import images
from imc_kit.errors import KitError
from imc_kit.metric import TRANSPARENT_THRESHOLDS, score_centers
from imc_kit.poses import frames, turntable
from imc_kit.poses.turntable import TurntableConfig, better, circle, cycle, placed, suspicion
from imc_kit.types import Pixels
from rendered.turntable import circle_of_views, write_turntable
from tours import wrong_steps

DEFAULT = TurntableConfig()


def between(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=2)


def on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# ---- the tour ----


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("seed", range(6))
def test_no_tour_is_shorter(count: int, seed: int) -> None:
    apart = np.random.default_rng(seed).uniform(size=(count, count))
    apart = apart + apart.T
    np.fill_diagonal(apart, 0)
    order, _ = cycle(apart)
    assert sorted(order) == list(range(count))
    shortest = min(
        sum(apart[a, b] for a, b in zip((0, *rest), (*rest, 0), strict=True)) for rest in permutations(range(1, count))
    )
    assert apart[order, np.roll(order, -1)].sum() == pytest.approx(shortest)


@pytest.mark.parametrize("count", [8, 36])
def test_points_on_a_circle_are_found_in_order(count: int) -> None:
    rng = np.random.default_rng(count)
    angles = 2 * np.pi * np.arange(count) / count
    points = on_circle(angles) * 10 + rng.normal(0, 10 / count, (count, 2))
    shuffled = rng.permutation(count)
    order, confidence = cycle(between(points[shuffled]))
    assert wrong_steps(shuffled[order]) <= 4
    assert confidence > 0.5
    assert cycle(between(on_circle(angles)))[1] > 0.9


def test_distances_that_reach_only_a_few_steps_will_do() -> None:
    shuffled = np.random.default_rng(0).permutation(40)
    apart = between(on_circle(2 * np.pi * shuffled / 40))
    order, confidence = cycle(1 - np.exp(-10 * apart))
    assert wrong_steps(shuffled[order]) == 0
    assert confidence > 0.9


@pytest.mark.parametrize("count", [8, 20, 60])
def test_a_line_is_no_circle(count: int) -> None:
    steps = np.abs(np.subtract.outer(np.arange(count), np.arange(count))).astype(float)
    assert cycle(steps)[1] < 0.2
    assert cycle(1 - np.exp(-steps / 2))[1] < 0.35


def test_random_distances_are_no_circle() -> None:
    rng = np.random.default_rng(0)
    found = []
    for count in (8, 10, 12, 16, 24):
        for _ in range(6):
            apart = rng.uniform(size=(count, count))
            apart = apart + apart.T
            np.fill_diagonal(apart, 0)
            found += [cycle(apart, 20)[1], cycle(between(rng.normal(size=(count, 3))), 20)[1]]
    assert np.quantile(found, 0.95) < DEFAULT.min_confidence
    assert max(found) < 0.6


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_few_views_give_no_confidence(count: int) -> None:
    order, confidence = cycle(between(on_circle(2 * np.pi * np.arange(count) / max(count, 1))))
    assert sorted(order) == list(range(count))
    assert confidence == 0


def test_equal_views_give_no_confidence() -> None:
    assert cycle(np.zeros((12, 12)))[1] == 0
    assert cycle(np.ones((12, 12)) - np.eye(12))[1] == 0


def test_the_same_distances_give_the_same_tour() -> None:
    apart = between(np.random.default_rng(5).normal(size=(50, 4)))
    first, second = cycle(apart), cycle(apart.copy())
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


# ---- the circle ----


@pytest.mark.parametrize("count", [0, 1, 2, 3, 36])
def test_cameras_stand_on_a_circle_and_look_at_its_middle(count: int) -> None:
    names = [f"{k}.jpg" for k in range(count)]
    poses = circle(names)
    assert list(poses) == names
    angles = 2 * np.pi * np.arange(count) / max(count, 1)
    for angle, pose in zip(angles, poses.values(), strict=True):
        np.testing.assert_allclose(pose.center, [np.cos(angle), np.sin(angle), 0], atol=1e-12)
        np.testing.assert_allclose(pose.rotation @ np.zeros(3) + pose.translation, [0, 0, 1], atol=1e-12)
        assert (pose.rotation @ [0, 0, 1])[1] == pytest.approx(-1)  # the image's y axis points down
        assert np.linalg.det(pose.rotation) == pytest.approx(1)


# ---- the decision ----


def test_which_scenes_are_tried() -> None:
    assert "36 images" in (suspicion(["transparent"], 36, 5, 0.0, DEFAULT) or "")
    assert "74%" in (suspicion(["other"], 36, 5, 0.74, DEFAULT) or "")
    assert suspicion([], 36, 5, 0.16, DEFAULT) is None
    assert suspicion(["transparent"], 36, 30, 0.9, DEFAULT) is None
    assert suspicion(["transparent"], 36, 5, 0.9, TurntableConfig(on=False)) is None


def test_a_model_by_a_handful_of_points_has_placed_nothing() -> None:
    assert placed(36, 115, DEFAULT) == 0
    assert placed(36, 36 * 200, DEFAULT) == 36
    assert placed(0, 0, DEFAULT) == 0


def test_the_circle_must_be_worth_more() -> None:
    assert better(0.67, [], 36, 0, DEFAULT)
    assert not better(0.3, [], 36, 0, DEFAULT)
    assert better(0.3, ["transparent"], 36, 0, DEFAULT)
    assert not better(0.3, ["transparent"], 36, 12, DEFAULT)
    assert better(0.0, ["transparent"], 36, 0, DEFAULT)
    assert not better(0.0, ["transparent"], 36, 3, DEFAULT)


@pytest.mark.parametrize(
    "option",
    [
        {"max_registered": 1.5},
        {"min_observations": -1},
        {"min_still": -0.1},
        {"min_confidence": 2},
        {"long_side": 4},
        {"tries": -1},
    ],
)
def test_options_that_make_no_sense(option: dict[str, float]) -> None:
    with pytest.raises(KitError, match=f"{next(iter(option))} of the turntable"):
        TurntableConfig(**option)  # type: ignore[arg-type]


# ---- whole scenes ----


def test_the_rendered_turntable_is_solved(jug: list[Pixels]) -> None:
    shuffled = np.random.default_rng(1).permutation(36)
    stack = frames.comparable([jug[k] for k in shuffled])
    assert suspicion([], 36, placed(36, 115, DEFAULT), frames.still_share(stack), DEFAULT) is not None
    found = turntable.arrange([str(k) for k in shuffled], stack, DEFAULT)
    assert better(found.confidence, [], 36, 0, DEFAULT)
    assert wrong_steps(np.array([int(name) for name in found.poses])) <= 4
    truth = circle_of_views(36)
    centers = [np.array([pose.center for pose in poses]) for poses in (truth, [found.poses[str(k)] for k in range(36)])]
    assert score_centers(*centers, TRANSPARENT_THRESHOLDS).score >= 0.8


def test_no_views_are_solved() -> None:
    found = turntable.arrange([], frames.comparable([]), DEFAULT)
    assert found.poses == {}
    assert found.confidence == 0


@pytest.mark.parametrize("scene", ["temple_sparse16", "castle_P19", "herzjesu_P8"])
def test_photos_of_other_things_are_no_turntable(shared: Path, scene: str) -> None:
    paths = sorted((shared / "scenes" / "test" / scene / "images").iterdir())
    stack = frames.comparable([images.load(path, DEFAULT.long_side).pixels for path in paths])
    found = turntable.arrange([path.name for path in paths], stack, DEFAULT)
    assert found.confidence < DEFAULT.min_confidence
    assert suspicion([], len(paths), 0, frames.still_share(stack), DEFAULT) is None


@pytest.mark.slow
def test_a_turntable_on_which_reconstruction_fails_is_solved(tmp_path: Path) -> None:
    write_turntable(tmp_path / "scene", views=24, size=(200, 150), samples=1)
    sift = imc_kit.preset("sift", {"detector.max_keypoints": 500, "threads": 1})
    config = replace(sift, mapping=sift.mapping[:1])
    run = imc_kit.solve(tmp_path / "scene", tmp_path / "out", config)
    score = imc_kit.score(tmp_path / "scene/truth.csv", run.submission, {"jug": TRANSPARENT_THRESHOLDS})
    assert score.mean >= 0.8
    jug = run.scenes["jug"]
    (note,) = [note for note in jug.notes if "the confidence in a circle is" in note]
    assert note.endswith("so they are placed on a circle")
    assert jug.counts["registered"] == 0  # by no model
    centers = np.array([placement.pose.center for placement in jug.placements.values()])
    np.testing.assert_allclose(np.linalg.norm(centers - centers.mean(0), axis=1), 1, atol=1e-6)


def test_without_time_the_tour_is_only_not_improved() -> None:
    rng = np.random.default_rng(0)
    stack = rng.uniform(size=(12, 8, 8)).astype(np.float32)
    names = [f"{number}" for number in range(12)]
    hurried = turntable.arrange(names, stack, TurntableConfig(), until=-1.0)
    assert sorted(hurried.poses) == sorted(names)
    plain = turntable.arrange(names, stack, TurntableConfig(tries=0))
    assert list(plain.poses) == list(hurried.poses)
