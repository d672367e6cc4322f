"""Correspondences between two images: one module for each family of matchers. `MATCHERS` finds them by name."""

from __future__ import annotations

from imc_kit.matchers.base import (
    MATCHERS,
    AnyMatcherConfig,
    DetectorFreeConfig,
    DetectorFreeMatcher,
    Matcher,
    MatcherConfig,
    OneByOne,
    check_accepts,
    register,
)

__all__ = [
    "MATCHERS",
    "AnyMatcherConfig",
    "DetectorFreeConfig",
    "DetectorFreeMatcher",
    "Matcher",
    "MatcherConfig",
    "OneByOne",
    "check_accepts",
    "register",
]
