"""Correspondences between the local features of two images: a matcher for each family, by name."""

from __future__ import annotations

from imc_kit.detectors import config_class as detector_config_class
from imc_kit.errors import KitError, unknown_name
from imc_kit.matchers.base import Matcher, MatcherConfig
from imc_kit.matchers.nearest import NearestConfig
