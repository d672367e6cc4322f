"""What all matchers have in common. There are two families.

A matcher of features is told the features of two images and says which are the same. A detector-free one is told the
photographs themselves; `dense.merge` then makes features and matches of what it found.

To add one, write one file with a subclass of `MatcherConfig` or `DetectorFreeConfig` and the class that its `create` returns,
and name the subclass in `matchers/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Features, Matches

if TYPE_CHECKING:
    from imc_kit.data.images import Photo


class Matcher(Protocol):
    """Finds which features of two images show the same. May be called from several threads at once."""

    @property
    def config(self) -> MatcherConfig: ...

    def match(self, first: Features, second: Features) -> Matches:
        """Correspondences, by ascending index of the first, each feature in one at most."""

    def match_batch(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """What `match` gives for each pair, perhaps faster than one by one."""


class OneByOne:
    """`match_batch` for matchers that gain nothing from a batch."""

    def match_batch(self: Matcher, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        return [self.match(first, second) for first, second in pairs]


class DetectorFreeMatcher(Protocol):
    """Finds points of two photographs that show the same, detecting nothing first. May be called from several threads
    at once."""

    @property
    def config(self) -> DetectorFreeConfig: ...

    def match_images(self, first: Photo, second: Photo) -> Correspondences:
        """Points of both, in pixels of the originals.

        first, second: as `images.load(path, matcher.config.long_side)` gives them.
        """

    def match_batch(self, pairs: Sequence[tuple[Photo, Photo]]) -> list[Correspondences]:
        """What `match_images` gives for each pair. What can be computed of one photograph alone is computed once where
        the same object comes again soon: so pairs that share a photograph belong together."""


PHOTOGRAPHS = "photographs"
"""The kind of what detector `none` finds."""


@dataclass(frozen=True)
class _Config:
    """Options that check themselves. Raises `KitError` when one of them makes no sense."""

    name: ClassVar[str]
    """In the registry, and in commands."""

    def require(self, right: bool, option: str, wanted: str) -> None:
        """Raises `KitError` unless `right`: the value of `option` is not what is `wanted` of it."""
        if not right:
            raise KitError(f"{option} of matcher {self.name!r} must be {wanted}, not {getattr(self, option)!r}")


@dataclass(frozen=True)
class MatcherConfig(_Config):
    """The options of a matcher of features."""

    def accepts(self, kind: str) -> bool:
        """Whether it can match descriptors of this kind (`DetectorConfig.kind`)."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self, kind: str) -> tuple[str, ...]:
        """The names, in the manifest of weights, of the files that it looks for in the usual places, for descriptors of
        a kind that it accepts."""
        return ()

    def looser(self) -> MatcherConfig:
        """The same with lower demands, for images that found too few matches; for some there is no such."""
        return self

    def create(self, kind: str) -> Matcher:
        """The matcher itself, for descriptors of this kind.

        Raises `KitError` when something that it needs is missing, or when it does not accept the kind.
        """
        raise NotImplementedError  # each subclass has its own


@dataclass(frozen=True)
class DetectorFreeConfig(_Config):
    """The options of a detector-free matcher."""

    long_side: int = 840
    """Shrink photographs to at most this many pixels on their longer side before matching."""

    def accepts(self, kind: str) -> bool:
        """No descriptors: it goes with detector `none`."""
        return kind == PHOTOGRAPHS

    def weight_files(self, kind: str) -> tuple[str, ...]:
        """As `MatcherConfig.weight_files` says."""
        return ()

    def create(self) -> DetectorFreeMatcher:
        """The matcher itself. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


def check_comparable(first: Features, second: Features) -> None:
    """Raises `KitError` for descriptors between which there is no distance."""
    a, b = first.descriptors, second.descriptors
    if a.shape[1] != b.shape[1] or (a.dtype == np.uint8) != (b.dtype == np.uint8):
        raise KitError(
            f"descriptors {a.dtype} [N, {a.shape[1]}] cannot be matched with {b.dtype} [N, {b.shape[1]}]:"
            " detect in both images in the same way"
        )
