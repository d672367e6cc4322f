"""Turntables: an object rotates before a fixed camera and is too smooth or transparent to reconstruct.

The views are ordered along the shortest closed tour, and the cameras are placed on a circle in that order. Nothing here
reads a file: distances come from `frames`, or from another measure of how views differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from imc_kit.errors import require
from imc_kit.poses.frames import distances
from imc_kit.runtime import deadline
from imc_kit.types import Float32, Float64, Int32, Pose

TRANSPARENT = "transparent"
"""The competition's category for scenes on a turntable."""
_FEWEST = 8
"""Minimum number of views. Fewer fit a circle by chance, whatever their distances."""
_STARTS = 8
"""Number of nearest-neighbour tours from which the search starts."""


@dataclass(frozen=True)
class TurntableConfig:
    """When and how to place views on a circle. Raises `KitError` when a value makes no sense."""

    on: bool = True
    """Place failed turntable scenes on a circle."""
    max_registered: float = 0.5
    """Skip scenes with a larger share of registered images."""
    min_observations: float = 30.0
    """Ignore a model whose images observe fewer 3D points on average. COLMAP needs 30 to register an image."""
    min_still: float = 0.3
    """Minimum share of static pixels in a turntable scene, unless the category is `transparent`. The rendered turntable
    has 0.6 or more, the open scenes less than 0.3."""
    min_confidence: float = 0.45
    """Minimum confidence in the circle, unless the category is `transparent`. Real scenes reach 0.39, turntables 0.5
    and more. It must always reach the share of registered images, too."""
    long_side: int = 96
    """Longer side of the compared frames, in pixels."""
    tries: int = 100
    """Number of attempts to shorten the tour by exchanging two parts of it."""

    def __post_init__(self) -> None:
        for option, valid, wanted in (
            ("max_registered", 0 <= self.max_registered <= 1, "in 0 … 1"),
            ("min_observations", self.min_observations >= 0, "at least 0"),
            ("min_still", 0 <= self.min_still <= 1, "in 0 … 1"),
            ("min_confidence", 0 <= self.min_confidence <= 1, "in 0 … 1"),
            ("long_side", 16 <= self.long_side <= 1024, "in 16 … 1024 pixels"),
            ("tries", self.tries >= 0, "at least 0"),
        ):
            require(valid, f"{option} of the turntable", wanted, getattr(self, option))


@dataclass(frozen=True, eq=False)
class Turntable:
    """Views on a circle.

    poses: on a circle of radius 1, by image name, in circle order.
    confidence: how well the distances fit a circle, 0 … 1 (`cycle`).
    """

    poses: dict[str, Pose]
    confidence: float


def placed(registered: int, observations: int, config: TurntableConfig) -> int:
    """How many of a model's registered images count: all, or none when they observe too few points.

    observations: of 3D points, by all its images. On a rendered turntable COLMAP registers all 36 images by 15 points
        on the backdrop and on highlights, and every camera is wrong.
    """
    return registered if observations >= config.min_observations * registered else 0


def suspicion(
    categories: Sequence[str], images: int, registered: int, still: float, config: TurntableConfig
) -> str | None:
    """The reason to try a scene as a turntable, in words, or None.

    images: number of images. registered: how many of them count (`placed`). still: the share of static pixels
        (`frames.still_share`).

    Verified matches do not matter: those on a static backdrop verify well and are useless.
    """
    if not config.on or registered > config.max_registered * images:
        return None
    if TRANSPARENT in categories:
        return f"its category is {TRANSPARENT} and {registered} of {images} images are registered"
    if still >= config.min_still:
        return f"{still:.0%} of each image is static and {registered} of {images} images are registered"
    return None


def better(confidence: float, categories: Sequence[str], images: int, registered: int, config: TurntableConfig) -> bool:
    """Whether a circle of this confidence should replace the reconstruction. The other arguments are as in `suspicion`.

    If the category is `transparent` and no image is registered, any circle is worth a guess.
    """
    enough = TRANSPARENT in categories or confidence >= config.min_confidence
    return enough and confidence * images >= registered


def arrange(names: Sequence[str], stack: Float32, config: TurntableConfig, until: float = inf) -> Turntable:
    """Order views and place them on a circle.

    stack: their frames [N, h, w] (`frames.comparable`). until: the deadline for improving the order
        (`runtime.deadline`).
    """
    order, confidence = cycle(distances(stack), config.tries, until=until)
    return Turntable(circle([names[place] for place in order]), confidence)


def cycle(distance: Float64, tries: int = 100, seed: int = 0, until: float = inf) -> tuple[Int32, float]:
    """Find the shortest closed tour through views with distances [N, N], and how well they fit a circle.

    Returns the views in the order of the tour, [N], and a confidence from 0 to 1. It is 1 when distances grow with the
    number of steps, up to a sixth of the circle, and no step is longer than the others. It is 0 when they do not grow,
    when the tour leaps back from one end to the other, and for fewer than eight views. Start and direction are
    arbitrary.

    Deterministic, unless `until` (`runtime.deadline`) ends the search.

    distance: finite, symmetric and at least 0.
    """
    tour = _shortest_tour(distance, tries, seed, until)
    return tour.astype(np.int32), _confidence(distance[np.ix_(tour, tour)])


def circle(order: Sequence[str]) -> dict[str, Pose]:
    """Upright cameras in equal steps on a circle of radius 1 about the z axis that look at its middle, in this order.

    The camera's unknown height is taken as 0.
    """
    angles = 2 * np.pi * np.arange(len(order)) / max(len(order), 1)
    poses = {}
    for name, cosine, sine in zip(order, np.cos(angles), np.sin(angles), strict=True):
        right_down_forward = np.array([[-sine, cosine, 0], [0, 0, -1], [-cosine, -sine, 0]])
        poses[name] = Pose(right_down_forward, np.array([0.0, 0.0, 1.0]))
    return poses


def _shortest_tour(apart: Float64, tries: int, seed: int, until: float) -> Int32:
    """2-opt from a few nearest-neighbour tours, then from the best one with two of its parts exchanged at random.

    135 views take less than a second. networkx's solvers found longer tours in four of six scenes.
    """
    count = len(apart)
    if count < 4:
        return np.arange(count, dtype=np.int32)
    rng = np.random.default_rng(seed)
    starts = range(0, count, max(1, count // _STARTS))
    best = min(
        (_two_opt(apart, _nearest_neighbours(apart, start)) for start in starts), key=lambda t: _length(apart, t)
    )
    for _ in range(tries):
        if not deadline.left(until):
            break
        a, b, c = np.sort(rng.choice(np.arange(1, count), 3, replace=False))
        tour = _two_opt(apart, np.concatenate([best[:a], best[b:c], best[a:b], best[c:]]))
        if _length(apart, tour) < _length(apart, best) * (1 - 1e-12):
            best = tour
    return best


def _length(apart: Float64, tour: Int32) -> float:
    return float(apart[tour, np.roll(tour, -1)].sum())


def _nearest_neighbours(apart: Float64, start: int) -> Int32:
    tour, left = [start], np.ones(len(apart), np.bool_)
    for _ in range(len(apart) - 1):
        left[tour[-1]] = False
        tour.append(int(np.where(left, apart[tour[-1]], np.inf).argmin()))
    return np.array(tour, np.int32)


def _two_opt(apart: Float64, tour: Int32) -> Int32:
    """Reverse the part of a tour whose reversal shortens it most, until none does."""
    while True:
        following = np.roll(tour, -1)
        steps = apart[tour, following]
        gains = steps[:, None] + steps - apart[np.ix_(tour, tour)] - apart[np.ix_(following, following)]
        gains = np.triu(gains, 1)
        first, last = np.unravel_index(gains.argmax(), gains.shape)
        if gains[first, last] <= 1e-12 * steps.sum():
            return tour
        tour = tour.copy()
        tour[first + 1 : last + 1] = tour[first + 1 : last + 1][::-1]


def _confidence(apart: Float64) -> float:
    """The confidence of `cycle`, from distances [N, N] in the order of the tour."""
    import pandas as pd

    count = len(apart)
    if count < _FEWEST:
        return 0.0
    number = np.arange(count)
    steps = np.abs(number[:, None] - number)
    steps = np.minimum(steps, count - steps)
    near = np.triu((steps > 0) & (steps <= max(3, count // 6)))
    around = np.sort(apart[number, number - 1])
    if around[-1] == 0 or np.ptp(apart[near]) == 0:
        return 0.0
    # Spearman's correlation: that of the ranks. scipy.stats has it too, but takes a second to load.
    ranks = np.stack([pd.Series(values[near]).rank() for values in (apart, steps)])
    grows = float(np.corrcoef(ranks)[0, 1])
    # The shortest tour through random distances reaches 0.5. A gap is one or a few steps longer than all others.
    return max(0.0, 2 * grows - 1) * float(np.quantile(around, 0.9) / around[-1])
