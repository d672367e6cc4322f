"""XFeat (Potje et al. 2024) through kornia, always in float32, in which it is fast enough.

kornia resizes images to multiples of 32 pixels and finds whole pixels there. It multiplies them by the ratio of the
sizes, as if the centres of both top-left pixels were at the same place. Corrected here, keypoints are in pixels of the
given image, with the centre of the top-left one at (0, 0).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig, filled, rows_of
from imc_kit.runtime.torch_utils import Tensor

_MULTIPLE = 32
"""kornia shrinks the sides of images to multiples of this many pixels, the step of XFeat's coarsest level."""


@register
@dataclass(frozen=True)
class XFeatConfig(NetworkDetectorConfig):
    """XFeat, a learned detector, small and fast. The score, in 0 … 1, is the network's keypoint score times its
    reliability."""

    name: ClassVar[str] = "xfeat"
    files: ClassVar[tuple[str, ...]] = ("xfeat.pt",)

    max_keypoints: int = 4096
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    threshold: float = 0.05
    """Drop keypoints with a lower keypoint score, before reliability counts. The default is the authors'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.threshold < 1, "threshold", "between 0 and 1")

    def create(self) -> "XFeatDetector":
        return XFeatDetector(self)


class XFeatDetector(NetworkDetector[XFeatConfig]):
    """See `Detector`. Descriptors are float32 of length 1."""

    dimension = 64
    smallest = _MULTIPLE

    def _load(self) -> Any:
        from kornia.feature import XFeat

        (path,) = self.config.paths()
        network = XFeat(top_k=sys.maxsize, detection_threshold=self.config.threshold)
        filled(network.net, path, "the XFeat of the installed kornia")
        return network

    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        height, width = stack.shape[2:]
        ratio = stack.new_tensor([width / (width // _MULTIPLE * _MULTIPLE), height / (height // _MULTIPLE * _MULTIPLE)])
        for found in self._network.detectAndCompute(stack):
            yield Candidates(found["keypoints"] + (ratio - 1) / 2, found["scores"], rows_of(found["descriptors"]))
