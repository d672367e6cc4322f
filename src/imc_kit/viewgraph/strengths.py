"""The view graph of a scene: its images, and its pairs with their numbers of verified matches."""

from collections.abc import Mapping

import numpy as np

from imc_kit.types import Pair


def strengths(inliers: Mapping[Pair, int]) -> dict[Pair, float]:
    """How strong each pair is compared with the path between its images in the maximum spanning tree, 0 … 1.

    inliers: verified matches by pair of image names, at least 1.

    The strength is the pair's matches divided by the weakest link of that path. The path is the one with the strongest
    weakest link; the tree's own pairs have strength 1. A pair far below 1 says little that the path does not say
    better. Where structures repeat, such pairs are mostly wrong: they match on the second gable, where few of their
    matches are.

    The weakest links come from single-linkage clustering, which merges images along the same tree.
    """
    from scipy.cluster.hierarchy import cophenet, linkage

    number = {image: place for place, image in enumerate(sorted({image for pair in inliers for image in pair}))}
    if len(number) < 2:
        return {}
    ends = np.sort([[number[image] for image in pair] for pair in inliers], axis=1)
    counts = np.array(list(inliers.values()), np.float64)
    first, second = ends.T
    places = len(number) * first - first * (first + 3) // 2 + second - 1  # in SciPy's condensed matrix of distances
    none = counts.max() + 1
    distances = np.full(len(number) * (len(number) - 1) // 2, none)
    np.minimum.at(distances, places, none - counts)
    weakest = none - cophenet(linkage(distances, "single"))[places]
    return dict(zip(inliers, (counts / weakest).tolist(), strict=True))
