"""One scene, from its photos to a pose for each: the stages in order, and what each leaves on disk."""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path

from imc_kit.colmap import (
    best_model,
    cameras,
    database,
    database_edits,
    database_files,
    known_cameras,
    model_files,
    rotation,
)
from imc_kit.colmap.best_model import MappingResult
from imc_kit.colmap.child import LargeScenes
from imc_kit.colmap.known_cameras import KnownCamera
from imc_kit.colmap.mapping_runs import RunPolicy
from imc_kit.colmap.options import Known
from imc_kit.colmap.verification import inlier_counts, verify
from imc_kit.config import Config, fingerprint
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline import selection
from imc_kit.pipeline.completion import Completion, SceneContext, on_turntable
from imc_kit.pipeline.earlier import Earlier, is_final
from imc_kit.pipeline.matching import MatchedFeatures, Matching
from imc_kit.pipeline.positions import locate
from imc_kit.pipeline.records import ImageRecord, gone, inspect, stored_mirrored
from imc_kit.pipeline.results import SceneResult
from imc_kit.pipeline.static import without_static
from imc_kit.poses import place
from imc_kit.runtime import deadline, faults, progress
from imc_kit.runtime.meter import Meter
from imc_kit.runtime.warned import collecting
from imc_kit.types import Model, Pair, Placement, Scene
from imc_kit.viewgraph.groups import groups

log = logging.getLogger(__name__)

_AFTER_MATCHING = 2.0, 0.4
"""With a time limit, each step reserves time for the steps after it: seconds per image, but at most a share of the time
left. With enough time nothing is cut short. All four were chosen with time limits on the open scenes
(docs/benchmarks.md): larger values leave more pairs unmatched, smaller ones cut mapping short."""
_AFTER_VERIFICATION = 1.5, 0.7
_AFTER_MAPPING = 0.3, 0.2
_AFTER_COMPLETION = 0.05, 0.04
"""For placing and writing, which have no deadline."""

_FIRST = 0.5
"""The share of the time for mapping that the first feature pipeline alone gets, if others may have to be used."""
_JOINING = "the use of further feature pipelines"
_PARTS = "parts"
"""The folder of the finished partitions of a large scene, until its result is final."""

PairSelection = Callable[[Sequence[str]], Sequence[Pair]]
"""Chooses which pairs of a scene's images to match."""
Similarity = Callable[[str, str], float | None]
"""How alike two images look, by name (`selection.similarity`)."""


def match_scene(
    scene: Scene,
    folder: Path,
    store: Store,
    config: Config,
    executor: Executor,
    *,
    pairs: PairSelection | None = None,
    separate: bool = False,
    until: float = inf,
    fewest: int = 0,
) -> "MatchedScene | SceneResult":
    """Match the photos of one scene; the returned scene's `reconstruct` does the rest.

    folder: gets the scene's database, models, log and result.
    executor: runs detection and matching.
    pairs: chooses the pairs to match, instead of `config.pairs`.
    separate: passed to `poses.place`.
    until: the deadline of the whole scene (see `runtime.deadline`).
    fewest: give up if time has run out and fewer images have features.

    Returns the stored result if an earlier run finished the scene in time with the same images and configuration.
    Raises KitError when no image can be used, or when time has run out and fewer than `fewest` images have features.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, masks=config.masks.of_scene(scene.name, scene.root), time_limit=None)
    cost = Meter()
    matching = Matching(scene, store, config.first_alone(), executor, _reserving(_AFTER_MATCHING, scene, until))
    with cost("inspect"):
        records, matching.notes = inspect(scene, config.masks, executor, config.max_pixels)
        infos = {name: record.info for name, record in records.items()}
        known, notes = known_cameras.of_scene(config.cameras.known, scene, infos)
        matching.notes += notes
        matching.positions = locate(scene, records, config.positions, matching.notes)
        given = None if pairs is None else list(pairs(list(records)))
        identity = fingerprint(config, {name: record.key for name, record in records.items()}, given, separate, known)
        earlier = Earlier(scene.name, folder, identity)
    if finished := earlier.final():
        return finished

    def match(records: Mapping[str, ImageRecord]) -> MatchedScene:
        if config.upright:
            with cost("upright"):
                records = selection.upright(matching, records)
        with cost("detect"):
            records = matching.detect(records)
        if len(records) < fewest and deadline.ran_out(matching.notes):
            raise KitError(f"{deadline.RAN_OUT}: {len(records)} of {len(scene.images)} images have features")
        with cost("pairs"):
            selected = selection.select(matching, records, given)
        with cost("match"):
            found = without_static(matching, matching.match(records, selected), records, selected)
        matching.notes += earlier.told(warned)
        further = config if config != config.first_alone() else None
        return MatchedScene(
            scene, folder, until, matching, records, known, selected, found, earlier, separate, cost, further
        )

    with collecting(without="imc_kit.pipeline") as warned:  # its own warnings are notes
        return earlier.unless_fails(lambda: match(records))


@dataclass(frozen=True, eq=False)
class MatchedScene:
    """A matched scene; `reconstruct` does the rest.

    until: as given to `match_scene`. known: by image. pairs: selected for matching. earlier: what an earlier run left.
    separate: see `match_scene`. further: the configuration with all feature pipelines, if this scene is only matched
    with the first one, and the others are used if its model does not fit.
    """

    scene: Scene
    folder: Path
    until: float
    matching: Matching
    records: Mapping[str, ImageRecord]
    known: Mapping[str, KnownCamera]
    pairs: Sequence[Pair]
    found: MatchedFeatures
    earlier: Earlier
    separate: bool
    cost: Meter
    further: Config | None = None

    def reconstruct(self, executor: Executor, until: float = inf, alone: bool = True) -> SceneResult:
        """Reconstruct the scene with COLMAP and pose every image; write the scene's result and return it.

        executor, until: separate from matching's, because the next scene may be matched meanwhile. alone: whether no
            other scene is.
        """
        with database_files.workplace(self.folder / "partial") as partial:
            return self.earlier.unless_fails(lambda: self._reconstruct(executor, partial, until, alone))

    def _reconstruct(self, executor: Executor, partial: Path, until: float, alone: bool) -> SceneResult:
        scene, config, cost = self.scene, self.matching.config, self.cost
        until = _reserving(_AFTER_COMPLETION, scene, until)
        context = SceneContext(scene, config, self.folder, partial, until, self.matching.notes, separate=self.separate)
        with cost("verify"):
            verified = self._verify(context, executor)
            inliers = inlier_counts(verified)
        similarity = selection.similarity(self.matching, self.records, until)
        joined = _Joined(self, context, executor) if self.further else None
        models = [
            model
            for place, database_of_place in self._places(context, verified, inliers)
            for model in self._models(place, database_of_place, similarity, executor, alone, joined)
        ]
        models.sort(key=lambda model: -len(model.poses))
        if joined and joined.used:
            verified = joined.kept()
        with cost("place"):
            if not models:
                why = "the images share too few matches" if is_final(context.notes) else "the notes before this say why"
                context.notes.append(f"no model came out: {why}, so all images get the same pose")
            if kept := self.earlier.unless_worse(models, context.notes):
                return kept
            models, stored = self._as_stored(models, context)
            models = model_files.gather(models, self.folder / "models")
            placed = place(scene.images, models, inliers, separate=self.separate, similarity=similarity)
            circle = {} if self.separate else on_turntable(context, self.records, models)
            placed |= {name: Placement(pose, None) for name, pose in circle.items()}
            for name, record in self.records.items():
                pose = placed[name].pose.rotated(-record.info.stored_quarters)
                placed[name] = replace(placed[name], pose=pose)
        quarters = {name: count for name, record in self.records.items() if (count := record.info.extra_quarters)}
        if models:
            context.notes.extend(stored_mirrored(self.records))
        counts = {
            "images": len(scene.images),
            "readable": len(self.records),
            "rotated": len(quarters),
            "pairs": len(self.pairs),
            "matched pairs": len(database.match_counts(verified)),
            "verified pairs": len(inliers),
            "registered": sum(placement.model is not None for placement in placed.values()),
            "models": len(models),
            "points": len(models[0].points) if models else 0,
        }
        result = SceneResult(placed, models, counts, cost.seconds, context.notes, cost.memory, quarters, stored)
        self.earlier.replace(result)
        if is_final(context.notes):
            shutil.rmtree(self.folder / _PARTS, ignore_errors=True)
        return result

    def _places(
        self, context: SceneContext, verified: Path, inliers: Mapping[Pair, int]
    ) -> Iterator[tuple[SceneContext, Path]]:
        """The places of a folder, and the database of each one's verified matches; only one unless `separate`."""
        names = list(self.records)
        found = groups(names, inliers) if self.separate else [names]
        if sum(map(len, found)) == len(names) and len(found) <= 1:
            yield replace(context, known=self._known(verified)), verified
            return
        left = sum(map(len, found))
        for number, own in enumerate(found):
            until = deadline.portion(context.until, len(own) / left)
            left -= len(own)
            scene, folder = replace(context.scene, images=tuple(own)), context.partial / f"place-{number}"
            folder.mkdir()
            path = folder / "database.db"
            database_edits.write_part(path, verified, self._entries(own), context.config.cameras)
            with progress.titled(f"place {number + 1} of {len(found)}, {len(own)} images"):
                yield replace(context, scene=scene, partial=folder, until=until, known=self._known(path)), path

    def _models(
        self,
        context: SceneContext,
        verified: Path,
        similarity: Similarity,
        executor: Executor,
        alone: bool,
        joined: "_Joined | None",
    ) -> list[Model]:
        """The finished models of one place. verified: the database of its verified matches."""
        best = self._mapped(context, verified, executor, alone, _FIRST if joined else 1.0)
        if joined and not best.trusted:
            context, best = context.optional(_JOINING, (context, best), joined.better, context, best, executor, alone)
        context.notes.extend(best.notes)
        with self.cost("complete"):
            store, positions = self.matching.store, self.matching.positions
            records = {name: record for name, record in self.records.items() if name in context.scene.images}
            return Completion(context, best.database, records, positions, similarity, store, executor).complete(best)

    def _mapped(
        self, context: SceneContext, verified: Path, executor: Executor, alone: bool, share: float = 1.0
    ) -> MappingResult:
        """The best mapping run of one place. share: of the time left for mapping."""
        config, scene = context.config, context.scene
        end = deadline.portion(_reserving(_AFTER_MAPPING, scene, context.until), share)
        at = replace(context.workplace(), large=LargeScenes(self.folder / _PARTS, executor, end))
        policy = RunPolicy(config.enough, config.trusted)
        with self.cost("map"):
            return best_model.map_best(verified, scene, config.mapping, policy, at, end, alone, config.cameras)

    def _known(self, path: Path) -> Known:
        return Known(database.camera_ids(path, self.known), self.matching.config.cameras.fixed)

    def _entries(self, names: Iterable[str]) -> list[cameras.ImageEntry]:
        """Images as `colmap.database` takes them."""
        entries = []
        for name in names:
            record = self.records[name]
            known = self.known[name].upright(record.info) if name in self.known else None
            entries.append(cameras.ImageEntry(name, record.path, record.info.size, record.info.exif_turn, known))
        return entries

    def _as_stored(self, models: list[Model], context: SceneContext) -> tuple[list[Model], dict[str, int]]:
        """The models with files that describe the images as stored, and their rotations (`SceneResult`)."""
        stored = {name: count for name, record in self.records.items() if (count := record.info.stored_quarters)}
        at = context.workplace("stored")
        try:
            return rotation.as_stored(models, stored, self.scene.root, at), stored
        except KitError as error:
            context.notes.append(f"{error}; so the models describe upright images; {faults.RETRIED}")
            return models, {}

    def _verify(self, context: SceneContext, executor: Executor) -> Path:
        """The database of verified matches, from an earlier run if possible."""
        if is_final(context.notes) and (kept := database_files.kept(self.folder, self._identity)):
            return database_files.near(kept, context.partial)
        return self._keep(self._verified(context.partial / "database.db", context, executor), context)

    def _verified(self, made: Path, context: SceneContext, executor: Executor) -> Path:
        """Write the database `made` of verified matches."""
        matches = self.found.strong(self.pairs, context.config.min_matches)
        notes = database.write_database(
            made, self._entries(self.records), self.found.features, matches, context.config.cameras
        )
        context.notes.extend(notes)
        end = _reserving(_AFTER_VERIFICATION, self.scene, context.until)
        context.notes.extend(gone(self.records))
        context.notes.extend(verify(made, context.config.verification, executor, end))
        return made

    def _keep(self, made: Path, context: SceneContext) -> Path:
        """Move the database of verified matches to the scene's folder."""
        identity = self._identity if is_final(context.notes) else "hurried"
        kept = database_files.keep(made, self.folder, identity, self.matching.stored(self.records))
        return database_files.near(kept, context.partial)

    @property
    def _identity(self) -> str:
        """The identity of the database: that of one with further feature pipelines is another."""
        config = self.matching.config
        return self.earlier.identity + (", joined" if config != config.first_alone() else "")

    def joined(self, config: Config, until: float) -> "MatchedScene":
        """The same scene, matched with all feature pipelines of `config`. Raises KitError if an image is lost."""
        matching = Matching(self.scene, self.matching.store, config, self.matching.executor, until)
        matching.positions = self.matching.positions
        with self.cost("detect"):
            records = matching.detect(self.records)
        if len(records) < len(self.records):
            raise KitError(f"only {len(records)} of {len(self.records)} images have features of all detectors")
        with self.cost("match"):
            found = without_static(matching, matching.match(records, self.pairs), records, self.pairs)
        return replace(self, matching=matching, records=records, found=found, further=None)


@dataclass(eq=False)
class _Joined:
    """A scene with all its feature pipelines, matched once a model of the first one alone does not fit.

    used: whether a model of the scene comes from it.
    """

    alone: MatchedScene
    context: SceneContext
    executor: Executor
    used: bool = False

    def better(
        self, context: SceneContext, best: MappingResult, executor: Executor, alone: bool
    ) -> tuple[SceneContext, MappingResult]:
        """The better mapping result of a place: `best`, of the first feature pipeline alone, or of all."""
        place = replace(context, config=self._matched.matching.config, partial=context.partial / "joined")
        place.partial.mkdir()
        path = self._verified
        if len(place.scene.images) < len(self.alone.scene.images):
            path = place.partial / "database.db"
            entries = self.alone._entries(name for name in self.alone.records if name in place.scene.images)
            database_edits.write_part(path, self._verified, entries, place.config.cameras)
        place = replace(place, known=self.alone._known(path))
        with progress.titled("all features"):
            found = self.alone._mapped(place, path, executor, alone)
        if not found.run.beats(best.run):
            return context, best
        self.used = True
        return place, found

    def kept(self) -> Path:
        """The database of all feature pipelines, moved to the scene's folder."""
        return self._matched._keep(self._verified, self.context)

    @cached_property
    def _matched(self) -> MatchedScene:
        assert self.alone.further  # or there would be none
        log.info("%s: a model of the first features alone is not trusted, so all are used", self.alone.scene.name)
        until = _reserving(_AFTER_MATCHING, self.alone.scene, self.context.until)
        found = self.alone.joined(self.alone.further, until)
        self.context.notes.extend(found.matching.notes)
        return found

    @cached_property
    def _verified(self) -> Path:
        with self.alone.cost("verify"):
            return self._matched._verified(self.context.partial / "joined.db", self.context, self.executor)


def _reserving(need: tuple[float, float], scene: Scene, until: float) -> float:
    """The deadline of a step that reserves time for the steps after it.

    need: the seconds per image to reserve, and the maximum share of the time left.
    """
    seconds, share = need
    return deadline.reserved(until, seconds * len(scene.images), share)
