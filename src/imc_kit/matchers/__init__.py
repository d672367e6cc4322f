"""Correspondences between the local features of two images: a matcher for each family, by name."""

from __future__ import annotations

from imc_kit.errors import KitError, unknown_name
from imc_kit.matchers.base import Matcher, MatcherConfig
from imc_kit.matchers.nearest import NearestConfig

__all__ = ["MATCHERS", "Matcher", "MatcherConfig", "NearestConfig", "check_accepts", "config_class"]

MATCHERS: dict[str, type[MatcherConfig]] = {config.name: config for config in (NearestConfig,)}


def config_class(name: str) -> type[MatcherConfig]:
    """The options of a matcher, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in MATCHERS:
        raise unknown_name("matcher", name, MATCHERS)
    return MATCHERS[name]


def check_accepts(matcher: MatcherConfig, kind: str) -> None:
    """Raises `KitError`, naming the matchers that would do, unless `matcher` takes descriptors of this kind."""
    if not matcher.accepts(kind):
        right = sorted(name for name, config in MATCHERS.items() if config().accepts(kind))
        raise KitError(f"matcher {matcher.name!r} cannot match {kind} descriptors: {', '.join(right)} can")
