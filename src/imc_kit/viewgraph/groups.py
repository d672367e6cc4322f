"""The places in a folder: groups of images that verified matches join, beyond what chance explains."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from imc_kit.types import Pair

LINK = 30
"""Verified matches that join two images: COLMAP's mapper needs as many to add an image to a model. A place whose parts
are joined by fewer is divided, as `chair34` (docs/benchmarks.md)."""
CHANCE = 15
"""Verified matches that may be chance: `VerificationConfig.min_inliers`."""
SMALLEST = 3
"""Images of a group. Two have no score: a similarity fits their centres anyway."""


def groups(images: Iterable[str], inliers: Mapping[Pair, int]) -> list[list[str]]:
    """The groups of at least three images, largest first; within each, images are in the given order.

    inliers: verified matches by pair of image names.

    A pair with `LINK` matches joins its images. Then two groups become one, the most closely linked first, if the
    images of the smaller one have enough matches with the other on average. Each pair counts with its matches beyond
    `CHANCE`: pairs that chance explains do not add up, however many there are.
    """
    order = {image: number for number, image in enumerate(images)}
    group = {image: {image} for image in order}
    between: defaultdict[frozenset[int], int] = defaultdict(int)

    def join(first: set[str], second: set[str]) -> None:
        first |= second
        group.update(dict.fromkeys(second, first))

    for pair, count in inliers.items():
        if count >= LINK and group[pair[0]] is not group[pair[1]]:
            join(*sorted((group[image] for image in pair), key=len, reverse=True))
    while True:
        between.clear()
        found = {id(one): one for one in group.values()}
        for (first, second), count in inliers.items():
            if group[first] is not group[second]:
                between[frozenset({id(group[first]), id(group[second])})] += max(0, count - CHANCE)
        closeness = {both: links / min(len(found[one]) for one in both) for both, links in between.items()}
        closest = max(closeness, key=closeness.__getitem__, default=None)
        if closest is None or closeness[closest] < LINK - CHANCE:
            break
        join(*sorted((found[one] for one in closest), key=len, reverse=True))
    large = [sorted(one, key=order.__getitem__) for one in found.values() if len(one) >= SMALLEST]
    return sorted(large, key=lambda one: (-len(one), order[one[0]]))
