"""Change the matches of COLMAP databases, and take parts of them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap.cameras import CameraConfig, ImageEntry, cameras_of
from imc_kit.colmap.database import Cameras, best_first, delete_pairs, id_pair_counts, image_ids, reading, writing
from imc_kit.types import Mask, Matches


def keep_best_connected(path: Path, most: int) -> None:
    """Keep the verified matches of at most `most` keypoints of each image: those in the most pairs."""
    with writing(path) as database:
        degrees = {image.image_id: _none_of(database, image) for image in database.read_all_images()}
        for pair in id_pair_counts(database, verified=True):  # read twice: all matches may not fit in memory
            matches = database.read_two_view_geometry(*pair).inlier_matches
            for image, indices in zip(pair, matches.T, strict=True):
                degrees[image][indices] += 1  # an index occurs once in a pair
        kept = {image: np.zeros(len(degree), np.bool_) for image, degree in degrees.items()}
        for image, degree in degrees.items():
            kept[image][np.argsort(-degree, kind="stable")[:most]] = True
        _keep(database, kept)


def _none_of(opened: Any, image: Any) -> NDArray[np.int32]:
    """A zero for each keypoint of an image."""
    return np.zeros(opened.num_keypoints_for_image(image.image_id), np.int32)


def _keep(opened: Any, kept: Mapping[int, Mask]) -> None:
    """Keep the verified matches whose keypoints are both marked, by image id."""
    for first, second in id_pair_counts(opened, verified=True):
        geometry = opened.read_two_view_geometry(first, second)
        matches = geometry.inlier_matches
        both = kept[first][matches[:, 0]] & kept[second][matches[:, 1]]
        if not both.all():
            geometry.inlier_matches = matches[both]
            opened.update_two_view_geometry(first, second, geometry)


def replace_matches(path: Path, matches: Iterable[tuple[str, str, Matches]]) -> None:
    """Replace the unverified matches of these pairs of image names in a database."""
    new = list(matches)
    delete_pairs(path, "matches", [(first, second) for first, second, _ in new])
    with writing(path) as database:
        ids = image_ids(database)
        for first, second, pair in new:
            database.write_matches(ids[first], ids[second], best_first(pair))


def write_part(path: Path, whole: Path, images: Sequence[ImageEntry], config: CameraConfig) -> None:
    """Write a new database of some images of another, with their ids, keypoints and matches, verified or not.

    These images alone determine which of them share intrinsics.
    """
    with writing(path) as database, reading(whole) as known:
        ids, cameras = image_ids(known), Cameras(database)
        for image, (key, camera) in zip(images, cameras_of(images, config)[0], strict=True):
            number = cameras.write_image(image.name, key, camera, ids[image.name])
            database.write_keypoints(number, known.read_keypoints(number))
        kept = {ids[image.name] for image in images}
        for pair in filter(kept.issuperset, id_pair_counts(known, verified=False)):
            database.write_matches(*pair, known.read_matches(*pair))
        for pair in filter(kept.issuperset, id_pair_counts(known, verified=True)):
            database.write_two_view_geometry(*pair, known.read_two_view_geometry(*pair))
