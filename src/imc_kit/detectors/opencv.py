"""ORB and AKAZE through OpenCV, on the CPU.

OpenCV runs outside of Python's lock and every call here makes its own OpenCV object, so that one detector may serve a
thread for each core. OpenCV also has threads of its own: whoever brings the threads calls `cv2.setNumThreads(1)`.

OpenCV puts the centre of the top-left pixel at (0, 0), as this project does, but not quite in the smaller levels of its
pyramids: that is put right here (see `_from_level`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.detectors.base import DetectorConfig, register, strongest
from imc_kit.errors import KitError
from imc_kit.types import Features, Float32, Mask, Pixels

Grey = NDArray[Any]
"""uint8 [h, w]."""

_MIN_SIDE = 16
"""Where the shorter side has fewer pixels no keypoint has room, and OpenCV raises errors instead of finding none."""
_ORB_LEVELS, _ORB_STEP = 8, 1.2
"""Of ORB's pyramid: OpenCV's defaults."""


@register
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


@register
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
        if not hasattr(cv2, "AKAZE"):
            raise KitError(
                f"OpenCV {cv2.__version__} has no AKAZE: install one that has it"
                ' (pip install "opencv-python-headless<5") or choose another detector'
            )
        return AkazeDetector(self)


class OpenCVDetector:
    """What both share; each says what OpenCV finds in one grey image."""

    config: DetectorConfig
    dimension: int
    dtype = np.uint8

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """As `Detector.detect` says, with scales and orientations."""
        return [self._features(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _features(self, image: Pixels, mask: Mask | None) -> Features:
        size = image.shape[1], image.shape[0]
        if min(size) >= _MIN_SIDE:
            found, descriptors = self._find(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), mask)
            points, scores = self._points(found, size), _column(found, "response")
            kept = strongest(points, scores, mask, self.config.max_keypoints)
            if len(kept):
                scales, turns = _column(found, "size"), _column(found, "angle")
                return Features(points[kept], scores[kept], descriptors[kept], size, scales[kept], turns[kept])
        return Features.empty(size, self.dimension, self.dtype)

    def _find(self, grey: Grey, mask: Mask | None) -> tuple[Sequence[cv2.KeyPoint], NDArray[Any]]:
        """Keypoints and their descriptors [N, dimension], of which the strongest within the mask are kept."""
        raise NotImplementedError  # each subclass has its own

    def _points(self, found: Sequence[cv2.KeyPoint], size: tuple[int, int]) -> Float32:
        """Where they are, [N, 2]."""
        return np.array(cv2.KeyPoint.convert(found), np.float32).reshape(-1, 2)


class OrbDetector(OpenCVDetector):
    dimension = 32

    def __init__(self, config: OrbConfig) -> None:
        self.config: OrbConfig = config

    def _find(self, grey: Grey, mask: Mask | None) -> tuple[Sequence[cv2.KeyPoint], NDArray[Any]]:
        orb = cv2.ORB.create(
            self.config.max_keypoints, _ORB_STEP, _ORB_LEVELS, fastThreshold=self.config.fast_threshold
        )
        # It has a budget for each level of its pyramid, and spends it within the mask.
        return orb.detectAndCompute(grey, None if mask is None else mask.astype(np.uint8) * 255)

    def _points(self, found: Sequence[cv2.KeyPoint], size: tuple[int, int]) -> Float32:
        # OpenCV multiplies the place in a level of the pyramid by 1.2^level, as if the centres of the first pixels were
        # at the same place: off by 1.3 pixels for the smallest level.
        step = np.float32(_ORB_STEP) ** _column(found, "octave")[:, None]
        return _from_level(super()._points(found, size) / step, np.rint(size / step), size)


class AkazeDetector(OpenCVDetector):
    dimension = 61

    def __init__(self, config: AkazeConfig) -> None:
        self.config: AkazeConfig = config

    def _find(self, grey: Grey, mask: Mask | None) -> tuple[Sequence[cv2.KeyPoint], NDArray[Any]]:
        # In one call: building its scale space twice would cost more than descriptors that are then dropped.
        return cv2.AKAZE.create(threshold=self.config.threshold).detectAndCompute(grey, None)

    def _points(self, found: Sequence[cv2.KeyPoint], size: tuple[int, int]) -> Float32:
        # OpenCV takes the levels of the pyramid for exactly 1/2, 1/4 and 1/8 of the image. Where that would not be a
        # whole number of pixels they are smaller: off by up to several pixels at the far side of the image.
        step = np.float32(2) ** _column(found, "octave")[:, None]
        return _from_level((super()._points(found, size) + 0.5) / step - 0.5, np.floor(size / step), size)


def _from_level(points: NDArray[Any], level: NDArray[Any], size: tuple[int, int]) -> Float32:
    """Points [N, 2] in a level of a pyramid, which is the image resized to `level` [N, 2] → in the image, of `size`.

    Both sizes are (width, height). Resizing keeps the outer edges in place.
    """
    return ((points + 0.5) * (size / level) - 0.5).astype(np.float32)


def _column(found: Sequence[cv2.KeyPoint], name: str) -> Float32:
    """An attribute of all keypoints, float32 [N]."""
    return np.array([getattr(keypoint, name) for keypoint in found], np.float32)
