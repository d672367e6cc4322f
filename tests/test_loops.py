"""Which pairs the rotations of the others contradict, on cameras whose rotations are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imc_kit.loops import contradicted
from imc_kit.types import Float64
from imc_kit.viewgraph import Pair

LIMIT = 15.0


def cameras(count: int, seed: int = 0) -> Float64:
    return Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix()


def about_y(degrees: float) -> Float64:
    return np.asarray(Rotation.from_euler("y", degrees, degrees=True).as_matrix())


def pairs_of(true: Float64, pairs: list[tuple[int, int]], degrees: float, seed: int = 1) -> dict[Pair, Float64]:
    """The relative rotations, each turned by some degrees about an axis at random."""
    random = np.random.default_rng(seed)
    noise = Rotation.from_rotvec(np.radians(degrees) * random.normal(size=(len(pairs), 3)) / np.sqrt(3)).as_matrix()
    return {(f"{a}", f"{b}"): turn @ true[b] @ true[a].T for (a, b), turn in zip(pairs, noise, strict=True)}


def counts(rotations: dict[Pair, Float64], seed: int = 2) -> dict[Pair, int]:
    random = np.random.default_rng(seed)
    return {pair: int(random.integers(50, 300)) for pair in rotations}


def connected(pairs: list[Pair]) -> set[frozenset[str]]:
    groups: list[set[str]] = []
    for pair in pairs:
        touching = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touching] + [set(pair).union(*touching)]
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("seed", range(4))
def test_pairs_that_are_wrong_at_random_are_found(seed: int) -> None:
    true = cameras(12, seed)
    rotations = pairs_of(true, list(combinations(range(12), 2)), 2.0, seed)
    random = np.random.default_rng(seed)
    names = list(rotations)
    wrong = {names[place] for place in random.choice(len(names), len(names) // 4, replace=False)}
    for pair in wrong:
        rotations[pair] = about_y(random.uniform(60, 180)) @ rotations[pair]
    assert set(contradicted(rotations, counts(rotations, seed), LIMIT)) == wrong


def test_two_sides_that_look_alike_are_told_apart() -> None:
    """Cameras go round a house whose back looks like its front: some pairs see one as the other, half a turn off."""
    true = np.stack([about_y(22.5 * number) for number in range(16)])
    near = [(a, b) for a, b in combinations(range(16), 2) if min(b - a, 16 - b + a) <= 3]
    rotations = pairs_of(true, near, 1.0)
    wrong = pairs_of(true, [(0, 8), (1, 9), (3, 11)], 1.0)
    rotations |= {pair: about_y(180) @ turn for pair, turn in wrong.items()}
    found = contradicted(rotations, {pair: 500 if pair in wrong else 100 for pair in rotations}, LIMIT)
    assert set(found) == set(wrong)  # although they have most matches


def test_what_agrees_loses_nothing() -> None:
    rotations = pairs_of(cameras(10), list(combinations(range(10), 2)), 3.0)
    assert contradicted(rotations, counts(rotations), LIMIT) == []


def test_of_a_loop_that_does_not_close_the_weakest_goes() -> None:
    rotations = pairs_of(cameras(3), [(0, 1), (1, 2), (0, 2)], 0.0)
    rotations["0", "2"] = about_y(90) @ rotations["0", "2"]
    for weakest in rotations:
        assert contradicted(rotations, {pair: 30 if pair == weakest else 200 for pair in rotations}, LIMIT) == [weakest]


def test_pairs_in_no_loop_stay() -> None:
    true = cameras(8)
    tree = pairs_of(true, [(0, 1), (1, 2), (1, 3), (3, 4), (5, 6)], 90.0)
    assert contradicted(tree, counts(tree), LIMIT) == []
    assert contradicted({}, {}, LIMIT) == []


@pytest.mark.parametrize("seed", range(3))
def test_images_stay_connected_however_wrong_all_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    edges = [pair for pair in combinations(range(14), 2) if random.random() < 0.3]
    rotations = {(f"{a}", f"{b}"): turn for (a, b), turn in zip(edges, cameras(len(edges), seed), strict=True)}
    gone = contradicted(rotations, counts(rotations), LIMIT)
    assert gone
    assert connected([pair for pair in rotations if pair not in gone]) == connected(list(rotations))


def test_a_half_turn_and_many_images_are_no_trouble() -> None:
    true = np.stack([about_y(180 * (number % 2)) for number in range(200)])
    edges = [(a, b) for a, b in combinations(range(200), 2) if b - a <= 6]
    rotations = pairs_of(true, edges, 1.0)
    rotations["50", "55"] = about_y(0)
    assert contradicted(rotations, counts(rotations), LIMIT) == [("50", "55")]
