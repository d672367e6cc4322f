"""Read COLMAP databases for other programs and the report, and write them for photos as they are stored."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap.database import HALF_PIXEL, Cameras, id_pair_counts, image_ids, reading, writing
from imc_kit.colmap.rotation import stored_camera
from imc_kit.data.images import ImageInfo
from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Float32, Float64, Mask, Matches


def write_stored(
    path: Path, upright: Path, infos: Mapping[str, ImageInfo], descriptors: Callable[[str], NDArray[np.uint8] | None]
) -> None:
    """Write a new database that describes images as they are stored, from one that describes them upright.

    infos: how each image is turned upright. descriptors: SIFT's of an image by name, [N, 128], if there are any.
    """
    import pycolmap

    with reading(upright) as old, writing(path) as new:
        cameras, new_id = Cameras(new), dict[int, int]()
        for image in sorted(old.read_all_images(), key=lambda image: image.image_id):
            info, camera = infos[image.name], old.read_camera(image.camera_id)
            key = image.camera_id, info.rotation_quarters, info.mirrored
            image_id = cameras.write_image(image.name, key, stored_camera(camera, info))
            new_id[image.image_id] = image_id
            keypoints = old.read_keypoints(image.image_id)[:, :2]
            if info.rotation_quarters or info.mirrored:
                keypoints = info.to_stored(keypoints - HALF_PIXEL) + HALF_PIXEL
            new.write_keypoints(image_id, keypoints)
            if (given := descriptors(image.name)) is not None:
                sift = pycolmap.FeatureExtractorType.SIFT
                new.write_descriptors(image_id, pycolmap.FeatureDescriptors(type=sift, data=given))
        upright_from_stored = {image.image_id: _affine(infos[image.name]) for image in old.read_all_images()}
        for first, second in id_pair_counts(old, verified=False):
            new.write_matches(new_id[first], new_id[second], old.read_matches(first, second))
        for first, second in id_pair_counts(old, verified=True):
            geometry = old.read_two_view_geometry(first, second)
            geometry.F = upright_from_stored[second].T @ geometry.F @ upright_from_stored[first]
            new.write_two_view_geometry(new_id[first], new_id[second], geometry)


def _affine(info: ImageInfo) -> Float64:
    """The matrix [3, 3] that maps COLMAP's places in the stored image to those in the upright one."""
    corners = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    origin, right, down = (info.to_upright(corners - HALF_PIXEL) + HALF_PIXEL).astype(np.float64)
    return np.vstack([np.stack([right - origin, down - origin, origin], 1), [0, 0, 1]])


def cameras_by_image(path: Path) -> dict[str, Any]:
    """The `pycolmap.Camera` of each image of a database."""
    with reading(path) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        return {image.name: cameras[image.camera_id] for image in database.read_all_images()}


def read_keypoints(path: Path) -> Iterator[tuple[str, Float32]]:
    """The keypoints [N, 2] of each image of a database by name, where the centre of the top-left pixel is (0, 0)."""
    with reading(path) as database:
        for name, number in image_ids(database).items():
            yield name, np.asarray(database.read_keypoints(number)[:, :2] - HALF_PIXEL, np.float32)


def read_matches(path: Path) -> Iterator[tuple[str, str, Matches]]:
    """The matches of each pair of image names in a database, with scores that fall from 1 in their order."""
    with reading(path) as database:
        names = {number: name for name, number in image_ids(database).items()}
        for first, second in id_pair_counts(database, verified=False):
            indices = database.read_matches(first, second).astype(np.int32)
            scores = np.linspace(1, 0, len(indices), endpoint=False, dtype=np.float32)
            yield names[first], names[second], Matches(indices, scores)


def read_pair(path: Path, first: str, second: str) -> tuple[Correspondences, Mask]:
    """The matches of two images of a database, all with score 1, and which of them passed verification, bool [K].

    There are none for a pair that was not matched. Raises `KitError` for an image that is not in the database.
    """
    with reading(path) as database:
        ids = image_ids(database)
        for name in (first, second):
            if name not in ids:
                raise KitError(f"there is no image {name!r} in the COLMAP database {path}")
        points = [database.read_keypoints(ids[name])[:, :2] - HALF_PIXEL for name in (first, second)]
        matches = database.read_matches(ids[first], ids[second])
        verified = set(map(tuple, database.read_two_view_geometry(ids[first], ids[second]).inlier_matches.tolist()))
    inliers = np.array([tuple(match) in verified for match in matches.tolist()], np.bool_)
    found = [np.asarray(keypoints[matches[:, side]], np.float32) for side, keypoints in enumerate(points)]
    return Correspondences(found[0], found[1], np.ones(len(matches), np.float32)), inliers
