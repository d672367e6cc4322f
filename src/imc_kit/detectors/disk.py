"""DISK (Tyszkiewicz et al. 2020) through kornia.

Keypoints have integer coordinates; (0, 0) is the centre of the top-left pixel. DISK always runs in float32: in half
precision neighbouring scores become equal, and kornia drops maxima that do not strictly exceed all their neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig, filled, rows_of
from imc_kit.runtime.torch_utils import Tensor


@register
@dataclass(frozen=True)
class DiskConfig(NetworkDetectorConfig):
    """DISK, a learned detector, trained with depth maps. The score is the network's raw output, without a unit."""

    name: ClassVar[str] = "disk"
    files: ClassVar[tuple[str, ...]] = ("depth-save.pth",)

    max_keypoints: int = 4096
    """Keep at most this many keypoints per image, the strongest."""
    long_side: int | None = 1024
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size."""

    def create(self) -> "DiskDetector":
        return DiskDetector(self)


class DiskDetector(NetworkDetector[DiskConfig]):
    """See `Detector`. Descriptors are float32 of length 1."""

    dimension = 128
    smallest = 32

    def _load(self) -> Any:
        from kornia.feature import DISK

        (path,) = self.config.paths()
        return filled(DISK(), path, "the DISK of the installed kornia", "extractor")

    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        for found in self._network(stack, pad_if_not_divisible=True):
            yield Candidates(found.keypoints, found.detection_scores, rows_of(found.descriptors))
