"""Pairs that the rest of the view graph contradicts, on cameras whose rotations are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from imc_kit.viewgraph.rotation_cycles import contradicted

Rotations = dict[tuple[str, str], NDArray[np.float64]]
Counts = dict[tuple[str, str], int]
LIMIT = 8.0


def noise(rng: np.random.Generator, degrees: float) -> Rotation:
    return Rotation.from_rotvec(np.radians(rng.normal(0, degrees, 3) / np.sqrt(3)))


def scene(
    rng: np.random.Generator, images: int, share: float = 0.5, degrees: float = 1.5
) -> tuple[list[str], Rotations, Counts]:
    """Cameras with any rotations, and `share` of the pairs, some the other way round, with noisy relative ones."""
    names = [f"{number:02}.jpg" for number in range(images)]
    cameras = dict(zip(names, Rotation.random(images, rng=rng), strict=True))
    rotations, counts = {}, {}
    for pair in combinations(names, 2):
        if rng.random() < share:
            first, second = pair if rng.random() < 0.5 else pair[::-1]
            rotations[first, second] = (noise(rng, degrees) * cameras[second] * cameras[first].inv()).as_matrix()
            counts[first, second] = int(rng.integers(20, 800))
    return names, rotations, counts


def parts(names: list[str], pairs: list[tuple[str, str]]) -> int:
    places = np.array([[names.index(image) for image in pair] for pair in pairs]).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), tuple(places)), shape=(len(names), len(names)))
    return int(connected_components(graph, directed=False)[0])


@pytest.mark.parametrize("degrees", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_graph_that_agrees_loses_nothing(seed: int, degrees: float) -> None:
    _, rotations, counts = scene(np.random.default_rng(seed), 25, 0.3, degrees)
    assert contradicted(rotations, counts, LIMIT) == []


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_wrong_pairs_are_found_and_right_ones_are_left(seed: int, share: float) -> None:
    """Wrong pairs say anything, and have a third of the matches of right ones."""
    rng = np.random.default_rng(seed)
    _, rotations, counts = scene(rng, 30)
    wrong = set()
    for pair in rotations:
        if rng.random() < share:
            right = rotations[pair]
            rotations[pair] = Rotation.random(rng=rng).as_matrix()
            counts[pair] = max(15, counts[pair] // 3)
            if Rotation.from_matrix(right.T @ rotations[pair]).magnitude() > np.radians(2 * LIMIT):
                wrong.add(pair)
    found = set(contradicted(rotations, counts, LIMIT))
    assert wrong <= found
    assert len(found - wrong) <= 1  # one that says nearly the right thing by chance
    assert len(wrong) > 0.8 * share * len(rotations)


@pytest.mark.parametrize("seed", range(3))
def test_a_duplicate_structure_does_not_rotate_a_block(seed: int) -> None:
    """Two towers of one building are taken for each other: a few wrong pairs, stronger than any right one, agree that
    the second half of the images is rotated by 180 degrees; many weaker pairs say that it is not."""
    rng = np.random.default_rng(seed)
    names, rotations, counts = scene(rng, 20, 0.7)
    block = set(names[10:])
    between = [pair for pair in rotations if len(block.intersection(pair)) == 1]
    wrong = {between[place] for place in rng.choice(len(between), 4, replace=False)}
    half = Rotation.from_euler("y", 180, degrees=True)
    frame = Rotation.random(rng=rng)
    for first, second in wrong:
        pose = Rotation.from_matrix(rotations[first, second])
        rotations[first, second] = (pose * frame * half * frame.inv()).as_matrix()
        counts[first, second] = 1000
    assert set(contradicted(rotations, counts, LIMIT)) == wrong


@pytest.mark.parametrize("links", [1, 3])
def test_blocks_that_agree_on_a_rotation_follow_the_many(links: int) -> None:
    """All wrong pairs agree with each other, and each is stronger than a right one between the blocks; but these have
    more matches together."""
    rng = np.random.default_rng(links)
    names = [f"{number:02}" for number in range(12)]
    true = Rotation.random(12, rng=rng)
    rotated = true * Rotation.from_euler("y", 180, degrees=True)
    rotations, counts, wrong = {}, {}, set()
    for i, j in combinations(range(12), 2):
        inside = (i < 6) == (j < 6)
        false = not inside and i < links and 6 <= j < 6 + links
        if inside or false or rng.random() < 0.7:
            other = rotated[j] if false else true[j]
            rotations[names[i], names[j]] = (noise(rng, 1.5) * other * true[i].inv()).as_matrix()
            counts[names[i], names[j]] = 150 if false else 300 if inside else 100
            wrong |= {(names[i], names[j])} if false else set()
    assert len(wrong) == links**2
    assert set(contradicted(rotations, counts, LIMIT)) == wrong


def test_of_a_cycle_alone_the_weakest_pair_goes() -> None:
    error = Rotation.from_euler("z", 40, degrees=True).as_matrix()
    for length in (3, 4, 6):
        names = [str(number) for number in range(length)]
        pairs = list(zip(names, names[1:] + names[:1], strict=True))
        for weakest in pairs:
            rotations = {pair: np.eye(3) for pair in pairs} | {pairs[0]: error}
            counts = dict.fromkeys(pairs, 200) | {weakest: 20}
            assert contradicted(rotations, counts, LIMIT) == [weakest]


def test_where_there_is_no_cycle_nothing_can_be_contradicted() -> None:
    rng = np.random.default_rng(0)
    assert contradicted({}, {}, LIMIT) == []
    assert contradicted({("a", "b"): Rotation.random(rng=rng).as_matrix()}, {("a", "b"): 20}, LIMIT) == []
    names = [f"{number}" for number in range(12)]
    tree = [(names[int(rng.integers(number))], names[number]) for number in range(1, 12)]
    rotations = {pair: Rotation.random(rng=rng).as_matrix() for pair in tree}
    assert contradicted(rotations, dict.fromkeys(tree, 50), 0.1) == []


@pytest.mark.parametrize("limit", [0.01, 1.0, 180.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_connected_stays_connected_whatever_is_said(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    names, rotations, counts = scene(rng, 20, 0.15)
    rotations = {pair: Rotation.random(rng=rng).as_matrix() for pair in rotations}
    found = contradicted(rotations, counts, limit)
    assert set(found) <= set(rotations)
    assert len(found) == len(set(found))
    left = [pair for pair in rotations if pair not in set(found)]
    assert parts(names, left) == parts(names, list(rotations))
    assert (found == []) == (limit == 180.0)


def test_rotations_that_are_none() -> None:
    rng = np.random.default_rng(0)
    names, rotations, counts = scene(rng, 12, 1.0)
    broken = [(names[0], names[1]), (names[2], names[5])]
    for (first, second), value in zip(broken, (np.nan, np.inf), strict=True):
        for pair in ((first, second), (second, first)):
            if pair in rotations:
                rotations[pair] = np.full((3, 3), value)
    counts |= dict.fromkeys(list(counts)[5:9], 0)
    assert contradicted(rotations, counts, LIMIT) == []
    assert contradicted({("a", "b"): np.full((3, 3), np.nan)}, {("a", "b"): 9}, LIMIT) == []


def test_an_exact_180_degree_rotation_is_no_small_error() -> None:
    pairs = list(combinations("abcd", 2))
    for axis in np.eye(3):
        half = Rotation.from_rotvec(np.pi * axis).as_matrix()
        rotations = {pair: np.eye(3) for pair in pairs} | {("a", "b"): half}
        assert contradicted(rotations, dict.fromkeys(pairs, 100), LIMIT) == [("a", "b")]


def test_the_order_of_the_pairs_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    _, rotations, counts = scene(rng, 15)
    for pair in list(rotations)[::7]:
        rotations[pair] = Rotation.random(rng=rng).as_matrix()
    found = set(contradicted(rotations, counts, LIMIT))
    assert found
    assert set(contradicted(dict(reversed(rotations.items())), counts, LIMIT)) == found
    flipped = {pair[::-1]: rotation.T for pair, rotation in rotations.items()}
    other = contradicted(flipped, {pair[::-1]: count for pair, count in counts.items()}, LIMIT)
    assert {pair[::-1] for pair in other} == found


def test_a_large_graph_takes_a_moment() -> None:
    rng = np.random.default_rng(0)
    _, rotations, counts = scene(rng, 80, 0.3)
    wrong = list(rotations)[::20]
    rotations |= {pair: Rotation.random(rng=rng).as_matrix() for pair in wrong}
    assert len(set(contradicted(rotations, counts, LIMIT)) ^ set(wrong)) <= 2
