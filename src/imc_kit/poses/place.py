"""Give every image of a scene one pose, from its models."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from imc_kit.types import Model, Pair, Placement, Pose

NEIGHBOURS = 3
"""A guessed centre is the weighted mean of this many images' centres: more would pull it towards the scene's middle."""


def place(
    images: Sequence[str],
    models: Sequence[Model],
    inliers: Mapping[Pair, int],
    *,
    separate: bool = False,
    similarity: Callable[[str, str], float | None] | None = None,
) -> dict[str, Placement]:
    """Give each image a pose: registered images get their model's, the others a guess.

    models: largest first. The first defines the world frame. inliers: number of verified matches by pair of image
        names.
    separate: treat every model as a separate scene (the rules of 2025), so its images keep its poses. Otherwise only
        the first model's poses are used: the others are in different frames, so their images get guesses.
    similarity: of two images by name; larger is more alike, None is unknown.

    A guess is the first of these that is available:

    - the mean centre of the three images of the first model that share most verified matches with it, weighted by these
      matches, with the rotation of the best one;
    - the pose of the most similar image;
    - the pose of the image nearest to the median centre of the model.

    Without a model all poses are the identity. A wrong guess costs nothing in the competition's metric.
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
    """The pose whose centre is nearest to the median of all centres."""
    centers = np.array([pose.center for pose in poses])
    return poses[int(np.argmin(np.linalg.norm(centers - np.median(centers, axis=0), axis=1)))]
