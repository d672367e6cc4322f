"""Low-resolution matching, against known geometry and photos that were rotated on purpose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imc_kit.types import Features, Matches
from imc_kit.viewgraph import lowres
from imc_kit.viewgraph.lowres import PairOverlap, pair_overlap
from rotations import rotate_points

RNG = np.random.default_rng(0)


def features(keypoints: np.ndarray, angles: np.ndarray, size=(640, 480)) -> Features:
    n = len(keypoints)
    return Features(
        keypoints.astype(np.float32),
        np.ones(n, np.float32),
        np.zeros((n, 2), np.float32),
        size,
        np.ones(n, np.float32),
        np.asarray(angles, np.float32) % 360,
    )


def matches(first: np.ndarray, second: np.ndarray | None = None) -> Matches:
    second = first if second is None else second
    return Matches(np.stack([first, second], 1).astype(np.int32), np.ones(len(first), np.float32))


def two_views(points: int, wrong: int, turn: int = 0, scale: float = 1.0, noise: float = 0.0):
    """A cloud seen by two cameras, the second image rotated back by `turn` · 90°; `wrong` more matches are wrong."""
    cloud = RNG.uniform([-2, -1.5, 4], [2, 1.5, 8], (points, 3))
    angle = 0.15
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    moved = cloud @ rotation.T + [-1.2, 0.1, 0.2]
    first, second = (500 * p[:, :2] / p[:, 2:] + [319.5, 239.5] for p in (cloud, moved))
    inside = ((first >= 0) & (first < [640, 480]) & (second >= 0) & (second < [640, 480])).all(1)
    first, second = first[inside], second[inside]
    junk = [RNG.uniform([0, 0], [639, 479], (wrong, 2)) for _ in range(2)]
    first, second = np.concatenate([first, junk[0]]), np.concatenate([second, junk[1]])
    first = np.clip(first + RNG.normal(0, noise, first.shape), 0, [639, 479])
    angles = RNG.uniform(0, 360, len(first))
    # Rotated counter-clockwise by the same, so that the answer brings it back.
    second = rotate_points(second, (640, 480), -turn)
    size = (640, 480) if turn % 2 == 0 else (480, 640)
    a = features((first + 0.5) * scale - 0.5, angles, (round(640 * scale), round(480 * scale)))
    b = features(second, angles - 90 * turn + RNG.normal(0, 10, len(first)), size)
    return a, b, matches(np.arange(len(first))), int(inside.sum())


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("scale", [1, 7])
def test_inliers_and_turn_of_a_known_pair(turn, scale):
    first, second, found, right = two_views(200, 100, turn, scale, noise=0.3)
    view = pair_overlap(first, second, found)
    assert 0.95 * right <= view.inliers <= right + 12  # a wrong one may lie by its line
    assert view.rotation_quarters == turn
    assert view.weight > 0.9 * right
    back = pair_overlap(second, first, Matches(found.indices[:, ::-1].copy(), found.scores))
    assert back.rotation_quarters == -turn % 4
    assert pair_overlap(first, second, found) == view


def test_the_limit_on_errors_is_a_share_of_the_longer_side(monkeypatch):
    first, second, found, right = two_views(300, 0, noise=4)
    monkeypatch.setattr(lowres, "_MAX_ERROR", 0.5)
    assert pair_overlap(first, second, found).inliers < 0.5 * right
    monkeypatch.setattr(lowres, "_MAX_ERROR", 50.0)
    assert pair_overlap(first, second, found).inliers == right


def test_pairs_with_nothing_in_common_have_no_say():
    for _ in range(20):
        first, second, found, _ = two_views(0, int(RNG.integers(0, 60)))
        view = pair_overlap(first, second, found)
        assert view.inliers < 12
        assert view.weight == 0


def test_weight_is_the_lead_over_the_next_best(monkeypatch):
    first, second, found, right = two_views(200, 0, 1)
    third = np.arange(len(second)) % 3 == 0
    second = dataclasses.replace(second, orientations=np.where(third, second.orientations + 90, second.orientations))
    view = pair_overlap(first, second, found)
    assert view.inliers == right
    assert view.rotation_quarters == 1
    assert view.weight == pytest.approx(right / 3, abs=2)
    monkeypatch.setattr(lowres, "_MIN_INLIERS", right + 1)
    assert pair_overlap(first, second, found) == PairOverlap(right, 1, 0)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 30])
def test_degenerate_matches(count):
    nothing = features(np.empty((0, 2)), np.empty(0))
    assert pair_overlap(nothing, nothing, Matches.empty()) == PairOverlap(0, 0, 0)
    one_place = features(np.full((count, 2), 5), np.zeros(count))
    a_line = features(np.stack([np.arange(count), np.zeros(count)], 1), np.zeros(count))
    for other in (one_place, a_line):
        view = pair_overlap(one_place, other, matches(np.arange(count)))
        assert 0 <= view.inliers <= count
        assert view.rotation_quarters == 0
