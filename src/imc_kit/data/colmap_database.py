"""Read COLMAP databases that other programs wrote: keypoints, descriptors and matches.

It uses SQLite directly, because COLMAP changes the tables of a database from another version when it opens one. The
columns that are read have had the same names since COLMAP 3.0.
"""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.data.imported import StoredFeatures
from imc_kit.data.listing import is_file
from imc_kit.errors import KitError
from imc_kit.types import Float32, Matches, Pair

_MAX_IMAGES = 2**31 - 1
"""COLMAP's `kMaxNumImages`: the id of a pair is this times the smaller image id, plus the larger one."""
_HALF_PIXEL = np.float32(0.5)  # COLMAP puts the centre of the top-left pixel at (0.5, 0.5)
_FLOAT_TYPES = 1
"""Descriptors of this and later numbers of COLMAP's `FeatureExtractorType` (ALIKED, …) are float32. Others, and all in
databases without the column `type`, are SIFT's: bytes."""

SIFT_SCALE = np.float32(512)
"""COLMAP rounds the entries of SIFT descriptors of length 1 after multiplying them by this."""


class ColmapDatabase:
    """A database with keypoints (`data.imported.Source`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: Collection[str] = sorted(self._images)

    @cached_property
    def _images(self) -> dict[str, tuple[int, int, int]]:
        """The id, width and height of each image with keypoints, by name."""
        query = """SELECT name, images.image_id, width, height FROM images JOIN keypoints USING (image_id)
            JOIN cameras USING (camera_id)"""
        with self._reading() as connection:
            return {str(name): (number, *size) for name, number, *size in connection.execute(query)}

    def features(self, name: str) -> StoredFeatures:
        """The features of an image, all with score 1."""
        number, *size = self._images[name]
        with self._reading(name) as connection:
            (shape,) = connection.execute("SELECT rows, cols, data FROM keypoints WHERE image_id = ?", [number])
            keypoints = _matrix(np.float32, *shape)
            count = len(keypoints)
            found = connection.execute("SELECT * FROM descriptors WHERE image_id = ?", [number])
            descriptors: Float32 = np.empty((count, 0), np.float32)
            for row in found:
                given = dict(zip((column for column, *_ in found.description), row, strict=True))
                if given["rows"] != count:
                    raise ValueError(f"it has {given['rows']} descriptors and {count} keypoints")
                stored = _matrix(np.uint8, given["rows"], given["cols"], given["data"])
                floats = given.get("type", 0) >= _FLOAT_TYPES
                descriptors = stored.view(np.float32) if floats else (stored / SIFT_SCALE).astype(np.float32)
        return StoredFeatures(
            keypoints[:, :2] - _HALF_PIXEL, np.ones(count, np.float32), descriptors, (int(size[0]), int(size[1]))
        )

    def has_matches(self) -> bool:
        """Whether there are matches, verified or not."""
        with self._reading() as connection:
            return connection.execute(f"{_matched(connection, '1')} LIMIT 1").fetchone() is not None

    def pairs(self) -> list[Pair]:
        """The pairs with matches; if there are none, those with verified matches, as some programs write no others."""
        names = {number: name for name, (number, *_) in self._images.items()}
        with self._reading() as connection:
            found = [divmod(pair, _MAX_IMAGES) for (pair,) in connection.execute(_matched(connection, "pair_id"))]
        return [(names[first], names[second]) for first, second in found if first in names and second in names]

    def matches(self, first: str, second: str) -> Matches:
        """The matches of one of `pairs`, with scores that fall from 1: COLMAP's order is kept."""
        pair = self._images[first][0] * _MAX_IMAGES + self._images[second][0]
        with self._reading(f"{first}, {second}") as connection:
            query = f"{_matched(connection, 'rows, cols, data')} AND pair_id = ?"
            indices = np.concatenate([_matrix(np.uint32, *row) for row in connection.execute(query, [pair])])
            if indices.shape[1] != 2 or indices.max(initial=0) >= _MAX_IMAGES:
                raise ValueError("its matches are no pairs of indices")
        scores = np.linspace(1, 0, len(indices), endpoint=False, dtype=np.float32)
        return Matches(indices.astype(np.int32), scores)

    @contextmanager
    def _reading(self, what: str = "") -> Iterator[sqlite3.Connection]:
        """Open the database, and turn any error inside the block into a `KitError` with its path and `what` of it."""
        try:
            if not is_file(self.path):
                raise ValueError("there is no such file")
            log = self.path.with_name(f"{self.path.name}-wal")
            if is_file(log) and log.stat().st_size:
                raise ValueError(f"{log.name} holds changes that are not in it yet: close it in other programs")
            uri = f"{self.path.absolute().as_uri()}?immutable=1"  # otherwise SQLite writes files beside it
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                yield connection
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            shown = f"{self.path}{what and f' ({what})'}"
            raise KitError(f"cannot read {shown} as a COLMAP database: {error}") from error


def _matched(connection: sqlite3.Connection, columns: str) -> str:
    """A query for columns of the matched pairs."""
    raw, verified = (f"FROM {table} WHERE rows > 0" for table in ("matches", "two_view_geometries"))
    some = connection.execute(f"SELECT 1 {raw} LIMIT 1").fetchone()
    return f"SELECT {columns} {raw if some else verified}"


def _matrix(dtype: Any, rows: int, columns: int, data: bytes | None) -> NDArray[Any]:
    """A matrix from COLMAP's columns. Raises ValueError if the data has another size."""
    return np.frombuffer(data or b"", dtype).reshape(rows, columns)
