"""AdaLAM (Cavalli et al. 2020) through kornia: nearest neighbours that move like the matches around them.

AdaLAM looks for one affine motion around each locally best match, and keeps the matches that follow a motion with
enough support. Where keypoints have scales and orientations, matches must change these consistently, too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imc_kit.detectors import DETECTORS
from imc_kit.matchers import MatcherConfig, OneByOne, check_accepts, check_comparable, register
from imc_kit.runtime.torch_utils import Device, device
from imc_kit.types import Features, Matches

_SAME_NAMES = ("area_ratio", "search_expansion", "min_inliers", "min_confidence")
"""Options that kornia calls by the same name."""


@register
@dataclass(frozen=True)
class AdalamConfig(MatcherConfig):
    """AdaLAM, for all float descriptors, with the published defaults.

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
        super().__post_init__()
        for option in ("area_ratio", "search_expansion", "iterations", "min_inliers", "min_confidence"):
            self._require(getattr(self, option) >= 1, option, "at least 1")
        turn, zoom = self.max_turn, self.max_zoom
        self._require(turn is None or 0 < turn <= 180, "max_turn", "in 0 … 180 degrees, or None")
        self._require(zoom is None or zoom > 1, "max_zoom", "larger than 1, or None")

    def accepts(self, kind: str) -> bool:
        """All but binary descriptors."""
        binary = {config().kind for config in DETECTORS.values() if config.binary}
        return super().accepts(kind) and kind not in binary

    def create(self, kind: str) -> "AdalamMatcher":
        check_accepts(self, kind)
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
        options: Any = get_adalam_default_config() | {
            **{name: getattr(config, name) for name in _SAME_NAMES},
            "ransac_iters": config.iterations,
            "orientation_difference_threshold": config.max_turn if oriented else None,
            "scale_rate_threshold": config.max_zoom if scaled else None,
            "device": self._device,
        }
        inputs: dict[str, Any] = {}
        for side, features in enumerate(both, 1):  # kornia calls them k1, d1, o1, s1, k2, …
            inputs |= {f"k{side}": features.keypoints, f"d{side}": features.descriptors.astype(np.float32)}
            inputs |= {f"o{side}": features.orientations} if oriented else {}
            inputs |= {f"s{side}": features.scales} if scaled else {}
        with torch.inference_mode():
            tensors: Any = {name: torch.tensor(values, device=self._device) for name, values in inputs.items()}
            sizes: Any = {"im1shape": first.image_size, "im2shape": second.image_size}
            indices, chance = AdalamFilter(options).match_and_filter(**tensors, **sizes, return_dist=True)
        # Only the central match of a neighbourhood is surely mutual: other matches may share a nearest neighbour.
        found = Matches(indices.cpu().numpy().astype(np.int32), 1 - chance.cpu().numpy().ravel())
        return found.one_to_one()
