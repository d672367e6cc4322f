"""The features and matches of a scene, for hloc and as a COLMAP database. They describe the photos as stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap import database, database_files, database_reading
from imc_kit.data import hloc as hloc_files
from imc_kit.data.colmap_database import SIFT_SCALE
from imc_kit.data.store import Table
from imc_kit.errors import KitError
from imc_kit.export.model import SceneModel
from imc_kit.types import Features


def hloc(scene: SceneModel, folder: Path) -> str:
    """features.h5, matches.h5 and pairs.txt, with the names of the scene's images."""
    solved = _Solved(scene)
    counts = database.keypoint_counts(solved.path)
    hloc_files.write_features(folder / "features.h5", solved.features())
    hloc_files.write_matches(folder, counts, database_reading.read_matches(solved.path))
    return solved.remark(solved.keys)


def colmap_database(scene: SceneModel, folder: Path) -> str:
    """database.db, with which COLMAP can go on. It has descriptors if they are SIFT's: COLMAP has no others."""
    solved = _Solved(scene)
    database_reading.write_stored(folder / "database.db", solved.path, solved.infos, solved.sift)
    return solved.remark(solved.keys and solved.kind == "sift")


class _Solved:
    """The database of a solved scene, and the features in the store from which it was made.

    infos: of the photos, by name. keys: of the features by image name; empty if the store has not all of them.
    """

    def __init__(self, scene: SceneModel) -> None:
        """Raises `KitError` when the database is gone, and when a photo is gone or has changed."""
        self.path = scene.folder.parents[1] / database_files.NAME
        if not database_files.is_whole(self.path):
            raise KitError(f"there is no {self.path}, or it has changed since it was written: run imc-kit solve again")
        cameras = database_reading.cameras_by_image(self.path)
        self.infos = {name: scene.record(name, camera).info for name, camera in cameras.items()}
        found = database_files.features_of(self.path)
        self.kind: str = found.get("kind", "")
        self.keys: dict[str, str] = found.get("keys", {})
        self._table: Table[Features] = scene.store.features(found.get("table", ""))
        if self._table.missing(self.keys.values()):
            self.keys = {}

    def features(self) -> Iterator[tuple[str, Features]]:
        """The features of each image as it is stored: the store's, else those of the database without descriptors."""
        for name, keypoints in database_reading.read_keypoints(self.path):
            info = self.infos[name]
            columns = keypoints, np.ones(len(keypoints), np.float32), np.empty((len(keypoints), 0), np.float32)
            found = self._table[self.keys[name]] if name in self.keys else Features(*columns, info.size)
            yield name, Features(info.to_stored(found.keypoints), found.scores, found.descriptors, info.stored_size)

    def sift(self, name: str) -> NDArray[np.uint8] | None:
        """The descriptors of an image as COLMAP stores SIFT's, uint8 [N, 128]; None if there are no such ones."""
        if name not in self.keys or self.kind != "sift":
            return None
        found: NDArray[Any] = self._table[self.keys[name]].descriptors
        if found.dtype == np.uint8 or found.shape[1] != 128 or found.min(initial=0) < 0:
            return None
        return np.asarray(np.rint(found.astype(np.float32) * SIFT_SCALE).clip(0, 255), np.uint8)

    def remark(self, described: Any) -> str:
        """What the user should know. described: whether there are descriptors."""
        mirrored = sum(info.mirrored for info in self.infos.values())
        parts = [] if described else ["without descriptors"]
        parts += [f"{mirrored} photos are stored mirrored: no camera sees them"] if mirrored else []
        return "; ".join(parts)
