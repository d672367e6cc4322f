"""Which way up each photograph of a scene is: quarter turns that agree with what pairs say, as far as that goes.

Giving every image one of four turns so that the pairs which agree weigh most is a synchronisation over the cyclic group
of order four. It is hard in general and easy where most pairs are right. Groups of images are joined, by strong pairs
first, as all the pairs between two groups vote; then single images are turned while that helps. This is done again in
other orders, and the best result is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64

_ATTEMPTS = 16
"""The first joins the heaviest pairs first, the others draw the next pair with odds by weight."""

_Ints = NDArray[np.int64]


def assign_rotations(images: Sequence[str], relative: Mapping[tuple[str, str], tuple[int, float]]) -> dict[str, int]:
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
    """Pairs (first, second) of `count` images: [E] each, as in `assign_rotations`; turns below are int64 [count]."""

    count: int
    first: _Ints
    second: _Ints
    quarters: _Ints
    weights: Float64

    def off(self, turns: _Ints) -> _Ints:
        """By how many quarters, 0 to 3, the second image of each pair lacks what the pair says; [E]."""
        return (self.quarters - turns[self.second] + turns[self.first]) % 4

    def agreement(self, turns: _Ints) -> float:
        """The weight of the pairs that agree."""
        return float(self.weights[self.off(turns) == 0].sum())


def _within(pairs: _Pairs, members: _Ints) -> _Pairs:
    """The pairs of these images, which have none with others, numbered anew."""
    number = np.full(pairs.count, -1)
    number[members] = np.arange(len(members))
    inside = number[pairs.first] >= 0
    first, second = number[pairs.first[inside]], number[pairs.second[inside]]
    return _Pairs(len(members), first, second, pairs.quarters[inside], pairs.weights[inside])


def _best(pairs: _Pairs) -> _Ints:
    """The turns, of several attempts, with which pairs of most weight agree."""
    best, most = np.zeros(pairs.count, np.int64), -1.0
    rng = np.random.default_rng(0)
    for attempt in range(_ATTEMPTS):
        lots = rng.exponential(size=len(pairs.weights)) if attempt else 1.0
        turns = _climbed(pairs, _joined(pairs, np.argsort(lots / pairs.weights, kind="stable")))
        if (agreement := pairs.agreement(turns)) > most:
            best, most = turns, agreement
        if (pairs.off(best) == 0).all():
            break
    return best


def _joined(pairs: _Pairs, order: _Ints) -> _Ints:
    """Groups are joined along the pairs in this order (Kruskal), one turned as all the pairs between the two vote."""
    turns, groups = np.zeros(pairs.count, np.int64), np.arange(pairs.count)
    for i, j in zip(pairs.first[order], pairs.second[order], strict=True):
        one, other = groups[i], groups[j]
        if one != other:
            first, second = groups[pairs.first], groups[pairs.second]
            forth, back = (first == one) & (second == other), (first == other) & (second == one)
            off = pairs.off(turns)
            votes = np.bincount(np.where(forth, off, -off % 4), np.where(forth | back, pairs.weights, 0), 4)
            turns[groups == other] += votes.argmax()
            groups[groups == other] = one
    return turns % 4


def _groups(pairs: _Pairs) -> _Ints:
    """For each image a number that is the same for those which pairs connect, and for no others."""
    groups = np.arange(pairs.count)
    for i, j in zip(pairs.first, pairs.second, strict=True):
        if groups[i] != groups[j]:
            groups[groups == groups[j]] = groups[i]
    return groups


def _climbed(pairs: _Pairs, turns: _Ints) -> _Ints:
    """Of all turns of one image the one that gains most, again and again until none gains."""
    turns = turns.copy()
    least = 1e-9 * pairs.weights.sum()  # sums round
    while True:
        off = pairs.off(turns)
        votes = np.bincount(4 * pairs.second + off, pairs.weights, 4 * pairs.count)
        votes += np.bincount(4 * pairs.first + -off % 4, pairs.weights, 4 * pairs.count)
        gains = votes.reshape(-1, 4) - votes.reshape(-1, 4)[:, :1]
        image, turn = divmod(int(gains.argmax()), 4)
        if gains[image, turn] <= least:
            return turns
        turns[image] = (turns[image] + turn) % 4


def _leaving_most(turns: _Ints) -> _Ints:
    """The same turns against each other, with as many 0 as there can be, and the first 0 among equals."""
    counts = np.bincount(turns, minlength=4)
    common = turns[0] if counts[turns[0]] == counts.max() else counts.argmax()
    return (turns - common) % 4
