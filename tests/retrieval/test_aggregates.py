"""VLAD and Fisher vectors: against their definitions, point by point, and against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from imc_kit.errors import KitError
from imc_kit.matchers import kmeans
from imc_kit.retrieval import DESCRIPTORS, FisherConfig, VladConfig, aggregates, descriptor_class
from imc_kit.retrieval.aggregates import expectation_maximisation, fisher, fit_mixture, principal_axes, vlad
from imc_kit.types import Features

CONFIGS = [VladConfig(size=8), VladConfig(size=8, intra=False, power=1.0), FisherConfig(size=4, dimension=32)]


def blobs(count: int, dimension: int = 5, seed: int = 0, centres: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    middle = random.normal(size=(centres, dimension)) * 4
    return (middle[random.integers(centres, size=count)] + random.normal(size=(count, dimension))).astype(np.float32)


def features(descriptors: np.ndarray) -> Features:
    n = len(descriptors)
    return Features(np.zeros((n, 2), np.float32), np.ones(n, np.float32), descriptors, (10, 10))


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("intra", [False, True])
def test_vlad_is_the_sum_of_differences(power, intra):
    points, centres = blobs(40, seed=1), blobs(7, seed=2)
    parts = np.zeros((7, 5))
    for point in points:
        nearest = min(range(7), key=lambda c: np.linalg.norm(point - centres[c]))
        parts[nearest] += point - centres[nearest]
    parts = np.sign(parts) * abs(parts) ** power
    if intra:
        for part in parts:
            part /= np.linalg.norm(part) or 1
    found = vlad(points, centres, power, intra)
    np.testing.assert_allclose(found, unit(parts.ravel()), atol=1e-5)
    assert found.dtype == np.float32


def test_fisher_is_the_gradient_of_the_likelihood():
    """By finite differences of what scikit-learn says the likelihood is."""
    points = blobs(30, 3, seed=3).astype(np.float64)
    mixture = fit_mixture(blobs(300, 3, seed=4), 4, 0)
    spread = np.sqrt(mixture.variances)

    def likelihood(means, spread):
        theirs = GaussianMixture(4, covariance_type="diag")
        theirs.weights_, theirs.means_, theirs.precisions_cholesky_ = mixture.weights, means, 1 / spread
        return theirs.score_samples(points).mean()

    by_mean, by_spread = np.zeros((4, 3)), np.zeros((4, 3))
    for place in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[place] = 1e-5
        by_mean[place] = likelihood(mixture.means + step, spread) - likelihood(mixture.means - step, spread)
        by_spread[place] = likelihood(mixture.means, spread + step) - likelihood(mixture.means, spread - step)
    scale = spread / np.sqrt(mixture.weights)[:, None]
    expected = np.concatenate([(by_mean * scale).ravel(), (by_spread * scale / np.sqrt(2)).ravel()])
    np.testing.assert_allclose(fisher(points, mixture, 1.0), unit(expected), atol=1e-6)
    expected = unit(np.sign(expected) * np.sqrt(np.abs(expected)))
    np.testing.assert_allclose(fisher(points, mixture, 0.5), expected, atol=1e-4)


def test_shares_are_scikit_learns():
    points = blobs(200, seed=5).astype(np.float64)
    mixture = fit_mixture(points, 6, 0)
    theirs = GaussianMixture(6, covariance_type="diag")
    theirs.weights_, theirs.means_ = mixture.weights, mixture.means
    theirs.precisions_cholesky_ = 1 / np.sqrt(mixture.variances)
    np.testing.assert_allclose(mixture.shares(points), theirs.predict_proba(points), atol=1e-9)


@pytest.mark.parametrize("rounds", [1, 2, 10])
def test_expectation_maximisation_goes_as_scikit_learns(rounds):
    points = blobs(400, 4, seed=9).astype(np.float64)
    start = fit_mixture(points[:50], 5, 1)
    theirs = GaussianMixture(
        5,
        covariance_type="diag",
        reg_covar=0,
        tol=0,
        max_iter=rounds,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=1 / start.variances,
    )
    with pytest.warns(match="converge"):
        theirs.fit(points)
    ours = expectation_maximisation(points, start.shares(points), rounds)
    np.testing.assert_allclose(ours.weights, theirs.weights_, atol=1e-8)
    np.testing.assert_allclose(ours.means, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(ours.variances, theirs.covariances_, atol=1e-6)


def test_no_component_shrinks_to_a_point():
    points = np.concatenate([np.zeros((100, 3)), blobs(50, 3)]).astype(np.float32)
    mixture = fit_mixture(points, 8, 0)
    assert (mixture.variances >= 0.99e-2 * points.var(0)).all()
    assert np.isfinite(fisher(points, mixture, 0.5)).all()


def test_principal_axes_are_where_the_points_vary():
    random = np.random.default_rng(0)
    turned = np.linalg.qr(random.normal(size=(4, 4)))[0]
    points = (random.normal(size=(1000, 4)) * [10, 5, 1, 0.1] @ turned + 100).astype(np.float32)
    axes = principal_axes(points, 2)
    np.testing.assert_allclose(np.abs(turned[:2] @ axes), np.eye(2), atol=0.1)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-5)
    assert principal_axes(points, 9).shape == (4, 4)


def scene(dtype: type = np.float32, places: int = 4, views: int = 5) -> dict[str, Features]:
    """Each place has descriptors of its own, of which each view shows some."""
    random = np.random.default_rng(0)
    found = {}
    for place in range(places):
        if dtype == np.uint8:
            there = random.integers(0, 256, (60, 8), np.uint8)
        else:
            there = random.normal(size=(60, 16)).astype(dtype)
        for view in range(views):
            shown = there[random.permutation(60)[:40]]
            if dtype == np.uint8:
                shown = shown ^ np.packbits(random.random((40, 64)) < 0.05, axis=1)
            else:
                shown = (shown + 0.1 * random.normal(size=shown.shape)).astype(dtype)
            found[f"{place}/{view}.jpg"] = features(shown)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_views_of_one_place_are_alike(config, dtype):
    views = scene(dtype)
    rows = config.create().describe(list(views), views.__getitem__)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    similarity = rows @ rows.T
    same = np.equal.outer([name[0] for name in views], [name[0] for name in views])
    assert similarity[same].min() > similarity[~same].max()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_same_images_give_the_same_rows(config):
    views = scene()
    first, second = (config.create().describe(list(views), views.__getitem__) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_of_an_image_the_strongest_keypoints_alone_can_count(config):
    views = scene()
    most = min(map(len, views.values())) // 2
    few = {name: features(view.descriptors[:most]) for name, view in views.items()}
    limited = replace(config, keypoints=most).create().describe(list(views), views.__getitem__)
    np.testing.assert_array_equal(limited, config.create().describe(list(few), few.__getitem__))
    with pytest.raises(KitError, match=r"keypoints of descriptor .* must be at least 1, or None"):
        replace(config, keypoints=0)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_few_images_and_few_features_are_ordinary(config):
    some = features(blobs(30))
    one, none, equal = features(blobs(1)), Features.empty((10, 10), 5), features(np.ones((9, 5), np.float32))
    describe = config.create().describe
    assert len(describe([], {}.__getitem__)) == 0
    for case in ([none], [none, none], [one], [one, one], [equal, equal], [some, none], [none, some, equal, one]):
        rows = describe([str(i) for i in range(len(case))], lambda name, case=case: case[int(name)])
        assert len(rows) == len(case)
        assert rows.dtype == np.float32
        lengths = np.linalg.norm(rows, axis=1)
        for length, entry in zip(lengths, case, strict=True):
            assert length == pytest.approx(1, abs=1e-5) or length == 0
            assert length == 0 or len(entry)
        if len(case) > 1 and some in case:
            assert lengths[case.index(some)] == pytest.approx(1, abs=1e-5)


def test_memory_is_for_a_sample_and_one_image(monkeypatch):
    """Images are asked for one by one, and the vocabulary is learned from no more than it says."""
    monkeypatch.setattr(aggregates, "_SAMPLED_IMAGES", 10)
    learned_from = []
    monkeypatch.setattr(kmeans, "k_means", lambda points, *_: (learned_from.append(points), points[:8])[1])
    asked = []

    def get(name):
        asked.append(name)
        return features(blobs(50, seed=int(name)))

    names = [str(i) for i in range(30)]
    VladConfig(size=8, sample=100).create().describe(names, get)
    assert len(learned_from[0]) == 100
    assert len(set(asked[:10])) == 10
    assert asked[10:] == names


def test_the_vocabulary_is_learned_where_there_are_features(monkeypatch):
    monkeypatch.setattr(aggregates, "_SAMPLED_IMAGES", 2)
    full = features(blobs(30))
    rows = (
        VladConfig(size=4)
        .create()
        .describe([str(i) for i in range(40)], lambda name: full if name == "17" else Features.empty((9, 9), 5))
    )
    assert np.flatnonzero(rows.any(1)).tolist() == [17]


def test_registry():
    assert descriptor_class("vlad") is VladConfig
    assert all(config.name == name for name, config in DESCRIPTORS.items())
    with pytest.raises(KitError, match="unknown descriptor 'fischer': did you mean 'fisher'"):
        descriptor_class("fischer")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (VladConfig, {"size": 0}),
        (VladConfig, {"power": 0.0}),
        (VladConfig, {"power": 1.5}),
        (VladConfig, {"sample": 10}),
        (VladConfig, {"seed": -1}),
        (FisherConfig, {"dimension": 0}),
    ],
)
def test_options_that_make_no_sense_are_refused(config, options):
    (option,) = options
    with pytest.raises(KitError, match=f"{option} of descriptor '{config.name}' must be"):
        config(**options)
