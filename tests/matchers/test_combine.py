"""Joining feature pipelines, against loops that follow the description."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.errors import KitError
from imc_kit.matchers.combine import CombineConfig, join_features, join_matches
from imc_kit.types import Features, Matches

SIZE = (1024, 768)


def features(points, scores=None, size=SIZE):
    points = np.asarray(points, np.float32).reshape(-1, 2)
    scores = np.ones(len(points)) if scores is None else scores
    return Features(points, np.asarray(scores, np.float32), np.zeros((len(points), 4), np.float32), size)


def matches(*rows):
    return Matches(
        np.array([row[:2] for row in rows], np.int32).reshape(-1, 2), np.array([row[2] for row in rows], np.float32)
    )


def parts_of(seed=0, counts=(150, 120, 90), near=0.4):
    """Keypoints of three feature pipelines, many of them at the same corners."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(5, [1000, 740], (100, 2))
    return [
        features(
            np.concatenate([corners[rng.integers(0, 100, count)], rng.uniform(5, [1000, 740], (30, 2))])
            + rng.normal(scale=near, size=(count + 30, 2)),
            rng.uniform(size=count + 30),
        )
        for count in counts
    ]


def by_loops(parts, radius):
    keypoints, rows = [tuple(point) for point in parts[0].keypoints.tolist()], [list(range(len(parts[0])))]
    for part in parts[1:]:
        before = len(keypoints)
        close = []
        for new, point in enumerate(part.keypoints.astype(float)):
            for old in range(before):
                apart = float(np.hypot(*(np.array(keypoints[old]) - point)))
                if apart <= radius:
                    close.append((np.float32(apart), old, new))
        row = {}
        for _, old, new in sorted(close):
            if new not in row and old not in row.values():
                row[new] = old
        for new, point in enumerate(part.keypoints.tolist()):
            if new not in row:
                row[new] = len(keypoints)
                keypoints.append(tuple(point))
        rows.append([row[new] for new in range(len(part))])
    return keypoints, rows


@pytest.mark.parametrize("radius", [0.0, 0.2, 1.0, 5.0])
def test_features_are_joined_as_by_loops(radius):
    parts = parts_of()
    joined, rows = join_features(parts, CombineConfig(radius))
    keypoints, expected = by_loops(parts, radius) if radius else (None, None)
    if radius:
        np.testing.assert_array_equal(joined.keypoints, np.array(keypoints, np.float32))
        assert [row.tolist() for row in rows] == expected
        assert len(joined) < sum(map(len, parts))
    else:
        np.testing.assert_array_equal(joined.keypoints, np.concatenate([part.keypoints for part in parts]))
        np.testing.assert_array_equal(np.concatenate(rows), np.arange(len(joined)))
    assert joined.image_size == SIZE
    assert joined.descriptors.shape == (len(joined), 0)
    for part, row in zip(parts, rows, strict=True):
        assert row.dtype == np.int32
        assert len(set(row.tolist())) == len(part)  # two of one pipeline are never joined
        assert np.linalg.norm(joined.keypoints[row] - part.keypoints, axis=1).max() <= radius + 1e-4
    assert rows[0].tolist() == list(range(len(parts[0])))
    np.testing.assert_array_equal(joined.scores[rows[0]], parts[0].scores)


def test_the_radius_grows_with_the_image():
    parts = [features([[10, 10]], size=(4096, 2048)), features([[11.5, 10]], size=(4096, 2048))]
    assert len(join_features(parts, CombineConfig(0.5))[0]) == 1
    assert len(join_features(parts, CombineConfig(0.3))[0]) == 2


def test_one_pipeline_stays_as_it_is():
    (part, *_) = parts_of()
    joined, (row,) = join_features([part])
    np.testing.assert_array_equal(joined.keypoints, part.keypoints)
    np.testing.assert_array_equal(joined.scores, part.scores)
    found = matches((0, 5, 0.5), (2, 1, 0.9))
    np.testing.assert_array_equal(join_matches([found], [row], [row]).indices, found.indices)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 1), (1, 0), (1, 1), (3, 0, 2)])
def test_none_and_one(counts):
    parts = [
        features(np.full((count, 2), 10.0 * (i + 1)) + np.arange(count)[:, None]) for i, count in enumerate(counts)
    ]
    joined, rows = join_features(parts)
    assert len(joined) == sum(counts)
    assert [len(row) for row in rows] == list(counts)
    assert len(join_matches([Matches.empty() for _ in counts], rows, rows)) == 0


def test_matches_of_pipelines_are_joined_as_by_loops():
    rng = np.random.default_rng(1)
    first, second = parts_of(2), parts_of(3)
    (joined_first, rows_first), (joined_second, rows_second) = (join_features(parts) for parts in (first, second))
    found = []
    for one, other in zip(first, second, strict=True):
        count = min(len(one), len(other)) // 2
        found.append(
            Matches(
                np.stack([np.sort(rng.permutation(len(one))[:count]), rng.permutation(len(other))[:count]], 1).astype(
                    np.int32
                ),
                rng.integers(0, 5, count).astype(np.float32),  # with ties
            )
        )
    joined = join_matches(found, rows_first, rows_second)
    everything = [
        (number, -score, order, rows_first[number][i], rows_second[number][j])
        for number, one in enumerate(found)
        for order, ((i, j), score) in enumerate(zip(one.indices.tolist(), one.scores.tolist(), strict=True))
    ]
    taken, expected = (set(), set()), []
    for _, _, _, i, j in sorted(everything):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            expected.append((int(i), int(j)))
    assert len(expected) < len(everything)
    assert [tuple(pair) for pair in joined.indices.tolist()] == sorted(expected)
    assert (joined.indices.max(0) < [len(joined_first), len(joined_second)]).all()
    # Scores are the order in which they were preferred.
    by_score = joined.indices[np.argsort(-joined.scores)].tolist()
    assert [tuple(pair) for pair in by_score] == expected
    assert joined.scores.max() == 1
    assert joined.scores.min() > 0


def test_what_two_pipelines_found_comes_once_and_contradictions_go_to_the_first():
    left = [features([[10, 10], [50, 50]]), features([[10.2, 10], [50.1, 50], [90, 90]])]
    right = [features([[20, 20], [60, 60]]), features([[20, 20.1], [60.2, 60], [95, 95]])]
    (_, rows_left), (_, rows_right) = join_features(left), join_features(right)
    assert [row.tolist() for row in rows_left] == [[0, 1], [0, 1, 2]]
    joined = join_matches([matches((0, 0, 0.1)), matches((0, 0, 9.0), (2, 2, 5.0))], rows_left, rows_right)
    assert joined.indices.tolist() == [[0, 0], [2, 2]]
    joined = join_matches([matches((0, 0, 0.1)), matches((0, 1, 9.0), (2, 2, 5.0))], rows_left, rows_right)
    assert joined.indices.tolist() == [[0, 0], [2, 2]]
    joined = join_matches([matches((0, 1, 0.1)), matches((0, 0, 9.0), (2, 2, 5.0))], rows_left, rows_right)
    assert joined.indices.tolist() == [[0, 1], [2, 2]]


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="cannot be of several sizes"):
        join_features([features([]), features([], size=(10, 10))])
    row = np.arange(3, dtype=np.int32)
    with pytest.raises(
        KitError, match=r"matches of feature pipeline 2 name keypoints that do not exist \(there are 3 and 2\)"
    ):
        join_matches([matches((0, 0, 1)), matches((0, 2, 1))], [row, row], [row, row[:2]])


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_makes_no_sense_is_refused(radius):
    with pytest.raises(KitError, match="radius of combining must be at least 0"):
        CombineConfig(radius)
