"""Merging what photo matchers found, against loops that follow the description."""

from __future__ import annotations

import time
from itertools import combinations, permutations

import numpy as np
import pytest

from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.matchers import photo_points
from imc_kit.matchers.photo_points import MergeConfig, merge
from imc_kit.types import Correspondences, Features

SIZES = {"a": (1024, 768), "b": (768, 1024), "c": (512, 512), "nobody": (100, 100)}
NONE = {name: Features.empty(size, 0) for name, size in SIZES.items()}


def points(rng, size, count):
    """Around places that several pairs find, with a little noise."""
    places = np.random.default_rng(sum(size)).uniform(5, np.array(size) - 6, (40, 2))
    noise = rng.normal(scale=0.7, size=(count, 2)) * (rng.random((count, 1)) < 0.7)  # some exactly there
    return (places[rng.integers(0, 40, count)] + noise).astype(np.float32)


def scene(seed=0, count=120):
    rng = np.random.default_rng(seed)
    return {
        (one, other): Correspondences(
            points(rng, SIZES[one], count),
            points(rng, SIZES[other], count),
            rng.uniform(0.2, 1, count).astype(np.float32),
        )
        for one, other in combinations("abc", 2)
    }


def clusters_by_loops(xy, scores, radius):
    """Keypoints, their scores, and the number of each point's keypoint, slowly."""
    step = radius / 8
    spots = {}
    for row in np.lexsort((scores, xy[:, 1], xy[:, 0])):
        spots.setdefault(tuple(np.rint(xy[row, ::-1].astype(float) / step).astype(int)), []).append(row)
    spots = [spots[key] for key in sorted(spots)]
    weights = [sum(float(scores[row]) for row in rows) for rows in spots]
    places = [
        sum(float(scores[row]) * xy[row].astype(float) for row in rows) / weight
        for rows, weight in zip(spots, weights, strict=True)
    ]
    apart = [[float(np.hypot(*(p - q))) for q in places] for p in places]
    density = [sum(w for w, d in zip(weights, row, strict=True) if d <= radius) for row in apart]
    by_rank = sorted(range(len(spots)), key=lambda s: (-density[s], s))
    centres = []
    for spot in by_rank:
        if all(apart[spot][centre] > radius for centre in centres):
            centres.append(spot)
    members = {centre: [] for centre in centres}
    for spot in range(len(spots)):
        members[min(centres, key=lambda centre: apart[spot][centre])].append(spot)
    keypoints = []
    for centre in centres:
        total = sum(weights[spot] for spot in members[centre])
        mean = sum(weights[spot] * places[spot] for spot in members[centre]) / total
        keypoints.append((total, mean, [row for spot in members[centre] for row in spots[spot]]))
    keypoints.sort(key=lambda one: -one[0])
    numbers = np.full(len(xy), -1)
    for number, (_, _, rows) in enumerate(keypoints):
        numbers[rows] = number
    return np.array([mean for _, mean, _ in keypoints]), np.array([total for total, _, _ in keypoints]), numbers


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.0, 10.0, 300.0])
def test_clusters_are_those_of_loops(radius):
    rng = np.random.default_rng(int(radius))
    xy, scores = points(rng, (640, 480), 250), rng.uniform(0.2, 1, 250).astype(np.float32)
    keypoints, strengths, numbers = photo_points._cluster(xy, scores, radius)
    expected, totals, owners = clusters_by_loops(xy, scores, radius)
    np.testing.assert_allclose(keypoints, expected, atol=1e-4)
    np.testing.assert_allclose(strengths, totals, rtol=1e-5)
    np.testing.assert_array_equal(numbers, owners)
    assert np.linalg.norm(xy - keypoints[numbers], axis=1).max() < 2 * radius


def test_matches_join_the_keypoints_of_their_points():
    pairs = scene()
    features, matches = merge(pairs, NONE)
    assert list(features) == list(SIZES)
    assert list(matches) == list(pairs)
    for image, size in SIZES.items():
        assert features[image].image_size == size
        assert features[image].descriptors.shape == (len(features[image]), 0)
        assert (np.diff(features[image].scores) <= 0).all()
    assert len(features["nobody"]) == 0
    assert 40 <= len(features["a"]) < 100  # of 240 points
    for (one, other), found in pairs.items():
        indices = matches[one, other].indices
        assert (np.diff(indices[:, 0]) > 0).all()
        assert len(set(indices[:, 1].tolist())) == len(indices)
        # Greedily, by loops: each correspondence between the keypoints of its two points.
        owners = []
        for image in (one, other):
            ends = [(p, side) for p in pairs for side in (0, 1) if p[side] == image]
            xy = np.concatenate([(pairs[p].first, pairs[p].second)[side] for p, side in ends])
            scores = np.concatenate([pairs[p].scores for p, _ in ends])
            numbers = clusters_by_loops(xy, scores, 2.0 * max(SIZES[image]) / 1024)[2]
            place = ends.index(((one, other), (one, other).index(image)))
            owners.append(numbers[120 * place : 120 * (place + 1)])
        taken, expected = (set(), set()), {}
        for row in np.argsort(-found.scores, kind="stable"):
            i, j = owners[0][row], owners[1][row]
            if i not in taken[0] and j not in taken[1]:
                taken[0].add(i)
                taken[1].add(j)
                expected[i, j] = found.scores[row]
        assert {tuple(pair) for pair in indices.tolist()} == set(expected)
        np.testing.assert_array_equal(matches[one, other].scores, [expected[tuple(pair)] for pair in indices.tolist()])


def test_the_order_of_pairs_and_points_makes_no_difference():
    pairs = scene(1)
    features, matches = merge(pairs, NONE)
    rng = np.random.default_rng(0)
    for names in permutations(pairs):
        shuffled = {}
        for name in names:
            one, order = pairs[name], rng.permutation(120)
            shuffled[name] = Correspondences(one.first[order], one.second[order], one.scores[order])
        others, found = merge(shuffled, NONE)
        for image in SIZES:
            np.testing.assert_array_equal(others[image].keypoints, features[image].keypoints)
            np.testing.assert_array_equal(others[image].scores, features[image].scores)
        for name in names:
            np.testing.assert_array_equal(found[name].indices, matches[name].indices)
            np.testing.assert_array_equal(found[name].scores, matches[name].scores)


def test_three_images_share_a_keypoint_where_their_points_meet():
    """Each of three pairs sees the same corner, half a pixel apart."""

    def one(x, y):
        return np.array([[x, y]], np.float32)

    score = np.ones(1, np.float32)
    pairs = {
        ("a", "b"): Correspondences(one(100, 100), one(200, 300), score),
        ("b", "c"): Correspondences(one(200.5, 300), one(40, 50), score),
        ("a", "c"): Correspondences(one(100, 100.5), one(40, 50.25), score),
    }
    features, matches = merge(pairs, NONE, MergeConfig(1.0))
    assert [len(one) for one in features.values()] == [1, 1, 1, 0]
    np.testing.assert_allclose(features["a"].keypoints, [[100, 100.25]])
    np.testing.assert_allclose(features["b"].keypoints, [[200.25, 300]])
    assert all(one.indices.tolist() == [[0, 0]] for one in matches.values())
    features, _ = merge(pairs, NONE, MergeConfig(0.1))
    assert [len(one) for one in features.values()] == [2, 2, 2, 0]


def test_nothing_and_scores_of_no_weight():
    assert merge({}, {}) == ({}, {})
    none = np.empty((0, 2), np.float32)
    features, matches = merge({("a", "b"): Correspondences(none, none, none[:, 0])}, NONE)
    assert [len(one) for one in features.values()] == [0, 0, 0, 0]
    assert len(matches["a", "b"]) == 0
    xy = np.array([[3, 3], [3.5, 3], [9, 9]], np.float32)
    for score in (0, -1):
        found = Correspondences(xy, xy, np.full(3, score, np.float32))
        features, matches = merge({("a", "b"): found}, NONE)
        np.testing.assert_allclose(features["a"].keypoints, [[3.25, 3], [9, 9]], atol=1e-4)
        assert matches["a", "b"].indices.tolist() == [[0, 0], [1, 1]]


def test_points_close_to_a_given_keypoint_become_it():
    """Each end of a correspondence on its own; the others become further keypoints, as without given ones."""
    keypoints = np.array([[100, 100], [300, 300], [100.5, 100], [900, 700]], np.float32)
    known = Features(keypoints, np.array([4, 3, 2, 1], np.float32), np.ones((4, 8), np.float32), SIZES["a"])
    given = NONE | {"a": known}
    ends = np.array([[100.1, 100], [299.2, 300], [300.5, 300], [302, 300], [500, 500], [900, 700.9]], np.float32)
    others = np.array([[10, 10], [20, 20], [30, 30], [40, 40], [50, 50], [60, 60]], np.float32)
    found = Correspondences(ends, others, np.array([0.9, 0.5, 0.6, 0.7, 0.8, 0.4], np.float32))
    features, matches = merge({("a", "b"): found}, given)
    np.testing.assert_array_equal(features["a"].keypoints, [*keypoints, [500, 500], [302, 300]])
    np.testing.assert_allclose(features["a"].scores, [4, 3, 2, 1, 0.8, 0.7])
    assert features["a"].descriptors.shape == (6, 0)
    found = matches["a", "b"]
    pairs = {tuple(ends): score for ends, score in zip(found.indices.tolist(), found.scores.tolist(), strict=True)}
    rows = {tuple(xy): row for row, xy in enumerate(features["b"].keypoints.tolist())}
    partner = {0: (10, 10), 1: (30, 30), 3: (60, 60), 4: (50, 50), 5: (40, 40)}  # of two at keypoint 1, the better one
    assert {(one, rows[other]) for one, other in partner.items()} == set(pairs)
    assert pairs[1, rows[30, 30]] == pytest.approx(0.6)
    exact, _ = merge(
        {("a", "b"): Correspondences(keypoints[:2], others[:2], found.scores[:2])}, given, MergeConfig(snap=0)
    )
    np.testing.assert_array_equal(exact["a"].keypoints, keypoints)
    nothing, none = merge({}, given)
    np.testing.assert_array_equal(nothing["a"].keypoints, keypoints)
    assert none == {}


def test_the_edges_of_the_image_stay_inside():
    corners = np.array([[-0.5, -0.5], [1023.5, 767.5]], np.float32)
    others = np.array([[-0.5, 1023.5], [767.5, -0.5]], np.float32)
    features, _ = merge({("a", "b"): Correspondences(corners, others, np.ones(2, np.float32))}, NONE)
    np.testing.assert_array_equal(np.sort(features["a"].keypoints, 0), corners)


def test_features_without_descriptors_are_stored(tmp_path):
    features, _ = merge(scene(), NONE)
    Store(tmp_path).features("x").put(features)
    table = Store(tmp_path).features("x")
    for image, one in features.items():
        back: Features = table[image]
        np.testing.assert_array_equal(back.keypoints, one.keypoints)
        assert back.descriptors.shape == one.descriptors.shape
        assert back.descriptors.dtype == np.uint8


def test_very_many_points_at_nearly_the_same_place():
    """Their distances to each other would not fit into memory."""
    rng = np.random.default_rng(0)
    xy = (rng.uniform(0, 3, (200_000, 2)) + 500).astype(np.float32)
    started = time.process_time()
    keypoints, strengths, numbers = photo_points._cluster(xy, np.ones(200_000, np.float32), 2.0)
    assert time.process_time() - started < 10
    assert len(keypoints) == 5  # the middle of the square, and its corners
    assert strengths.sum() == 200_000
    assert len(numbers) == 200_000


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_that_makes_no_sense_is_refused(radius):
    with pytest.raises(KitError, match="radius of merging must be larger than 0"):
        MergeConfig(radius)


@pytest.mark.parametrize("snap", [-1.0, float("nan"), float("inf")])
def test_a_distance_that_makes_no_sense_is_refused(snap):
    with pytest.raises(KitError, match="snap of merging must be at least 0"):
        MergeConfig(snap=snap)
