"""Find the 90° rotation that makes each image of a scene upright, from the relative rotations of pairs.

The task is a synchronisation over the cyclic group of order four: choose a rotation for every image to maximise the
total weight of the pairs that agree. It is hard in general and easy when most pairs are right. The solver joins groups
of images along strong pairs, and lets all pairs between two groups vote on their relative rotation. Then it rotates
single images while that helps. It repeats this in other orders and keeps the best result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Pair

_ORDERS = 16
"""Number of orders in which pairs are tried. The first sorts by weight; the others are random, weighted draws. With 16,
the solution is optimal for every small graph in the tests."""

_Ints = NDArray[np.int64]


def assign_rotations(images: Sequence[str], relative: Mapping[Pair, tuple[int, float]]) -> dict[str, int]:
    """The number of clockwise 90° rotations, 0 to 3, that makes each image upright. Deterministic.

    relative: by pair, how many more rotations the second image needs than the first, and the weight of this vote
        (`lowres.pair_overlap`). Votes of weight 0 or less are ignored.

    Pairs do not show which way is up. So each connected group keeps as many images unrotated as possible; ties keep its
    first image unrotated. An image without pairs is not rotated.
    """
    number = {image: i for i, image in enumerate(images)}
    rows = []
    for (first, second), (rotation_quarters, weight) in relative.items():
        if weight > 0:
            rows.append((number[first], number[second], rotation_quarters, weight))
    table = np.array(rows, np.float64).reshape(-1, 4)
    first, second, rotation_quarters = table[:, :3].astype(np.int64).T
    all_pairs = _Pairs(len(number), first, second, rotation_quarters, table[:, 3])
    rotations = np.zeros(len(number), np.int64)
    groups = all_pairs.connected()
    for group in np.unique(groups[first]):
        members = np.flatnonzero(groups == group)
        rotations[members] = _fewest_rotated(_best(all_pairs.among(members)))
    return dict(zip(number, rotations.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The pairs (first, second) of `count` images, [E] each, as in `assign_rotations`.

    `rotations` in the methods and functions below are int64 [count].
    """

    count: int
    first: _Ints
    second: _Ints
    rotation_quarters: _Ints
    weights: Float64

    def off(self, rotations: _Ints) -> _Ints:
        """How many further rotations, 0 to 3, the second image of each pair needs for the pair to agree, [E]."""
        return (self.rotation_quarters - rotations[self.second] + rotations[self.first]) % 4

    def agreement(self, rotations: _Ints) -> float:
        """The total weight of the pairs that agree."""
        return float(self.weights[self.off(rotations) == 0].sum())

    def connected(self) -> _Ints:
        """The number of each image's connected component, [count]."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        graph = coo_array((self.weights, (self.first, self.second)), shape=(self.count, self.count))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)

    def rows(self) -> list[_Ints]:
        """The numbers of each image's pairs."""
        ends = np.concatenate([self.first, self.second])
        order = np.argsort(ends, kind="stable")
        return np.split(order % len(self.first), np.searchsorted(ends[order], np.arange(1, self.count)))

    def at(self, rows: _Ints) -> _Pairs:
        """Some of the pairs."""
        parts = (self.first[rows], self.second[rows], self.rotation_quarters[rows], self.weights[rows])
        return _Pairs(self.count, *parts)

    def among(self, members: _Ints) -> _Pairs:
        """The pairs of these images, renumbered. The images must have no pairs with others."""
        number = np.full(self.count, -1)
        number[members] = np.arange(len(members))
        inside = number[self.first] >= 0
        first, second = number[self.first[inside]], number[self.second[inside]]
        return _Pairs(len(members), first, second, self.rotation_quarters[inside], self.weights[inside])


def _best(pairs: _Pairs) -> _Ints:
    """The rotations, over several orders, with the largest agreement."""
    best, most = np.zeros(pairs.count, np.int64), -1.0
    rng = np.random.default_rng(0)
    for number in range(_ORDERS):
        draws = rng.exponential(size=len(pairs.weights)) if number else 1.0
        rotations = _climbed(pairs, _joined(pairs, np.argsort(draws / pairs.weights, kind="stable")))
        if (agreement := pairs.agreement(rotations)) > most:
            best, most = rotations, agreement
        if (pairs.off(best) == 0).all():
            break
    return best


def _joined(pairs: _Pairs, order: _Ints) -> _Ints:
    """Join groups along the pairs in this order (Kruskal); all pairs between two groups vote on their rotation."""
    rotations, groups = np.zeros(pairs.count, np.int64), np.arange(pairs.count)
    members = [np.array([image]) for image in range(pairs.count)]
    rows = pairs.rows()
    for i, j in zip(pairs.first[order].tolist(), pairs.second[order].tolist(), strict=True):
        one, other = groups[i], groups[j]
        if one != other:
            small, large = (other, one) if len(members[other]) <= len(members[one]) else (one, other)
            near = pairs.at(np.concatenate([rows[image] for image in members[small]]))
            first, second = groups[near.first], groups[near.second]
            forth, back = (first == one) & (second == other), (first == other) & (second == one)
            off = near.off(rotations)
            votes = np.bincount(np.where(forth, off, -off % 4), np.where(forth | back, near.weights, 0), 4)
            rotations[members[small]] += votes.argmax() if small == other else -votes.argmax()
            groups[members[small]] = large
            members[large] = np.concatenate([members[large], members[small]])
    return rotations % 4


def _climbed(pairs: _Pairs, rotations: _Ints) -> _Ints:
    """Rotate the one image that raises the agreement most, until none raises it."""
    rotations = rotations.copy()
    tolerance = 1e-9 * pairs.weights.sum()  # sums are rounded
    while True:
        off = pairs.off(rotations)
        votes = np.bincount(4 * pairs.second + off, pairs.weights, 4 * pairs.count)
        votes += np.bincount(4 * pairs.first + -off % 4, pairs.weights, 4 * pairs.count)
        gains = votes.reshape(-1, 4) - votes.reshape(-1, 4)[:, :1]
        image, rotation_quarters = divmod(int(gains.argmax()), 4)
        if gains[image, rotation_quarters] <= tolerance:
            return rotations
        rotations[image] = (rotations[image] + rotation_quarters) % 4


def _fewest_rotated(rotations: _Ints) -> _Ints:
    """The same relative rotations with as many zeros as possible; ties set the first to zero."""
    counts = np.bincount(rotations, minlength=4)
    common = rotations[0] if counts[rotations[0]] == counts.max() else counts.argmax()
    return (rotations - common) % 4
