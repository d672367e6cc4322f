"""The places in a folder: groups of images that verified matches join, beyond what chance explains."""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush

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
    members = [{image} for image in order]
    home = dict(order)
    """The number of each image's group."""
    for (first, second), count in inliers.items():
        if count >= LINK and home[first] != home[second]:
            small, large = sorted((home[first], home[second]), key=lambda number: len(members[number]))
            home.update(dict.fromkeys(members[small], large))
            members[large] |= members[small]
            members[small] = set()
    links: list[dict[int, tuple[int, int]]] = [{} for _ in members]
    """By group and other group: matches beyond chance, and the position of the first pair, which decides ties."""

    def link(one: int, other: int, matches: int, position: int) -> None:
        known, at = links[one].get(other, (0, position))
        links[one][other] = links[other][one] = known + matches, min(at, position)

    def entry(one: int, other: int) -> tuple[float, int, int, int]:
        matches, position = links[one][other]
        return -matches / min(len(members[one]), len(members[other])), position, min(one, other), max(one, other)

    for position, ((first, second), count) in enumerate(inliers.items()):
        if home[first] != home[second]:
            link(home[first], home[second], max(0, count - CHANCE), position)
    closest = [entry(one, other) for one, others in enumerate(links) for other in others if one < other]
    heapify(closest)
    while closest and -closest[0][0] >= LINK - CHANCE:
        found = heappop(closest)
        small, large = sorted(found[2:], key=lambda number: len(members[number]))
        if large not in links[small] or entry(small, large) != found:
            continue  # one of them has grown
        size = len(members[large])
        members[large] |= members[small]
        members[small] = set()
        changed, links[small] = links[small], {}
        for other, matches_and_position in changed.items():
            del links[other][small]
            if other != large:
                link(large, other, *matches_and_position)
        for other in links[large]:
            if other in changed or len(members[other]) > size:
                heappush(closest, entry(large, other))
    places = [sorted(one, key=order.__getitem__) for one in members if len(one) >= SMALLEST]
    return sorted(places, key=lambda one: (-len(one), order[one[0]]))
