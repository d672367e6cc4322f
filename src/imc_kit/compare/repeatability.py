"""How well a detector finds the same points again, and a matcher matches them, on image pairs with known geometry.

A photo is warped in known ways: rotated, enlarged, seen from the side, in another light. Pairs of the photo and a
warped image are judged in the manner of Mikolajczyk et al. (2005), with the measures of DeTone et al. (2018) and
Dusmanu et al. (2019). All detectors see the same pixels and keep the same number of keypoints at most: of two
detectors that find random points, the one that finds more of them repeats more of them.
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
from imc_kit.matchers import DetectorFreeConfig
from imc_kit.pipeline.tasks import loaded
from imc_kit.types import Features, Float32, Float64, Mask, Matches, Pixels

Change = Literal["rotation", "scale", "perspective", "light"]
CHANGES: tuple[Change, ...] = get_args(Change)
Measured = list[tuple[Change, "Repeated"]]
"""The measures of each warped image."""
_NOISE = 8.0
"""Standard deviation of the noise in the strongest change of light, in grey levels: that of a photo at high ISO."""


@dataclass(frozen=True)
class RepeatabilityConfig:
    """Which warped images are tried, and when a point counts as found again. Raises `KitError` for bad values."""

    long_side: int = 640
    """Longer side of the images in pixels; small photos are not enlarged. DeTone et al. use 640 × 480 too."""
    max_keypoints: int = 1000
    """Keypoints of an image that are kept, the strongest. DeTone et al. keep as many."""
    epsilon: float = 3.0
    """Two points are the same up to this distance, in pixels of the warped image. DeTone et al. use 3 too."""
    photos: int = 3
    """Photos of a scene that are tried, spread evenly over it. More give steadier numbers and take more time."""
    views: int = 2
    """Warped images of each photo and each kind of change, from slight to strong."""
    rotation: float = 60.0
    """The largest rotation about the line of sight, in degrees."""
    scale: float = 2.0
    """The largest enlargement: 2 is a view from half the distance."""
    perspective: float = 50.0
    """The largest angle from which the photo, as a flat picture, is seen, in degrees."""
    light: float = 1.0
    """The largest change of light: 1 takes every value to its square or its root, and adds noise of 8 grey levels."""
    seed: int = 0

    @property
    def load_side(self) -> int:
        """The longer side at which to load a photo: large enough that an image enlarged twice is still sharp."""
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
        ):
            require(valid, f"{name} of repeatability", wanted, getattr(self, name))


@dataclass(frozen=True, eq=False)
class Warp:
    """A synthetic change of an image.

    homography: [3, 3], maps a point (x, y) of the plain image to the warped image, in pixels, the centre of the
        top-left pixel at (0, 0). Both images have the same size.
    gamma: values between 0 and 1 are raised to this power; 1 leaves them.
    noise: standard deviation of the noise that is added after that, in grey levels; `seed` is its seed.
    """

    change: Change
    homography: Float64
    gamma: float = 1.0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Repeated:
    """How well one pair of images, or the mean of several, went. All values are between 0 and 1.

    repeatability: share of the keypoints visible in both images that have a keypoint of the other image within
        epsilon. None for a detector-free matcher.
    matching_accuracy: share of the matches that are right: the second point is within epsilon of where the homography
        takes the first. Averaged, it is Dusmanu et al.'s mean matching accuracy. 0 without matches.
    matching_score: share of the keypoints visible in both images that are in a right match; the mean of the two images.
        None for a detector-free matcher.
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
    `direction`; all in degrees. scale: larger is nearer. The centre stays; the focal length is the longer side.
    """
    width, height = size
    focal = float(max(size))
    rotated = Rotation.from_euler("ZXZ", [direction, tilt, rotation - direction], degrees=True).as_matrix()
    # The picture is the plane z = 0, a focal length away, so that one of its units is one pixel; its axes as columns.
    plane = np.column_stack([rotated[:, 0], rotated[:, 1], [0, 0, focal]])
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    seen = center @ np.diag([focal * scale, focal * scale, 1]) @ plane @ np.linalg.inv(center)
    return np.asarray(seen / seen[2, 2], np.float64)


def warps(size: tuple[int, int], config: RepeatabilityConfig, number: int = 0) -> list[Warp]:
    """The warps of the photo with this number, whose plain image has `size` = (width, height); always the same ones.

    Each kind of change has `config.views`, one in each part of its range, from slight to strong.
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

    A pixel is the mean of four samples of the photo. Outside the photo is its mirror image, because a plain border
    would be an edge to detectors; `visible` tells which pixels that concerns.
    """
    width, height = size
    full = np.array([[pixels.shape[1] / width, 0, 0], [0, pixels.shape[0] / height, 0], [0, 0, 1]])
    half = np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]])
    edge = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from the centre of the first pixel to its corner
    back = np.linalg.inv(np.eye(3) if warp is None else warp.homography)
    # From the four samples of a pixel to the warped image, from there to the plain image, and to the photo.
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
    """Which pixels of a warped image of `size` = (width, height) show the photo and not its mirror image, [H, W]."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    inside = _in_both(np.column_stack([x.ravel(), y.ravel()]), np.linalg.inv(warp.homography), size)
    return inside.reshape(size[::-1])


# ---- measures ----


def project(points: Float32, homography: NDArray[Any]) -> Float64:
    """Where points (x, y) [N, 2] go, [N, 2]; nan for those that go behind the camera."""
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
    return _share(int(_right(first, second, homography, epsilon).sum()), len(first))


def matching_score(
    first: Features, second: Features, matches: Matches, homography: Float64, epsilon: float = 3.0
) -> float:
    """`Repeated.matching_score` of the matches between two images of one size."""
    rows = matches.indices.T
    right = _right(first.keypoints[rows[0]], second.keypoints[rows[1]], homography, epsilon)
    ways = homography, np.linalg.inv(homography)
    seen = [_in_both(one.keypoints, way, one.image_size) for one, way in zip((first, second), ways, strict=True)]
    right &= seen[0][rows[0]] & seen[1][rows[1]]
    return float(np.mean([_share(int(right.sum()), int(there.sum())) for there in seen]))


def _right(first: Float32, second: Float32, homography: Float64, epsilon: float) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(project(first, homography) - second, axis=1) <= epsilon)  # nan is not


def _in_both(points: Float32, homography: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points [N, 2] of one image are visible in the other one too, [N]."""
    moved = project(points, homography)
    return np.asarray(((moved >= -0.5) & (moved <= np.array(size) - 0.5)).all(1))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# ---- a feature pipeline ----


def measure(
    feature_pipeline: FeaturePipeline, photo: Photo, number: int = 0, config: RepeatabilityConfig | None = None
) -> Measured:
    """How well a feature pipeline does on each of the `warps` of one photo.

    photo: as `images.load(path, config.load_side)` returns it. number: its number; each number has other warps.

    The config's limits of size and number replace the detector's, which uses no tiles and no border here. Raises
    `KitError` when the feature pipeline lacks a package or a weight file.
    """
    config = config or RepeatabilityConfig()
    size = plain_size(photo.size, config.long_side)
    tried = warps(size, config, number)
    pictures = [Photo(warped(photo.pixels, size, warp), size, 0, False) for warp in (None, *tried)]
    if isinstance(feature_pipeline.matcher, DetectorFreeConfig):
        found = loaded(feature_pipeline.matcher).match_batch([(pictures[0], p) for p in pictures[1:]])
        ends = [(one.first, one.second) for one in found]
        scores: list[tuple[float | None, float | None]] = [(None, None)] * len(tried)
    else:
        most = min(feature_pipeline.detector.max_keypoints, config.max_keypoints)
        detector = loaded(replace(feature_pipeline.detector, max_keypoints=most, tiles=1, border=0))
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
    """The mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
