"""Write and read COLMAP databases of features and matches. Only here half a pixel is added to keypoints."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap.cameras import CameraConfig, ImageEntry, cameras_of
from imc_kit.colmap.database_files import near, write_ahead_log
from imc_kit.colmap.rotation import stored_camera
from imc_kit.data.images import ImageInfo
from imc_kit.errors import KitError
from imc_kit.types import Correspondences, Features, Float32, Float64, Mask, Matches, Pair

log = logging.getLogger(__name__)

_RECENT = 128
"""Images whose keypoints stay in memory: 4 MB for 2000 keypoints each. Pairs are sorted by their first image."""
HALF_PIXEL = np.float32(0.5)  # COLMAP puts the centre of the top-left pixel at (0.5, 0.5)


def write_database(
    path: Path,
    images: Sequence[ImageEntry],
    features: Callable[[str], Features],
    matches: Iterable[tuple[str, str, Matches]],
    config: CameraConfig,
) -> list[str]:
    """Write a new COLMAP database with cameras, rigs, frames, images, keypoints and matches.

    features: returns the features of an image by name; called once per image.
    matches: a stream of (first image, second image, matches), with indices into their keypoints. Matches that share a
        keypoint are reduced to the best.

    Returns the notes of `cameras_of`. Raises `KitError` for an index out of bounds, which would crash COLMAP later, and
    for a repeated pair.
    """
    for old in (path, write_ahead_log(path)):
        old.unlink(missing_ok=True)
    ids: dict[str, tuple[int, int]] = {}
    seen: set[tuple[int, int]] = set()
    keyed, notes = cameras_of(images, config)
    with writing(path) as database:
        cameras = _Cameras(database)
        for image, (key, camera) in zip(images, keyed, strict=True):
            image_id = cameras.write_image(image.name, key, camera)
            keypoints = features(image.name).keypoints
            database.write_keypoints(image_id, keypoints + HALF_PIXEL)
            ids[image.name] = (image_id, len(keypoints))
        for first, second, pair in matches:
            (first_id, first_count), (second_id, second_count) = ids[first], ids[second]
            identity = (min(first_id, second_id), max(first_id, second_id))
            if first_id == second_id or identity in seen:
                raise KitError(
                    f"the pair {first!r}, {second!r} is given twice or is a single image: give each pair once"
                )
            seen.add(identity)
            if len(pair) and (pair.indices >= (first_count, second_count)).any():
                raise KitError(
                    f"matches of {first!r} and {second!r} name keypoints that do not exist "
                    f"(they have {first_count} and {second_count}): the matches belong to other features"
                )
            database.write_matches(first_id, second_id, _rows(pair))
    return notes


def write_with_queries(path: Path, model: Any, verified: Path, matches: Iterable[tuple[str, str, Matches]]) -> None:
    """Write a new database of a `pycolmap.Reconstruction`, whose images without poses are queries, with its ids.

    verified: the database of the model's scene; its verified matches between the model's images are copied.
    matches: of the queries, as for `write_database`.

    Raises `KitError` when a database cannot be read or written.
    """
    with writing(path) as database, _reading(verified) as known:
        for camera in model.cameras.values():
            database.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            database.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            database.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            database.write_image(image, use_image_id=True)
            keypoints = np.array([point.xy for point in image.points2D], np.float32).reshape(-1, 2)
            database.write_keypoints(image.image_id, keypoints)
        ids = {image.name: image.image_id for image in model.images.values()}
        new = {number: ids[name] for name, number in _ids(known).items() if name in ids}
        for pair in id_pair_counts(known, verified=True):
            if new.keys() >= {*pair}:
                geometry = known.read_two_view_geometry(*pair)
                database.write_two_view_geometry(*(new[number] for number in pair), geometry)
        for first, second, rows in matches:
            database.write_matches(ids[first], ids[second], _rows(rows))


def write_part(path: Path, whole: Path, images: Sequence[ImageEntry], config: CameraConfig) -> None:
    """Write a new database of some images of another, with their ids, keypoints and matches, verified or not.

    These images alone determine which of them share intrinsics.
    """
    with writing(path) as database, _reading(whole) as known:
        ids, cameras = _ids(known), _Cameras(database)
        for image, (key, camera) in zip(images, cameras_of(images, config)[0], strict=True):
            number = cameras.write_image(image.name, key, camera, ids[image.name])
            database.write_keypoints(number, known.read_keypoints(number))
        kept = {ids[image.name] for image in images}
        for pair in filter(kept.issuperset, id_pair_counts(known, verified=False)):
            database.write_matches(*pair, known.read_matches(*pair))
        for pair in filter(kept.issuperset, id_pair_counts(known, verified=True)):
            database.write_two_view_geometry(*pair, known.read_two_view_geometry(*pair))


class _Cameras:
    """Writes images into an open database, with the cameras, rigs and frames that they need."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._written: dict[Any, tuple[int, int]] = {}

    def write_image(self, name: str, key: Any, camera: Any, image_id: int | None = None) -> int:
        """Write an image, and its camera unless that of this key is there; returns the image's id.

        image_id: the id that it gets; None for a new one.
        """
        import pycolmap

        if key not in self._written:
            camera.camera_id = self._opened.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            self._written[key] = camera.camera_id, self._opened.write_rig(rig)
        camera_id, rig_id = self._written[key]
        entry = pycolmap.Image(name=name, camera_id=camera_id, **({"image_id": image_id} if image_id else {}))
        entry.image_id = self._opened.write_image(entry, use_image_id=image_id is not None)
        frame = pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(entry.data_id)
        self._opened.write_frame(frame)
        return int(entry.image_id)


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """Open a new or existing database for writing. Raises `KitError` when writing fails, for example on a full disk.

    It avoids `pycolmap.DatabaseTransaction`, which aborts this process on a full disk.
    """
    import pycolmap

    try:
        with pycolmap.Database.open(path) as database:
            yield database
    except (RuntimeError, sqlite3.Error) as error:
        hint = " If its disk has no locks, choose another folder" if "factory" in str(error) else ""
        raise KitError(f"cannot write the COLMAP database {path}: {error}{hint}") from error


def write_stored(
    path: Path, upright: Path, infos: Mapping[str, ImageInfo], descriptors: Callable[[str], NDArray[np.uint8] | None]
) -> None:
    """Write a new database that describes images as they are stored, from one that describes them upright.

    infos: how each image is turned upright. descriptors: SIFT's of an image by name, [N, 128], if there are any.
    """
    import pycolmap

    with _reading(upright) as old, writing(path) as new:
        cameras, new_id = _Cameras(new), dict[int, int]()
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


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open a database to read it. Raises `KitError` when it cannot be read."""
    import pycolmap

    try:
        with (
            TemporaryDirectory(prefix="imc-kit-") as folder,
            pycolmap.Database.open(near(path, Path(folder))) as opened,
        ):
            yield opened
    except (RuntimeError, OSError) as error:
        raise KitError(f"cannot read the COLMAP database {path}: {error}") from error


def delete_pairs(
    path: Path, table: Literal["matches", "two_view_geometries"], pairs: Iterable[Pair] | None = None
) -> None:
    """Delete the rows of these pairs of image names from a table, or all rows.

    It uses SQLite directly: pycolmap's deletion compacts the file on closing, and aborts this process on a full disk.
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


def keep_first(path: Path, counts: Mapping[str, int]) -> None:
    """Keep the verified matches of the first keypoints of each image, as many as `counts` says by its name."""
    with writing(path) as database:
        images = database.read_all_images()
        kept = {image.image_id: _none_of(database, image) < 0 for image in images}
        for image in images:
            kept[image.image_id][: counts[image.name]] = True
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
        ids = _ids(database)
        for first, second, pair in new:
            database.write_matches(ids[first], ids[second], _rows(pair))


def recent_keypoints(opened: Any) -> Callable[[int], Float64]:
    """A cached reader of an open database's keypoints by image id: [N, 2] in COLMAP's coordinates."""
    return lru_cache(_RECENT)(lambda image: np.asarray(opened.read_keypoints(image)[:, :2], np.float64))


def camera_ids(path: Path, names: Iterable[str]) -> tuple[int, ...]:
    """The ids of the cameras of these images of a database, each once."""
    wanted = set(names)
    with _reading(path) as database:
        return tuple(sorted({image.camera_id for image in database.read_all_images() if image.name in wanted}))


def keypoint_counts(path: Path) -> dict[str, int]:
    """The number of keypoints of each image of a database."""
    with _reading(path) as database:
        return {name: database.num_keypoints_for_image(number) for name, number in _ids(database).items()}


def match_counts(path: Path) -> dict[Pair, int]:
    """The number of matches of each matched pair of image names in a database, verified or not."""
    return pair_counts(path, verified=False)


def pair_counts(path: Path, *, verified: bool) -> dict[Pair, int]:
    """The number of verified matches, or of all matches, of each pair of image names in a database, without zeros."""
    with _reading(path) as database:
        names = {number: name for name, number in _ids(database).items()}
        return {(names[a], names[b]): count for (a, b), count in id_pair_counts(database, verified=verified).items()}


def id_pair_counts(opened: Any, *, verified: bool) -> dict[tuple[int, int], int]:
    """The same for an open database, by COLMAP's image ids."""
    import pycolmap

    pair_ids, counts = opened.read_two_view_geometry_num_inliers() if verified else opened.read_num_matches()
    return {pycolmap.pair_id_to_image_pair(pair): n for pair, n in zip(pair_ids, counts, strict=True) if n}


def cameras_by_image(path: Path) -> dict[str, Any]:
    """The `pycolmap.Camera` of each image of a database."""
    with _reading(path) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        return {image.name: cameras[image.camera_id] for image in database.read_all_images()}


def read_keypoints(path: Path) -> Iterator[tuple[str, Float32]]:
    """The keypoints [N, 2] of each image of a database by name, where the centre of the top-left pixel is (0, 0)."""
    with _reading(path) as database:
        for name, number in _ids(database).items():
            yield name, np.asarray(database.read_keypoints(number)[:, :2] - HALF_PIXEL, np.float32)


def read_matches(path: Path) -> Iterator[tuple[str, str, Matches]]:
    """The matches of each pair of image names in a database, with scores that fall from 1 in their order."""
    with _reading(path) as database:
        names = {number: name for name, number in _ids(database).items()}
        for first, second in id_pair_counts(database, verified=False):
            indices = database.read_matches(first, second).astype(np.int32)
            scores = np.linspace(1, 0, len(indices), endpoint=False, dtype=np.float32)
            yield names[first], names[second], Matches(indices, scores)


def read_pair(path: Path, first: str, second: str) -> tuple[Correspondences, Mask]:
    """The matches of two images of a database, all with score 1, and which of them passed verification, bool [K].

    There are none for a pair that was not matched. Raises `KitError` for an image that is not in the database.
    """
    with _reading(path) as database:
        ids = _ids(database)
        for name in (first, second):
            if name not in ids:
                raise KitError(f"there is no image {name!r} in the COLMAP database {path}")
        points = [database.read_keypoints(ids[name])[:, :2] - HALF_PIXEL for name in (first, second)]
        matches = database.read_matches(ids[first], ids[second])
        verified = set(map(tuple, database.read_two_view_geometry(ids[first], ids[second]).inlier_matches.tolist()))
    inliers = np.array([tuple(match) in verified for match in matches.tolist()], np.bool_)
    found = [np.asarray(keypoints[matches[:, side]], np.float32) for side, keypoints in enumerate(points)]
    return Correspondences(found[0], found[1], np.ones(len(matches), np.float32)), inliers


def _ids(opened: Any) -> dict[str, int]:
    """The image ids of an open database by name."""
    return {image.name: image.image_id for image in opened.read_all_images()}


def _rows(matches: Matches) -> NDArray[np.uint32]:
    """One-to-one matches for pycolmap, uint32 [K, 2], best first. RANSAC's draws depend on this order."""
    kept = matches.one_to_one()
    return kept.indices[np.argsort(-kept.scores, kind="stable")].astype(np.uint32)
