"""LoFTR (Sun et al. 2021) through kornia: a network that finds corresponding points in two images without keypoints.

Points of the first image lie on a grid with a step of 8 pixels of the shrunk image, those of the second anywhere. Like
its training data, the network puts (0, 0) at the corner of the first pixel, so half a pixel is subtracted here.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from imc_kit.data.images import Photo
from imc_kit.matchers import PhotoMatcherConfig, View, register
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import Device, device, fill, on_device, read_state
from imc_kit.types import Correspondences

_FILE = "loftr_outdoor.ckpt"
_CACHED = 16
"""Images whose feature maps are kept within a batch, about 80 MB each. Computing the maps takes most of a pair's time,
so keeping fewer costs time if the pairs of a batch share images."""


@register
@dataclass(frozen=True)
class LoftrConfig(PhotoMatcherConfig):
    """LoFTR, trained on outdoor images: it needs no keypoints. The score is the network's, in 0 … 1."""

    name: ClassVar[str] = "loftr"

    threshold: float = 0.2
    """Drop correspondences with a lower score. The default is the authors'."""
    weights: Path | None = None
    """The network's weight file, or a folder that holds it; None searches the usual places."""
    device: Device = "auto"
    """Where it runs; auto uses a GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The positional encoding ends at 2048 pixels, and memory grows with the fourth power of the side.
        self._require(8 <= self.long_side <= 2048, "long_side", "in 8 … 2048 pixels")
        self._require(0 <= self.threshold < 1, "threshold", "at least 0 and less than 1")

    def weight_files(self, kind: str) -> tuple[str, ...]:
        return () if self.weights else (_FILE,)

    def create(self) -> "LoftrMatcher":
        return LoftrMatcher(self)


class LoftrMatcher:
    """See `PhotoMatcher`."""

    def __init__(self, config: LoftrConfig) -> None:
        """Raises `KitError` when torch, kornia, the weight file or the requested GPU is missing."""
        self.config = config
        self._device = device(config.device, "matcher 'loftr'")
        self._network = _load(config).to(self._device)

    def match(self, first: View, second: View) -> Correspondences:
        """See `PhotoMatcher.match`."""
        return self.match_batch([(first, second)])[0]

    def match_batch(self, pairs: Sequence[tuple[View, View]]) -> list[Correspondences]:
        """See `PhotoMatcher.match_batch`. Reuses the feature maps of the last 16 images."""
        photos = {id(view.photo): view.photo for pair in pairs for view in pair}
        maps = lru_cache(_CACHED)(lambda number: self._maps(photos[number]))
        both = [(first.photo, second.photo) for first, second in pairs]
        return [self._match(first, second, maps(id(first)), maps(id(second))) for first, second in both]

    def _maps(self, photo: Photo) -> Any:
        """The network's feature maps of one image."""
        import torch

        grey = np.asarray(cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY))
        with torch.inference_mode():
            return self._network.extract_features(on_device(grey, self._device)[None, None].float() / 255)

    def _match(self, first: Photo, second: Photo, first_maps: Any, second_maps: Any) -> Correspondences:
        import torch

        with torch.inference_mode():
            found = self._network({"features0": first_maps, "features1": second_maps})
        points, others, scores = (found[name].cpu().numpy() for name in ("keypoints0", "keypoints1", "confidence"))
        half = np.float32(0.5)
        return Correspondences(first.to_original(points - half), second.to_original(others - half), scores)


def _load(config: LoftrConfig) -> Any:
    from kornia.feature import LoFTR
    from kornia.feature.loftr.loftr import default_cfg

    path = weights.find(_FILE, config.weights)
    options: dict[str, Any] = copy.deepcopy(default_cfg)
    options["match_coarse"]["thr"] = config.threshold
    network = LoFTR(None, options)
    state = read_state(path)
    nested = state.get("state_dict")  # kornia strips the prefix `matcher.` from its keys
    fill(network, nested if isinstance(nested, dict) else state, path, "the LoFTR of the installed kornia")
    return network
