"""The view graph, against a search over all paths."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest

from imc_kit.viewgraph.strengths import strengths


def strongest_path(first: str, second: str, inliers: dict[tuple[str, str], int]) -> int:
    """The weakest link of the best of all paths."""
    both = inliers | {(b, a): count for (a, b), count in inliers.items()}
    others = sorted({image for pair in inliers for image in pair} - {first, second})
    paths = ((first, *middle, second) for length in range(len(others) + 1) for middle in permutations(others, length))
    return max(min(both.get(link, 0) for link in pairwise(path)) for path in paths)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_share_of_the_weakest_link_of_the_strongest_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in combinations("abcdef", 2) if rng.random() < 0.6]
    inliers = {pair if rng.random() < 0.5 else pair[::-1]: int(rng.integers(1, 9)) for pair in pairs}
    found = strengths(inliers)
    assert list(found) == list(inliers)
    for (first, second), strength in found.items():
        assert strength == inliers[first, second] / strongest_path(first, second, inliers)


def test_small_graphs() -> None:
    assert strengths({}) == {}
    assert strengths({("a", "b"): 7}) == {("a", "b"): 1.0}
    assert strengths({("a", "b"): 7, ("c", "d"): 2}) == {("a", "b"): 1.0, ("c", "d"): 1.0}
    assert strengths({("a", "b"): 10, ("b", "c"): 20, ("a", "c"): 1})[("a", "c")] == 0.1


def test_a_large_graph_takes_a_moment() -> None:
    names = [f"{number:04}" for number in range(200)]
    rng = np.random.default_rng(0)
    found = strengths({pair: int(rng.integers(1, 1000)) for pair in combinations(names, 2)})
    assert len(found) == 200 * 199 // 2
    assert max(found.values()) == 1
    assert sum(strength == 1 for strength in found.values()) >= 199  # the pairs of the tree
