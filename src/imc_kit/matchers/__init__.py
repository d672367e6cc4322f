"""Correspondences between two images: a matcher for each family, by name.

`MATCHERS` match the features that a detector found; `DENSE` need no detector (see `matchers/base.py`).
"""

from __future__ import annotations

from imc_kit.errors import KitError, unknown_name
from imc_kit.matchers.adalam import AdalamConfig
from imc_kit.matchers.base import DenseConfig, DenseMatcher, Matcher, MatcherConfig
from imc_kit.matchers.dense import MergeConfig, merge
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.loftr import LoftrConfig
from imc_kit.matchers.nearest import NearestConfig

__all__ = [
    "DENSE",
    "MATCHERS",
    "AdalamConfig",
    "DenseConfig",
    "DenseMatcher",
    "LightGlueConfig",
    "LoftrConfig",
    "Matcher",
    "MatcherConfig",
    "MergeConfig",
    "NearestConfig",
    "check_accepts",
    "config_class",
    "dense_config_class",
    "merge",
]

MATCHERS: dict[str, type[MatcherConfig]] = {
    config.name: config for config in (NearestConfig, AdalamConfig, LightGlueConfig)
}
DENSE: dict[str, type[DenseConfig]] = {config.name: config for config in (LoftrConfig,)}


def config_class(name: str) -> type[MatcherConfig]:
    """The options of a matcher, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in MATCHERS:
        raise unknown_name("matcher", name, MATCHERS)
    return MATCHERS[name]


def dense_config_class(name: str) -> type[DenseConfig]:
    """The options of a detector-free matcher, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in DENSE:
        raise unknown_name("detector-free matcher", name, DENSE)
    return DENSE[name]


def check_accepts(matcher: MatcherConfig, kind: str) -> None:
    """Raises `KitError`, naming the matchers that would do, unless `matcher` takes descriptors of this kind."""
    if not matcher.accepts(kind):
        right = sorted(name for name, config in MATCHERS.items() if config().accepts(kind))
        raise KitError(f"matcher {matcher.name!r} cannot match {kind} descriptors: {', '.join(right)} can")
