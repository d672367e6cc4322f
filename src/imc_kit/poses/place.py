"""One pose for every image of a scene, from whatever models there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imc_kit.types import Model, Placement, Pose


def place(
    images: Sequence[str], models: Sequence[Model], inliers: Mapping[tuple[str, str], int], *, separate: bool = False
) -> dict[str, Placement]:
    """A placement for each of `images`.

    The first of `models` (the largest) gives the world frame, and its poses. An image that is not in it takes the pose
    of the image in it with which it shares most verified matches (`inliers`, by pair of names); without any, the
    pose of the image nearest to the middle of the model. Where there is no model, all poses are the identity. A wrong
    guess costs nothing in the competition's metric.

    The other models are in frames of their own, so that their poses are of no use in the first one's; an image in one
    of them is placed like an unregistered one. With `separate`, every model is a scene of its own (2025's rules), and
    such an image keeps the pose that its model gives.
    """
    if not models:
        return {image: Placement(Pose.identity(), None) for image in images}
    leading = models[0].poses
    middle = _middle(list(leading.values()))
    neighbours: dict[str, tuple[int, str]] = {}
    for (first, second), count in inliers.items():
        for image, other in ((first, second), (second, first)):
            if other in leading and (count, other) > neighbours.get(image, (0, "")):
                neighbours[image] = (count, other)
    placements = {}
    for image in images:
        if image in leading:
            placements[image] = Placement(leading[image], 0)
            continue
        own = next((number for number, model in enumerate(models) if image in model.poses), None)
        if separate and own is not None:
            placements[image] = Placement(models[own].poses[image], own)
        else:
            placements[image] = Placement(leading[neighbours[image][1]] if image in neighbours else middle, None)
    return placements


def _middle(poses: Sequence[Pose]) -> Pose:
    centers = np.array([pose.center for pose in poses])
    return poses[int(np.argmin(np.linalg.norm(centers - np.median(centers, axis=0), axis=1)))]
