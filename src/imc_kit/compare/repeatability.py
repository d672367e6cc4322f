"""Does a detector find the same points again, and does a matcher say so? Tried where the answer is known.

A photograph is seen again in ways that are known exactly: turned, from nearer, from the side, in another light. Each
pair of views is judged in the manner of Mikolajczyk et al. (2005), by the numbers of DeTone et al. (2018) and Dusmanu
et al. (2019). All detectors see the same pixels and may keep equally many keypoints, for of two detectors that find
points at random the one that finds more finds more of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from imc_kit.config import FeaturePipeline
from imc_kit.data.images import Photo
from imc_kit.detectors import extract
from imc_kit.errors import KitError
from imc_kit.matchers import DetectorFreeConfig
from imc_kit.pipeline.tasks import loaded
from imc_kit.types import Features, Float32, Float64, Mask, Matches, Pixels

Change = Literal["rotation", "scale", "perspective", "light"]
CHANGES: tuple[Change, ...] = get_args(Change)


@dataclass(frozen=True)
class RepeatabilityConfig:
    """What is tried, and when a point counts as found again. Raises `KitError` when an option makes no sense."""

    long_side: int = 640
    """Of the views, in pixels, but never more than the photograph has."""
    max_keypoints: int = 1000
    """So many keypoints of a view are kept, the strongest."""
    epsilon: float = 3.0
    """Points at most so far apart are the same, in pixels of the second view."""
    photographs: int = 3
    """Of a scene so many are looked at, spread over it."""
    views: int = 2
    """Views of each photograph for each kind of change, from slight to strong."""
    rotation: float = 60.0
    """The largest rotation about the line of sight, in degrees."""
    scale: float = 2.0
    """How much nearer the nearest view is."""
    perspective: float = 50.0
    """The largest angle from which the photograph, as a flat picture, is seen, in degrees."""
    light: float = 1.0
    """The largest change of light: 1 takes every value to its square or its root, and adds noise of 8 grey levels."""
    seed: int = 0

    @property
    def load_side(self) -> int:
        """So many pixels shall the longer side of a photograph have at most, so that nearer views are sharp too."""
        return 2 * self.long_side

    def __post_init__(self) -> None:
        for name, right, wanted in (
            ("long_side", self.long_side >= 16, "at least 16 pixels"),
            ("max_keypoints", self.max_keypoints >= 1, "at least 1"),
            ("epsilon", 0 < self.epsilon < float("inf"), "larger than 0 pixels"),
            ("photographs", self.photographs >= 1, "at least 1"),
            ("views", self.views >= 1, "at least 1"),
            ("rotation", 0 <= self.rotation <= 180, "in 0 … 180 degrees"),
            ("scale", 1 <= self.scale <= 8, "in 1 … 8"),
            ("perspective", 0 <= self.perspective <= 75, "in 0 … 75 degrees"),
            ("light", 0 <= self.light <= 3, "in 0 … 3"),
        ):
            if not right:
                raise KitError(f"{name} of repeatability must be {wanted}, not {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False)
class View:
    """Another view of a photograph.

    homography: [3, 3], takes a point of the plain view to this one: (x, y) in pixels, the centre of the top-left pixel
        at (0, 0). Both views have the same size.
    gamma: values, as a share of the brightest, are taken to this power; 1 leaves them.
    noise: standard deviation of what is added to them then, in grey levels, and `seed` of its random numbers.
    """

    change: Change
    homography: Float64
    gamma: float = 1.0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Repeated:
    """How well one view, or several on average, went. All are shares between 0 and 1.

    repeatability: of the keypoints of both views that lie in both, those with a keypoint of the other view within
        epsilon. None for a matcher that has no keypoints.
    matching_accuracy: of the matches, those that are right: the second point within epsilon of where the first went.
        (Dusmanu et al.'s mean matching accuracy, once it is averaged.) 0 without matches.
    matching_score: of the keypoints that lie in both views, those in a right match; the mean of the two views. None as
        above.
    """

    repeatability: float | None
    matching_accuracy: float | None
    matching_score: float | None


# ---- views ----


def homography(
    size: tuple[int, int], *, rotation: float = 0.0, scale: float = 1.0, tilt: float = 0.0, direction: float = 0.0
) -> Float64:
    """How a flat picture of this (width, height) looks, [3, 3], when it is turned about its centre, which stays.

    rotation: clockwise, about the line of sight. tilt: away from it, about the axis in the picture at `direction`. All
    in degrees. scale: larger is nearer. The focal length is the longer side.
    """
    width, height = size
    turn, lean, axis = np.radians([rotation, tilt, direction])
    focal = float(max(size))

    def about_sight(angle: float) -> Float64:
        cosine, sine = np.cos(angle), np.sin(angle)
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])

    leaning = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
    turned = about_sight(axis) @ leaning @ about_sight(turn - axis)
    # The picture is the plane z = 0, a focal length away, so that one of its units is one pixel; its axes as columns.
    plane = np.column_stack([turned[:, 0], turned[:, 1], [0, 0, focal]])
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    seen = center @ np.diag([focal * scale, focal * scale, 1]) @ plane @ np.linalg.inv(center)
    return np.asarray(seen / seen[2, 2], np.float64)


def views(size: tuple[int, int], config: RepeatabilityConfig, number: int = 0) -> list[View]:
    """The views of the photograph of this number, which plainly has (width, height); the same ones whoever asks.

    Of each kind there are `config.views`, one in each part of its range, so that slight and strong ones are all there.
    """
    rng = np.random.default_rng([config.seed, number])
    found = []
    for change in CHANGES:
        for step in range(config.views):
            strength = (step + rng.uniform()) / config.views
            sign = rng.choice([-1, 1])
            direction, seed = rng.uniform(0, 180), int(rng.integers(2**32))
            if change == "rotation":
                found.append(View(change, homography(size, rotation=sign * strength * config.rotation)))
            elif change == "scale":
                found.append(View(change, homography(size, scale=config.scale**strength)))
            elif change == "perspective":
                tilt = sign * strength * config.perspective
                found.append(View(change, homography(size, tilt=tilt, direction=direction)))
            else:
                amount = strength * config.light
                found.append(View(change, np.eye(3), 2.0 ** (sign * amount), 8 * amount, seed))
    return found


def plain_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """The (width, height) of the views of a photograph of this size."""
    factor = min(1.0, long_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def see(pixels: Pixels, size: tuple[int, int], view: View | None = None) -> Pixels:
    """A photograph, at any resolution, as a view of (width, height); the plain one if none is named.

    A pixel is the mean of four samples of the photograph. What lies outside of it is its mirror image, as an edge there
    would be found; but see `shown`.
    """
    width, height = size
    full = np.array([[pixels.shape[1] / width, 0, 0], [0, pixels.shape[0] / height, 0], [0, 0, 1]])
    half = np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]])
    edge = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from the centre of the first pixel to its corner
    back = np.linalg.inv(np.eye(3) if view is None else view.homography)
    # From the four samples of a pixel to the view, from there to the plain view, and to the photograph.
    source = np.linalg.inv(edge) @ full @ edge @ back @ np.linalg.inv(edge) @ half @ edge
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpPerspective(pixels, source, (2 * width, 2 * height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    seen = np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)
    if view is None or (view.gamma == 1 and not view.noise):
        return seen
    lit = 255 * (seen / np.float32(255)) ** np.float32(view.gamma)
    grain = np.random.default_rng(view.seed).standard_normal(seen.shape, np.float32)
    return np.clip(np.rint(lit + np.float32(view.noise) * grain), 0, 255).astype(np.uint8)


def shown(size: tuple[int, int], view: View) -> Mask:
    """Which pixels of a view of (width, height) show the photograph, and not its mirror image."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    inside = _in_both(np.column_stack([x.ravel(), y.ravel()]), np.linalg.inv(view.homography), size)
    return inside.reshape(size[::-1])


# ---- judging ----


def project(points: Float32, homography: NDArray[Any]) -> Float64:
    """Where points (x, y) [N, 2] go, [N, 2]; nan for those that go behind the camera."""
    ahead = homography * np.sign(np.linalg.det(homography))  # no view is mirrored
    moved = np.column_stack([points, np.ones(len(points))]) @ ahead.T
    depth = np.where(moved[:, 2:] > 0, moved[:, 2:], np.nan)
    return np.asarray(moved[:, :2] / depth, np.float64)


def repeatability(
    first: Float32, second: Float32, homography: NDArray[Any], size: tuple[int, int], epsilon: float = 3.0
) -> float:
    """`Repeated.repeatability` of the keypoints [N, 2] and [M, 2] of two views of (width, height); 0 without any.

    homography: [3, 3], from the first view to the second.
    """
    moved = project(first, homography)[_in_both(first, homography, size)]
    there = second[_in_both(second, np.linalg.inv(homography), size)]
    pairs = cKDTree(np.concatenate([moved, there])).query_pairs(epsilon, output_type="ndarray")
    again = pairs[(pairs < len(moved)).sum(1) == 1]  # one of either view
    return _share(len(np.unique(again)), len(moved) + len(there))


def matching_accuracy(first: Float32, second: Float32, homography: Float64, epsilon: float = 3.0) -> float:
    """`Repeated.matching_accuracy` of matches, from `first` [K, 2] to `second` [K, 2]."""
    return _share(int(_right(first, second, homography, epsilon).sum()), len(first))


def matching_score(
    first: Features, second: Features, matches: Matches, homography: Float64, epsilon: float = 3.0
) -> float:
    """`Repeated.matching_score` of the matches of two views of one size."""
    ends = first.keypoints[matches.indices[:, 0]], second.keypoints[matches.indices[:, 1]]
    right = _right(*ends, homography, epsilon)
    ways = homography, np.linalg.inv(homography)
    seen = [_in_both(one.keypoints, way, one.image_size) for one, way in zip((first, second), ways, strict=True)]
    right &= seen[0][matches.indices[:, 0]] & seen[1][matches.indices[:, 1]]
    return float(np.mean([_share(int(right.sum()), int(there.sum())) for there in seen]))


def _right(first: Float32, second: Float32, homography: Float64, epsilon: float) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(project(first, homography) - second, axis=1) <= epsilon)  # nan is not


def _in_both(points: Float32, homography: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points [N, 2] of a view lie in the other one too, [N]."""
    moved = project(points, homography)
    return np.asarray(((moved >= -0.5) & (moved <= np.array(size) - 0.5)).all(1))


def _share(some: int, of: int) -> float:
    return some / of if of else 0.0


# ---- trying a feature_pipeline ----


def measure(
    feature_pipeline: FeaturePipeline, photo: Photo, number: int = 0, config: RepeatabilityConfig | None = None
) -> list[tuple[Change, Repeated]]:
    """How well a feature_pipeline does on each of the `views` of one photograph.

    photo: as `images.load(path, config.load_side)` gives it.
    number: of the photograph: others are seen in other ways.

    The detector's own limits of size and number give way to the config's, and it uses no tiles and no border. Raises
    `KitError` when something that the feature_pipeline needs is missing.
    """
    config = config or RepeatabilityConfig()
    size = plain_size(photo.size, config.long_side)
    tried = views(size, config, number)
    pictures = [Photo(see(photo.pixels, size, view), size, 0, False) for view in (None, *tried)]
    matrices = [view.homography for view in tried]
    changes = [view.change for view in tried]
    if isinstance(feature_pipeline.matcher, DetectorFreeConfig):
        pairs = [(pictures[0], picture) for picture in pictures[1:]]
        found = loaded(feature_pipeline.matcher).match_batch(pairs)
        accuracies = [
            matching_accuracy(one.first, one.second, matrix, config.epsilon)
            for one, matrix in zip(found, matrices, strict=True)
        ]
        return [(change, Repeated(None, value, None)) for change, value in zip(changes, accuracies, strict=True)]
    most = min(feature_pipeline.detector.max_keypoints, config.max_keypoints)
    detector = loaded(replace(feature_pipeline.detector, max_keypoints=most, tiles=1, border=0))
    plain, *others = extract(detector, pictures, [None, *(shown(size, view) for view in tried)])
    matched = loaded(feature_pipeline.matcher, feature_pipeline.detector.kind).match_batch(
        [(plain, other) for other in others]
    )
    return [
        (change, _judge(plain, other, matches, matrix, config.epsilon))
        for change, other, matches, matrix in zip(changes, others, matched, matrices, strict=True)
    ]


def _judge(first: Features, second: Features, matches: Matches, homography: Float64, epsilon: float) -> Repeated:
    ends = first.keypoints[matches.indices[:, 0]], second.keypoints[matches.indices[:, 1]]
    return Repeated(
        repeatability(first.keypoints, second.keypoints, homography, first.image_size, epsilon),
        matching_accuracy(*ends, homography, epsilon),
        matching_score(first, second, matches, homography, epsilon),
    )


def average(results: Sequence[Repeated]) -> Repeated | None:
    """The mean of each share; None of nothing."""
    if not results:
        return None
    return Repeated(
        _mean([one.repeatability for one in results]),
        _mean([one.matching_accuracy for one in results]),
        _mean([one.matching_score for one in results]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
