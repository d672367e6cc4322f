"""VLAD, against its definition, point by point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imc_kit.errors import KitError
from imc_kit.matchers import kmeans
from imc_kit.retrieval import DESCRIPTORS, aggregates
from imc_kit.retrieval.aggregates import VladConfig, vlad
from imc_kit.types import Features

CONFIGS = [VladConfig(size=8), VladConfig(size=8, power=1.0)]


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
def test_vlad_is_the_sum_of_differences(power):
    points, centres = blobs(40, seed=1), blobs(7, seed=2)
    parts = np.zeros((7, 5))
    for point in points:
        nearest = min(range(7), key=lambda c: np.linalg.norm(point - centres[c]))
        parts[nearest] += point - centres[nearest]
    parts = np.sign(parts) * abs(parts) ** power
    for part in parts:
        part /= np.linalg.norm(part) or 1
    found = vlad(points, centres, power)
    np.testing.assert_allclose(found, unit(parts.ravel()), atol=1e-5)
    assert found.dtype == np.float32


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
    assert DESCRIPTORS["vlad"] is VladConfig
    with pytest.raises(KitError, match="unknown descriptor 'vald': did you mean 'vlad'"):
        DESCRIPTORS["vald"]


def test_invalid_options_are_refused():
    for option, value in (("size", 0), ("power", 0.0), ("power", float("nan")), ("sample", 10), ("seed", -1)):
        with pytest.raises(KitError, match=f"{option} of descriptor 'vlad' must be"):
            VladConfig(**{option: value})
