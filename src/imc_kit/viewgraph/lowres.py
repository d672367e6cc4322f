"""A cheap look at pairs of images: how much they have in common, and how much one is turned against the other.

It goes by features of small images, matched by whoever calls: a thousand of SIFT at 800 pixels will do. What comes out
says which way up each photograph is (`orientation`), and which pairs are worth matching with care.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imc_kit.errors import KitError
from imc_kit.types import Features, Float32, Matches
from imc_kit.viewgraph.two_view import fundamental

_SIDE = 1000
"""Pixels of the longer side to which keypoints are scaled: then a limit on errors means the same in all images."""


@dataclass(frozen=True)
class LowResConfig:
    """How the matches of the overview are judged. Raises `KitError` when an option makes no sense."""

    max_error: float = 0.003
    """How far a match may be from its epipolar line, as a share of the image's longer side."""
    min_inliers: int = 12
    """Of fewer the votes for a turn do not count: photographs with nothing in common have up to 11 by chance."""
    trials: int = 1000
    """Of RANSAC, at most."""

    def __post_init__(self) -> None:
        for option, right, wanted in (
            ("max_error", 0 < self.max_error < 1, "larger than 0 and less than 1"),
            ("min_inliers", self.min_inliers >= 0, "at least 0"),
            ("trials", self.trials >= 1, "at least 1"),
        ):
            if not right:
                raise KitError(f"{option} of the overview must be {wanted}, not {getattr(self, option)!r}")


@dataclass(frozen=True)
class PairOverlap:
    """What a look at two images says.

    inliers: matches that one fundamental matrix explains.
    quarters: quarter turns clockwise, 0 to 3, that the second image must be turned more than the first to be the same
        way up.
    weight: the inliers that say so, less those that say the next most frequent; 0 where they are too few to say.
    """

    inliers: int
    quarters: int
    weight: float


def look(first: Features, second: Features, matches: Matches, config: LowResConfig | None = None) -> PairOverlap:
    """What the matches of two images say of the pair. Deterministic.

    Raises ValueError for features without orientations.
    """
    config = config or LowResConfig()
    if first.orientations is None or second.orientations is None:
        raise ValueError("the overview needs features with orientations, as SIFT's are")
    a, b = matches.indices.T
    limit = _SIDE * config.max_error
    _, inliers = fundamental(_scaled(first)[a], _scaled(second)[b], limit, confidence=0.999, trials=config.trials)
    count = int(inliers.sum())
    turns = (first.orientations[a] - second.orientations[b])[inliers]
    votes = np.bincount(np.rint(turns / 90).astype(int) % 4, minlength=4)
    next_best, best = np.sort(votes)[-2:]
    return PairOverlap(count, int(votes.argmax()), float(best - next_best) if count >= config.min_inliers else 0.0)


def strongest_pairs(strength: Mapping[tuple[str, str], float], neighbours: int) -> list[tuple[str, str]]:
    """The pairs that are among the `neighbours` strongest of either image, in the order of `strength`.

    strength: of pairs, each image's once with any other; of equals the first are taken.
    """
    seen: Counter[str] = Counter()
    chosen = set()
    for first, second in sorted(strength, key=lambda pair: -strength[pair]):
        if min(seen[first], seen[second]) < neighbours:
            chosen.add((first, second))
        seen.update((first, second))
    return [pair for pair in strength if pair in chosen]


def _scaled(features: Features) -> Float32:
    return features.keypoints * np.float32(_SIDE / max(features.image_size))
