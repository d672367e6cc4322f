"""SIFT (Lowe 2004): OpenCV's keypoints in less than half the time. `sift_numba` holds the compiled loops.

It differs from OpenCV in three ways. Only keypoints that are kept get orientations and descriptors. Each keypoint has
one orientation, the dominant one. Descriptors use the keypoint's subpixel position and sample every second pixel around
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.detectors import Candidates, DetectorConfig, describe_strongest, register
from imc_kit.types import Features, Float32, Mask, Pixels

_LAYERS = 3
"""Layers per octave in which keypoints are searched (Lowe 2004)."""
_IMAGE_BLUR = 0.5
"""Assumed blur (sigma) of the given image, in its pixels (Lowe 2004)."""
_WEAKEST = 0.001
"""The contrast down to which an image with few keypoints is searched. Chosen on rendered scenes of hardly any texture:
docs/benchmarks.md."""
_CHUNK = 128
"""Neighbouring keypoints that get orientations and then descriptors together: their surroundings are still in the
processor's cache for the second step. It affects the speed only."""


@register
@dataclass(frozen=True)
class SiftConfig(DetectorConfig):
    """SIFT (Lowe 2004). The thresholds are near COLMAP's; the score is the contrast |DoG|."""

    name: ClassVar[str] = "sift"

    contrast_threshold: float = 0.02
    """Drop keypoints with a lower contrast; 0.02 is COLMAP's peak threshold of 0.0067 times three layers per octave."""
    min_keypoints: int = 2000
    """If an image has fewer keypoints, add weaker ones up to this number, the strongest first, down to a twentieth of
    COLMAP's threshold. They are what there is to match where there is hardly any texture."""
    edge_threshold: float = 10.0
    """Drop keypoints with a larger ratio of principal curvatures: they lie on an edge. The default is COLMAP's."""
    double_up_to: int | None = None
    """Double images whose longer side, after shrinking to `long_side`, is at most this many pixels (COLMAP's
    `first_octave` −1): more and finer keypoints at four times the cost. None doubles all, as Lowe does; 0 doubles none.
    """
    root: bool = True
    """RootSIFT (Arandjelović and Zisserman 2012): divide descriptors by their sum and take the square root. If False,
    divide them by their Euclidean norm. Their norm is 1 either way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.double_up_to is None or self.double_up_to >= 0, "double_up_to", "at least 0, or None")
        self._require(self.contrast_threshold >= 0, "contrast_threshold", "at least 0")
        self._require(self.min_keypoints >= 0, "min_keypoints", "at least 0")
        self._require(self.edge_threshold > 0, "edge_threshold", "larger than 0")

    def create(self) -> "SiftDetector":
        return SiftDetector(self)


class SiftDetector:
    """See `Detector`. Keypoints have scales and orientations."""

    dimension = 128

    def __init__(self, config: SiftConfig) -> None:
        """Raises `KitError` if numba cannot be loaded."""
        from imc_kit.detectors import sift_numba  # numba takes about a second to load

        self.config = config
        self._compiled = sift_numba

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """See `Detector.detect`."""
        space = _ScaleSpace(self._compiled)
        return [self._detect(image, mask, space) for image, mask in zip(images, masks, strict=True)]

    def _detect(self, image: Pixels, mask: Mask | None, space: "_ScaleSpace") -> Features:
        doubled = self.config.double_up_to is None or max(image.shape[:2]) <= self.config.double_up_to
        octaves = space.octaves(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), doubled)
        size, contrast = (image.shape[1], image.shape[0]), self.config.contrast_threshold
        features = describe_strongest(self, self._find(octaves, doubled, contrast), mask, size)
        enough = min(self.config.min_keypoints, self.config.max_keypoints)
        if len(features) >= enough or contrast <= _WEAKEST:
            return features
        return describe_strongest(self, self._find(octaves, doubled, _WEAKEST), mask, size, enough)

    def _find(self, octaves: list[Float32], doubled: bool, contrast: float) -> Candidates:
        # Floats, because numba would compile everything again for integers.
        thresholds = float(contrast), float(self.config.edge_threshold)
        found = [self._compiled.extrema(octave, *thresholds) for octave in octaves]
        keypoints = np.concatenate([np.empty((0, 4), np.float32), *found])
        octave_of = np.repeat(np.arange(len(found)), np.array([len(some) for some in found], int))
        zooms = np.float32(2) ** (octave_of - doubled).astype(np.float32)

        def describe(kept: NDArray[np.intp]) -> dict[str, Float32]:
            blurs = np.float32(self._compiled.SIGMA) * np.float32(2) ** (keypoints[kept, 2] / _LAYERS) * zooms[kept]
            return {"scales": 2 * blurs, **self._describe(octaves, octave_of, keypoints, kept)}

        return Candidates(keypoints[:, :2] * zooms[:, None], keypoints[:, 3], describe)

    def _describe(
        self, octaves: list[Float32], octave_of: NDArray[np.intp], keypoints: Float32, kept: NDArray[np.intp]
    ) -> dict[str, Float32]:
        """The orientations and descriptors of `keypoints[kept]`, in this order.

        octave_of: [N], the octave number of each of the keypoints [N, 4].
        """
        orientations = np.empty(len(kept), np.float32)
        descriptors = np.empty((len(kept), self.dimension), np.float32)
        in_found_order = np.argsort(kept)
        for number, octave in enumerate(octaves):
            here = in_found_order[octave_of[kept[in_found_order]] == number]
            for start in range(0, len(here), _CHUNK):
                rows = here[start : start + _CHUNK]
                some = keypoints[kept[rows]]
                orientations[rows] = self._compiled.orientations(octave, some)
                descriptors[rows] = self._compiled.describe(octave, some, orientations[rows], self.config.root)
        return {"orientations": orientations, "descriptors": descriptors}


class _ScaleSpace:
    """Scale spaces of images, one at a time. Reuses the memory for images of the same size, because allocating it takes
    as long as filling it."""

    def __init__(self, compiled: ModuleType) -> None:
        self._compiled = compiled
        self._octaves: list[Float32] = []

    def octaves(self, grey: NDArray[np.uint8], doubled: bool) -> list[Float32]:
        """The octaves of a grey image [h, w], largest first, as `sift_numba` expects them. Valid until the next call.

        doubled: whether the first octave has twice the size of the image.
        """
        sigma, step = self._compiled.SIGMA, 2 ** (1 / _LAYERS)
        image, blur = grey.astype(np.float32), _IMAGE_BLUR
        if doubled:
            image, blur = self._compiled.doubled(grey), 2 * _IMAGE_BLUR
        number = 0
        while min(image.shape) > 2 * self._compiled.BORDER:
            octave = self._memory(number, image.shape)
            if number:
                octave[0] = image
            else:
                self._compiled.blur(image, _gaussian((sigma**2 - blur**2) ** 0.5), octave[0])
            for layer in range(1, _LAYERS + 3):
                more = sigma * step ** (layer - 1) * (step**2 - 1) ** 0.5
                self._compiled.blur(octave[layer - 1], _gaussian(more), octave[layer])
            height, width = image.shape[0] // 2, image.shape[1] // 2
            image = octave[_LAYERS, : 2 * height : 2, : 2 * width : 2]  # this layer has twice the blur of the first
            number += 1
        return self._octaves[:number]

    def _memory(self, number: int, shape: tuple[int, ...]) -> Float32:
        """Memory for an octave of images of this shape. If the shape has changed, drops all smaller octaves."""
        shape = (_LAYERS + 3, *shape)
        if number == len(self._octaves) or self._octaves[number].shape != shape:
            self._octaves[number:] = [np.empty(shape, np.float32)]
        return self._octaves[number]


def _gaussian(sigma: float) -> Float32:
    """Half of a Gaussian kernel: the weights of the pixel itself, its neighbour, and so on up to four sigma."""
    reach = round(8 * sigma + 1) // 2  # as in OpenCV
    return np.array(cv2.getGaussianKernel(2 * reach + 1, sigma)[reach:, 0], np.float32)
