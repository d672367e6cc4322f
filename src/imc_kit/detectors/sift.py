"""SIFT (Lowe 2004): the same keypoints as OpenCV's, in half the time, with descriptors from every second pixel.

What is blurred OpenCV blurs; the loops over pixels and keypoints are compiled (`sift_loops`). Of keypoints that are kept
only, orientations and descriptors are computed: one orientation each, the most frequent one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.detectors.base import DetectorConfig, strongest
from imc_kit.types import Features, Float32, Mask, Pixels

_LAYERS = 3
"""Of an octave, in which there are keypoints."""
_CAMERA = 1.0
"""Blur of an image as it comes, in pixels of the first octave, in which it is twice as large."""


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

    def create(self) -> SiftDetector:
        return SiftDetector(self)


class SiftDetector:
    """As `Detector` says, with scales and orientations. One may serve a thread for each core."""

    dimension = 128
    dtype = np.float32

    def __init__(self, config: SiftConfig) -> None:
        from imc_kit.detectors import sift_loops  # numba takes a while to load

        self.config = config
        self._loops = sift_loops

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """As `Detector.detect` says."""
        space: list[Float32] = []
        return [self._features(image, mask, space) for image, mask in zip(images, masks, strict=True)]

    def _features(self, image: Pixels, mask: Mask | None, space: list[Float32]) -> Features:
        size = image.shape[1], image.shape[0]
        self._fill(space, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        octaves = space
        thresholds = self.config.contrast_threshold, self.config.edge_threshold
        found = [self._loops.extrema(octave, *thresholds) for octave in octaves]
        if not sum(map(len, found)):
            return Features.empty(size, self.dimension, self.dtype)
        of_octave = np.repeat(np.arange(len(found)), [len(some) for some in found])
        keypoints = np.concatenate(found)
        zooms = np.float32(2) ** (of_octave - 1).astype(np.float32)
        points = keypoints[:, :2] * zooms[:, None]
        kept = strongest(points, keypoints[:, 3], mask, self.config.max_keypoints)
        turns, descriptors = np.empty(len(kept), np.float32), np.empty((len(kept), self.dimension), np.float32)
        for number, octave in enumerate(octaves):
            rows = np.flatnonzero(of_octave[kept] == number)
            some, their_turns = keypoints[kept[rows]], np.empty(len(rows), np.float32)
            theirs = np.empty((len(rows), self.dimension), np.float32)
            self._loops.orientations(octave, some, their_turns)
            self._loops.describe(octave, some, their_turns, self.config.root, theirs)
            turns[rows], descriptors[rows] = their_turns, theirs
        scales = 2 * self._loops.SIGMA * np.float32(2) ** (keypoints[kept, 2] / _LAYERS) * zooms[kept]
        scores = keypoints[kept, 3]
        return Features(points[kept], scores, descriptors, size, scales.astype(np.float32), turns)

    def _fill(self, space: list[Float32], grey: NDArray[np.uint8]) -> None:
        """The octaves of a grey image [h, w], as `sift_loops` takes them: twice as large, as large, half as large, …

        space: those of another image, which are overwritten where they have the same size: to get so much memory anew
            takes as long as to fill it.
        """
        sigma, step = self._loops.SIGMA, 2 ** (1 / _LAYERS)
        image = np.empty((2 * grey.shape[0], 2 * grey.shape[1]), np.float32)
        self._loops.double(grey, image)
        number = 0
        while min(image.shape) > 2 * self._loops.BORDER:
            shape = (_LAYERS + 3, *image.shape)
            if number == len(space) or space[number].shape != shape:
                space[number:] = [np.empty(shape, np.float32)]
            octave = space[number]
            if number:
                octave[0] = image
            else:
                self._loops.blur(image, _gaussian((sigma**2 - _CAMERA**2) ** 0.5), octave[0])
            for layer in range(1, _LAYERS + 3):
                more = sigma * step ** (layer - 1) * (step**2 - 1) ** 0.5
                self._loops.blur(octave[layer - 1], _gaussian(more), octave[layer])
            height, width = image.shape[0] // 2, image.shape[1] // 2
            image = octave[_LAYERS, : 2 * height : 2, : 2 * width : 2]
            number += 1
        del space[number:]


def _gaussian(sigma: float) -> Float32:
    """Half of a kernel to blur with: the weight of a pixel itself, of the one beside it, … up to four sigma."""
    reach = round(8 * sigma + 1) // 2  # as OpenCV has it
    kernel: Float32 = cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F).ravel()
    return kernel[reach:].copy()
