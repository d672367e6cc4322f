"""Measures how repeatably a detector finds points, and how correctly a matcher matches them, with known geometry.

A photo is changed in known ways: rotated, enlarged, seen from the side, lit differently. Pairs of the photo and a
changed image are evaluated as by Mikolajczyk et al. (2005), with the measures of DeTone et al. (2018) and Dusmanu et
al. (2019). All detectors see the same pixels and have the same limit on keypoints, because a larger number of
keypoints is more repeatable even if they are random.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from imc_kit.config import FeaturePipeline
from imc_kit.data.images import Photo
from imc_kit.detectors import extract
from imc_kit.errors import require
from imc_kit.matchers import PhotoMatcherConfig, View
from imc_kit.pipeline.tasks import loaded
from imc_kit.types import Features, Float32, Float64, Mask, Matches, Pixels

Change = Literal["rotation", "scale", "perspective", "light"]
CHANGES: tuple[Change, ...] = get_args(Change)
Measured = list[tuple[Change, "Repeated"]]
"""The kind of change and the measures of each warped image."""
_NOISE = 8.0
"""Standard deviation of the noise in the strongest change of light, in grey levels: that of a photo at high ISO."""


@dataclass(frozen=True)
class RepeatabilityConfig:
    """Which warped images are tested, and when a point counts as repeated. Raises `KitError` for bad values."""

    long_side: int = 640
    """Longer side of the images in pixels; small photos are not enlarged. DeTone et al. use 640 × 480 too."""
    max_keypoints: int = 1000
    """Keep at most this many keypoints of an image, the strongest. DeTone et al. use 1000 too."""
    epsilon: float = 3.0
    """Maximum distance of corresponding points, in pixels of the warped image. DeTone et al. use 3 too."""
    photos: int = 3
    """Number of photos of a scene, evenly spaced. More make the results more stable and take more time."""
    views: int = 2
    """Number of warped images for each photo and kind of change, from slight to strong."""
    rotation: float = 60.0
    """Maximum rotation about the line of sight, in degrees."""
    scale: float = 2.0
    """Maximum enlargement: 2 is a view from half the distance."""
    perspective: float = 50.0
    """Maximum tilt of the photo, as a flat picture, against the line of sight, in degrees."""
    light: float = 1.0
    """Maximum change of light: 1 is a gamma of 2 or 0.5, and noise of 8 grey levels."""
    seed: int = 0

    @property
    def load_side(self) -> int:
        """The longer side at which to load a photo, in pixels: an image enlarged twice is still sharp."""
        return 2 * self.long_side

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("long_side", self.long_side >= 16, "at least 16 pixels"),
            ("max_keypoints", self.max_keypoints >= 1, "at least 1"),
            ("epsilon", 0 < self.epsilon < float("inf"), "larger than 0 pixels"),
            ("photos", self.photos >= 1, "at least 1"),
            ("views", self.views >= 1, "at least 1"),
            ("rotation", 0 <= self.rotation <= 180, "in 0 … 180 degrees"),
            ("scale", 1 <= self.scale <= 8, "in 1 … 8"),
            ("perspective", 0 <= self.perspective <= 75, "in 0 … 75 degrees"),
            ("light", 0 <= self.light <= 3, "in 0 … 3"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            require(valid, f"{name} of repeatability", wanted, getattr(self, name))


@dataclass(frozen=True, eq=False)
class Warp:
    """A synthetic change of an image.

    homography: [3, 3], maps a point (x, y) of the plain image to the warped image, in pixels, the centre of the
        top-left pixel at (0, 0). Both images have the same size.
    gamma: values between 0 and 1 are raised to this power; 1 changes nothing.
    noise: standard deviation of the noise that is added afterwards, in grey levels; `seed` is its seed.
    """

    change: Change
    homography: Float64
    gamma: float = 1.0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Repeated:
    """The measures of one image pair, or their mean over several pairs. All values are in 0 … 1.

    repeatability: share of the keypoints visible in both images that have a keypoint of the other image within
        epsilon. None for a matcher that takes photos.
    matching_accuracy: share of the matches that are correct: the homography maps the first point to within epsilon of
        the second. Its mean is the mean matching accuracy of Dusmanu et al. 0 without matches.
    matching_score: share of the keypoints visible in both images that have a correct match; the mean of both images.
        None for a matcher that takes photos.
    """

    repeatability: float | None
    matching_accuracy: float | None
    matching_score: float | None


# ---- warped images ----


def homography(
    size: tuple[int, int], *, rotation: float = 0.0, scale: float = 1.0, tilt: float = 0.0, direction: float = 0.0
) -> Float64:
    """The homography [3, 3] of a flat picture of `size` = (width, height) that moves in front of a camera.

    The picture rotates by `rotation` clockwise about the line of sight, then by `tilt` about the axis in the picture at
    angle `direction`, all in degrees. scale: above 1, the picture is nearer. Its centre stays in place. The longer side
    is the focal length.
    """
    width, height = size
    focal = float(max(size))
    rotated = Rotation.from_euler("ZXZ", [direction, tilt, rotation - direction], degrees=True).as_matrix()
    # The picture is the plane z = 0 at a distance of one focal length, so its unit is one pixel. Columns: its axes.
    plane = np.column_stack([rotated[:, 0], rotated[:, 1], [0, 0, focal]])
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    seen = center @ np.diag([focal * scale, focal * scale, 1]) @ plane @ np.linalg.inv(center)
    return np.asarray(seen / seen[2, 2], np.float64)


def warps(size: tuple[int, int], config: RepeatabilityConfig, number: int = 0) -> list[Warp]:
    """The warps of photo `number`, whose plain image has `size` = (width, height); the same in every call.

    Each kind of change has `config.views` warps, one in each part of its range, from slight to strong.
    """
    rng = np.random.default_rng([config.seed, number])
    found = []
    for change in CHANGES:
        for step in range(config.views):
            strength = (step + rng.uniform()) / config.views
            sign = rng.choice([-1, 1])
            direction, seed = rng.uniform(0, 180), int(rng.integers(2**32))
            if change == "rotation":
                found.append(Warp(change, homography(size, rotation=sign * strength * config.rotation)))
            elif change == "scale":
                found.append(Warp(change, homography(size, scale=config.scale**strength)))
            elif change == "perspective":
                tilt = sign * strength * config.perspective
                found.append(Warp(change, homography(size, tilt=tilt, direction=direction)))
            else:
                amount = strength * config.light
                found.append(Warp(change, np.eye(3), 2.0 ** (sign * amount), _NOISE * amount, seed))
    return found


def plain_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """The (width, height) of the images made of a photo of this size."""
    factor = min(1.0, long_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def warped(pixels: Pixels, size: tuple[int, int], warp: Warp | None = None) -> Pixels:
    """A photo of any resolution, warped to `size` = (width, height); without a warp, its plain image.

    A pixel is the mean of four samples of the photo. Its mirror image fills the area outside, because detectors would
    see a plain border as an edge; `visible` masks that area.
    """
    width, height = size
    full = np.array([[pixels.shape[1] / width, 0, 0], [0, pixels.shape[0] / height, 0], [0, 0, 1]])
    half = np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]])
    edge = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from the centre of the first pixel to its corner
    back = np.linalg.inv(np.eye(3) if warp is None else warp.homography)
    # Maps from the four samples of a pixel to the warped image, then to the plain image, then to the photo.
    source = np.linalg.inv(edge) @ full @ edge @ back @ np.linalg.inv(edge) @ half @ edge
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpPerspective(pixels, source, (2 * width, 2 * height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    seen = np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)
    if warp is None or (warp.gamma == 1 and not warp.noise):
        return seen
    lit = 255 * (seen / np.float32(255)) ** np.float32(warp.gamma)
    grain = np.random.default_rng(warp.seed).standard_normal(seen.shape, np.float32)
    return np.clip(np.rint(lit + np.float32(warp.noise) * grain), 0, 255).astype(np.uint8)


def visible(size: tuple[int, int], warp: Warp) -> Mask:
    """bool [H, W]: which pixels of a warped image of `size` = (width, height) show the photo, not its mirror image."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    inside = _in_both(np.column_stack([x.ravel(), y.ravel()]), np.linalg.inv(warp.homography), size)
    return inside.reshape(size[::-1])


# ---- measures ----


def project(points: Float32, homography: NDArray[Any]) -> Float64:
    """Points (x, y) [N, 2] mapped by a homography, [N, 2]; nan for those behind the camera."""
    ahead = homography * np.sign(np.linalg.det(homography))  # a warp never mirrors
    moved = np.column_stack([points, np.ones(len(points))]) @ ahead.T
    depth = np.where(moved[:, 2:] > 0, moved[:, 2:], np.nan)
    return np.asarray(moved[:, :2] / depth, np.float64)


def repeatability(
    first: Float32, second: Float32, homography: NDArray[Any], size: tuple[int, int], epsilon: float = 3.0
) -> float:
    """`Repeated.repeatability` of the keypoints [N, 2] and [M, 2] of two images of `size`; 0 without any.

    homography: [3, 3], from the first image to the second.
    """
    moved = project(first, homography)[_in_both(first, homography, size)]
    there = second[_in_both(second, np.linalg.inv(homography), size)]
    again = sum(int((KDTree(b).query(a)[0] <= epsilon).sum()) for a, b in ((moved, there), (there, moved)))
    return _share(again, len(moved) + len(there))


def matching_accuracy(first: Float32, second: Float32, homography: Float64, epsilon: float = 3.0) -> float:
    """`Repeated.matching_accuracy` of matches, from `first` [K, 2] to `second` [K, 2]."""
    return _share(int(_correct(first, second, homography, epsilon).sum()), len(first))


def matching_score(
    first: Features, second: Features, matches: Matches, homography: Float64, epsilon: float = 3.0
) -> float:
    """`Repeated.matching_score` of the matches between two images of one size."""
    rows = matches.indices.T
    correct = _correct(first.keypoints[rows[0]], second.keypoints[rows[1]], homography, epsilon)
    ways = homography, np.linalg.inv(homography)
    seen = [_in_both(one.keypoints, way, one.image_size) for one, way in zip((first, second), ways, strict=True)]
    correct &= seen[0][rows[0]] & seen[1][rows[1]]
    return float(np.mean([_share(int(correct.sum()), int(there.sum())) for there in seen]))


def _correct(first: Float32, second: Float32, homography: Float64, epsilon: float) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(project(first, homography) - second, axis=1) <= epsilon)  # False for nan


def _in_both(points: Float32, homography: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [N]: which points [N, 2] of one image are also visible in the other."""
    moved = project(points, homography)
    return np.asarray(((moved >= -0.5) & (moved <= np.array(size) - 0.5)).all(1))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# ---- a feature pipeline ----


def measure(
    feature_pipeline: FeaturePipeline, photo: Photo, number: int = 0, config: RepeatabilityConfig | None = None
) -> Measured:
    """Measure a feature pipeline on each of the `warps` of one photo.

    photo: as `images.load(path, config.load_side)` returns it. number: its number, which selects the warps.

    The config's limits on size and keypoints replace the detector's, which uses no border here. Raises
    `KitError` when the feature pipeline lacks a package or a weight file.
    """
    config = config or RepeatabilityConfig()
    size = plain_size(photo.size, config.long_side)
    tried = warps(size, config, number)
    pictures = [Photo(warped(photo.pixels, size, warp), size, 0, False) for warp in (None, *tried)]
    if isinstance(feature_pipeline.matcher, PhotoMatcherConfig):
        first, *rest = (View(picture, Features.empty(size, 0)) for picture in pictures)
        found = loaded(feature_pipeline.matcher).match_batch([(first, other) for other in rest])
        ends = [(one.first, one.second) for one in found]
        scores: list[tuple[float | None, float | None]] = [(None, None)] * len(tried)
    else:
        most = min(feature_pipeline.detector.max_keypoints, config.max_keypoints)
        detector = loaded(replace(feature_pipeline.detector, max_keypoints=most, border=0))
        plain, *others = extract(detector, pictures, [None, *(visible(size, warp) for warp in tried)])
        matcher = loaded(feature_pipeline.matcher, feature_pipeline.detector.kind)
        matched = matcher.match_batch([(plain, other) for other in others])
        ends, scores = [], []
        for warp, other, matches in zip(tried, others, matched, strict=True):
            ends.append((plain.keypoints[matches.indices[:, 0]], other.keypoints[matches.indices[:, 1]]))
            again = repeatability(plain.keypoints, other.keypoints, warp.homography, size, config.epsilon)
            scores.append((again, matching_score(plain, other, matches, warp.homography, config.epsilon)))
    return [
        (warp.change, Repeated(again, matching_accuracy(*pair, warp.homography, config.epsilon), score))
        for warp, pair, (again, score) in zip(tried, ends, scores, strict=True)
    ]


def average(results: Sequence[Repeated]) -> Repeated | None:
    """The mean of each measure over the results where it is known; None without results."""
    return Repeated(*map(mean, zip(*map(astuple, results), strict=True))) if results else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
