"""AdaLAM (Cavalli et al. 2020) through kornia: nearest neighbours that move alike with those around them.

Around the best matches, each the best of its neighbourhood, an affinity is sought that many of the matches nearby agree
with; those that do are kept. Where keypoints have scales and orientations, matches nearby must also change these alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imc_kit.errors import KitError
from imc_kit.matchers.base import PHOTOGRAPHS, MatcherConfig, OneByOne, check_comparable
from imc_kit.runtime.torch_utils import Device, device
from imc_kit.types import Features, Matches


@dataclass(frozen=True)
class AdalamConfig(MatcherConfig):
    """AdaLAM, for float descriptors. The score is 1 minus the share of the matches around it that would fit by chance.
    Where no neighbourhood holds enough matches it is 1 − d²/d₂² instead, of the two nearest, and 0.05 or more."""

    name: ClassVar[str] = "adalam"

    area_ratio: int = 100
    """The image's area in neighbourhoods: more are smaller."""
    search_expansion: float = 4.0
    """Matches agree or not within this many radii of a neighbourhood."""
    iterations: int = 128
    """Affinities tried for each neighbourhood."""
    min_inliers: int = 6
    """Matches that must agree for a neighbourhood to count."""
    min_confidence: float = 200.0
    """How many times as many must agree as would by chance."""
    max_turn: float | None = 30.0
    """Matches that agree may turn their keypoints by at most this much more or less than the one in the middle, in
    degrees; None does not look."""
    max_zoom: float | None = 1.5
    """And enlarge them by at most this factor more or less; None does not look."""
    device: Device = "auto"
    """Where it runs: auto is the GPU if there is one."""

    def __post_init__(self) -> None:
        self.require(self.area_ratio >= 1, "area_ratio", "at least 1")
        self.require(self.search_expansion >= 1, "search_expansion", "at least 1")
        self.require(self.iterations >= 1, "iterations", "at least 1")
        self.require(self.min_inliers >= 1, "min_inliers", "at least 1")
        self.require(self.min_confidence >= 1, "min_confidence", "at least 1")
        self.require(self.max_turn is None or 0 < self.max_turn <= 180, "max_turn", "in 0 … 180 degrees, or None")
        self.require(self.max_zoom is None or self.max_zoom > 1, "max_zoom", "larger than 1, or None")
        self.require(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")

    def accepts(self, kind: str) -> bool:
        """All but the binary ones."""
        return kind not in ("orb", "akaze", PHOTOGRAPHS)

    def create(self, kind: str) -> AdalamMatcher:
        if not self.accepts(kind):
            raise KitError(f"matcher 'adalam' cannot match {kind} descriptors: it takes float ones, not binary ones")
        return AdalamMatcher(self)


class AdalamMatcher(OneByOne):
    """As `Matcher` says."""

    def __init__(self, config: AdalamConfig) -> None:
        """Raises `KitError` when torch or kornia, or the GPU that was asked for, is missing."""
        self.config = config
        self._device = device(config.device, "matcher 'adalam'")

    def match(self, first: Features, second: Features) -> Matches:
        """As `Matcher.match` says; fewer than two features of an image have no matches. Raises `KitError` for
        descriptors between which there is no distance."""
        import torch
        from kornia.feature.adalam.adalam import AdalamFilter, get_adalam_default_config

        check_comparable(first, second)
        config, both = self.config, (first, second)
        turned = config.max_turn is not None and all(features.orientations is not None for features in both)
        scaled = config.max_zoom is not None and all(features.scales is not None for features in both)
        options: Any = {
            **get_adalam_default_config(),
            "area_ratio": config.area_ratio,
            "search_expansion": config.search_expansion,
            "ransac_iters": config.iterations,
            "min_inliers": config.min_inliers,
            "min_confidence": config.min_confidence,
            "orientation_difference_threshold": config.max_turn if turned else None,
            "scale_rate_threshold": config.max_zoom if scaled else None,
            "device": self._device,
        }
        columns = ["keypoints", "descriptors", *(["orientations"] if turned else []), *(["scales"] if scaled else [])]
        inputs = {  # kornia calls them k1, k2, d1, …
            f"{name[0]}{side}": torch.tensor(getattr(features, name), dtype=torch.float32, device=self._device)
            for name in columns
            for side, features in enumerate(both, 1)
        }
        with torch.inference_mode():
            indices, chance = AdalamFilter(options).match_and_filter(
                **inputs, im1shape=first.image_size, im2shape=second.image_size, return_dist=True
            )
        # Only the best of a neighbourhood is sure to be mutual: of the others several may have the same nearest.
        found = Matches(indices.cpu().numpy().astype(np.int32), 1 - chance.cpu().numpy().ravel())
        return found.one_to_one()
