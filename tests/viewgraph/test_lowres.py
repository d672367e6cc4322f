"""Low-resolution matching, against known geometry and photos that were rotated on purpose."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import cv2
import numpy as np
import pytest

from imc_kit.data import images
from imc_kit.detectors import extract
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.types import Features, Matches
from imc_kit.viewgraph.lowres import LowResConfig, PairOverlap, pair_overlap
from imc_kit.viewgraph.orientation import assign_rotations
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


def test_the_limit_on_errors_is_a_share_of_the_longer_side():
    first, second, found, right = two_views(300, 0, noise=4)
    tight, wide = (
        pair_overlap(first, second, found, LowResConfig(max_error=error)).inliers for error in (0.0005, 0.05)
    )
    assert tight < 0.5 * right
    assert wide == right


def test_pairs_with_nothing_in_common_have_no_say():
    for _ in range(20):
        first, second, found, _ = two_views(0, int(RNG.integers(0, 60)))
        view = pair_overlap(first, second, found)
        assert view.inliers < 12
        assert view.weight == 0


def test_weight_is_the_lead_over_the_next_best():
    first, second, found, right = two_views(200, 0, 1)
    third = np.arange(len(second)) % 3 == 0
    second = dataclasses.replace(second, orientations=np.where(third, second.orientations + 90, second.orientations))
    view = pair_overlap(first, second, found)
    assert view.inliers == right
    assert view.rotation_quarters == 1
    assert view.weight == pytest.approx(right / 3, abs=2)
    assert pair_overlap(first, second, found, LowResConfig(min_inliers=right + 1)) == PairOverlap(right, 1, 0)


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


def test_features_without_orientations_are_refused():
    first, second, found, _ = two_views(20, 0)
    with pytest.raises(ValueError, match="orientations"):
        pair_overlap(dataclasses.replace(first, orientations=None), second, found)


@pytest.mark.parametrize("options", [{"max_error": 0}, {"max_error": 1}, {"min_inliers": -1}, {"trials": 0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(KitError, match=f"{next(iter(options))} of low-resolution matching"):
        LowResConfig(**options)


def rotations_found(paths, side=480):
    detector = SiftConfig(max_keypoints=512, long_side=side).create()
    matcher = NearestConfig(ratio=0.8).create()
    found = {path.name: extract(detector, [images.load(path, side)])[0] for path in paths}
    relative = {}
    for a, b in combinations(found, 2):
        view = pair_overlap(found[a], found[b], matcher.match(found[a], found[b]))
        relative[a, b] = (view.rotation_quarters, view.weight)
    return assign_rotations(list(found), relative)


def test_rotated_photos_are_found_and_others_left_alone(shared):
    """The same photos, once as they were taken and once rotated; by how much is read off their pixels."""
    folder = shared / "scenes" / "test"
    plain, rotated = (
        sorted((folder / scene / "images").iterdir())[3:8] for scene in ("fountain_P11", "fountain_P11_rotated")
    )
    assert set(rotations_found(plain).values()) == {0}

    undone = []
    for upright, other in zip(plain, rotated, strict=True):
        pixels = [cv2.resize(images.load(path, 256).pixels, (64, 64)).astype(int) for path in (upright, other)]
        errors = [np.abs(np.rot90(pixels[1], -quarters) - pixels[0]).mean() for quarters in range(4)]
        assert sorted(errors)[0] < 0.3 * sorted(errors)[1]
        undone.append(int(np.argmin(errors)))
    assert len(set(undone)) > 2
    found = list(rotations_found(rotated).values())
    left = {(a - b) % 4 for a, b in zip(undone, found, strict=True)}
    assert len(left) == 1  # the same way up, whichever that is
    assert found.count(0) == max(undone.count(quarters) for quarters in range(4))
