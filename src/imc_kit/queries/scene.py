"""Localise new photos (queries) in the finished model of a scene."""

import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap import database_files, database_reading, query_database, steps
from imc_kit.colmap.cameras import ImageEntry
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import HALF_PIXEL
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.query_database import add_queries
from imc_kit.colmap.rotation import rotated
from imc_kit.config import Config, cheap
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.export.model import SceneModel
from imc_kit.pipeline import selection
from imc_kit.pipeline.completion import LOOSE_MATCHES
from imc_kit.pipeline.matching import MatchedFeatures, Matching
from imc_kit.pipeline.records import ImageRecord, inspect
from imc_kit.pipeline.static import without_static
from imc_kit.runtime.executors import cores
from imc_kit.types import Pair, Pose, Scene

QUERIES = "queries"
"""The folder of the queries in the names of a model's images."""
MODELS = "models"
"""The folder of the models in `out`."""
NEIGHBOURS = 50
"""Match each query with this many of the model's images, the most similar ones."""
_TIME_LIMIT = 24 * 3600.0
"""Seconds: only to end a process that hangs."""

Records = Mapping[str, ImageRecord]
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known of a query in one model of a scene.

    model: its number, 0 for the largest.
    pose: of the photo as stored in its file; None if it is not localised.
    inliers: number of its keypoints that see a 3D point of the model. matches: with all images of the model.
    neighbours: the images of the scene that see the same 3D points, those that share most first.
    reason: why it is not localised.
    """

    scene: str
    model: int = 0
    pose: Pose | None = None
    inliers: int = 0
    matches: int = 0
    neighbours: tuple[str, ...] = ()
    reason: str = ""

    @property
    def number(self) -> str:
        """The number of the model for tables: empty if the query is not localised."""
        return f"{self.model}" if self.pose else ""


def localise_in(
    finished: SceneModel, queries: Scene, config: Config, store: Store, out: Path, work: Path, executor: Executor
) -> dict[str, Answer]:
    """Localise photos in a scene, and write the model with them to `out`; returns an answer for each.

    config: of the run. store: gets what is computed. work: an empty folder for intermediate files.

    The poses and intrinsics of the scene's own images stay as they are. Raises `KitError` when the scene's photos or
    its database are gone or have changed, and when none of the photos can be used.
    """
    if finished.result["identity"] == "the quick answer":
        config = cheap(config)
    assert finished.photos is not None  # the caller checks
    config = replace(config, masks=config.masks.of_scene(finished.name, finished.photos.root))
    model = rotated(finished.read(), finished.result["stored_quarters"])
    search = _Search(finished, model, config, Matching(finished.photos, store, config, executor), out)
    return search.run(queries, work)


@dataclass(frozen=True, eq=False)
class _Search:
    """model: the `pycolmap.Reconstruction` of upright images."""

    finished: SceneModel
    model: Any
    config: Config
    matching: Matching
    out: Path

    def run(self, queries: Scene, work: Path) -> dict[str, Answer]:
        kept = self.finished.folder.parents[1] / database_files.NAME
        if not (kept.is_file() and database_files.is_whole(kept)):
            raise KitError(f"{kept} is missing or has changed: run imc-kit solve again")
        verified = shutil.copyfile(kept, work / "verified.db")  # SQLite may change a database that it reads
        known = self._known()
        asked, _ = inspect(queries, self.config.masks, self.matching.executor, self.config.max_pixels)
        names = {record.digest: name for name, record in known.items()}
        answers = {
            name: self._not_localised(f"it is the same file as {names[record.digest]} of the scene")
            for name, record in asked.items()
            if record.digest in names
        }
        asked = {f"{QUERIES}/{name}": record for name, record in asked.items() if name not in answers}
        if self.config.upright and asked:
            asked = selection.upright_like(self.matching, asked, known)
        if len(self.matching.detect(known)) < len(known):
            raise KitError(f"no keypoints of some images of {self.finished.name}: {self.matching.notes[-1]}")
        usable = self.matching.detect({_own(name): record for name, record in asked.items()})  # masks have these names
        asked = {name: record for name, record in asked.items() if _own(name) in usable}
        without = [name for name in queries.images if name not in usable and name not in answers]
        answers |= {name: self._not_localised("no keypoints could be detected in it") for name in without}
        if asked:
            answers |= self._localise(known, asked, verified, work)
        for note in self.matching.notes:
            log.warning("%s: %s", self.finished.name, note)
        return {name: answers[name] for name in queries.images}

    def _not_localised(self, reason: str) -> Answer:
        return Answer(self.finished.name, self._number, reason=reason)

    @property
    def _number(self) -> int:
        return int(self.finished.folder.name)

    def _known(self) -> dict[str, ImageRecord]:
        """The images of the model as in the run. Raises `KitError` if the photos are gone, or of another size."""
        images = [self.model.images[number] for number in self.model.reg_image_ids()]
        for image in images:
            self.finished.record(image.name, self.model.cameras[image.camera_id])
        photos = replace(self.matching.scene, images=tuple(image.name for image in images))
        rotations = self.finished.result["rotation_quarters"]
        records, _ = inspect(photos, self.config.masks, self.matching.executor, self.config.max_pixels)
        return {name: replace(one, info=one.info.rotated(rotations.get(name, 0))) for name, one in records.items()}

    def _localise(self, known: Records, asked: Records, verified: Path, work: Path) -> dict[str, Answer]:
        """Localise queries, by their names in the model; returns answers by their own names.

        verified: a copy of the scene's database.
        """
        if taken := [name for name in asked if name in known]:
            raise KitError(f"{self.finished.name} has an image {taken[0]}: rename its folder, or the query")
        records = {**known, **asked}
        pairs = self._pairs(known, asked)
        found = without_static(self.matching, self.matching.match(records, pairs), records, pairs)
        self._check_features(found, known, verified)
        entries = [ImageEntry(name, it.path, it.info.size, it.info.exif_turn) for name, it in records.items()]
        keypoints = {name: (found.features(name).keypoints + HALF_PIXEL).astype(np.float64) for name in asked}
        add_queries(self.model, entries[: len(known)], entries[len(known) :], keypoints, self.config.cameras)
        upright = work / "upright"
        upright.mkdir()
        self.model.write(upright)
        path = work / "queries.db"
        query_database.write_with_queries(path, self.model, verified, found.strong(pairs, LOOSE_MATCHES))
        at = Workplace(work / "localised", self.out / "colmap.log", self.config.threads or cores(), self.config.seed)
        localisation = replace(self.config.localisation, time_limit=_TIME_LIMIT)
        model = steps.localise(path, read_model(upright), localisation, at, fixed=True)
        if self.config.subpixel.on:
            photos = {name: (record.path, record.info.extra_quarters) for name, record in records.items()}
            alignment, at = replace(self.config.subpixel, time_limit=_TIME_LIMIT), replace(at, folder=work / "aligned")
            model = steps.align_keypoints(model, photos, alignment, at, fixed=[*known])
        matches = dict.fromkeys(asked, 0)
        for name, other in pairs:
            if other in known:
                matches[name] += len(found.matches(name, other))
        return self._answers(model.folder, asked, matches)

    def _pairs(self, known: Records, asked: Records) -> list[Pair]:
        """Each query with the most similar images of the model, and with the most similar of the other queries."""
        similarity = selection.similarity(self.matching, {**known, **asked})
        pairs = []
        for number, name in enumerate(asked):
            for others in (list(known), list(asked)[number + 1 :]):
                if len(others) > NEIGHBOURS:
                    values = {other: similarity(name, other) or 0.0 for other in others}
                    others.sort(key=values.__getitem__, reverse=True)
                pairs += [(name, other) for other in others[:NEIGHBOURS]]
        return pairs

    def _check_features(self, found: MatchedFeatures, known: Records, verified: Path) -> None:
        """Raise `KitError` if the features of the images are not those of the run."""
        before = dict(database_reading.read_keypoints(verified))
        for name, record in known.items():
            now = found.features(name).keypoints
            if now.shape != before[name].shape or not np.allclose(now, before[name], atol=1e-2):
                raise KitError(
                    f"{record.path} or imc-kit has changed since {self.finished.name} was solved, because the photo "
                    "has other keypoints now: run imc-kit solve again"
                )

    def _answers(self, folder: Path, asked: Records, matches: Mapping[str, int]) -> dict[str, Answer]:
        """Write the model in `folder`, of upright images, as the photos are stored; returns the answers."""
        import pycolmap

        quarters = {name: record.info.stored_quarters for name, record in asked.items()}
        quarters |= self.finished.result["stored_quarters"]
        model = rotated(pycolmap.Reconstruction(folder), {name: -count for name, count in quarters.items()})
        self._keep_points(model, asked)
        answers = {}
        for name, record in asked.items():
            image = model.find_image_with_name(name)
            if image is None:
                why = f"no pose fits enough of its {matches[name]} matches with the scene"
                answers[name] = replace(self._not_localised(why), matches=matches[name])
                continue
            image.name = record.path.name
            model.extract_colors_for_image(image.image_id, record.path.parent)  # of the new points
            image.name = name
            pose, neighbours = image.cam_from_world().matrix(), _neighbours(model, image)
            placed = Pose(pose[:, :3], pose[:, 3])
            answers[name] = Answer(
                self.finished.name, self._number, placed, image.num_points3D, matches[name], neighbours
            )
        if any(answer.pose for answer in answers.values()):
            folder = self.out / MODELS / self.finished.name / self.finished.folder.name
            folder.mkdir(parents=True)
            model.write(folder)
        return {_own(name): answer for name, answer in answers.items()}

    def _keep_points(self, model: Any, asked: Records) -> None:
        """Delete the new points that no query sees: they would only make the scene's points less precise."""
        queries = {image.image_id for image in model.images.values() if image.name in asked}
        for number in set(model.points3D).difference(self.model.points3D):
            if queries.isdisjoint(element.image_id for element in model.points3D[number].track.elements):
                model.delete_point3D(number)


def _own(name: str) -> str:
    """The name of a query without that of the folder."""
    return name.removeprefix(f"{QUERIES}/")


def _neighbours(model: Any, image: Any) -> tuple[str, ...]:
    """The images of the scene that see the same 3D points as a query, those that share most first."""
    points = [model.points3D[point.point3D_id] for point in image.get_observation_points2D()]
    shared = Counter(element.image_id for point in points for element in point.track.elements)
    names = [model.images[number].name for number, _ in shared.most_common()]
    return tuple(name for name in names if not name.startswith(f"{QUERIES}/"))
