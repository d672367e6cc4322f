"""Turntables: a thing before a camera, turned in steps, on which reconstruction fails, as it is smooth or of glass.

The views are ordered into the closed tour along which they change least, and the cameras are put on a circle in that
order. Nothing here reads a file: distances come from `frames`, or from any other measure of how unlike two views are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from imc_kit.errors import KitError
from imc_kit.poses.frames import distances
from imc_kit.runtime import deadline
from imc_kit.types import Float32, Float64, Int32, Pose

TRANSPARENT = "transparent"
"""The category of the scenes that the competition photographed like this."""
_FEWEST = 8
"""Views: fewer lie on a circle by chance, whatever their distances are."""
_NEARBY = 5
"""Steps over which the speed of change is taken to be the same: see `step_angles`."""


@dataclass(frozen=True)
class TurntableConfig:
    """When views are placed on a circle, and how. Raises `KitError` when an option makes no sense."""

    on: bool = True
    """Whether to place scenes of this kind on a circle at all."""
    max_registered: float = 0.5
    """A scene of which a larger share of the images is registered is left alone."""
    min_observations: float = 30.0
    """A model whose images see fewer of its points, on average, has placed none; COLMAP asks for 30 to register one."""
    min_still: float = 0.3
    """Frames are a turntable's when this share of their pixels is the same in all, unless the category says so."""
    min_confidence: float = 0.45
    """In the circle, for scenes of another category than `transparent`; for all, it must reach the share registered."""
    long_side: int = 96
    """Of the frames that are compared, in pixels."""
    measured: float = 0.0
    """From 0, equal steps between the cameras, to 1, steps by how much the views differ."""
    tries: int = 100
    """To shorten the tour by taking a part of it elsewhere."""

    def __post_init__(self) -> None:
        for option, right, wanted in (
            ("max_registered", 0 <= self.max_registered <= 1, "in 0 … 1"),
            ("min_observations", self.min_observations >= 0, "at least 0"),
            ("min_still", 0 <= self.min_still <= 1, "in 0 … 1"),
            ("min_confidence", 0 <= self.min_confidence <= 1, "in 0 … 1"),
            ("long_side", 16 <= self.long_side <= 1024, "in 16 … 1024 pixels"),
            ("measured", 0 <= self.measured <= 1, "in 0 … 1"),
            ("tries", self.tries >= 0, "at least 0"),
        ):
            if not right:
                raise KitError(f"{option} of the turntable must be {wanted}, not {getattr(self, option)!r}")


@dataclass(frozen=True, eq=False)
class Turntable:
    """Views on a circle.

    poses: on a circle of radius 1, by the names of the images, in the order of the circle.
    confidence: as of `cycle`.
    """

    poses: dict[str, Pose]
    confidence: float


def placed(registered: int, observations: int, config: TurntableConfig) -> int:
    """How many images a model has placed that one can believe: all that it registers, or none.

    observations: of its points by its images, all together. On a rendered turntable COLMAP registers all 36 images by
    the 15 points that it finds on the backdrop and on the highlights, and every camera is wrong.
    """
    return registered if observations >= config.min_observations * registered else 0


def suspicion(
    categories: Sequence[str], images: int, registered: int, still: float, config: TurntableConfig
) -> str | None:
    """Why a scene should be tried as a turntable, for a person to read; None when it should not.

    images: how many the scene has.
    registered: how many of them reconstruction has placed, see `placed`.
    still: what `frames.still_share` says of its photographs.

    The number of verified matches is not asked: those on a backdrop that stays verify well, and lead nowhere.
    """
    if not config.on or registered > config.max_registered * images:
        return None
    if TRANSPARENT in categories:
        return f"its category is {TRANSPARENT} and {registered} of {images} images are registered"
    if still >= config.min_still:
        return f"{still:.0%} of each image are the same in all and {registered} of {images} are registered"
    return None


def better(confidence: float, categories: Sequence[str], images: int, registered: int, config: TurntableConfig) -> bool:
    """Whether a circle of this confidence should replace a reconstruction; the rest as for `suspicion`.

    Where the category says that it is one and nothing has been placed, any circle is worth a guess.
    """
    enough = TRANSPARENT in categories or confidence >= config.min_confidence
    return enough and confidence * images >= registered


def arrange(names: Sequence[str], stack: Float32, config: TurntableConfig, until: float = inf) -> Turntable:
    """Order the views and place them; `stack` [N, h, w] are their frames, see `frames.comparable`.

    After the moment `until` (see `clock`) the order is not improved any more.
    """
    apart = distances(stack)
    order, confidence = cycle(apart, config.tries, until=until)
    steps = step_angles(apart[order, np.roll(order, -1)], config.measured)
    return Turntable(circle([names[place] for place in order], steps), confidence)


def cycle(distance: Float64, tries: int = 100, seed: int = 0, until: float = inf) -> tuple[Int32, float]:
    """The closed tour of least length and how much the distances are those of a circle, from [N, N].

    Returns the numbers of the views in the order of the tour, [N], and a confidence between 0 and 1. It is 1 when the
    distance grows with the number of steps between two views, for all that are up to a sixth of the circle apart, and
    no step is longer than the others; 0 when it grows no more than by chance, when the tour has to leap back from an
    end to the other, and for fewer than eight views. Which way round, and from where, means nothing.

    Deterministic, unless `until` (see `clock`) ends the search. Raises `ValueError` for distances that are not [N, N],
    finite, symmetric and at least 0.
    """
    apart = np.asarray(distance, np.float64)
    if apart.ndim != 2 or apart.shape[0] != apart.shape[1]:
        raise ValueError(f"distances must be [N, N], not {list(apart.shape)}")
    if not (np.isfinite(apart).all() and (apart >= 0).all() and np.allclose(apart, apart.T)):
        raise ValueError("distances must be finite, symmetric and at least 0")
    tour = _shortest_tour(apart, tries, seed, until)
    return tour.astype(np.int32), _confidence(apart[np.ix_(tour, tour)])


def step_angles(changes: Float64, measured: float) -> Float64:
    """Angles from each view to the next, [N], radians, 2π together; `changes` [N] are the distances between them.

    measured: 0 for equal angles, 1 for angles in proportion to the changes.

    As much turning changes more where a handle passes than where there is none. So what counts is how much a step
    changes beside the mean of the five around it. On rendered views a half of it gains 0.03 mAA where steps differ by
    up to 40 % and costs 0.09 where they are equal.
    """
    changes = np.asarray(changes, np.float64)
    around = np.mean([np.roll(changes, shift - _NEARBY // 2) for shift in range(_NEARBY)], axis=0)
    steps = 1 - measured + measured * np.divide(changes, around, out=np.ones_like(changes), where=around > 0)
    return np.asarray(2 * np.pi * steps / max(steps.sum(), 1e-12), np.float64)


def circle(order: Sequence[str], steps: Float64 | None = None) -> dict[str, Pose]:
    """Upright cameras on a circle of radius 1 about the z axis that look at its middle, in this order.

    steps: the angle from each to the next, [N], radians; equal when left out. How high the camera stood over the
    thing is unknown, and taken to be not at all.

    Raises `ValueError` for another number of steps, or steps that are not finite.
    """
    count = len(order)
    steps = np.full(count, 2 * np.pi / max(count, 1)) if steps is None else np.asarray(steps, np.float64)
    if steps.shape != (count,) or not np.isfinite(steps).all():
        raise ValueError(f"steps must be finite [{count}], not {list(steps.shape)}")
    angles = np.cumsum(steps) - steps
    poses = {}
    for name, cosine, sine in zip(order, np.cos(angles), np.sin(angles), strict=True):
        right_down_forward = np.array([[-sine, cosine, 0], [0, 0, -1], [-cosine, -sine, 0]])
        poses[name] = Pose(right_down_forward, np.array([0.0, 0.0, 1.0]))
    return poses


def _shortest_tour(apart: Float64, tries: int, seed: int, until: float) -> Int32:
    """By 2-opt from a few nearest-neighbour tours, then from the best one with two of its parts exchanged.

    networkx's solvers, tried on six scenes of 18 to 135 views, found the same tour on two and longer ones, by 1 to 7
    %, on the others, and the base installation does not have it. This takes less than a second for 135 views.
    """
    count = len(apart)
    if count < 4:
        return np.arange(count, dtype=np.int32)
    rng = np.random.default_rng(seed)
    starts = range(0, count, max(1, count // 8))
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
    """The tour with parts of it reversed, the one that shortens it most first, until none does."""
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
    """See `cycle`; `apart` [N, N] in the order of the tour."""
    count = len(apart)
    if count < _FEWEST:
        return 0.0
    number = np.arange(count)
    steps = np.abs(number[:, None] - number)
    steps = np.minimum(steps, count - steps)
    near = np.triu((steps > 0) & (steps <= max(3, count // 6)))
    grows = _correlation(_ranks(apart[near]), _ranks(steps[near]))
    around = np.sort(apart[number, number - 1])
    if around[-1] == 0:
        return 0.0
    # The least tour through random distances reaches 0.5 by itself; a gap is one step, or few, beyond all others.
    return max(0.0, 2 * grows - 1) * float(np.quantile(around, 0.9) / around[-1])


def _ranks(values: Float64 | Int32) -> Float64:
    """The mean rank of each value [K] among all, so that equal ones have equal ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which], np.float64)


def _correlation(first: Float64, second: Float64) -> float:
    spread = first.std() * second.std()
    return float(np.mean((first - first.mean()) * (second - second.mean())) / spread) if spread > 0 else 0.0
