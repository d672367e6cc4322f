"""Cutting a view graph into overlapping partitions: chains, rings, grids, separate components, and tiny graphs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imc_kit.types import Pair
from imc_kit.viewgraph.partitions import partitions

OVERLAP = 0.25


def name(number: int) -> str:
    return f"{number:03}.jpg"


def ring(count: int, reach: int = 4, closed: bool = True, first: int = 0) -> dict[Pair, int]:
    """Each image is matched with the next ones, the better the closer they are."""
    pairs = {}
    for one in range(count):
        for step in range(1, reach + 1):
            if closed or one + step < count:
                pairs[name(first + one), name(first + (one + step) % count)] = 200 // step
    return pairs


def grid(side: int) -> dict[Pair, int]:
    """Each image is matched with its eight neighbours."""
    places = [(x, y) for x in range(side) for y in range(side)]
    close = (pair for pair in combinations(places, 2) if np.abs(np.subtract(*pair)).max() == 1)
    return {(name(side * a + b), name(side * c + d)): 100 for (a, b), (c, d) in close}


def images(inliers: Mapping[Pair, int]) -> set[str]:
    return {image for pair in inliers for image in pair}


def is_connected(part: list[str], inliers: Mapping[Pair, int]) -> bool:
    number = {image: index for index, image in enumerate(part)}
    inside = [(number[a], number[b]) for a, b in inliers if a in number and b in number]
    ends = np.array(inside).reshape(-1, 2).T
    graph = coo_array((np.ones(len(inside)), (ends[0], ends[1])), (len(part), len(part)))
    return bool(connected_components(graph, directed=False)[0] == 1)


@pytest.mark.parametrize(
    ("inliers", "most", "count"),
    [(ring(120), 30, 4), (ring(121), 30, 5), (ring(90, closed=False), 30, 3), (grid(12), 40, 4), (grid(7), 20, 3)],
)
def test_every_image_is_in_a_small_connected_partition(inliers: dict[Pair, int], most: int, count: int) -> None:
    parts = partitions(inliers, most, OVERLAP)
    assert len(parts) == count
    assert set().union(*parts) == images(inliers)
    for part in parts:
        assert part == sorted(set(part))
        assert len(part) <= most * (1 + OVERLAP)
        assert is_connected(part, inliers)
    links = coo_array(np.array([[len({*one} & {*other}) >= 3 for one in parts] for other in parts]))
    assert connected_components(links)[0] == 1  # enough shared images to join them all
    assert partitions(dict(reversed(inliers.items())), most, OVERLAP) == parts


def test_a_ring_is_cut_into_arcs() -> None:
    """The cheapest cuts separate neighbours; each arc is extended at both ends."""
    for part in partitions(ring(120), 30, OVERLAP):
        numbers = np.array([int(image[:3]) for image in part])
        gaps = np.diff(numbers, append=numbers[0] + 120)
        assert (gaps > 1).sum() == 1


def test_a_cut_avoids_strong_pairs() -> None:
    """Two dense groups, joined by weak pairs, of 14 and 16 images: cut there, and not into halves."""
    one, other = range(14), range(14, 30)
    inliers = {(name(a), name(b)): 100 for group in (one, other) for a, b in combinations(group, 2)}
    inliers |= {(name(13), name(14)): 15, (name(12), name(15)): 15}
    assert partitions(inliers, 16, 0.0) == [list(map(name, one)), list(map(name, other))]


def test_separate_components() -> None:
    """Small ones are put together; a large one is cut; nothing joins two of them."""
    inliers = ring(50) | ring(8, first=100) | ring(7, first=200) | ring(20, first=300)
    parts = partitions(inliers, 25, OVERLAP)
    assert set().union(*parts) == images(inliers)
    hundreds = sorted(sorted({image[0] for image in part}) for part in parts)
    assert hundreds == [["0"], ["0"], ["1", "2"], ["3"]]
    assert max(map(len, parts)) <= 31


@pytest.mark.parametrize(("inliers", "count"), [({}, 0), ({("a", "b"): 20}, 1), (ring(30), 1), (ring(31), 2)])
def test_small_graphs(inliers: dict[Pair, int], count: int) -> None:
    parts = partitions(inliers, 30, OVERLAP)
    assert len(parts) == count
    if count == 1:
        assert parts == [sorted(images(inliers))]


def test_partitions_of_one_image() -> None:
    parts = partitions(ring(9), 1, 0.0)
    assert sorted(parts) == [[name(number)] for number in range(9)]
