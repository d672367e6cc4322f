"""The places in a folder, by the links between its images."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imc_kit.types import Pair
from imc_kit.viewgraph.groups import CHANCE, LINK, groups

FIRST, SECOND = list("abcdef"), list("uvwx")
STRONG = dict.fromkeys([*combinations(FIRST, 2), *combinations(SECOND, 2)], 200)


@pytest.mark.parametrize("seed", range(5))
def test_strong_pairs_alone_join_connected_components(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{number:02}" for number in range(25)]
    pairs = [pair for pair in combinations(range(25), 2) if rng.random() < 0.05]
    inliers = {(names[a], names[b]): int(rng.integers(LINK, 500)) for a, b in pairs}
    graph = coo_array((np.ones(len(pairs)), np.array(pairs, np.int64).reshape(-1, 2).T), (25, 25))
    count, labels = connected_components(graph, directed=False)
    expected = [[names[i] for i in np.flatnonzero(labels == label)] for label in range(count)]
    assert sorted(groups(names, inliers)) == sorted(one for one in expected if len(one) >= 3)


def test_a_few_weak_pairs_join_no_places_and_many_do() -> None:
    weak = {("a", "u"): LINK - 1, ("b", "w"): 20}
    assert groups([*SECOND, *FIRST], STRONG | weak) == [FIRST, SECOND]
    assert groups(FIRST + SECOND, STRONG | dict.fromkeys(product(FIRST, SECOND), 20)) == [FIRST + SECOND]
    assert groups(FIRST + SECOND, STRONG | dict.fromkeys(product(FIRST, SECOND), CHANCE)) == [FIRST, SECOND]


def test_strays_and_pairs_of_strays_are_in_no_group() -> None:
    strays: dict[Pair, int] = {("p", "a"): 18, ("p", "v"): 17, ("q", "r"): 60, ("r", "b"): 20}
    assert groups([*FIRST, *SECOND, "p", "q", "r", "s"], STRONG | strays) == [FIRST, SECOND]
    strays["p", "b"] = LINK - 1  # and now its pairs with the first place are worth one strong pair
    assert groups([*FIRST, *SECOND, *"pqrs"], STRONG | strays) == [[*FIRST, "p"], SECOND]


def merged_one_by_one(names: list[str], inliers: dict[Pair, int]) -> list[list[str]]:
    """The definition: after each merge, every group is compared with every other again."""
    parts = [{name} for name in names]

    def closeness(one: set[str], other: set[str]) -> float:
        between = [count for pair, count in inliers.items() if len({*pair} & one) == len({*pair} & other) == 1]
        return sum(max(0, count - CHANCE) for count in between) / min(len(one), len(other))

    for pair in [pair for pair, count in inliers.items() if count >= LINK]:
        one, other = (next(part for part in parts if name in part) for name in pair)
        if one is not other:
            parts.remove(other)
            one |= other
    while len(parts) > 1:
        one, other = max(combinations(parts, 2), key=lambda both: closeness(*both))
        if closeness(one, other) < LINK - CHANCE:
            break
        parts.remove(other)
        one |= other
    return [sorted(part) for part in parts if len(part) >= 3]


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_merged_as_if_all_were_compared_each_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{number:02}" for number in range(24)]
    pairs = [pair for pair in combinations(names, 2) if rng.random() < 0.15]
    inliers = {pair: int(count) for pair, count in zip(pairs, rng.integers(10, LINK + 4, len(pairs)), strict=True)}
    assert sorted(groups(names, inliers)) == sorted(merged_one_by_one(names, inliers))


def test_small_folders() -> None:
    assert groups([], {}) == []
    assert groups(["a"], {}) == []
    assert groups(["a", "b"], {("a", "b"): 500}) == []
    assert groups(["a", "b", "c"], {("b", "a"): 50, ("c", "b"): 50}) == [["a", "b", "c"]]
