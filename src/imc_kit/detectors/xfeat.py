"""XFeat (Potje et al. 2024) through kornia, always in float32: it is fast enough.

kornia resizes images to multiples of 32 pixels, finds whole pixels of those, and gives them times the ratio of the
sizes, as if the centres of both top-left pixels were at one place. Put right here, they are in pixels of the image
given, the centre of the top-left one at (0, 0).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from imc_kit.detectors.base import register
from imc_kit.detectors.network import Candidates, NetworkDetector, NetworkDetectorConfig, filled, rows_of

if TYPE_CHECKING:
    import torch

_MULTIPLE = 32


@register
@dataclass(frozen=True)
class XFeatConfig(NetworkDetectorConfig):
    """XFeat, a learned detector, small and fast. The score, in 0 … 1, is the network's for a keypoint times that for
    its reliability."""

    name: ClassVar[str] = "xfeat"
    kind: ClassVar[str] = "xfeat"
    files: ClassVar[tuple[str, ...]] = ("xfeat.pt",)

    max_keypoints: int = 4096
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    threshold: float = 0.05
    """Drop keypoints of a lower score, before it is multiplied by their reliability."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.threshold < 1, "threshold", "between 0 and 1")

    def create(self) -> XFeatDetector:
        return XFeatDetector(self)


class XFeatDetector(NetworkDetector[XFeatConfig]):
    """As `Detector` says. Descriptors are float32 of length 1."""

    dimension = 64
    smallest = _MULTIPLE

    def _load(self) -> Any:
        from kornia.feature import XFeat

        (path,) = self.config.paths()
        network = XFeat(top_k=sys.maxsize, detection_threshold=self.config.threshold)
        filled(network.net, path, "the XFeat of the installed kornia")
        return network

    def _find(self, stack: torch.Tensor, limit: int | None) -> Iterator[Candidates]:
        height, width = stack.shape[2:]
        ratio = stack.new_tensor([width / (width // _MULTIPLE * _MULTIPLE), height / (height // _MULTIPLE * _MULTIPLE)])
        for found in self._network.detectAndCompute(stack):
            yield Candidates(found["keypoints"] + (ratio - 1) / 2, found["scores"], rows_of(found["descriptors"]))
