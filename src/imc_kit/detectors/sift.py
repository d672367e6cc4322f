"""SIFT (Lowe 2004): OpenCV's keypoints in less than half of its time; the loops are compiled (`sift_loops`).

Where it differs: orientations and descriptors are computed of those keypoints only that are kept; each has one
orientation, the most frequent one; and descriptors know where between pixels a keypoint is, and look at every second
pixel around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.detectors.base import DetectorConfig, register, strongest
from imc_kit.types import Features, Float32, Mask, Pixels

_LAYERS = 3
"""Of an octave, in which there are keypoints."""
_CAMERA = 0.5
"""Blur of an image as it comes, in its pixels."""

_NEAR = 128
"""Keypoints that are looked at together, one found after the other: what is around them is still in the processor's
cache when their descriptors follow their orientations."""


@register
@dataclass(frozen=True)
class SiftConfig(DetectorConfig):
    """SIFT (Lowe 2004). The thresholds are near COLMAP's; the score is the contrast |DoG|."""

    name: ClassVar[str] = "sift"
    kind: ClassVar[str] = "sift"

    contrast_threshold: float = 0.02
    """Drop keypoints of less contrast; 0.02 is COLMAP's peak threshold of 0.0067 times three layers in an octave."""
    edge_threshold: float = 10.0
    """Drop keypoints whose principal curvatures have a larger ratio: they lie on an edge."""
    double_up_to: int | None = None
    """Images whose longer side has at most so many pixels, once `long_side` has made them smaller, are looked at at
    twice their size first (COLMAP's `first_octave` −1): for more and finer keypoints, at four times the cost. None does
    so with all, as Lowe does, 0 with none."""
    root: bool = True
    """Descriptors are RootSIFT (Arandjelović and Zisserman 2012): divided by their sum, then the square root taken.
    Else they are divided by their length. Either way their length is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.contrast_threshold >= 0, "contrast_threshold", "at least 0")
        self.require(self.edge_threshold > 0, "edge_threshold", "larger than 0")
        self.require(self.double_up_to is None or self.double_up_to >= 0, "double_up_to", "at least 0, or None")

    def create(self) -> SiftDetector:
        return SiftDetector(self)


class SiftDetector:
    """As `Detector` says, with scales and orientations. One may serve a thread for each core."""

    dimension = 128
    dtype = np.float32

    def __init__(self, config: SiftConfig) -> None:
        """Raises `KitError` when numba cannot be loaded."""
        from imc_kit.detectors import sift_numba  # numba takes a while to load

        self.config = config
        self._loops = sift_numba

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """As `Detector.detect` says."""
        space = _ScaleSpace(self._loops)
        return [self._features(image, mask, space) for image, mask in zip(images, masks, strict=True)]

    def _features(self, image: Pixels, mask: Mask | None, space: _ScaleSpace) -> Features:
        size = image.shape[1], image.shape[0]
        double = self.config.double_up_to is None or max(size) <= self.config.double_up_to
        octaves = space.octaves(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), double)
        # A whole number would be another type, for which all is compiled again.
        thresholds = float(self.config.contrast_threshold), float(self.config.edge_threshold)
        found = [self._loops.extrema(octave, *thresholds) for octave in octaves]
        if not sum(map(len, found)):
            return Features.empty(size, self.dimension, self.dtype)
        of_octave = np.repeat(np.arange(len(found)), [len(some) for some in found])
        keypoints = np.concatenate(found)
        zooms = np.float32(2) ** (of_octave - double).astype(np.float32)
        points = keypoints[:, :2] * zooms[:, None]
        kept = strongest(points, keypoints[:, 3], mask, self.config.max_keypoints)
        of_octave, keypoints, zooms = of_octave[kept], keypoints[kept], zooms[kept]
        turns, descriptors = np.empty(len(kept), np.float32), np.empty((len(kept), self.dimension), np.float32)
        found_after = np.argsort(kept)
        for number, octave in enumerate(octaves):
            here = found_after[of_octave[found_after] == number]
            for start in range(0, len(here), _NEAR):
                rows = here[start : start + _NEAR]
                turns[rows] = self._loops.orientations(octave, keypoints[rows])
                descriptors[rows] = self._loops.describe(octave, keypoints[rows], turns[rows], self.config.root)
        scales = np.float32(2 * self._loops.SIGMA) * np.float32(2) ** (keypoints[:, 2] / _LAYERS) * zooms
        return Features(points[kept], keypoints[:, 3].copy(), descriptors, size, scales, turns)


class _ScaleSpace:
    """The scale spaces of images, one after the other in the same memory where they are of the same size: to get so
    much of it anew takes as long as to fill it."""

    def __init__(self, loops: ModuleType) -> None:
        self._loops = loops
        self._octaves: list[Float32] = []

    def octaves(self, grey: NDArray[np.uint8], double: bool) -> list[Float32]:
        """Those of a grey image [h, w], as `sift_loops` takes them, from large to small, until the next call.

        double: whether the first is twice as large as the image.
        """
        sigma, step = self._loops.SIGMA, 2 ** (1 / _LAYERS)
        image, blur = grey.astype(np.float32), _CAMERA
        if double:
            image, blur = self._loops.doubled(grey), 2 * _CAMERA
        number = 0
        while min(image.shape) > 2 * self._loops.BORDER:
            octave = self._space(number, image.shape)
            if number:
                octave[0] = image
            else:
                self._loops.blur(image, _gaussian((sigma**2 - blur**2) ** 0.5), octave[0])
            for layer in range(1, _LAYERS + 3):
                more = sigma * step ** (layer - 1) * (step**2 - 1) ** 0.5
                self._loops.blur(octave[layer - 1], _gaussian(more), octave[layer])
            height, width = image.shape[0] // 2, image.shape[1] // 2
            image = octave[_LAYERS, : 2 * height : 2, : 2 * width : 2]  # of twice the blur of the first layer
            number += 1
        return self._octaves[:number]

    def _space(self, number: int, shape: tuple[int, ...]) -> Float32:
        """Memory for an octave of images of this shape; that of smaller ones is kept only if this one's is."""
        shape = (_LAYERS + 3, *shape)
        if number == len(self._octaves) or self._octaves[number].shape != shape:
            self._octaves[number:] = [np.empty(shape, np.float32)]
        return self._octaves[number]


def _gaussian(sigma: float) -> Float32:
    """Half of a kernel to blur with: the weight of a pixel itself, of the one beside it, … up to four sigma."""
    reach = round(8 * sigma + 1) // 2  # as OpenCV has it
    return np.array(cv2.getGaussianKernel(2 * reach + 1, sigma)[reach:, 0], np.float32)
