"""The view graph of a scene: its images, joined by pairs that are weighted by verified matches."""

from collections.abc import Mapping

from imc_kit.types import Pair


def strengths(inliers: Mapping[Pair, float]) -> dict[Pair, float]:
    """How strong each pair is compared with the path between its images in the maximum spanning tree, 0 … 1.

    inliers: verified matches by pair of image names, or other weights, more than 0.

    The strength is the pair's matches divided by those of the path's weakest link. No other path has a stronger weakest
    link; the tree's pairs have strength 1. A pair far below 1 adds little to the path. Where structures repeat, such
    pairs are mostly wrong: a few matches join two copies of a structure.

    Kruskal's algorithm: pairs join groups of images, the strongest first, and the pair that joins two groups is the
    weakest link of every path between them. SciPy's single-linkage clustering gives the same, but takes 0.3 s to load.
    """
    group = {image: [image] for pair in inliers for image in pair}
    pairs_of: dict[str, list[Pair]] = {image: [] for image in group}
    for pair in inliers:
        for image in pair:
            pairs_of[image].append(pair)
    result: dict[Pair, float] = {}
    for (first, second), count in sorted(inliers.items(), key=lambda entry: (-entry[1], entry[0])):
        small, large = sorted((group[first], group[second]), key=len)
        if small is large:
            continue
        for image in small:
            for pair in pairs_of[image]:
                if group[pair[0]] is large or group[pair[1]] is large:
                    result[pair] = inliers[pair] / count
        large += small
        group |= dict.fromkeys(small, large)
    return {pair: result[pair] for pair in inliers}
