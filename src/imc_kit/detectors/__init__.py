"""What all detectors share: their options, the `Detector` protocol, and `extract`, from photos to features.

To add a detector, write one file with a subclass of `DetectorConfig`, decorated with `register`, and the class that
its `create` returns. docs/adding-a-detector.md shows one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from imc_kit.data.images import Photo
from imc_kit.runtime.registry import NamedConfig, Registry
from imc_kit.types import Features, Float32, Mask, Pixels


class Detector(Protocol):
    """Finds local features. May be called from several threads at once."""

    @property
    def config(self) -> "DetectorConfig": ...

    @property
    def dimension(self) -> int:
        """Number of columns of `Features.descriptors`: floats, or bytes of eight bits for binary descriptors."""

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """Detect the features of each image, strongest first, in pixels of the given image.

        images: uint8 [h, w, 3], RGB, of any sizes.
        masks: for each image bool [h, w], or None to allow every pixel. A keypoint is kept if the pixel that contains
            it is True. The mask is applied before the limit `config.max_keypoints` (see `strongest`).
        """


@dataclass(frozen=True)
class DetectorConfig(NamedConfig):
    """The options that all detectors share. Raises `KitError` for an invalid value."""

    role: ClassVar[str] = "detector"
    binary: ClassVar[bool] = False
    """Whether descriptors are bits, packed as uint8. Matchers compare them by Hamming distance."""

    max_keypoints: int = 8192
    """Keep at most this many keypoints per image, the strongest. The default is COLMAP's for SIFT."""
    long_side: int | None = 3200
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size. The
    default is COLMAP's for SIFT."""
    border: int = 0
    """Drop keypoints closer than this to the image edge, in pixels of the original image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.max_keypoints >= 1, "max_keypoints", "at least 1")
        self._require(self.long_side is None or self.long_side >= 1, "long_side", "at least 1 pixel, or None")
        self._require(self.border >= 0, "border", "at least 0 pixels")

    @property
    def kind(self) -> str:
        """The kind of descriptors: matchers accept or refuse it. Override it if it is not the detector's name."""
        return self.name

    def weight_files(self) -> tuple[str, ...]:
        """The weight files that it needs from the usual places, by name in the manifest `weights.toml`."""
        return ()

    def create(self) -> "Detector":
        """Create the detector. Raises `KitError` if something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


DETECTORS: Registry[type[DetectorConfig]] = Registry("detector", "imc_kit.detectors")
"""The configuration class of each detector, by name. They come from the modules of this package, from modules that
other packages name in the entry-point group `imc_kit.detectors`, and from notebook cells."""

register = DETECTORS.register
"""Decorator: registers a detector's configuration class under its `name`."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a detector finds in one image, before the mask and the limit: NumPy arrays or torch tensors.

    points: [N, 2], (x, y), with the centre of the top-left pixel at (0, 0).
    scores: [N], larger is stronger.
    describe: takes the indices [K] of the points to keep and returns the other fields of `Features` by name:
        `descriptors` [K, D], optionally `scales` and `orientations` [K] and `shapes` [K, 2, 2].
    """

    points: Any
    scores: Any
    describe: Callable[[Any], Mapping[str, Any]]


C = TypeVar("C", bound=DetectorConfig)


class ImageDetector(ABC, Generic[C]):
    """A `Detector` that processes one image at a time. A subclass implements only `find`."""

    dimension: int

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def find(self, image: Pixels, mask: Mask | None) -> Candidates:
        """Find the candidates in one image, uint8 [h, w, 3]. Most detectors ignore the mask: `detect` applies it."""

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """See `Detector.detect`."""
        return [
            describe_strongest(self, self.find(image, mask), mask, (image.shape[1], image.shape[0]))
            for image, mask in zip(images, masks, strict=True)
        ]


def describe_strongest(
    detector: Detector, found: Candidates, mask: Mask | None, size: tuple[int, int], limit: int | None = None
) -> Features:
    """Describe the strongest candidates within the mask, in one image of `size` (width, height).

    limit: their maximum number; by default the detector's `max_keypoints`.
    """
    kept = strongest(found.points, found.scores, mask, limit or detector.config.max_keypoints)
    if not len(kept):
        return Features.empty(size, detector.dimension, np.uint8 if detector.config.binary else np.float32)
    return Features(found.points[kept], found.scores[kept], image_size=size, **found.describe(kept))


def strongest(points: Float32, scores: Float32, mask: Mask | None, limit: int) -> NDArray[np.intp]:
    """Select keypoints, strongest first: returns indices into `points` [N, 2] and `scores` [N].

    Drops keypoints outside the mask. Keeps one keypoint per position: the strongest, and the first if several are.
    Returns at most `limit`.
    """
    order = np.argsort(-scores, kind="stable")
    if mask is not None:
        x, y = np.rint(points[order]).astype(int).T
        order = order[mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]]
    return order[_unique(points[order])][:limit]


def _unique(points: Float32) -> NDArray[np.intp]:
    """Ascending indices of the first point at each position. points: float32 [N, 2]."""
    xy = np.ascontiguousarray(points).view(np.complex64).ravel()  # one value per (x, y) sorts much faster than two
    return np.sort(np.unique(xy, return_index=True)[1])


def extract(detector: Detector, photos: Sequence[Photo], masks: Sequence[Mask | None] | None = None) -> list[Features]:
    """Detect the features of photos: strongest first, in pixels of the originals, at most one per position.

    photos: as loaded by `images.load(path, detector.config.long_side)`.
    masks: for each photo bool [H, W] of any size, stretched over the photo; True allows keypoints, None allows all.
    Raises `ValueError` for a mask of another type or shape.
    """
    masks = [None] * len(photos) if masks is None else masks
    allowed = [_allowed(photo, detector.config.border, mask) for photo, mask in zip(photos, masks, strict=True)]
    found = detector.detect([photo.pixels for photo in photos], allowed)
    return [in_original(features, photo) for features, photo in zip(found, photos, strict=True)]


def _allowed(photo: Photo, border: int, mask: Mask | None) -> Mask | None:
    """The pixels of `photo.pixels` that may have keypoints, or None if all may."""
    if mask is not None and (mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0):
        raise ValueError(f"a mask must be bool [H, W], not {mask.dtype} {mask.shape}")
    if mask is None and border == 0:
        return None
    inside = []
    for side, original in zip(photo.pixels.shape[:2], reversed(photo.size), strict=True):
        edges = np.arange(side + 1) * (original / side)  # edges of the shrunk pixels, in original pixels
        inside.append((edges[:-1] >= border) & (edges[1:] <= original - border))
    allowed: Mask = inside[0][:, None] & inside[1]
    if mask is not None:
        # The mask pixel that contains the centre of each image pixel.
        at = [(2 * np.arange(n) + 1) * length // (2 * n) for n, length in zip(allowed.shape, mask.shape, strict=True)]
        allowed &= mask[np.ix_(*at)]
    return allowed


def in_original(features: Features, photo: Photo) -> Features:
    """Convert features from pixels of `photo.pixels` to pixels of the original image."""
    columns = features.columns()
    columns["keypoints"] = photo.to_original(features.keypoints)
    zoom = np.float32(np.sqrt(np.prod(photo.size) / np.prod(photo.pixels.shape[:2])))
    for name in {"scales", "shapes"} & columns.keys():
        columns[name] = columns[name] * zoom
    kept = _unique(columns["keypoints"])  # float32 is coarser at larger coordinates, so two positions may merge
    return Features(image_size=photo.size, **{name: values[kept] for name, values in columns.items()})
