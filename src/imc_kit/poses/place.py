"""One pose for every image of a scene, from whatever models there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from imc_kit.types import Model, Placement, Pose

NEIGHBOURS = 3
"""A guess is the weighted mean of the centres of so many images."""


def place(
    images: Sequence[str],
    models: Sequence[Model],
    inliers: Mapping[tuple[str, str], int],
    *,
    separate: bool = False,
    similarity: Callable[[str, str], float | None] | None = None,
) -> dict[str, Placement]:
    """A placement for each of `images`.

    The first of `models` (the largest) gives the world frame, and its poses. An image that is not in it is guessed:

    - where it shares verified matches (`inliers`, by pair of names) with images of the model, it stands at the mean of
      the centres of the best three, weighted by these matches, and looks where the best of them looks;
    - else it gets the pose of the image that is most like it by `similarity` (larger is more alike; None where nothing
      is known);
    - else the pose of the image nearest to the middle of the model.

    Where there is no model, all poses are the identity. A wrong guess costs nothing in the competition's metric.

    The other models are in frames of their own, so that their poses are of no use in the first one's; an image in one
    of them is placed like an unregistered one. With `separate`, every model is a scene of its own (2025's rules), and
    such an image keeps the pose that its model gives.
    """
    if not models:
        return {image: Placement(Pose.identity(), None) for image in images}
    leading = models[0].poses
    middle = _middle(list(leading.values()))
    neighbours: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for (first, second), count in inliers.items():
        for image, other in ((first, second), (second, first)):
            if other in leading:
                neighbours[image].append((count, other))

    def guess(image: str) -> Pose:
        if image in neighbours:
            best = sorted(neighbours[image], reverse=True)[:NEIGHBOURS]
            weights = [count for count, _ in best]
            center = np.average([leading[other].center for _, other in best], axis=0, weights=weights)
            return Pose.from_center(leading[best[0][1]].rotation, center)
        alike = {other: value for other in leading if similarity and (value := similarity(image, other)) is not None}
        return leading[max(alike, key=alike.__getitem__)] if alike else middle

    placements = {}
    for image in images:
        own = next((number for number, model in enumerate(models) if image in model.poses), None)
        if own is not None and (own == 0 or separate):
            placements[image] = Placement(models[own].poses[image], own)
        else:
            placements[image] = Placement(guess(image), None)
    return placements


def _middle(poses: Sequence[Pose]) -> Pose:
    centers = np.array([pose.center for pose in poses])
    return poses[int(np.argmin(np.linalg.norm(centers - np.median(centers, axis=0), axis=1)))]
