"""DISK (Tyszkiewicz et al. 2020) through kornia.

Its keypoints are whole pixels, the centre of the top-left one at (0, 0). It always runs in float32: rounded to half
precision, neighbouring scores become equal, and kornia drops maxima that are not strictly larger than all around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from imc_kit.detectors.base import register
from imc_kit.detectors.network import Candidates, NetworkDetector, NetworkDetectorConfig, filled, rows_of

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class DiskConfig(NetworkDetectorConfig):
    """DISK, a learned detector, in its training with depth maps. The score is the network's, of no particular unit."""

    name: ClassVar[str] = "disk"
    kind: ClassVar[str] = "disk"
    files: ClassVar[tuple[str, ...]] = ("depth-save.pth",)

    max_keypoints: int = 4096
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 1024
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    threshold: float = 0.0
    """Keep keypoints of a higher score only."""
    window: int = 5
    """Drop keypoints that are not the strongest in a window of so many pixels, an odd number, of the shrunk image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.window >= 1 and self.window % 2 == 1, "window", "an odd number of at least 1")

    def create(self) -> DiskDetector:
        return DiskDetector(self)


class DiskDetector(NetworkDetector[DiskConfig]):
    """As `Detector` says. Descriptors are float32 of length 1."""

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
