"""Correspondences between two images: a matcher for each family, by name."""

from __future__ import annotations

from imc_kit.errors import KitError, unknown_name
from imc_kit.matchers.adalam import AdalamConfig
from imc_kit.matchers.base import PHOTOGRAPHS, DetectorFreeConfig, DetectorFreeMatcher, Matcher, MatcherConfig
from imc_kit.matchers.detector_free import MergeConfig, merge
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.loftr import LoftrConfig
from imc_kit.matchers.nearest import NearestConfig

__all__ = [
    "MATCHERS",
    "AdalamConfig",
    "AnyMatcherConfig",
    "DetectorFreeConfig",
    "DetectorFreeMatcher",
    "LightGlueConfig",
    "LoftrConfig",
    "Matcher",
    "MatcherConfig",
    "MergeConfig",
    "NearestConfig",
    "check_accepts",
    "config_class",
    "merge",
]

AnyMatcherConfig = MatcherConfig | DetectorFreeConfig

MATCHERS: dict[str, type[AnyMatcherConfig]] = {
    config.name: config for config in (NearestConfig, AdalamConfig, LightGlueConfig, LoftrConfig)
}


def config_class(name: str) -> type[AnyMatcherConfig]:
    """The options of a matcher, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in MATCHERS:
        raise unknown_name("matcher", name, MATCHERS)
    return MATCHERS[name]


def check_accepts(matcher: AnyMatcherConfig, kind: str) -> None:
    """Raises `KitError`, naming the matchers that would do, unless `matcher` takes descriptors of this kind."""
    if not matcher.accepts(kind):
        right = sorted(name for name, config in MATCHERS.items() if config().accepts(kind))
        what = "photographs without keypoints (detector 'none')" if kind == PHOTOGRAPHS else f"{kind} descriptors"
        hint = "; it takes photographs: choose detector 'none'" if isinstance(matcher, DetectorFreeConfig) else ""
        raise KitError(f"matcher {matcher.name!r} cannot match {what}: {', '.join(right)} can{hint}")
