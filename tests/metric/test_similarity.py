"""The search for the best similarities, compared with a plain program and with cases of known result."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from imc_kit.metric import THRESHOLDS, similarity
from imc_kit.metric.similarity import Search
from imc_kit.types import Float64
from plain_registration import plain_counts, rotation, similar

HERE = np.array(THRESHOLDS)


def registered(truth: Float64, estimated: Float64) -> Search:
    return similarity.register(estimated.T, truth.T, HERE)


def problem(kind: str, n: int, seed: int) -> tuple[Float64, Float64]:
    """True and estimated centres of a scene of some metres."""
    random = np.random.default_rng([n, seed])
    truth = random.normal(size=(n, 3)) * (4, 4, 1)
    noise = random.normal(size=(n, 3))
    estimated = truth + 0.03 * noise
    if kind == "noise of all sizes":
        estimated = truth + noise * np.exp(random.uniform(-5, 0, (n, 1)))
    elif kind == "outliers":
        estimated[: n // 3] = 4 * random.normal(size=(n // 3, 3))
    elif kind == "far outliers":
        estimated = truth + 0.001 * noise
        estimated[: n // 4] += 1e4 * noise[: n // 4]
    elif kind == "two halves":
        estimated = truth + 0.001 * noise
        estimated[: n // 2] += 3
    elif kind == "two scales":
        estimated = truth + 0.001 * noise
        estimated[: n // 3] *= 1.3
    elif kind == "mirror":
        estimated = truth * (1, 1, -1) + 0.03 * noise
    elif kind == "rotated part":
        estimated = truth + 0.003 * noise
        estimated[: n // 3] = estimated[: n // 3] @ rotation(random).T
    elif kind == "clusters":
        truth = 1e5 * random.normal(size=(4, 3))[random.integers(4, size=n)] + random.normal(size=(n, 3))
        estimated = truth + 0.03 * noise
    elif kind == "coincident":
        truth[: n // 4] = truth[-1]
        estimated = truth + 0.03 * noise
        estimated[n // 2 :][:4] = 0
    elif kind == "huge":
        estimated[:2] = [[1e9] * 3, [-1e160, 1, 1e200]]
    elif kind == "all different":
        estimated = 4 * random.normal(size=truth.shape)
    return truth, similar(estimated, random)


KINDS = ("noise", "noise of all sizes", "outliers", "far outliers", "two halves", "two scales", "mirror")
KINDS += ("rotated part", "clusters", "coincident", "huge", "all different")


@pytest.mark.parametrize(("n", "seed"), [(4, 0), (7, 1), (12, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_all_triplets_one_by_one(kind: str, n: int, seed: int, monkeypatch: pytest.MonkeyPatch):
    truth, estimated = problem(kind, n, seed)
    counts, _ = plain_counts(truth, estimated, THRESHOLDS)
    whole = registered(truth, estimated)
    assert whole.counts.tolist() == whole.most.tolist() == counts
    monkeypatch.setattr(similarity, "_TRIPLETS", 16)  # several batches, and a bound
    batches = registered(truth, estimated)
    assert batches.counts.tolist() == batches.most.tolist() == counts
    monkeypatch.setattr(similarity, "EXHAUSTIVE", 3)
    monkeypatch.setattr(similarity, "SAMPLED", 60)
    some, again = registered(truth, estimated), registered(truth, estimated)
    assert (some.counts <= counts).all()
    assert (some.most >= counts).all()
    assert some.tried <= 120
    assert (some.counts == again.counts).all()
    np.testing.assert_array_equal(some.model, again.model)


@pytest.mark.parametrize("seed", range(24))
def test_upper_bound(seed: int):
    truth, estimated = problem(KINDS[seed % len(KINDS)], 9, 100 + seed)
    counts = np.array(plain_counts(truth, estimated, THRESHOLDS)[0])
    with np.errstate(all="ignore"):
        search = similarity.Search(estimated.T, truth.T, HERE)
        for reached in (0, 1):
            search.counts = reached * counts
            assert (search.at_most() >= counts).all()


def test_upper_bound_is_met_where_points_are_right_or_far_off():
    truth, estimated = problem("far outliers", 40, 0)
    search = similarity.Search(estimated.T, truth.T, HERE)
    search.counts[:] = 4
    with np.errstate(all="ignore"):
        assert search.at_most().tolist() == [30] * 6


@pytest.mark.parametrize(("n", "off", "noise"), [(301, 0, 0), (301, 40, 1e-3), (500, 1, 1e-3), (500, 400, 0)])
def test_many_right_and_some_far_off(n: int, off: int, noise: float):
    random = np.random.default_rng(n)
    truth = 10 * random.normal(size=(n, 3))
    estimated = truth + noise * random.normal(size=truth.shape)
    estimated[:off] += 1e3 * random.normal(size=(off, 3))
    found = registered(truth, similar(estimated, random))
    assert found.counts.tolist() == found.most.tolist() == [n - off] * 6
    assert found.tried <= similarity.SAMPLED


def test_some_nearer_than_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "EXHAUSTIVE", 200)
    monkeypatch.setattr(similarity, "SAMPLED", 10_000)
    random = np.random.default_rng(1)
    truth = 10 * random.normal(size=(300, 3))
    moved = random.normal(size=truth.shape)
    moved /= np.linalg.norm(moved, axis=1)[:, None]
    distance = np.repeat([0, 0.07, 0.7, 50], [120, 90, 60, 30])
    found = registered(truth, similar(truth + distance[:, None] * moved, random))
    assert (found.counts >= [120, 120, 210, 210, 210, 270]).all()
    assert (found.most >= found.counts).all()
    assert found.most[-1] == 270
    assert found.tried <= 10_000
    monkeypatch.setattr(similarity, "BOUNDED", 299)
    assert registered(truth, similar(truth + distance[:, None] * moved, random)).most.tolist() == [300] * 6


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_few(n: int):
    points = np.random.default_rng(0).normal(size=(n, 3))
    found = registered(points, points)
    assert found.counts.tolist() == found.most.tolist() == [n if n > 2 else 0] * 6
    assert np.isfinite(found.model).all() == (n > 2)
    assert found.tried == {3: 1, 4: 4}.get(n, 0)


@pytest.mark.parametrize("n", [0, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_triplets_are_all_and_different(n: int, batch: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "_TRIPLETS", batch)
    expected = set(combinations(range(n), 3))
    batches = list(similarity._triplets(n, 10_000))
    found = [tuple(row) for rows in batches for row in rows.tolist()]
    assert max(map(len, batches), default=0) <= batch
    assert len(found) == len(expected)
    assert set(found) == expected
    some = [tuple(row) for rows in similarity._triplets(n, 9) for row in rows.tolist()]
    assert some == found[:9]


def test_triplets_of_very_many_are_spread():
    rows = np.concatenate(list(similarity._triplets(50_000, 40_000)))
    assert len(np.unique(rows, axis=0)) == 40_000
    assert (rows[:, 0] >= 0).all()
    assert (np.diff(rows, axis=1) > 0).all()
    # Means of the smallest, the middle and the largest of three numbers out of [0, 1].
    np.testing.assert_allclose(rows.mean(axis=0) / 50_000, [0.25, 0.5, 0.75], atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_second_fits_by_sums_and_one_by_one(kind: str):
    truth, estimated = problem(kind, 70, 0)
    random = np.random.default_rng(0)
    members = random.random((200, 70)) < random.uniform(0.2, 0.9, (200, 1))
    sets = np.zeros((200, 16), np.uint8)
    sets[:, :9] = np.packbits(members, axis=1)
    with np.errstate(all="ignore"):
        models = similarity.Search(estimated.T, truth.T, HERE)._fit_again(sets.view(np.uint64))
        expected = similarity._similarities(estimated.T, truth.T, members.astype(float))
        moved, there = (each[:, :, :3] @ estimated.T + each[:, :, 3:] for each in (models, expected))
    assert (np.isnan(models) == np.isnan(expected)).all()
    fitted = members & ~np.isnan(moved[:, 0])
    np.testing.assert_allclose(moved.transpose(0, 2, 1)[fitted], there.transpose(0, 2, 1)[fitted], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_largest_core(seed: int):
    random = np.random.default_rng(seed)
    partners = random.random((8, 8)) < random.uniform(0.2, 0.9)
    partners |= partners.T | np.eye(8, dtype=bool)
    sizes = [
        partners[np.ix_(chosen, chosen)].sum(axis=0).min()
        for size in range(1, 9)
        for chosen in combinations(range(8), size)
    ]
    for reached in range(9):
        assert similarity._largest_core(partners, reached) == max(reached, *sizes)
