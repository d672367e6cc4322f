"""One scene, from its photos to a pose for each: the stages in order, and what each leaves on disk."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from imc_kit.colmap import best_model, database, database_files, known_cameras, model_files, rotation
from imc_kit.colmap.best_model import MappingResult
from imc_kit.colmap.child import LargeScenes
from imc_kit.colmap.mapping_runs import RunPolicy
from imc_kit.colmap.verification import inlier_counts
from imc_kit.config import Config, fingerprint
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline import selection
from imc_kit.pipeline.classified import PairClassifier
from imc_kit.pipeline.completion import Completion, SceneContext, on_turntable
from imc_kit.pipeline.earlier import Earlier, is_final
from imc_kit.pipeline.joined import Joined
from imc_kit.pipeline.matched import Matched
from imc_kit.pipeline.matching import Matching
from imc_kit.pipeline.positions import locate
from imc_kit.pipeline.records import ImageRecord, inspect, stored_mirrored
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
    classifier: PairClassifier | None = None,
    separate: bool = False,
    until: float = inf,
    fewest: int = 0,
) -> "MatchedScene | SceneResult":
    """Match the photos of one scene; the returned scene's `reconstruct` does the rest.

    folder: gets the scene's database, models, log and result.
    executor: runs detection and matching.
    pairs: chooses the pairs to match, instead of `config.pairs`.
    classifier: leaves out verified pairs.
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
        digests, judge = {name: record.key for name, record in records.items()}, classifier and classifier.identity
        identity = fingerprint(config, digests, given, separate, known, judge)
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
        matched = Matched(matching, records, known, selected, found, classifier)
        return MatchedScene(scene, folder, until, config, matched, earlier, separate, cost)

    with collecting(without="imc_kit.pipeline") as warned:  # its own warnings are notes
        return earlier.unless_fails(lambda: match(records))


@dataclass(frozen=True, eq=False)
class MatchedScene:
    """A matched scene; `reconstruct` does the rest.

    until, config, separate: as given to `match_scene`. earlier: what an earlier run left.
    """

    scene: Scene
    folder: Path
    until: float
    config: Config
    matched: Matched
    earlier: Earlier
    separate: bool
    cost: Meter

    def reconstruct(self, executor: Executor, until: float = inf, alone: bool = True) -> SceneResult:
        """Reconstruct the scene with COLMAP and pose every image; write the scene's result and return it.

        executor, until: separate from matching's, because the next scene may be matched meanwhile. alone: whether no
            other scene is.
        """
        with database_files.workplace(self.folder / "partial") as partial:
            return self.earlier.unless_fails(lambda: self._reconstruct(executor, partial, until, alone))

    def _reconstruct(self, executor: Executor, partial: Path, until: float, alone: bool) -> SceneResult:
        scene, cost, matching, records = self.scene, self.cost, self.matched.matching, self.matched.records
        config, notes, until = matching.config, matching.notes, _reserving(_AFTER_COMPLETION, scene, until)
        context = SceneContext(scene, config, self.folder, partial, until, notes, separate=self.separate)
        verified = self._verify(context, executor)
        inliers = inlier_counts(verified)
        similarity = selection.similarity(matching, records, until)
        joined = self._joined(context, executor, alone) if self.config != config else None
        models = [
            model
            for place in self._places(context, inliers)
            for model in self._models(place, verified, similarity, executor, alone, joined)
        ]
        models.sort(key=lambda model: -len(model.poses))
        if joined and joined.used:
            verified = self._keep(joined.matched, joined.verified, context)
            inliers = inlier_counts(verified)
        with cost("place"):
            if not models:
                why = "the images share too few matches" if is_final(context.notes) else "the notes before this say why"
                context.notes.append(f"no model came out: {why}, so all images get the same pose")
            if kept := self.earlier.unless_worse(models, context.notes):
                return kept
            models, stored = self._as_stored(models, context)
            models = model_files.gather(models, self.folder / "models")
            placed = place(scene.images, models, inliers, separate=self.separate, similarity=similarity)
            circle = {} if self.separate else on_turntable(context, records, models)
            placed |= {name: Placement(pose, None) for name, pose in circle.items()}
            for name, record in records.items():
                pose = placed[name].pose.rotated(-record.info.stored_quarters)
                placed[name] = replace(placed[name], pose=pose)
        quarters = {name: count for name, record in records.items() if (count := record.info.extra_quarters)}
        if models:
            context.notes.extend(stored_mirrored(records))
        counts = {
            "images": len(scene.images),
            "readable": len(records),
            "rotated": len(quarters),
            "pairs": len(self.matched.pairs),
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

    def _places(self, context: SceneContext, inliers: Mapping[Pair, int]) -> Iterator[SceneContext]:
        """The places of a folder; only one unless `separate`."""
        names = list(self.matched.records)
        found = groups(names, inliers) if self.separate else [names]
        if sum(map(len, found)) == len(names) and len(found) <= 1:
            yield context
            return
        left = sum(map(len, found))
        for number, own in enumerate(found):
            until = deadline.portion(context.until, len(own) / left)
            left -= len(own)
            scene, folder = replace(context.scene, images=tuple(own)), context.partial / f"place-{number}"
            folder.mkdir()
            with progress.titled(f"place {number + 1} of {len(found)}, {len(own)} images"):
                yield replace(context, scene=scene, partial=folder, until=until)

    def _models(
        self, context: SceneContext, verified: Path, similarity: Similarity, executor: Executor, alone: bool,
        joined: Joined | None,
    ) -> list[Model]:  # fmt: skip
        """The finished models of one place. verified: the database of the whole scene's verified matches."""
        path = self.matched.of_place(context, verified)
        context = replace(context, known=self.matched.known_in(path))
        best = self._map(context, path, executor, alone, _FIRST if joined else 1.0)
        if joined and not best.trusted:
            context, best = context.optional(joined.what, (context, best), joined.better, context, best)
        context.notes.extend(best.notes)
        with self.cost("complete"):
            store, positions = self.matched.matching.store, self.matched.matching.positions
            records = {name: record for name, record in self.matched.records.items() if name in context.scene.images}
            return Completion(context, best.database, records, positions, similarity, store, executor).complete(best)

    def _map(
        self, context: SceneContext, verified: Path, executor: Executor, alone: bool, share: float = 1.0
    ) -> MappingResult:
        """The best mapping run of one place. share: of the time left for mapping."""
        config, scene = context.config, context.scene
        end = deadline.portion(_reserving(_AFTER_MAPPING, scene, context.until), share)
        at = replace(context.workplace(), large=LargeScenes(self.folder / _PARTS, executor, end))
        policy = RunPolicy(config.enough, config.trusted)
        with self.cost("map"):
            return best_model.map_best(verified, scene, config.mapping, policy, at, end, alone, config.cameras)

    def _joined(self, context: SceneContext, executor: Executor, alone: bool) -> Joined:
        """The same scene with all feature pipelines, matched when it is asked for them."""
        until = _reserving(_AFTER_MATCHING, self.scene, context.until)
        return Joined(
            context,
            lambda: self.matched.with_all(self.config, until, self.cost),
            lambda matched: self._verified(matched, context.partial / "joined.db", context, executor),
            lambda place, path: self._map(place, path, executor, alone),
        )

    def _as_stored(self, models: list[Model], context: SceneContext) -> tuple[list[Model], dict[str, int]]:
        """The models with files that describe the images as stored, and their rotations (`SceneResult`)."""
        stored = {name: n for name, record in self.matched.records.items() if (n := record.info.stored_quarters)}
        at = context.workplace("stored")
        try:
            return rotation.as_stored(models, stored, self.scene.root, at), stored
        except KitError as error:
            context.notes.append(f"{error}; so the models describe upright images; {faults.RETRIED}")
            return models, {}

    def _verify(self, context: SceneContext, executor: Executor) -> Path:
        """The database of verified matches, from an earlier run if possible."""
        identity = self.earlier.identity
        if is_final(context.notes) and (kept := database_files.kept(self.folder, identity)):
            return database_files.near(kept, context.partial)
        made = self._verified(self.matched, context.partial / "database.db", context, executor)
        return self._keep(self.matched, made, context)

    def _verified(self, matched: Matched, path: Path, context: SceneContext, executor: Executor) -> Path:
        with self.cost("verify"):
            until = _reserving(_AFTER_VERIFICATION, self.scene, context.until)
            return matched.verified(path, context, executor, until)

    def _keep(self, matched: Matched, made: Path, context: SceneContext) -> Path:
        """Move a database of verified matches to the scene's folder, in place of any other."""
        identity = self.earlier.identity if is_final(context.notes) else "hurried"
        identity += ", joined" if matched is not self.matched else ""  # it is no start for another run
        kept = database_files.keep(made, self.folder, identity, matched.matching.stored(matched.records))
        return database_files.near(kept, context.partial)


def _reserving(need: tuple[float, float], scene: Scene, until: float) -> float:
    """The deadline of a step that reserves time for the steps after it.

    need: the seconds per image to reserve, and the maximum share of the time left.
    """
    seconds, share = need
    return deadline.reserved(until, seconds * len(scene.images), share)
