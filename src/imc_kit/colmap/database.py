"""Write COLMAP databases of features and matches, and count what they hold. Only here half a pixel is added."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap.cameras import CameraConfig, ImageEntry, cameras_of
from imc_kit.colmap.database_files import near, write_ahead_log
from imc_kit.errors import KitError
from imc_kit.types import Features, Float64, Matches, Pair

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
        cameras = Cameras(database)
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
            database.write_matches(first_id, second_id, best_first(pair))
    return notes


class Cameras:
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


@contextmanager
def reading(path: Path) -> Iterator[Any]:
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


def recent_keypoints(opened: Any) -> Callable[[int], Float64]:
    """A cached reader of an open database's keypoints by image id: [N, 2] in COLMAP's coordinates."""
    return lru_cache(_RECENT)(lambda image: np.asarray(opened.read_keypoints(image)[:, :2], np.float64))


def camera_ids(path: Path, names: Iterable[str]) -> tuple[int, ...]:
    """The ids of the cameras of these images of a database, each once."""
    wanted = set(names)
    with reading(path) as database:
        return tuple(sorted({image.camera_id for image in database.read_all_images() if image.name in wanted}))


def keypoint_counts(path: Path) -> dict[str, int]:
    """The number of keypoints of each image of a database."""
    with reading(path) as database:
        return {name: database.num_keypoints_for_image(number) for name, number in image_ids(database).items()}


def match_counts(path: Path) -> dict[Pair, int]:
    """The number of matches of each matched pair of image names in a database, verified or not."""
    return pair_counts(path, verified=False)


def pair_counts(path: Path, *, verified: bool) -> dict[Pair, int]:
    """The number of verified matches, or of all matches, of each pair of image names in a database, without zeros."""
    with reading(path) as database:
        names = {number: name for name, number in image_ids(database).items()}
        return {(names[a], names[b]): count for (a, b), count in id_pair_counts(database, verified=verified).items()}


def id_pair_counts(opened: Any, *, verified: bool) -> dict[tuple[int, int], int]:
    """The same for an open database, by COLMAP's image ids."""
    import pycolmap

    pair_ids, counts = opened.read_two_view_geometry_num_inliers() if verified else opened.read_num_matches()
    return {pycolmap.pair_id_to_image_pair(pair): n for pair, n in zip(pair_ids, counts, strict=True) if n}


def image_ids(opened: Any) -> dict[str, int]:
    """The image ids of an open database by name."""
    return {image.name: image.image_id for image in opened.read_all_images()}


def best_first(matches: Matches) -> NDArray[np.uint32]:
    """One-to-one matches for pycolmap, uint32 [K, 2], best first. RANSAC's draws depend on this order."""
    kept = matches.one_to_one()
    return kept.indices[np.argsort(-kept.scores, kind="stable")].astype(np.uint32)
