"""90° rotations from pairs, against brute force and against what was put in."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from imc_kit.viewgraph.orientation import assign_rotations


def graph(truth: np.ndarray, share: float, wrong: float, seed: int, weights: bool = True):
    """Pairs of images '0', '1', …: a path, and of the others this share; that share of all is wrong."""
    rng = np.random.default_rng(seed)
    relative = {}
    for i, j in combinations(range(len(truth)), 2):
        if j == i + 1 or rng.random() < share:
            quarters = truth[j] - truth[i] + (rng.integers(1, 4) if rng.random() < wrong else 0)
            first, second, quarters = (i, j, quarters) if rng.random() < 0.5 else (j, i, -quarters)
            relative[str(first), str(second)] = (int(quarters) % 4, float(rng.uniform(0.5, 1.5)) if weights else 1.0)
    return [str(i) for i in range(len(truth))], relative


def agreement(rotations: dict[str, int], relative: dict) -> float:
    return sum(w for (a, b), (quarters, w) in relative.items() if (rotations[b] - rotations[a] - quarters) % 4 == 0)


@pytest.mark.parametrize("count", [2, 3, 5, 100])
@pytest.mark.parametrize("share", [0, 0.3])
def test_consistent_pairs_are_obeyed(count, share):
    truth = np.random.default_rng(count).integers(0, 4, count)
    names, relative = graph(truth, share, 0, count)
    rotations = assign_rotations(names, relative)
    assert agreement(rotations, relative) == pytest.approx(sum(weight for _, weight in relative.values()))
    assert len({(rotations[name] - right) % 4 for name, right in zip(names, truth, strict=True)}) == 1
    assert list(rotations.values()).count(0) == np.bincount(truth).max()


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_no_assignment_agrees_with_more(seed, weights):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    names, relative = graph(rng.integers(0, 4, count), 0.7, rng.choice([0.3, 0.75]), seed, weights)
    best = max(
        agreement(dict(zip(names, (0, *rest), strict=True)), relative) for rest in product(range(4), repeat=count - 1)
    )
    assert agreement(assign_rotations(names, relative), relative) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("count", "share", "wrong"), [(20, 0.6, 0.2), (60, 0.25, 0.3), (100, 0.15, 0.3)])
def test_wrong_pairs_are_outvoted(count, share, wrong, seed):
    truth = np.random.default_rng(seed).integers(0, 4, count)
    names, relative = graph(truth, share, wrong, seed)
    rotations = assign_rotations(names, relative)
    off = np.array([(rotations[name] - right) % 4 for name, right in zip(names, truth, strict=True)])
    assert np.bincount(off).max() >= 0.95 * count  # an image may have more wrong pairs than right ones
    assert agreement(rotations, relative) >= agreement(dict(zip(names, truth, strict=True)), relative) - 1e-9


def chain(groups: int, size: int, wrong: float, seed: int):
    """Groups in a row. Three pairs connect one with the next, and the heaviest of them is wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, groups * size)
    relative = {}
    for start in range(0, len(truth), size):
        for i, j in combinations(range(start, start + size), 2):
            quarters = truth[j] - truth[i] + (rng.integers(1, 4) if rng.random() < wrong else 0)
            relative[str(i), str(j)] = (int(quarters) % 4, rng.uniform(5, 15))
        for number, k in enumerate(rng.permutation(size)[:3] if start else ()):
            quarters = truth[start + k] - truth[start + k - size] + (number == 0)
            relative[str(start + k - size), str(start + k)] = (int(quarters) % 4, 4.9 if number == 0 else 3.0)
    names = [str(i) for i in range(len(truth))]
    return names, relative, dict(zip(names, truth.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("wrong", [0, 0.15])
def test_groups_in_a_row(seed, wrong):
    names, relative, truth = chain(8, 6, wrong, seed)
    assert agreement(assign_rotations(names, relative), relative) >= agreement(truth, relative) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_few_pairs_for_an_image(seed):
    truth = np.random.default_rng(seed).integers(0, 4, 60)
    names, relative = graph(truth, 0.05, 0.3, seed)
    assert agreement(assign_rotations(names, relative), relative) >= agreement(
        dict(zip(names, truth, strict=True)), relative
    )


def test_most_images_stay():
    star = {("a", "b"): (1, 1.0), ("a", "c"): (1, 1.0), ("a", "d"): (1, 1.0)}
    assert assign_rotations("abcd", star) == {"a": 3, "b": 0, "c": 0, "d": 0}
    assert assign_rotations("ab", {("a", "b"): (1, 1.0)}) == {"a": 0, "b": 1}  # of equals the first stays
    assert assign_rotations("ba", {("a", "b"): (1, 1.0)}) == {"b": 0, "a": 3}
    # Two apart, each with its own majority.
    apart = star | {("x", "y"): (2, 1.0), ("y", "z"): (0, 1.0)}
    assert assign_rotations("abcdxyz", apart) == {"a": 3, "b": 0, "c": 0, "d": 0, "x": 2, "y": 0, "z": 0}


def test_without_evidence_images_stay():
    assert assign_rotations([], {}) == {}
    assert assign_rotations(["a"], {}) == {"a": 0}
    assert assign_rotations(["a", "b", "c"], {("a", "b"): (1, 0.0), ("b", "c"): (3, -1.0)}) == {"a": 0, "b": 0, "c": 0}
    assert assign_rotations(["a", "b", "c"], {("b", "c"): (3, 1.0)}) == {"a": 0, "b": 0, "c": 3}


def test_a_pair_both_ways_round_counts_twice():
    assert assign_rotations("ab", {("a", "b"): (1, 1.0), ("b", "a"): (3, 1.0)}) == {"a": 0, "b": 1}
    assert assign_rotations("ab", {("a", "b"): (1, 1.0), ("b", "a"): (2, 1.5)}) == {"a": 0, "b": 2}


def test_the_same_again():
    names, relative = graph(np.random.default_rng(5).integers(0, 4, 30), 0.3, 0.5, 5)
    assert assign_rotations(names, relative) == assign_rotations(names, relative)
