"""What all matchers have in common.

To add a matcher, write one file with a subclass of `MatcherConfig` and the class that its `create` returns, and name
the subclass in `matchers/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from imc_kit.errors import KitError
from imc_kit.types import Features, Matches


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


@dataclass(frozen=True)
class MatcherConfig:
    """The options of a matcher. Raises `KitError` when one of them makes no sense."""

    name: ClassVar[str]
    """In the registry, and in commands."""

    def require(self, right: bool, option: str, wanted: str) -> None:
        """Raises `KitError` unless `right`: the value of `option` is not what is `wanted` of it."""
        if not right:
            raise KitError(f"{option} of matcher {self.name!r} must be {wanted}, not {getattr(self, option)!r}")

    def accepts(self, kind: str) -> bool:
        """Whether it can match descriptors of this kind (`DetectorConfig.kind`)."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self) -> tuple[str, ...]:
        """The names, in the manifest of weights, of the files that it looks for in the usual places."""
        return ()

    def create(self) -> Matcher:
        """The matcher itself. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own
