"""The values that stages exchange: what they accept, what they refuse, and that they are read-only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_kit.types import Features, Matches, Pose, Scene

SIZE = (40, 30)


def rotation(seed: int = 0) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def features(**changed: Any) -> Features:
    values: dict[str, Any] = {
        "keypoints": np.array([[0, 0], [39, 29], [5.5, 7.25]], np.float32),
        "scores": np.array([3, 2, 1], np.float32),
        "descriptors": np.eye(3, 8, dtype=np.float32),
        "image_size": SIZE,
    }
    return Features(**(values | changed))


# Pose


def test_pose_center_is_where_the_camera_coordinates_vanish() -> None:
    pose = Pose(rotation(), np.array([1.0, -2.0, 3.0]))
    np.testing.assert_allclose(pose.rotation @ pose.center + pose.translation, 0, atol=1e-12)


def test_pose_from_center() -> None:
    center = np.array([4.0, 5.0, -6.0])
    pose = Pose.from_center(rotation(1), center)
    np.testing.assert_allclose(pose.center, center, atol=1e-12)
    np.testing.assert_array_equal(pose.rotation, rotation(1))


@pytest.mark.parametrize(
    ("turn", "translation"),
    [
        (np.eye(4), np.zeros(3)),
        (np.eye(3), np.zeros(2)),
        (np.eye(3), np.zeros((3, 1))),
        (np.full((3, 3), np.nan), np.zeros(3)),
        (np.eye(3), np.array([0, np.inf, 0])),
        (2 * np.eye(3), np.zeros(3)),
        (np.diag([1.0, 1.0, -1.0]), np.zeros(3)),
        (np.zeros((3, 3)), np.zeros(3)),
    ],
)
def test_pose_refuses(turn: np.ndarray, translation: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"rotation|translation"):
        Pose(turn, translation)


def test_pose_is_frozen() -> None:
    pose = Pose(rotation(), np.zeros(3))
    for values in (pose.rotation, pose.translation):
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        pose.translation = np.ones(3)  # type: ignore[misc]


# Features


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keypoints", np.zeros((3, 3), np.float32)),
        ("keypoints", np.zeros((3, 2), np.float64)),
        ("keypoints", np.zeros(3, np.float32)),
        ("keypoints", np.zeros((2, 2), np.float32)),
        ("keypoints", np.full((3, 2), np.nan, np.float32)),
        ("keypoints", np.full((3, 2), np.inf, np.float32)),
        ("keypoints", np.full((3, 2), -0.51, np.float32)),
        ("keypoints", np.array([[0, 0], [39.51, 0], [0, 0]], np.float32)),
        ("keypoints", np.array([[0, 0], [0, 29.51], [0, 0]], np.float32)),
        ("scores", np.zeros(2, np.float32)),
        ("scores", np.zeros(3)),
        ("scores", np.full(3, np.nan, np.float32)),
        ("descriptors", np.zeros((2, 8), np.float32)),
        ("descriptors", np.zeros(3, np.float32)),
        ("descriptors", np.zeros((3, 8), np.float64)),
        ("descriptors", np.full((3, 8), np.nan, np.float16)),
        ("scales", np.zeros((3, 1), np.float32)),
        ("scales", np.full(3, np.inf, np.float32)),
        ("orientations", np.zeros(3, np.float16)),
        ("shapes", np.zeros((3, 4), np.float32)),
        ("shapes", np.full((3, 2, 2), np.nan, np.float32)),
    ],
)
def test_features_refuse(name: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=name if name != "keypoints" else "keypoints|scores"):
        features(**{name: value})


def test_features_reach_to_the_edges_of_the_border_pixels() -> None:
    corners = np.array([[-0.5, -0.5], [39.5, 29.5], [-0.5, 29.5]], np.float32)
    np.testing.assert_array_equal(features(keypoints=corners).keypoints, corners)


def test_features_do_not_mix_up_width_and_height() -> None:
    upright = np.array([[35, 0]] * 3, np.float32)
    assert len(features(keypoints=upright)) == 3
    with pytest.raises(ValueError, match="inside the image of 30 × 40"):
        features(keypoints=upright, image_size=(30, 40))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_features_take_each_kind_of_descriptors_and_can_be_empty(dtype: Any) -> None:
    assert len(features(descriptors=np.zeros((3, 8), dtype))) == 3
    empty = Features.empty(SIZE, 64, dtype)
    assert len(empty) == 0
    assert empty.keypoints.shape == (0, 2)
    assert empty.descriptors.shape == (0, 64)
    assert empty.descriptors.dtype == dtype
    assert empty.image_size == SIZE


def test_features_are_frozen() -> None:
    made = features(scales=np.ones(3, np.float32), orientations=np.ones(3, np.float32))
    for name in ("keypoints", "scores", "descriptors", "scales", "orientations"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(made, name)[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.scores = np.zeros(3, np.float32)  # type: ignore[misc]


# Matches


def test_matches_are_frozen_and_can_be_empty() -> None:
    matches = Matches(np.array([[0, 1]], np.int32), np.ones(1, np.float32))
    for values in (matches.indices, matches.scores):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0
    assert len(Matches.empty()) == 0
    assert Matches.empty().indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("indices", "scores"),
    [
        (np.zeros((1, 3), np.int32), np.ones(1, np.float32)),
        (np.zeros((1, 2), np.int64), np.ones(1, np.float32)),
        (np.zeros((1, 2), np.float32), np.ones(1, np.float32)),
        (np.array([[0, -1]], np.int32), np.ones(1, np.float32)),
        (np.zeros((1, 2), np.int32), np.ones(2, np.float32)),
        (np.zeros((1, 2), np.int32), np.ones(1)),
        (np.zeros((1, 2), np.int32), np.full(1, np.nan, np.float32)),
    ],
)
def test_matches_refuse(indices: np.ndarray, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"indices|scores"):
        Matches(indices, scores)


# Scene


def test_scene_keeps_whole_relative_paths() -> None:
    names = ("a.jpg", "a.png", "left/a.jpg", "right/a.jpg", "ein Bild.v2.jpg", "ünï/ç.jpg")
    scene = Scene("s", Path("/data/s"), names)
    assert scene.path("left/a.jpg") == Path("/data/s/left/a.jpg")


@pytest.mark.parametrize("name", ["/a.jpg", "../a.jpg", "x/../a.jpg", "./a.jpg", "x//a.jpg", "x/", ""])
def test_scene_refuses_other_paths(name: str) -> None:
    with pytest.raises(ValueError, match="plain path"):
        Scene("s", Path(), ("b.jpg", name))


def test_scene_refuses_a_name_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Scene("s", Path(), ("a.jpg", "b.jpg", "a.jpg"))


def test_one_to_one_is_greedy_by_score() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        indices = rng.integers(0, 12, (60, 2)).astype(np.int32)
        scores = rng.integers(0, 9, 60).astype(np.float32)  # with ties
        left = Matches(indices, scores).one_to_one()
        taken, expected = (set(), set()), []
        for _, i, j in sorted((-score, i, j) for (i, j), score in zip(indices.tolist(), scores.tolist(), strict=True)):
            if i not in taken[0] and j not in taken[1]:
                taken[0].add(i)
                taken[1].add(j)
                expected.append((i, j))
        assert [tuple(pair) for pair in left.indices.tolist()] == sorted(expected)
        best = {}
        for (i, j), score in zip(indices.tolist(), scores.tolist(), strict=True):
            best[i, j] = max(score, best.get((i, j), -1))
        np.testing.assert_array_equal(left.scores, [best[tuple(pair)] for pair in left.indices.tolist()])
    assert len(Matches.empty().one_to_one()) == 0
