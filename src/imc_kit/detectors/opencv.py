"""SIFT, ORB and AKAZE through OpenCV, on the CPU.

OpenCV runs outside of Python's lock and every call here makes its own OpenCV object, so that one detector may serve a
thread for each core. OpenCV also has threads of its own: whoever brings the threads calls `cv2.setNumThreads(1)`.

OpenCV puts the centre of the top-left pixel at (0, 0), as this project does. SIFT needs `enable_precise_upscale`:
without it, keypoints are off by a quarter of a pixel. ORB's keypoints are put right here (see `_orb_places`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.detectors.base import DetectorConfig, strongest
from imc_kit.errors import KitError
from imc_kit.types import Features, Float32, Mask, Pixels

Grey = NDArray[np.uint8]
"""uint8 [h, w]."""

_MIN_SIDE = 16
"""Where the shorter side has fewer pixels no keypoint has room, and OpenCV raises errors instead of finding none."""
_ORB_LEVELS, _ORB_STEP = 8, 1.2
"""Of ORB's pyramid: OpenCV's defaults."""


@dataclass(frozen=True)
class SiftConfig(DetectorConfig):
    """SIFT (Lowe 2004). The thresholds are near COLMAP's; the score is the contrast |DoG|."""

    name: ClassVar[str] = "sift"
    kind: ClassVar[str] = "sift"

    contrast_threshold: float = 0.02
    """Drop keypoints of less contrast; 0.02 is COLMAP's peak threshold of 0.0067 times three layers in an octave."""
    edge_threshold: float = 10.0
    """Drop keypoints whose principal curvatures have a larger ratio: they lie on an edge."""
    root: bool = True
    """Descriptors are RootSIFT (Arandjelović and Zisserman 2012): divided by their sum, then the square root taken.
    Else they are divided by their length. Either way their length is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.contrast_threshold >= 0, "contrast_threshold", "at least 0")
        self.require(self.edge_threshold > 0, "edge_threshold", "larger than 0")

    def create(self) -> OpenCVDetector:
        return SiftDetector(self)


@dataclass(frozen=True)
class OrbConfig(DetectorConfig):
    """ORB (Rublee et al. 2011): binary, fast, weaker than the others. The score is Harris's response."""

    name: ClassVar[str] = "orb"
    kind: ClassVar[str] = "orb"

    fast_threshold: int = 20
    """How much brighter or darker than a corner its surroundings must be, in grey levels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.fast_threshold <= 255, "fast_threshold", "in 0 … 255")

    def create(self) -> OpenCVDetector:
        return OrbDetector(self)


@dataclass(frozen=True)
class AkazeConfig(DetectorConfig):
    """AKAZE with its binary descriptor M-LDB (Alcantarilla et al. 2013). OpenCV 4 has it, OpenCV 5 does not."""

    name: ClassVar[str] = "akaze"
    kind: ClassVar[str] = "akaze"

    threshold: float = 1e-4
    """Drop keypoints of less response; OpenCV's own 1e-3 leaves a few hundred in soft photographs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.threshold > 0, "threshold", "larger than 0")

    def create(self) -> OpenCVDetector:
        if not hasattr(cv2, "AKAZE_create"):
            raise KitError(
                f"OpenCV {cv2.__version__} has no AKAZE: install one that has it"
                ' (pip install "opencv-python-headless<5") or choose another detector'
            )
        return AkazeDetector(self)


class OpenCVDetector:
    """What the three share; each says what it finds in one grey image."""

    config: DetectorConfig
    dimension: int
    dtype: type[np.float32] | type[np.uint8]

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """As `Detector.detect` says, with scales and orientations."""
        return [self._features(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _features(self, image: Pixels, mask: Mask | None) -> Features:
        height, width = image.shape[:2]
        if min(height, width) >= _MIN_SIDE:
            found = self._find(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), mask)
            kept = strongest(found.points, found.scores, mask, self.config.max_keypoints)
            if len(kept):
                return Features(
                    found.points[kept],
                    found.scores[kept],
                    found.descriptors[kept],
                    (width, height),
                    found.column("size")[kept],
                    found.column("angle")[kept],
                )
        return Features.empty((width, height), self.dimension, self.dtype)

    def _find(self, grey: Grey, mask: Mask | None) -> _Found:
        """Keypoints of which the strongest that the mask allows are kept."""
        raise NotImplementedError


class _Found:
    """OpenCV's keypoints and descriptors (anything when there are no keypoints)."""

    def __init__(self, keypoints: Sequence[cv2.KeyPoint], descriptors: NDArray[Any]) -> None:
        self.keypoints = keypoints
        self.descriptors = descriptors
        self.points: Float32 = np.array(cv2.KeyPoint.convert(keypoints), np.float32).reshape(-1, 2)
        self.scores = self.column("response")

    def column(self, name: str) -> Float32:
        """An attribute of all keypoints, float32 [N]."""
        return np.array([getattr(keypoint, name) for keypoint in self.keypoints], np.float32)
