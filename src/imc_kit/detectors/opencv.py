"""ORB and AKAZE through OpenCV, on the CPU.

OpenCV releases Python's lock, and each call creates its own OpenCV object, so all threads may share one detector.
OpenCV also starts its own threads: a multi-threaded program should call `cv2.setNumThreads(1)`.

OpenCV puts the centre of the top-left pixel at (0, 0), as this project does, except in the smaller levels of its image
pyramids. `_from_level` corrects those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.detectors import C, Candidates, DetectorConfig, ImageDetector, register
from imc_kit.errors import KitError
from imc_kit.types import Float32, Mask, Pixels

Grey = NDArray[Any]
"""uint8 [h, w]."""

_MIN_SIDE = 16
"""Smallest shorter side in pixels: smaller images have no room for keypoints, and OpenCV raises errors for some."""
_ORB_LEVELS, _ORB_STEP = 8, 1.2
"""Number of levels of ORB's image pyramid and the ratio of their sizes: OpenCV's defaults."""


@register
@dataclass(frozen=True)
class OrbConfig(DetectorConfig):
    """ORB (Rublee et al. 2011): binary, fast, less distinctive than the others. The score is the Harris response."""

    name: ClassVar[str] = "orb"
    binary: ClassVar[bool] = True

    fast_threshold: int = 20
    """Minimum contrast between a corner and its surroundings, in grey levels (0 … 255). The default is OpenCV's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 <= self.fast_threshold <= 255, "fast_threshold", "in 0 … 255")

    def create(self) -> "OrbDetector":
        return OrbDetector(self)


@register
@dataclass(frozen=True)
class AkazeConfig(DetectorConfig):
    """AKAZE with its binary descriptor M-LDB (Alcantarilla et al. 2013). OpenCV 4 has it, OpenCV 5 does not."""

    name: ClassVar[str] = "akaze"
    binary: ClassVar[bool] = True

    threshold: float = 1e-4
    """Drop keypoints with a lower response. OpenCV's default, 1e-3, leaves only a few hundred in blurred photos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.threshold > 0, "threshold", "larger than 0")

    def create(self) -> "AkazeDetector":
        if not hasattr(cv2, "AKAZE"):
            hint = 'install a version that has it (pip install "opencv-python-headless<5") or choose another detector'
            raise KitError(f"OpenCV {cv2.__version__} has no AKAZE: {hint}")
        return AkazeDetector(self)


class OpenCVDetector(ImageDetector[C]):
    """What ORB and AKAZE share. Descriptors are packed bits; keypoints have scales and orientations."""

    def find(self, image: Pixels, mask: Mask | None) -> Candidates:
        """See `ImageDetector.find`."""
        size = image.shape[1], image.shape[0]
        found: Sequence[cv2.KeyPoint] = ()
        if min(size) >= _MIN_SIDE:
            found, descriptors = self._find(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), mask)

        def describe(kept: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
            scales, orientations = _column(found, "size")[kept], _column(found, "angle")[kept]
            return {"descriptors": descriptors[kept], "scales": scales, "orientations": orientations}

        points = np.array(cv2.KeyPoint.convert(found), np.float32).reshape(-1, 2)
        return Candidates(self._corrected(points, found, size), _column(found, "response"), describe)

    def _find(self, grey: Grey, mask: Mask | None) -> tuple[Sequence[cv2.KeyPoint], NDArray[Any]]:
        """OpenCV's N keypoints and their descriptors [N, dimension]."""
        raise NotImplementedError  # each subclass has its own

    def _corrected(self, points: Float32, found: Sequence[cv2.KeyPoint], size: tuple[int, int]) -> Float32:
        """Correct OpenCV's keypoint positions [N, 2], in image pixels. size: (width, height)."""
        raise NotImplementedError  # each subclass has its own


class OrbDetector(OpenCVDetector[OrbConfig]):
    dimension = 32

    def _find(self, grey: Grey, mask: Mask | None) -> tuple[Sequence[cv2.KeyPoint], NDArray[Any]]:
        most, threshold = self.config.max_keypoints, self.config.fast_threshold
        orb = cv2.ORB.create(most, _ORB_STEP, _ORB_LEVELS, fastThreshold=threshold)
        # ORB limits the keypoints of each pyramid level, so it must apply the mask itself.
        return orb.detectAndCompute(grey, None if mask is None else mask.astype(np.uint8) * 255)

    def _corrected(self, points: Float32, found: Sequence[cv2.KeyPoint], size: tuple[int, int]) -> Float32:
        # OpenCV multiplies the position in a level by 1.2^level, as if the centres of both top-left pixels coincided.
        # In the smallest level that is wrong by 1.3 pixels.
        step = np.float32(_ORB_STEP) ** _column(found, "octave")[:, None]
        return _from_level(points / step, np.rint(size / step), size)


class AkazeDetector(OpenCVDetector[AkazeConfig]):
    dimension = 61

    def _find(self, grey: Grey, mask: Mask | None) -> tuple[Sequence[cv2.KeyPoint], NDArray[Any]]:
        # Detect and describe in one call: a second scale space costs more than describing keypoints that are dropped.
        return cv2.AKAZE.create(threshold=self.config.threshold).detectAndCompute(grey, None)

    def _corrected(self, points: Float32, found: Sequence[cv2.KeyPoint], size: tuple[int, int]) -> Float32:
        # OpenCV assumes levels of exactly 1/2, 1/4 and 1/8 of the image size. It rounds their sizes down, so positions
        # are wrong by up to several pixels near the right and bottom edges.
        step = np.float32(2) ** _column(found, "octave")[:, None]
        return _from_level((points + 0.5) / step - 0.5, np.floor(size / step), size)


def _from_level(points: NDArray[Any], level: NDArray[Any], size: tuple[int, int]) -> Float32:
    """Convert points [N, 2] from a level of an image pyramid to the image.

    level: [N, 2], the (width, height) of each point's level: the image of `size` (width, height), resized so that the
        outer edges coincide.
    """
    return ((points + 0.5) * (size / level) - 0.5).astype(np.float32)


def _column(found: Sequence[cv2.KeyPoint], name: str) -> Float32:
    """An attribute of all keypoints, float32 [N]."""
    return np.array([getattr(keypoint, name) for keypoint in found], np.float32)
