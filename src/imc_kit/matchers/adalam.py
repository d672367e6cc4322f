"""AdaLAM (Cavalli et al. 2020) through kornia: nearest neighbours that agree with a local affine motion.

AdaLAM fits an affine motion around each locally best match, and keeps the matches that follow a motion with enough
support. Where keypoints have scales and orientations, these must change consistently, too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imc_kit.detectors import DETECTORS
from imc_kit.matchers import MatcherConfig, OneByOne, check_accepts, check_comparable, register
from imc_kit.runtime.torch_utils import Device, device
from imc_kit.types import Features, Matches


@register
@dataclass(frozen=True)
class AdalamConfig(MatcherConfig):
    """AdaLAM, for all float descriptors, with the published defaults.

    The score is 1 minus the fraction of the surrounding matches that would agree by chance. If no neighbourhood holds
    enough matches, it is 1 − d²/d₂² of the two nearest neighbours, at least 0.05.
    """

    name: ClassVar[str] = "adalam"

    device: Device = "auto"
    """Where it runs; auto uses a GPU if there is one."""

    def accepts(self, kind: str) -> bool:
        """All but binary descriptors."""
        binary = {config().kind for config in DETECTORS.values() if config.binary}
        return super().accepts(kind) and kind not in binary

    def create(self, kind: str) -> "AdalamMatcher":
        check_accepts(self, kind)
        return AdalamMatcher(self)


class AdalamMatcher(OneByOne):
    """See `Matcher`."""

    def __init__(self, config: AdalamConfig) -> None:
        """Raises `KitError` when torch, kornia or the requested GPU is missing."""
        self.config = config
        self._device = device(config.device, "matcher 'adalam'")

    def match(self, first: Features, second: Features) -> Matches:
        """See `Matcher.match`. Images with fewer than two features have no matches.

        Raises `KitError` when the descriptors cannot be compared.
        """
        import torch
        from kornia.feature.adalam.adalam import AdalamFilter, get_adalam_default_config

        check_comparable(first, second)
        both = (first, second)
        options: Any = get_adalam_default_config() | {"device": self._device}
        oriented = all(features.orientations is not None for features in both)
        scaled = all(features.scales is not None for features in both)
        if not oriented:
            options["orientation_difference_threshold"] = None
        if not scaled:
            options["scale_rate_threshold"] = None
        inputs: dict[str, Any] = {}
        for side, features in enumerate(both, 1):  # kornia calls them k1, d1, o1, s1, k2, …
            inputs |= {f"k{side}": features.keypoints, f"d{side}": features.descriptors.astype(np.float32)}
            inputs |= {f"o{side}": features.orientations} if oriented else {}
            inputs |= {f"s{side}": features.scales} if scaled else {}
        with torch.inference_mode():
            tensors: Any = {name: torch.tensor(values, device=self._device) for name, values in inputs.items()}
            sizes: Any = {"im1shape": first.image_size, "im2shape": second.image_size}
            indices, chance = AdalamFilter(options).match_and_filter(**tensors, **sizes, return_dist=True)
        # Only the central match of a neighbourhood is certainly mutual: other matches may share a feature.
        found = Matches(indices.cpu().numpy().astype(np.int32), 1 - chance.cpu().numpy().ravel())
        return found.one_to_one()
