"""Which way up each photograph of a scene is: quarter turns that agree with what pairs say, as far as that goes.

Giving every image one of four turns so that the pairs which agree weigh most is a synchronisation over the cyclic group
of order four. It is hard in general and easy where most pairs are right. From several starts (spanning trees, and the
leading eigenvector of the pairs' Hermitian matrix: Singer 2011) single images and whole groups are turned while that
helps, and the best result is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64

_TREES = 16
"""Starts from spanning trees: one of the heaviest pairs, the others of pairs drawn with odds by weight."""
_ITERATIONS = 100
"""Of the power method. What it finds is a start, so that it need not converge."""

_Ints = NDArray[np.int64]


def assign_turns(images: Sequence[str], relative: Mapping[tuple[str, str], tuple[int, float]]) -> dict[str, int]:
    """For every image the quarter turns clockwise, 0 to 3, after which all are the same way up. Deterministic.

    relative: for pairs of images how many quarters more the second must be turned than the first, and how much
        that weighs; a weight of 0 says nothing. `overview.look` finds both.

    Pairs do not say which way up the scene is. So of the images that they connect as many as possible stay as they are;
    where that leaves a choice, the first in order stays. An image of which no pair speaks stays too. Raises ValueError
    for pairs of an image that is not in `images`, or of an image and itself, and for weights that are not finite.
    """
    number = {image: i for i, image in enumerate(images)}
    rows = []
    for (first, second), (quarters, weight) in relative.items():
        if first not in number or second not in number or first == second:
            raise ValueError(f"({first!r}, {second!r}) is not a pair of the images")
        if not np.isfinite(weight):
            raise ValueError(f"the weight of ({first!r}, {second!r}) must be finite")
        if weight > 0:
            rows.append((number[first], number[second], quarters, weight))
    table = np.array(rows, np.float64).reshape(-1, 4)
    first, second, quarters = table[:, :3].astype(np.int64).T
    everything = _Pairs(len(number), first, second, quarters, table[:, 3])
    turns = np.zeros(len(number), np.int64)
    groups = _groups(everything)
    for group in np.unique(groups[first]):
        members = np.flatnonzero(groups == group)
        turns[members] = _leaving_most(_best(_within(everything, members)))
    return dict(zip(number, turns.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs (first, second) of `count` images: [E] each, as in `assign_turns`; turns below are int64 [count]."""

    count: int
    first: _Ints
    second: _Ints
    quarters: _Ints
    weights: Float64

    def off(self, turns: _Ints) -> _Ints:
        """By how many quarters, 0 to 3, the second image of each pair lacks what the pair says; [E]."""
        return (self.quarters - turns[self.second] + turns[self.first]) % 4

    def only(self, chosen: NDArray[np.bool_]) -> _Pairs:
        """These of the pairs, bool [E], of the same images."""
        first, second, quarters = self.first[chosen], self.second[chosen], self.quarters[chosen]
        return _Pairs(self.count, first, second, quarters, self.weights[chosen])

    def agreement(self, turns: _Ints) -> float:
        """The weight of the pairs that agree."""
        return float(self.weights[self.off(turns) == 0].sum())


def _within(pairs: _Pairs, members: _Ints) -> _Pairs:
    """The pairs of these images, which have none with others, numbered anew."""
    number = np.full(pairs.count, -1)
    number[members] = np.arange(len(members))
    inside = pairs.only(number[pairs.first] >= 0)
    return _Pairs(len(members), number[inside.first], number[inside.second], inside.quarters, inside.weights)


def _best(pairs: _Pairs) -> _Ints:
    best, most = np.zeros(pairs.count, np.int64), -1.0
    for start in _starts(pairs):
        turns = _improved(pairs, start)
        if (agreement := pairs.agreement(turns)) > most:
            best, most = turns, agreement
        if (pairs.off(best) == 0).all():
            break
    return best


def _starts(pairs: _Pairs) -> Iterator[_Ints]:
    heaviest = _along_tree(pairs, np.argsort(-pairs.weights, kind="stable"))
    yield heaviest
    yield _spectral(pairs, heaviest)
    rng = np.random.default_rng(0)
    for _ in range(_TREES - 1):
        yield _along_tree(pairs, np.argsort(rng.exponential(size=len(pairs.weights)) / pairs.weights))


def _along_tree(pairs: _Pairs, order: _Ints) -> _Ints:
    """The turns that agree with a spanning tree: of the pairs in this order, each that closes no circle (Kruskal)."""
    turns, groups = np.zeros(pairs.count, np.int64), np.arange(pairs.count)
    for i, j, quarters in zip(pairs.first[order], pairs.second[order], pairs.quarters[order], strict=True):
        if groups[i] != groups[j]:
            joining = groups == groups[j]
            turns[joining] += quarters - turns[j] + turns[i]
            groups[joining] = groups[i]
    return turns % 4


def _groups(pairs: _Pairs) -> _Ints:
    """For each image a number that is the same for those which pairs connect, and for no others."""
    groups = np.arange(pairs.count)
    for i, j in zip(pairs.first, pairs.second, strict=True):
        if groups[i] != groups[j]:
            groups[groups == groups[j]] = groups[i]
    return groups


def _spectral(pairs: _Pairs, start: _Ints) -> _Ints:
    """The phases of the leading eigenvector, by the power method, of the matrix whose entry for a pair is its weight
    times i^quarters, scaled by the images' total weights."""
    first, second = pairs.first, pairs.second
    total = np.bincount(first, pairs.weights, pairs.count) + np.bincount(second, pairs.weights, pairs.count)
    entries = pairs.weights * 1j**pairs.quarters / np.sqrt(total[first] * total[second])
    vector = 1j**start
    for _ in range(_ITERATIONS):
        forth, back = entries * vector[first], entries.conj() * vector[second]
        new = vector.copy()
        np.add.at(new, second, forth)
        np.add.at(new, first, back)
        vector = new / np.linalg.norm(new)
    phases = np.angle(vector)
    phases -= np.angle(np.exp(4j * phases).sum()) / 4  # all together, so that they are near the four turns
    turns: _Ints = np.rint(phases / (np.pi / 2)).astype(np.int64) % 4
    return turns


def _improved(pairs: _Pairs, turns: _Ints) -> _Ints:
    """Turn one image, or one group of images that agree, at a time, while that makes more pairs agree."""
    alone = np.arange(pairs.count)
    while True:
        turns = _climb(pairs, turns, alone)
        groups = _groups(pairs.only(pairs.off(turns) == 0))
        better = _climb(pairs, turns, groups)
        if (better == turns).all():
            return turns
        turns = better


def _climb(pairs: _Pairs, turns: _Ints, groups: _Ints) -> _Ints:
    """Of all turns of one group the one that gains most, again and again until none gains."""
    turns = turns.copy()
    first, second = groups[pairs.first], groups[pairs.second]
    across = first != second
    first, second, weights = first[across], second[across], pairs.weights[across]
    least = 1e-9 * pairs.weights.sum()  # sums round
    while True:
        off = pairs.off(turns)[across]
        votes = np.bincount(4 * second + off, weights, 4 * pairs.count)
        votes += np.bincount(4 * first + -off % 4, weights, 4 * pairs.count)
        gains = votes.reshape(-1, 4) - votes.reshape(-1, 4)[:, :1]
        group, turn = divmod(int(gains.argmax()), 4)
        if gains[group, turn] <= least:
            return turns
        turns[groups == group] = (turns[groups == group] + turn) % 4


def _leaving_most(turns: _Ints) -> _Ints:
    """The same turns against each other, with as many 0 as there can be, and the first 0 among equals."""
    counts = np.bincount(turns, minlength=4)
    common = turns[0] if counts[turns[0]] == counts.max() else counts.argmax()
    return (turns - common) % 4
