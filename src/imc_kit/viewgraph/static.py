"""Find what stands still while the scene moves: a watermark, a date stamp, or the background of a turntable.

Matches on a static overlay join photos of different places, and they agree with a geometry of their own. In a rigid
scene all matches of a pair agree with one fundamental matrix. So a pair is evidence of something static if a group of
matches only shifts, as a picture on a picture does, and disagrees with the geometry of the pair's other matches. The
group may be shifted and scaled, because photos differ in size, and a photo may be cropped.

An image is affected if most of its pairs say so. Two copies of a structure disagree in a few pairs only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Features, Float64, Mask, Matches, Pair
from imc_kit.viewgraph.two_view import VerificationConfig

_SIDE = 1000
"""Keypoints are scaled to this longer side, in pixels, so that the limits below mean the same in all images."""
_TOLERANCE = 4.0
"""Maximum distance from the common shift, in each direction. A photo that is cropped or shaken also turns a little."""
_GEOMETRY = VerificationConfig(max_error=3.0, max_trials=500)
"""How the geometry of a pair's other matches is estimated. A pair whose geometry 500 trials miss is no evidence."""
_SUBSET = 400
"""Number of matches for that: enough to see whether there is a geometry, in 3 ms."""
_DISAGREES = 5.0
"""Matches farther from their epipolar lines disagree with the geometry; those in between tell nothing."""
_GROUP, _GROUPS = 8, 3
"""Minimum number of matches that shift together, and how many such groups are sought: a date and a logo in different
corners shift differently if the sizes of the photos differ."""
_SAMPLE = 2
"""Pairs of each image that are examined first, those with the most matches. Ordinary scenes need no others."""
_CELL = 16
"""Side of the cells whose keypoints share their votes with the eight cells around: about the distance of letters."""
_MIN_SHARE = 0.5
"""Minimum share of an image's pairs that must contain something static. The open scenes, with duplicate structures,
have 0.3 at most, stamped photos and turntables mostly 0.9."""
_MIN_PAIRS = 2
"""Pairs that must call an image or a keypoint static: one may be wrong."""


@dataclass(frozen=True)
class StaticConfig:
    """Whether to ignore what is static."""

    on: bool = True
    """Ignore keypoints on watermarks, date stamps and backgrounds that do not move with the scene."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the matches of a pair with a geometry show: which agree with it, and which are static, bool [K] each."""

    moving: Mask
    static: Mask


def static_keypoints(
    features: Mapping[str, Features],
    matches: Callable[[str, str], Matches],
    pairs: Sequence[Pair],
    examined: Callable[[Sequence[Pair]], Mapping[Pair, Evidence]],
) -> dict[str, Mask]:
    """Which keypoints of each image are static, bool [N], by name; an empty dict if none are.

    features, matches: by image names; descriptors are not used. examined: applies `examine` to pairs, and returns the
        evidence of those that have any.
    """
    counts = {pair: count for pair in pairs if (count := len(matches(*pair))) >= _GEOMETRY.min_inliers}
    evidence = dict(examined(_strongest(counts)))
    if len(_affected(evidence, 1)) <= 2:  # one wrong pair has two images
        return {}
    evidence |= examined([pair for pair in counts if pair not in evidence])
    affected = _affected(evidence, _MIN_PAIRS)
    votes = {name: np.zeros((2, len(one)), np.float32) for name, one in features.items()}
    for pair, found in evidence.items():
        for name, rows in zip(pair, matches(*pair).indices.T, strict=True):
            votes[name][0, rows[found.static]] += name in affected
            votes[name][1, rows[found.moving]] += 1
    known = {name: _masked(features[name], votes[name]) for name in affected}
    for pair in counts:  # to images without evidence, such as a stranger with the same overlay
        rows = matches(*pair).indices
        for one, other in ((0, 1), (1, 0)):
            if pair[one] not in known and pair[other] in known:
                votes[pair[one]][0, rows[:, one]] += known[pair[other]][rows[:, other]]
    return {name: _masked(one, votes[name]) for name, one in features.items()}


def examine(first: Features, second: Features, matches: Matches) -> Evidence | None:
    """Look for static matches in a pair; None if its other matches have no geometry. Deterministic."""
    images = first, second
    one, two = (
        np.asarray(image.keypoints[rows] * (_SIDE / max(image.image_size)), np.float64)
        for image, rows in zip(images, matches.indices.T, strict=True)
    )
    sizes = np.array([image.image_size for image in images], np.float64)
    long, short = sizes.max(axis=1), sizes.min(axis=1)
    # An overlay keeps its size in pixels, or grows with the width, the height, or the longer or shorter side.
    scales = np.unique([1.0, *(sizes[1] / sizes[0]), long[1] / long[0], short[1] / short[0]]) * (long[0] / long[1])
    others = ~_shifted(one, two, scales, np.ones(len(matches), np.bool_))
    chosen = np.flatnonzero(others)
    chosen = chosen[:: len(chosen) // _SUBSET + 1]
    matrix, inliers = _GEOMETRY.verify(one[chosen], two[chosen])
    lines = np.pad(one, ((0, 0), (0, 1)), constant_values=1.0) @ matrix.T
    apart = np.abs((lines[:, :2] * two).sum(axis=1) + lines[:, 2]) / np.maximum(np.hypot(*lines[:, :2].T), 1e-12)
    moving = (apart <= _GEOMETRY.max_error) & others & inliers.any()
    if (moving & ~_shifted(one, two, scales, moving)).sum() < _GEOMETRY.min_inliers:
        return None  # the geometry of a second overlay, such as a logo in another corner
    static = np.zeros(len(matches), np.bool_)
    for _ in range(_GROUPS):
        left = (apart > _DISAGREES) & ~static
        group = _shifted(one, two, scales, left)
        if (group & left).sum() < _GROUP:
            break
        static |= group & left
        moving &= ~group
    return Evidence(moving, static)


def _strongest(counts: Mapping[Pair, int]) -> list[Pair]:
    """The pairs with the most matches of each image."""
    seen: Counter[str] = Counter()
    chosen = []
    for pair in sorted(counts, key=lambda pair: (-counts[pair], pair)):
        if min(seen[name] for name in pair) < _SAMPLE:
            chosen.append(pair)
            seen.update(pair)
    return chosen


def _affected(evidence: Mapping[Pair, Evidence], least: int) -> set[str]:
    """The images of which enough pairs have something static, and at least `least`."""
    known = Counter(name for pair in evidence for name in pair)
    static = Counter(name for pair, found in evidence.items() if found.static.any() for name in pair)
    return {name for name, count in static.items() if count >= max(least, _MIN_SHARE * known[name])}


def _shifted(first: Float64, second: Float64, scales: Float64, among: Mask) -> Mask:
    """The matches with x₂ = s · x₁ + t, bool [K], for the scale and the shift t of the largest group `among` them."""
    most, best = 0, np.zeros(len(first), np.bool_)
    for scale in scales if among.any() else ():
        every = second - scale * first
        shifts = every[among]
        cells = np.floor(shifts / _TOLERANCE).astype(np.int64) @ np.array([1 << 32, 1])
        _, where, counts = np.unique(cells, return_inverse=True, return_counts=True)
        group = where == counts.argmax()
        for _ in range(2):  # the group may extend beyond its cell
            middle = np.median(shifts[group], axis=0)
            group = (np.abs(shifts - middle) <= _TOLERANCE).all(axis=1)
        if group.sum() > most:
            most, best = group.sum(), (np.abs(every - middle) <= _TOLERANCE).all(axis=1)
    return best


def _masked(features: Features, votes: NDArray[np.float32]) -> Mask:
    """The keypoints that are static by their votes [2, N], for static and for moving, or by those around them."""
    column, row = (features.keypoints * (_SIDE / max(features.image_size)) / _CELL + 1).astype(np.intp).T
    grid = np.zeros((_SIDE // _CELL + 3, _SIDE // _CELL + 3, 2), np.float32)
    np.add.at(grid, (row, column), votes.T)
    around = cv2.boxFilter(grid, -1, (3, 3), normalize=False)[row, column].T
    static, moving = np.stack([votes, around], axis=1)
    mask: Mask = ((static > moving) & (static >= _MIN_PAIRS)).any(axis=0)
    return mask
