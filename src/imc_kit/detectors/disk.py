"""DISK (Tyszkiewicz et al. 2020) through kornia.

Keypoints are whole pixels, with the centre of the top-left one at (0, 0). It always runs in float32: in half precision
neighbouring scores become equal, and kornia drops maxima that are not strictly larger than all their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from imc_kit.detectors.base import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig, filled, rows_of
from imc_kit.errors import require

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class DiskConfig(NetworkDetectorConfig):
    """DISK, a learned detector, trained with depth maps. The score is the network's and has no unit."""

    name: ClassVar[str] = "disk"
    files: ClassVar[tuple[str, ...]] = ("depth-save.pth",)

    max_keypoints: int = 4096
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 1024
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    threshold: float = 0.0
    """Keep only keypoints with a higher score. The default is kornia's."""
    window: int = 5
    """Side of the window, an odd number of pixels of the shrunk image, in which a keypoint must be the strongest. The
    default is the authors'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.window >= 1 and self.window % 2 == 1
        require(valid, "window of detector 'disk'", "an odd number of at least 1", self.window)
        require(not math.isnan(self.threshold), "threshold of detector 'disk'", "a number", self.threshold)

    def create(self) -> DiskDetector:
        return DiskDetector(self)


class DiskDetector(NetworkDetector[DiskConfig]):
    """See `Detector`. Descriptors are float32 of length 1."""

    dimension = 128
    smallest = 32

    def _load(self) -> Any:
        from kornia.feature import DISK

        (path,) = self.config.paths()
        return filled(DISK(), path, "the DISK of the installed kornia", "extractor")

    def _find(self, stack: torch.Tensor, limit: int | None) -> Iterator[Candidates]:
        for found in self._network(
            stack,
            n=None,
            window_size=self.config.window,
            score_threshold=self.config.threshold,
            pad_if_not_divisible=True,
        ):
            yield Candidates(found.keypoints, found.detection_scores, rows_of(found.descriptors))
