"""Mutual nearest neighbours, against OpenCV, scikit-learn and plain formulas."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import cv2
import numpy as np
import pytest

from imc_kit import matchers
from imc_kit.config import feature_pipeline
from imc_kit.errors import KitError
from imc_kit.matchers import inverted_index, nearest, nearest_gpu
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.types import Features


def described(descriptors):
    """Features with these descriptors; where they are does not matter to the matcher."""
    count = len(descriptors)
    return Features(np.zeros((count, 2), np.float32), np.ones(count, np.float32), descriptors, (10, 10))


def match(first, second, **options):
    return NearestConfig(**options).create().match(described(first), described(second))


def pairs(matches):
    return [tuple(pair) for pair in matches.indices.tolist()]


def by_opencv(first, second):
    norm = cv2.NORM_HAMMING if first.dtype == np.uint8 else cv2.NORM_L2
    found = cv2.BFMatcher(norm, crossCheck=True).match(first, second)
    return sorted((one.queryIdx, one.trainIdx) for one in found)


def by_sklearn(first, second):
    if first.dtype == np.uint8:
        first, second = np.unpackbits(first, axis=1), np.unpackbits(second, axis=1)
    metric = "hamming" if first.dtype == np.uint8 else "euclidean"
    from sklearn.neighbors import NearestNeighbors  # here, because it takes seconds in each worker of pytest-xdist

    there = NearestNeighbors(n_neighbors=1, metric=metric, algorithm="brute").fit(second).kneighbors(first)[1][:, 0]
    back = NearestNeighbors(n_neighbors=1, metric=metric, algorithm="brute").fit(first).kneighbors(second)[1][:, 0]
    return [(i, j) for i, j in enumerate(there.tolist()) if back[j] == i]


def noisy_pair(rng, shape=(700, 900), dimension=128):
    """Two sets of float descriptors, of which a third are noisy copies."""
    first, second = (rng.normal(size=(count, dimension)).astype(np.float32) for count in shape)
    copied = min(shape) // 3
    second[rng.permutation(shape[1])[:copied]] = first[:copied] + 0.5 * rng.normal(size=(copied, dimension))
    return first, second


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


FLOATS = {
    "normal": lambda values: values,
    "unit": unit,
    "root": lambda values: np.sqrt(np.abs(values) / np.abs(values).sum(1, keepdims=True)),
    "of very different lengths": lambda values: values * np.linspace(0.1, 10, len(values), dtype=np.float32)[:, None],
    "far from the origin": lambda values: values + 1000,
    "whole numbers": lambda values: np.rint(40 * np.abs(values)),
}


@pytest.mark.parametrize("kind", FLOATS)
def test_float_descriptors_match_as_with_opencv_and_sklearn(kind):
    first, second = (FLOATS[kind](one).astype(np.float32) for one in noisy_pair(np.random.default_rng(1)))
    found = pairs(match(first, second))
    assert len(found) > 30
    assert found == by_opencv(first, second)
    # In double precision: with float32 scikit-learn itself loses the digits of what is far from the origin.
    assert found == by_sklearn(first.astype(np.float64), second.astype(np.float64))


@pytest.mark.parametrize("width", [1, 32, 61])
def test_binary_descriptors_match_as_with_opencv(width):
    """Ties, of which short descriptors have many, included."""
    rng = np.random.default_rng(width)
    first, second = (rng.integers(0, 256, (count, width), np.uint8) for count in (500, 450))
    second[:150] = first[200:350] ^ (rng.random((150, width)) < 0.2)
    found = pairs(match(first, second))
    assert found
    assert found == by_opencv(first, second)


def test_binary_descriptors_without_ties_match_as_with_sklearn():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (300, 32), np.uint8)
    second = first[rng.permutation(300)]
    second[:, 0] ^= 1
    found = pairs(match(first, second))
    assert len(found) == 300
    assert found == by_sklearn(first, second)


@pytest.mark.parametrize("block", [1, 1000])
@pytest.mark.parametrize("binary", [False, True])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block, binary):
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 9, (150, 2), np.uint8), rng.integers(0, 9, (130, 2), np.uint8)  # many ties
    if not binary:
        first, second = first.astype(np.float32), second.astype(np.float32)
    monkeypatch.setattr(nearest, "_CPU_BLOCK", block)
    assert pairs(match(first, second)) == by_opencv(first, second)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("ratio", [0.8, 1.0])
def test_ratio_is_lowes_test_in_both_directions(monkeypatch, binary, ratio):
    monkeypatch.setattr(nearest, "_CPU_BLOCK", 50_000)  # several blocks
    rng = np.random.default_rng(3)
    first, second = noisy_pair(rng, (300, 260), 32)
    if binary:
        first, second = (np.packbits(one > 0, axis=1) for one in (first, second))
        matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
    else:
        matcher = cv2.BFMatcher(cv2.NORM_L2)

    def passing(query, train):
        return {
            (a.queryIdx, a.trainIdx) for a, b in matcher.knnMatch(query, train, 2) if a.distance < ratio * b.distance
        }

    expected = passing(first, second) & {(i, j) for j, i in passing(second, first)}
    found = pairs(match(first, second, ratio=ratio))
    assert found == sorted(expected)
    assert len(found) > 20
    assert ratio == 1 or len(found) < len(match(first, second))


def test_ratio_refuses_repeated_descriptors():
    """Both distances are 0, whatever rounding makes of them."""
    rng = np.random.default_rng(4)
    first = unit(rng.normal(size=(60, 128)))
    second = np.concatenate([first[:30], first])  # the first thirty occur twice
    assert pairs(match(first, second, ratio=0.9)) == [(i, i + 30) for i in range(30, 60)]
    assert pairs(match(second, first, ratio=0.9)) == [(i + 30, i) for i in range(30, 60)]


def test_ratio_passes_where_there_is_no_second():
    one, binary = np.ones((1, 4), np.float32), np.full((1, 4), 7, np.uint8)
    assert pairs(match(one, one + 1, ratio=0.01)) == [(0, 0)]
    assert pairs(match(binary, binary ^ 255, ratio=0.01)) == [(0, 0)]


def test_limits_and_scores():
    first, second = noisy_pair(np.random.default_rng(5), (400, 380), 64)
    first, second = unit(first), unit(second)
    everything = match(first, second)
    i, j = everything.indices.T
    np.testing.assert_allclose(everything.scores, (first[i] * second[j]).sum(1), atol=1e-5)  # the cosine
    score = float(np.median(everything.scores)) + 1e-4
    assert pairs(match(first, second, min_score=score)) == [
        pair for pair, one in zip(pairs(everything), everything.scores, strict=True) if one >= score
    ]


def test_limits_and_scores_of_binary_descriptors():
    first = np.zeros((4, 3), np.uint8)
    second = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255]], np.uint8)
    matches = match(second, second ^ np.array([[1, 0, 0], [3, 0, 0], [7, 0, 0], [15, 0, 0]], np.uint8))
    np.testing.assert_allclose(matches.scores, [23 / 24, 22 / 24, 21 / 24, 20 / 24], rtol=1e-6)
    limited = match(second, second ^ np.array([[1, 0, 0], [3, 0, 0], [7, 0, 0], [15, 0, 0]], np.uint8), min_score=0.9)
    assert pairs(limited) == [(0, 0), (1, 1)]
    assert pairs(match(first, second)) == [(0, 0)]  # all the same: the lowest index


def test_none_and_one():
    none, one = np.empty((0, 8), np.float32), np.ones((1, 8), np.float32)
    many = np.random.default_rng(6).normal(size=(20, 8)).astype(np.float32)
    for binary in (False, True):
        a, b, c = ((x.astype(np.uint8) if binary else x) for x in (none, one, many))
        for first, second in ((a, a), (a, b), (b, a), (a, c), (c, a)):
            assert len(match(first, second, ratio=0.8)) == 0
        assert pairs(match(b, b)) == [(0, 0)]
        assert pairs(match(b, c)) == by_opencv(b, c)
        assert pairs(match(c, b)) == by_opencv(c, b)


def test_half_precision_is_that_of_the_descriptors_only():
    first, second = (unit(one) for one in noisy_pair(np.random.default_rng(7)))
    halves = first.astype(np.float16), second.astype(np.float16)
    assert pairs(match(*halves)) == pairs(match(*(half.astype(np.float32) for half in halves)))
    assert pairs(match(halves[0], second)) == pairs(match(halves[0].astype(np.float32), second))


def test_descriptors_that_cannot_be_compared_are_refused():
    with pytest.raises(KitError, match=r"\[N, 8\] cannot be matched with .* \[N, 9\]"):
        match(np.ones((3, 8), np.float32), np.ones((3, 9), np.float32))
    with pytest.raises(KitError, match=r"float32 .* uint8"):
        match(np.ones((3, 8), np.float32), np.ones((0, 8), np.uint8))


def test_the_same_from_many_threads():
    first, second = noisy_pair(np.random.default_rng(8))
    matcher = NearestConfig(ratio=0.9).create()
    expected = matcher.match(described(first), described(second))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: matcher.match(described(first), described(second)), range(12)):
            np.testing.assert_array_equal(found.indices, expected.indices)
            np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["unit", "whole numbers", "one", "binary"])
def test_torch_gives_what_numpy_gives(monkeypatch, kind):
    """The code for a GPU, on the CPU. Whole numbers are shifted to the origin."""
    torch = pytest.importorskip("torch")
    first, second = noisy_pair(np.random.default_rng(9), dimension=64)
    if kind == "binary":
        first, second = (np.packbits(one > 0, axis=1) for one in (first, second))
    elif kind == "one":
        first, second = unit(first[:1]), unit(second[:1])
    else:
        first, second = (FLOATS[kind](one).astype(np.float32) for one in (first, second))
    expected = match(first, second, ratio=0.9)
    monkeypatch.setattr(nearest_gpu, "torch_with_gpu", lambda wanted: torch)
    monkeypatch.setattr(torch, "tensor", lambda values, dtype, device, make=torch.tensor: make(values, dtype=dtype))
    monkeypatch.setattr(nearest_gpu, "_GPU_BLOCK", 100_000)
    found = match(first, second, ratio=0.9, device="cuda")
    assert len(found) > 100 or kind == "one"
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)


def test_features_go_to_the_gpu_once(monkeypatch):
    torch = pytest.importorskip("torch")
    went = []
    monkeypatch.setattr(nearest_gpu, "torch_with_gpu", lambda wanted: torch)

    def place(values, dtype, device, make=torch.tensor):
        went.append(device)
        return make(values, dtype=dtype)

    monkeypatch.setattr(torch, "tensor", place)
    matcher = NearestConfig(device="cuda").create()
    features = [described(unit(np.random.default_rng(9).normal(size=(count, 16)))) for count in (50, 60, 70)]
    for _ in range(2):
        matcher.match_batch(list(combinations(features, 2)))
    assert went == ["cuda:0"] * 3


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    first, second = (unit(one) for one in noisy_pair(np.random.default_rng(9)))
    expected = match(first, second)
    monkeypatch.setitem(sys.modules, "torch", None)  # not even torch
    np.testing.assert_array_equal(match(first, second, device="auto").scores, expected.scores)
    with pytest.raises(KitError, match=r"matching on a GPU needs torch \(pip install"):
        NearestConfig(device="cuda").create()
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.testing.assert_array_equal(match(first, second, device="auto").scores, expected.scores)


def test_a_gpu_gives_what_the_cpu_gives():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(KitError, match="no GPU"):
            NearestConfig(device="cuda").create()
        return
    first, second = (unit(one) for one in noisy_pair(np.random.default_rng(10)))
    expected, found = match(first, second, ratio=0.9), match(first, second, ratio=0.9, device="cuda")
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_invalid_options_are_refused():
    for option, values in {
        "ratio": (0.0, 1.1, float("nan")),
        "min_score": (2.0,),
        "cells": (5, 2**15),
        "device": ("tpu",),
    }.items():
        for value in values:
            with pytest.raises(KitError, match=f"{option} of matcher 'nearest' must be"):
                NearestConfig(**{option: value})


def test_registry():
    assert matchers.MATCHERS["nearest"] is NearestConfig
    with pytest.raises(KitError, match="did you mean 'nearest'"):
        matchers.MATCHERS["nearst"]


NOTEBOOK_CELL = """
from dataclasses import dataclass
from imc_kit.matchers import MatcherConfig, OneByOne, register
from imc_kit.types import Matches

@register
@dataclass(frozen=True)
class InOrderConfig(MatcherConfig):
    name = "in-order"
    def create(self, kind): return InOrder(self)

class InOrder(OneByOne):
    def __init__(self, config): self.config = config
    def match(self, first, second):
        rows = np.arange(min(len(first), len(second)), dtype=np.int32)
        return Matches(np.stack([rows, rows], 1), np.ones(len(rows), np.float32))
"""


def test_a_matcher_in_a_notebook_cell(monkeypatch):
    monkeypatch.setattr(matchers.MATCHERS, "_known", dict(matchers.MATCHERS))
    for _ in range(2):  # a cell may run twice
        exec(NOTEBOOK_CELL, {"np": np, "__name__": "__main__"})
    pipeline = feature_pipeline("sift+in-order")
    pipeline.check()
    one = described(np.ones((3, 8), np.float32))
    assert pairs(pipeline.matcher.create("sift").match_batch([(one, one)])[0]) == [(0, 0), (1, 1), (2, 2)]


def test_a_wrong_combination_is_refused_with_the_right_ones():
    matchers.check_accepts(NearestConfig(), "orb")
    with pytest.raises(KitError, match="'lightglue' cannot match orb descriptors: nearest can"):
        matchers.check_accepts(matchers.MATCHERS["lightglue"](), "orb")


def clustered_pair(count=3000, dimension=128):
    """Unit vectors around 40 places, and the same with noise, in another order, among as many others."""
    rng = np.random.default_rng(5)
    middle = rng.normal(size=(40, dimension))
    first, other = (unit(middle[rng.integers(40, size=count)] + rng.normal(size=(count, dimension))) for _ in range(2))
    copies = unit(first + 0.03 * rng.normal(size=first.shape))
    order = rng.permutation(2 * count)
    return first, np.concatenate([copies, other])[order].astype(np.float32)


def test_in_cells_nearly_all_matches_are_the_same():
    first, second = clustered_pair()
    exact, found = (set(pairs(match(first, second, ratio=0.8, cells=cells))) for cells in (None, 64))
    assert len(exact) > 2500
    assert len(exact & found) > 0.97 * len(exact)
    assert len(found - exact) < 0.03 * len(exact)


@pytest.mark.parametrize("ratio", [None, 0.8])
def test_as_many_cells_as_are_looked_up_change_nothing(ratio):
    first, second = clustered_pair(600)
    exact, found = (match(first, second, ratio=ratio, cells=cells) for cells in (None, inverted_index.PROBES))
    assert pairs(found) == pairs(exact)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "made"), [(767, []), (768, [12]), (2048, [32]), (4095, [63]), (4096, [64]), (9000, [64])]
)
def test_fewer_descriptors_are_divided_among_fewer_cells(monkeypatch, count, made):
    numbers = []
    real = inverted_index.build
    monkeypatch.setattr(inverted_index, "build", lambda points, cells: numbers.append(cells) or real(points, cells))
    match(unit(np.random.default_rng(0).normal(size=(count, 8))), np.ones((3, 8), np.float32), cells=64)
    assert numbers == made


def test_cells_without_any_and_equal_descriptors():
    same = np.ones((3000, 8), np.float32)
    other = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    assert len(match(same, other, cells=64)) <= 1
    assert len(match(same, same, cells=64, ratio=0.8)) == 0
    assert pairs(match(same, other[:0], cells=64)) == []


def test_a_batch_gives_what_single_pairs_give():
    first, second = clustered_pair()
    matcher = NearestConfig(ratio=0.8, cells=64).create()
    features = [described(one) for one in (first, second, second[:2500])]
    some = [(features[0], features[1]), (features[0], features[2]), (features[2], features[0])]
    for alone, found in zip((matcher.match(*pair) for pair in some), matcher.match_batch(some), strict=True):
        assert pairs(alone) == pairs(found)


def test_cells_are_made_once_for_an_image(monkeypatch):
    made = []
    real = inverted_index.build
    monkeypatch.setattr(inverted_index, "build", lambda points, count: made.append(len(points)) or real(points, count))
    first, second = (described(unit(np.random.default_rng(0).normal(size=(count, 8)))) for count in (2100, 2200))
    matcher = NearestConfig(ratio=0.8, cells=64).create()
    found = [matcher.match(first, second), *matcher.match_batch([(first, second), (first, first)])]
    matcher.match(second, first)
    assert made == [2100, 2200]
    assert (found[0].indices == found[1].indices).all()
    del first
    gc.collect()
    assert len(matcher._prepared) == 1  # forgotten with the image


def test_what_was_matched_before_changes_nothing():
    rng = np.random.default_rng(0)
    first, second, third = (described(rng.integers(0, 3, (900, 8)).astype(np.float32)) for _ in range(3))  # many ties
    config = NearestConfig(cells=64)
    later = config.create()
    later.match_batch([(second, third), (third, first)])
    one, other = (matcher.match(first, second) for matcher in (config.create(), later))
    assert (one.indices == other.indices).all()
    assert (one.scores == other.scores).all()
