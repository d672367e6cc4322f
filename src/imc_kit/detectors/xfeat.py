"""XFeat (Potje et al. 2024) through kornia, always in float32, which is fast enough.

kornia resizes images to multiples of 32 pixels and finds keypoints with integer coordinates. It multiplies these by the
ratio of the sizes, as if the centres of both top-left pixels coincided. This is corrected here: keypoints are in pixels
of the given image, and (0, 0) is the centre of its top-left pixel.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig, filled, rows_of
from imc_kit.runtime.torch_utils import Tensor

_MULTIPLE = 32
"""kornia shrinks the sides of images to multiples of this many pixels, the stride of XFeat's coarsest level."""


@register
@dataclass(frozen=True)
class XFeatConfig(NetworkDetectorConfig):
    """XFeat, a small and fast learned detector. The score, in 0 … 1, is the keypoint score times the reliability."""

    name: ClassVar[str] = "xfeat"
    files: ClassVar[tuple[str, ...]] = ("xfeat.pt",)

    max_keypoints: int = 4096
    """Keep at most this many keypoints per image, the strongest."""
    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size."""
    threshold: float = 0.05
    """Drop keypoints with a lower keypoint score (reliability not included). The default is the authors'."""

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
