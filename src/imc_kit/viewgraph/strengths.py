"""The view graph of a scene: its images, joined by the number of their verified matches."""

from __future__ import annotations

from collections.abc import Mapping

from imc_kit.types import Pair


def strengths(inliers: Mapping[Pair, int]) -> dict[Pair, float]:
    """How strong each pair is beside the strongest chain of pairs between its images: matches / weakest link, 0 … 1.

    inliers: verified matches by pair of image names.

    Every chain has a weakest link; the strongest chain is the one in the maximum spanning tree, whose own pairs have
    strength 1. A pair far below 1 says little that the chain does not say better. Where structures repeat, such
    pairs are mostly wrong: they verify on the second gable, and the few matches that they have are all on it.
    """
    group = {image: [image] for pair in inliers for image in pair}
    result: dict[Pair, float] = {}
    waiting: dict[str, list[Pair]] = {image: [] for image in group}
    for pair in inliers:
        for image in pair:
            waiting[image].append(pair)
    for (first, second), count in sorted(inliers.items(), key=lambda entry: (-entry[1], entry[0])):
        small, large = sorted((group[first], group[second]), key=len)
        if small is large:
            continue
        members = set(large)
        for image in small:
            for pair in waiting[image]:  # this is the weakest link of each chain that now comes to be
                if pair[0] in members or pair[1] in members:
                    result[pair] = inliers[pair] / count
        large += small
        for image in small:
            group[image] = large
    return {pair: result[pair] for pair in inliers}
