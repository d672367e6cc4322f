"""Missing correspondences: what two photos should share, and do not, tells two equal objects from one.

Two photos of equal objects from the same side look alike on the object, and have many matches there that agree with one
geometry. But the surroundings differ. Photos of one object from such similar viewpoints would share those as well. So
the matches of a pair tell how similar its viewpoints are, and that tells how many matches to expect.

The idea is that of Zach, Irschara and Bischof (CVPR 2008) and of Heinly, Dunn and Frahm (ECCV 2014). They predict the
matches from a third photo or a finished model; here the pair alone does it, from an affine map.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64

# Chosen on ten rendered scenes with duplicates and cereal25, confirmed on five others (docs/benchmarks.md). Other
# values nearby give the same maximum spanning trees.
_ALIKE = 0.8
"""The share of the visible keypoints that has to be matched when two viewpoints are equal. SIFT's share is a third:
being less than expected is what is usual, so that pairs of distant viewpoints, whose matches are few, stay what they
are compared with others."""
_FADES = 2.0
"""How fast the expected share falls with the change of the viewpoint."""
_DEPTH = 8.0
"""The weight of depth in it: the median distance of the matches from the affine map, as a share of their spread."""
_TRIALS = 300
"""Affine maps that are tried. Three matches define one, and half of all matches agree with it: 300 hardly ever fail."""


def completeness(keypoints: tuple[Float64, Float64], sizes: NDArray[np.int_], matches: NDArray[np.uint32]) -> float:
    """The matches of two photos as a share of those expected from viewpoints as similar as these matches show, 0 … 1.

    keypoints: of both photos, [N, 2] each, in pixels. sizes: their widths and heights, [2, 2]. matches: verified ones,
        [K, 2], indices of the keypoints, K ≥ 3.

    The map is that of at least half of the matches (least median of squares): a photo may show both objects, and the
    matches of such a pair are often a mixture. Deterministic.
    """
    one, two = (points[rows] for points, rows in zip(keypoints, matches.T, strict=True))
    found, _ = cv2.estimateAffine2D(one, two, method=cv2.LMEDS, maxIters=_TRIALS, refineIters=0)
    if found is None:
        return 1.0  # all on one line: no evidence
    apart = _distances(found, one, two)
    near = apart <= np.median(apart)
    map_ = np.linalg.lstsq(np.pad(one[near], ((0, 0), (0, 1)), constant_values=1.0), two[near], rcond=None)[0].T
    stretch = np.log(np.maximum(np.linalg.svd(map_[:, :2], compute_uv=False), 1e-6))
    spread = max(float(np.sqrt(two.var(axis=0).sum())), 1e-6)
    change = stretch[0] - stretch[1] + abs(stretch.mean()) + _DEPTH * np.median(_distances(map_, one, two)) / spread
    seen = [
        max(len(matches), _inside(points, matrix, size))
        for points, matrix, size in zip(keypoints, (map_, cv2.invertAffineTransform(map_)), sizes[::-1], strict=True)
    ]
    share = len(matches) / np.sqrt(seen[0] * seen[1])
    return float(min(1.0, share / _ALIKE * np.exp(min(_FADES * change, 100.0))))


def _distances(matrix: NDArray[np.float64], one: Float64, two: Float64) -> Float64:
    return np.asarray(np.linalg.norm(one @ matrix[:, :2].T + matrix[:, 2] - two, axis=1), np.float64)


def _inside(points: Float64, matrix: NDArray[np.float64], size: NDArray[np.int_]) -> int:
    """The number of keypoints that an affine map brings into the other photo."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return int(((mapped >= 0) & (mapped < size)).all(axis=1).sum())
