"""What all matchers share, and `MATCHERS`, which holds them by name.

A matcher takes the features of two images and finds those that show the same point. A photo matcher takes the photos
too, and may find points that are no keypoints: `photo_points.merge` makes features and matches of its correspondences.

To add a matcher, write one file or one notebook cell: a subclass of `MatcherConfig` or `PhotoMatcherConfig`, decorated
with `register`, and the class that its `create` returns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from imc_kit.data.images import Photo
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.errors import KitError
from imc_kit.runtime.registry import NamedConfig, Registry
from imc_kit.types import Correspondences, Features, Float32, Matches


class Matcher(Protocol):
    """Matches the features of two images. Several threads may call it at once."""

    def match(self, first: Features, second: Features) -> Matches:
        """Match two images. Matches are sorted by the index in the first image; each feature is in at most one."""

    def match_batch(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """The result of `match` for each pair. May be faster than single calls."""


@dataclass(frozen=True, eq=False)
class View:
    """A photo, at most `PhotoMatcherConfig.long_side` pixels long, and the features of its feature pipeline's detector.

    With the detector `none` there are no features.
    """

    photo: Photo
    features: Features


class PhotoMatcher(Protocol):
    """Finds corresponding points in two photos. Several threads may call it at once."""

    def match(self, first: View, second: View) -> Correspondences:
        """Find corresponding points, in pixels of the original images.

        A point that is one of the view's keypoints, or close to one, will be this keypoint. All others will be further
        keypoints (`photo_points.merge`). So a matcher may match the given keypoints, find points of its own, or both.
        """

    def match_batch(self, pairs: Sequence[tuple[View, View]]) -> list[Correspondences]:
        """The result of `match` for each pair.

        A matcher may reuse what it computed for an image, so pairs that share a `View` should be consecutive.
        """


class OneByOne:
    """A `match_batch` for matchers that gain nothing from batches."""

    def match_batch(self: Any, pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
        return [self.match(first, second) for first, second in pairs]


@dataclass(frozen=True)
class _Config(NamedConfig):
    """The options of any matcher. Raises `KitError` for an invalid value."""

    role: ClassVar[str] = "matcher"

    def weight_files(self, kind: str) -> tuple[str, ...]:
        """The weight files that it needs for descriptors of this kind, by name in the manifest.

        Files that the options name are left out.
        """
        return ()


@dataclass(frozen=True)
class MatcherConfig(_Config):
    """The options of a matcher that takes features."""

    def accepts(self, kind: str) -> bool:
        """Whether it can match descriptors of this kind (`DetectorConfig.kind`). The default accepts all."""
        return kind != NoDetectorConfig.kind

    def looser(self) -> "MatcherConfig":
        """The same matcher with looser thresholds, for images with too few matches. The default is unchanged."""
        return self

    def create(self, kind: str) -> "Matcher":
        """Create the matcher for descriptors of this kind.

        Raises `KitError` when it does not accept the kind, or when something that it needs is missing.
        """
        raise NotImplementedError  # each subclass has its own


@dataclass(frozen=True)
class PhotoMatcherConfig(_Config):
    """The options of a matcher that takes photos."""

    long_side: int = 840
    """Shrink images to at most this many pixels on their longer side before matching. The default is the size of
    LoFTR's outdoor training images; halving it quarters the number of points."""

    def accepts(self, kind: str) -> bool:
        """Whether it can use the keypoints of a detector of this kind. The default takes any, and detector `none`."""
        return True

    def create(self) -> "PhotoMatcher":
        """Create the matcher. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


AnyMatcherConfig = MatcherConfig | PhotoMatcherConfig

MATCHERS: Registry[type[AnyMatcherConfig]] = Registry("matcher", "imc_kit.matchers")
"""The configuration class of each matcher, by name. They come from the modules of this package, from modules that other
packages name in the entry-point group `imc_kit.matchers`, and from notebook cells."""

register = MATCHERS.register
"""Decorator: registers a matcher's configuration class under its `name`."""


def check_accepts(matcher: AnyMatcherConfig, kind: str) -> None:
    """Raise `KitError`, with the names of suitable matchers, unless `matcher` accepts descriptors of this kind."""
    if not matcher.accepts(kind):
        free = kind == NoDetectorConfig.kind
        wanted = PhotoMatcherConfig if free else MatcherConfig
        suitable = sorted(name for name, one in MATCHERS.items() if issubclass(one, wanted) and one().accepts(kind))
        what = "images without keypoints (detector 'none')" if free else f"{kind} descriptors"
        raise KitError(f"matcher {matcher.name!r} cannot match {what}: {', '.join(suitable)} can")


def scaled_radius(radius: float, size: tuple[int, int]) -> float:
    """Convert a radius, in pixels at a longer side of 1024, to pixels of an image of `size` (w, h)."""
    return radius * max(size) / 1024


def as_vectors(descriptors: NDArray[Any]) -> Float32:
    """Descriptors [N, D] as float32. Packed bits become the numbers 0 and 1, [N, 8·D], whose squared Euclidean distance
    is the Hamming distance."""
    return (np.unpackbits(descriptors, axis=1) if descriptors.dtype == np.uint8 else descriptors).astype(np.float32)


def check_comparable(first: Features, second: Features) -> None:
    """Raise `KitError` when the descriptors of the two images cannot be compared."""
    a, b = first.descriptors, second.descriptors
    if a.shape[1] != b.shape[1] or (a.dtype == np.uint8) != (b.dtype == np.uint8):
        raise KitError(
            f"descriptors {a.dtype} [N, {a.shape[1]}] cannot be matched with {b.dtype} [N, {b.shape[1]}]:"
            " detect features in both images with the same detector"
        )
