"""Writing a COLMAP database from features and matches: the only place where half a pixel is added."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imc_kit.data.images import may_have_exif
from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Features, Float64, Int32, Mask, Matches

log = logging.getLogger(__name__)

_RECENT = 128
"""Images whose keypoints are kept."""
HALF_PIXEL = np.float32(0.5)  # COLMAP puts the centre of the top-left pixel at (0.5, 0.5)
CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
"""Camera models of COLMAP's of which a later one has the distortion of an earlier one, and more."""


@dataclass(frozen=True)
class CameraConfig:
    """Which images share a camera's intrinsics, and what these are before bundle adjustment."""

    sharing: Literal["exif", "size", "image"] = "exif"
    """exif: images of the same size, EXIF camera and EXIF focal length, but where EXIF names no camera and most sizes
    in the scene occur once (photographs by strangers) none; size: images of the same size; image: none."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the camera model."""
    focal_factor: float = 1.2
    """Focal length where EXIF has none, as a multiple of the image's longer side."""


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """One image of a database."""

    name: str
    path: Path
    size: tuple[int, int]
    """(width, height) of the upright image, in which the keypoints are."""


def write_database(
    path: Path,
    images: Sequence[ImageEntry],
    features: Callable[[str], Features],
    matches: Iterable[tuple[str, str, Matches]],
    config: CameraConfig,
) -> None:
    """Write a new COLMAP database with cameras, rigs, frames, images, keypoints and matches.

    `features` gives those of an image by its name and is asked once for each; `matches` are (first image, second image,
    matches), with indices into their keypoints, and are consumed as a stream. An index out of bounds is a KitError:
    COLMAP would crash on it later. Of matches that use a keypoint twice the best-scored stays; a pair that comes twice
    is a KitError.
    """
    import pycolmap

    for old in (path, _log_of(path)):
        old.unlink(missing_ok=True)
    ids: dict[str, tuple[int, int]] = {}
    cameras: dict[Any, tuple[int, int, Any]] = {}
    seen: set[tuple[int, int]] = set()
    with writing(path) as database:
        for image, (key, camera) in zip(images, _cameras(images, config), strict=True):
            if key not in cameras:
                camera.camera_id = database.write_camera(camera)
                rig = pycolmap.Rig()
                rig.add_ref_sensor(camera.sensor_id)
                cameras[key] = (camera.camera_id, database.write_rig(rig), camera)
            camera_id, rig_id, _ = cameras[key]
            entry = pycolmap.Image(name=image.name, camera_id=camera_id)
            entry.image_id = database.write_image(entry)
            frame = pycolmap.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(entry.data_id)
            database.write_frame(frame)
            keypoints = features(image.name).keypoints
            database.write_keypoints(entry.image_id, keypoints + HALF_PIXEL)
            ids[image.name] = (entry.image_id, len(keypoints))
        for first, second, pair in matches:
            (first_id, first_count), (second_id, second_count) = ids[first], ids[second]
            identity = (min(first_id, second_id), max(first_id, second_id))
            if first_id == second_id or identity in seen:
                raise KitError(f"the pair {first!r}, {second!r} comes twice or is one image: give each once")
            seen.add(identity)
            if len(pair) and (pair.indices >= (first_count, second_count)).any():
                raise KitError(
                    f"matches of {first!r} and {second!r} name keypoints that do not exist "
                    f"(they have {first_count} and {second_count}): the matches belong to other features"
                )
            database.write_matches(first_id, second_id, one_to_one(pair).astype(np.uint32))


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """An open database to write to, new or there already. Raises KitError when the disk does not take it all.

    There is no `pycolmap.DatabaseTransaction`, as on a full disk its end ends this process.
    """
    import pycolmap

    try:
        with pycolmap.Database.open(path) as database:
            yield database
    except (RuntimeError, sqlite3.Error) as error:
        raise KitError(f"cannot write the COLMAP database {path}: {error}") from error


def change_lens(camera: Any, model: str) -> None:
    """Give a camera another of the models `CAMERA_MODELS`: the same rays, but for distortion that this does not have."""
    import pycolmap

    other = pycolmap.Camera.create_from_model_name(
        camera.camera_id, model, camera.mean_focal_length(), camera.width, camera.height
    )
    if len(other.focal_length_idxs()) == 2:
        other.focal_length_x, other.focal_length_y = camera.focal_length_x, camera.focal_length_y
    other.principal_point_x, other.principal_point_y = camera.principal_point_x, camera.principal_point_y
    params = list(other.params)
    if camera.model.name in CAMERA_MODELS:
        for place, source in zip(other.extra_params_idxs(), camera.extra_params_idxs(), strict=False):
            params[place] = camera.params[source]
    camera.model, camera.params = other.model, params


def change_camera_models(path: Path, model: str) -> None:
    """Give all cameras of a database another of the models `CAMERA_MODELS`."""
    with writing(path) as database:
        for camera in database.read_all_cameras():
            change_lens(camera, model)
            database.update_camera(camera)


def delete_pairs(
    path: Path, table: Literal["matches", "two_view_geometries"], pairs: Iterable[tuple[str, str]] | None = None
) -> None:
    """Delete what a database has of these pairs of image names, or of all.

    Not by pycolmap, whose deletion has the file tidied up when the database is closed, and ends this process where a
    full disk does not let it.
    """
    import pycolmap

    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            if pairs is None:
                connection.execute(f"DELETE FROM {table}")
                return
            ids = dict(connection.execute("SELECT name, image_id FROM images"))
            numbers = [(pycolmap.image_pair_to_pair_id(ids[first], ids[second]),) for first, second in pairs]
            connection.executemany(f"DELETE FROM {table} WHERE pair_id = ?", numbers)
    except sqlite3.Error as error:
        raise KitError(f"cannot write the COLMAP database {path}: {error}") from error


def keep_best_connected(path: Path, most: int) -> None:
    """Keep the verified matches of at most so many keypoints of each image: those that are in the most pairs."""
    import pycolmap

    with writing(path) as database:
        pairs = [pycolmap.pair_id_to_image_pair(number) for number in database.read_two_view_geometry_num_inliers()[0]]
        degrees = {
            image.image_id: np.zeros(database.num_keypoints_for_image(image.image_id), np.int32)
            for image in database.read_all_images()
        }
        for pair in pairs:  # twice, as all of them together take more memory the larger the scene is
            matches = database.read_two_view_geometry(*pair).inlier_matches
            for image, indices in zip(pair, matches.T, strict=True):
                degrees[image][indices] += 1  # each is in a pair once
        kept = {image: np.zeros(len(degree), np.bool_) for image, degree in degrees.items()}
        for image, degree in degrees.items():
            kept[image][np.argsort(-degree, kind="stable")[:most]] = True
        for first, second in pairs:
            geometry = database.read_two_view_geometry(first, second)
            matches = geometry.inlier_matches
            both = kept[first][matches[:, 0]] & kept[second][matches[:, 1]]
            if not both.all():
                geometry.inlier_matches = matches[both]
                database.update_two_view_geometry(first, second, geometry)


def move(path: Path, target: Path) -> Path:
    """Give a database that is closed another name. Raises KitError when the disk has not taken it all."""
    if _log_of(path).exists():  # closing it does not say so
        raise KitError(f"cannot write the COLMAP database {path}: the disk is full, or another program has it open")
    return path.replace(target)


def _log_of(path: Path) -> Path:
    """Where SQLite writes first; closing a database moves what is there to its place, and the file is gone."""
    return path.with_name(f"{path.name}-wal")


def replace_matches(path: Path, matches: Iterable[tuple[str, str, Matches]]) -> None:
    """Put matches, not verified, in the place of those that a database has of these pairs of image names."""
    new = list(matches)
    delete_pairs(path, "matches", [(first, second) for first, second, _ in new])
    with writing(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        for first, second, pair in new:
            database.write_matches(ids[first], ids[second], one_to_one(pair).astype(np.uint32))


def recent_keypoints(opened: Any) -> Callable[[int], Float64]:
    """Gives the keypoints of an image of an open database, [N, 2] in COLMAP's coordinates, and keeps those of the last
    images that it was asked for: pairs come by their first image."""
    return lru_cache(_RECENT)(lambda image: np.asarray(opened.read_keypoints(image)[:, :2], np.float64))


def keypoint_counts(path: Path) -> dict[str, int]:
    """The number of keypoints of each image of a database."""
    import pycolmap

    with pycolmap.Database.open(path) as database:
        return {image.name: database.num_keypoints_for_image(image.image_id) for image in database.read_all_images()}


def match_counts(path: Path) -> dict[tuple[str, str], int]:
    """The number of matches of each pair of image names in a database, verified or not."""
    import pycolmap

    with pycolmap.Database.open(path) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        pair_ids, counts = database.read_num_matches()
    pairs = (pycolmap.pair_id_to_image_pair(pair_id) for pair_id in pair_ids)
    return {(names[a], names[b]): count for (a, b), count in zip(pairs, counts, strict=True) if count}


def read_pair(path: Path, first: str, second: str) -> tuple[Correspondences, Mask]:
    """The matches of two images of a database, all with score 1, and which of them passed verification, bool [K].

    A pair that was not matched has none. Raises KitError for an image that is not in the database.
    """
    import pycolmap

    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        for name in (first, second):
            if name not in ids:
                raise KitError(f"there is no image {name!r} in the COLMAP database {path}")
        points = [database.read_keypoints(ids[name])[:, :2] - HALF_PIXEL for name in (first, second)]
        matches = database.read_matches(ids[first], ids[second])
        verified = set(map(tuple, database.read_two_view_geometry(ids[first], ids[second]).inlier_matches.tolist()))
    inliers = np.array([tuple(match) in verified for match in matches.tolist()], np.bool_)
    found = [np.asarray(keypoints[matches[:, side]], np.float32) for side, keypoints in enumerate(points)]
    return Correspondences(found[0], found[1], np.ones(len(matches), np.float32)), inliers


def one_to_one(matches: Matches) -> Int32:
    """The indices [K', 2] of `matches` with every keypoint used at most once, better scores first."""
    order = np.argsort(-matches.scores, kind="stable")
    indices = matches.indices[order]
    for side in (0, 1):
        _, first = np.unique(indices[:, side], return_index=True)
        indices = indices[np.sort(first)]
    return indices


def _cameras(images: Sequence[ImageEntry], config: CameraConfig) -> list[tuple[Any, Any]]:
    """For each image the key of its camera, equal for those that share one, and the camera as COLMAP infers it."""
    inferred = [_inferred(image, config) for image in images]
    if config.sharing == "image":
        return [(image.name, camera) for image, (_, camera) in zip(images, inferred, strict=True)]
    if config.sharing == "size":
        return [(image.size, camera) for image, (_, camera) in zip(images, inferred, strict=True)]
    keys: list[Any] = [
        (image.size, model, camera.mean_focal_length()) for image, (model, camera) in zip(images, inferred, strict=True)
    ]
    strangers = len(images) > 2 and 2 * sum(count == 1 for count in Counter(keys).values()) > len(images)
    return [
        (image.name if strangers and model is None else key, camera)
        for image, key, (model, camera) in zip(images, keys, inferred, strict=True)
    ]


def _inferred(image: ImageEntry, config: CameraConfig) -> tuple[str | None, Any]:
    """The camera's name in EXIF, if it is there, and the camera with COLMAP's own prior of the focal length."""
    import pycolmap

    bitmap = None
    try:
        if may_have_exif(image.path):  # COLMAP decodes all of an image to look
            bitmap = pycolmap.Bitmap.read(image.path, as_rgb=False)
    except (KitError, RuntimeError, ValueError) as error:
        log.debug("COLMAP cannot read %s (%s): taking the default focal length", image.path, error)
    known = bitmap.exif_focal_length() if bitmap else None
    focal = known or config.focal_factor * max(image.size)
    camera = pycolmap.Camera.create_from_model_name(0, config.model, focal, *image.size)
    camera.has_prior_focal_length = bool(known)
    return bitmap.exif_camera_model() if bitmap else None, camera
