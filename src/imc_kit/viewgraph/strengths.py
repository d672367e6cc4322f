"""The view graph of a scene: its images, joined by pairs that are weighted by verified matches."""

from collections.abc import Mapping

import numpy as np

from imc_kit.types import Pair


def strengths(inliers: Mapping[Pair, int]) -> dict[Pair, float]:
    """How strong each pair is compared with the path between its images in the maximum spanning tree, 0 … 1.

    inliers: verified matches by pair of image names, at least 1.

    The strength is the pair's matches divided by those of the path's weakest link. No other path has a stronger weakest
    link; the tree's pairs have strength 1. A pair far below 1 adds little to the path. Where structures repeat, such
    pairs are mostly wrong: a few matches join two copies of a structure.

    The weakest links come from single-linkage clustering, which merges images along the same tree.
    """
    from scipy.cluster.hierarchy import cophenet, linkage

    number = {image: place for place, image in enumerate(sorted({image for pair in inliers for image in pair}))}
    if len(number) < 2:
        return {}
    ends = np.sort([[number[image] for image in pair] for pair in inliers], axis=1)
    counts = np.array(list(inliers.values()), np.float64)
    first, second = ends.T
    places = len(number) * first - first * (first + 3) // 2 + second - 1  # in SciPy's condensed distance matrix
    unmatched = counts.max() + 1
    distances = np.full(len(number) * (len(number) - 1) // 2, unmatched)
    np.minimum.at(distances, places, unmatched - counts)
    weakest = unmatched - cophenet(linkage(distances, "single"))[places]
    return dict(zip(inliers, (counts / weakest).tolist(), strict=True))
