"""AdaLAM (Cavalli et al. 2020) through kornia: nearest neighbours that move like the matches around them.

AdaLAM looks for one affine motion around each locally best match, and keeps the matches that follow a motion with
enough support. Where keypoints have scales and orientations, matches must change these consistently, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imc_kit.errors import require
from imc_kit.matchers.base import MatcherConfig, OneByOne, as_vectors, check_comparable, register
from imc_kit.runtime.torch_utils import Device, device
from imc_kit.types import Features, Matches


@register
@dataclass(frozen=True)
class AdalamConfig(MatcherConfig):
    """AdaLAM, for all descriptors; its defaults are the published ones, for float descriptors.

    The score is 1 minus the share of the surrounding matches that would agree by chance. Where no neighbourhood holds
    enough matches, it is 1 − d²/d₂² of the two nearest neighbours instead, at least 0.05.
    """

    name: ClassVar[str] = "adalam"

    area_ratio: int = 100
    """The image's area divided by that of a neighbourhood: a larger value means smaller neighbourhoods."""
    search_expansion: float = 4.0
    """Matches within this many radii of a neighbourhood's centre are tested for agreement."""
    iterations: int = 128
    """Affine motions tried for each neighbourhood."""
    min_inliers: int = 6
    """A motion needs at least this many agreeing matches."""
    min_confidence: float = 200.0
    """A motion needs this many times as many agreeing matches as chance would give."""
    max_turn: float | None = 30.0
    """Agreeing matches change the keypoint orientation like the central match, up to this difference in degrees; None
    ignores orientations."""
    max_zoom: float | None = 1.5
    """Agreeing matches change the keypoint scale like the central match, up to this factor; None ignores scales."""
    device: Device = "auto"
    """Where it runs: auto is the GPU if there is one."""

    def __post_init__(self) -> None:
        for option in ("area_ratio", "search_expansion", "iterations", "min_inliers", "min_confidence"):
            require(getattr(self, option) >= 1, f"{option} of matcher 'adalam'", "at least 1", getattr(self, option))
        for valid, option, wanted in (
            (self.max_turn is None or 0 < self.max_turn <= 180, "max_turn", "in 0 … 180 degrees, or None"),
            (self.max_zoom is None or self.max_zoom > 1, "max_zoom", "larger than 1, or None"),
            (self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda"),
        ):
            require(valid, f"{option} of matcher 'adalam'", wanted, getattr(self, option))

    def create(self, kind: str) -> AdalamMatcher:
        """As `MatcherConfig.create` says. The kind makes no difference."""
        return AdalamMatcher(self)


class AdalamMatcher(OneByOne):
    """As `Matcher` says."""

    def __init__(self, config: AdalamConfig) -> None:
        """Raises `KitError` when torch or kornia, or the GPU asked for, is missing."""
        self.config = config
        self._device = device(config.device, "matcher 'adalam'")

    def match(self, first: Features, second: Features) -> Matches:
        """As `Matcher.match` says. Images with fewer than two features have no matches.

        Raises `KitError` when there is no distance between the descriptors.
        """
        import torch
        from kornia.feature.adalam.adalam import AdalamFilter, get_adalam_default_config

        check_comparable(first, second)
        config, both = self.config, (first, second)
        oriented = config.max_turn is not None and all(features.orientations is not None for features in both)
        scaled = config.max_zoom is not None and all(features.scales is not None for features in both)
        options: Any = {
            **get_adalam_default_config(),
            "area_ratio": config.area_ratio,
            "search_expansion": config.search_expansion,
            "ransac_iters": config.iterations,
            "min_inliers": config.min_inliers,
            "min_confidence": config.min_confidence,
            "orientation_difference_threshold": config.max_turn if oriented else None,
            "scale_rate_threshold": config.max_zoom if scaled else None,
            "device": self._device,
        }
        inputs: dict[str, Any] = {}
        for side, features in enumerate(both, 1):  # kornia calls them k1, d1, o1, s1, k2, …
            inputs[f"k{side}"] = features.keypoints
            inputs[f"d{side}"] = as_vectors(features.descriptors)
            if oriented:
                inputs[f"o{side}"] = features.orientations
            if scaled:
                inputs[f"s{side}"] = features.scales
        with torch.inference_mode():
            indices, chance = AdalamFilter(options).match_and_filter(
                **{name: torch.tensor(values, device=self._device) for name, values in inputs.items()},
                im1shape=first.image_size,
                im2shape=second.image_size,
                return_dist=True,
            )
        # Only the central match of a neighbourhood is surely mutual: other matches may share a nearest neighbour.
        found = Matches(indices.cpu().numpy().astype(np.int32), 1 - chance.cpu().numpy().ravel())
        return found.one_to_one()
