"""Turn the models of the best mapping run into the final models of a scene.

The steps re-add left-out pairs, merge models, localise images, estimate principal points, align the keypoints of the
first model and refine it, and align models to the positions of photos. If each model is a scene of its own, the steps
change all of them, and an image stays in its model. A failed turntable scene gets poses on a circle. Each step is
optional: if it fails, a note says so, the models stay unchanged, and the next run tries again.
"""

import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from imc_kit.colmap import database_edits, mapping_runs, steps
from imc_kit.colmap.best_model import MappingResult
from imc_kit.colmap.cameras import CameraConfig
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.options import Known
from imc_kit.colmap.parallax import NO_PARALLAX, without_parallax
from imc_kit.config import Config
from imc_kit.data.store import Store
from imc_kit.errors import KitError, said
from imc_kit.pipeline.matching import Matching
from imc_kit.pipeline.positions import Positions
from imc_kit.pipeline.records import ImageRecord
from imc_kit.poses import frames, turntable
from imc_kit.runtime import deadline, faults, progress
from imc_kit.runtime.executors import cores
from imc_kit.types import Model, Pair, Pose, Scene

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOSE_MATCHES = 8
"""Ignore pairs with fewer loose matches when localising: any seven matches fit some two-view geometry."""
_LOOSE_PAIRS = 20
"""Match each unregistered image again, with this many of the most similar registered images. Doubling it doubles the
time of this matching, and adds less similar images."""
_POSITIONS = 3
"""Fewer positions in EXIF, which nobody asked to use, are not worth a note."""
CROPPED = "photos are cropped off-centre: their principal points are estimated"
_LOOSE_TIME = 0.5
"""Share of the time left for this matching; the other half is for localisation."""


@dataclass(frozen=True)
class SceneContext:
    """A scene with its configuration, folder, deadline and threads; `notes` collects what went wrong."""

    scene: Scene
    config: Config
    folder: Path
    partial: Path
    """The folder for intermediate files; it is deleted at the end."""
    until: float
    """Deadline of the last slow step; placing and writing follow."""
    notes: list[str] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    """The cameras that the user knows."""
    separate: bool = False
    """Whether each model is a scene of its own (2025)."""

    def workplace(self, folder: str = "") -> Workplace:
        """A workplace for COLMAP's jobs, in a subfolder of `partial`."""
        return Workplace(self.partial / folder, self.log, self.threads, self.config.seed, self.known)

    @property
    def log(self) -> Path:
        return self.folder / "colmap.log"

    @property
    def threads(self) -> int:
        return self.config.threads or cores()

    def optional(self, what: str, fallback: T, step: Callable[..., T], *arguments: Any) -> T:
        """The result of an optional step; `fallback` when it fails or there is no time for it."""
        if deadline.left(self.until) < mapping_runs.SHORTEST:
            self.notes.append(f"{deadline.RAN_OUT} for {what}")
            return fallback
        try:
            return step(*arguments)
        except Exception as error:  # of any kind: the models are good without the step
            log.debug("%s failed", what, exc_info=True)
            self.notes.append(f"{what} failed: {said(error)}; {faults.RETRIED}")
            return fallback


@dataclass(frozen=True, eq=False)
class Completion:
    """Completes the models of a scene.

    verified: the database with the verified matches. positions: of the images. similarity: of two images by name; None
    if unknown.
    """

    context: SceneContext
    verified: Path
    records: Mapping[str, ImageRecord]
    positions: Positions
    similarity: Callable[[str, str], float | None]
    store: Store
    executor: Executor

    def complete(self, best: MappingResult) -> list[Model]:
        """Apply every enabled step; returns the models, largest first."""
        config, optional, models = self.context.config, self.context.optional, best.models
        if not models:
            return models
        if config.readding.on and best.left_out:
            models = self._each("the re-adding of pairs", self._readd, models, best.left_out)
        if config.merging.on and len(models) > 1:
            models = optional("the merging of models", models, self._merge, models)
        posed = {name for model in self._leading(models) for name in model.poses}  # they stay where they are
        missing = [name for name in self.records if name not in posed]
        if config.localisation.on and missing:
            models = self._each("the localisation of further images", self._localise, models, missing)
        if config.principal_points.on:
            models = self._each("the estimation of principal points", self._find_principal_points, models)
        if config.subpixel.on:
            models = self._each("the sub-pixel alignment of keypoints", self._align, models)
        if config.refinement.on and config.cameras.model == CameraConfig.model:  # the user names no other one
            models = self._each("the refinement of the model", self._refine, models)
        if optional("the check for parallax", False, without_parallax, self.verified, models[0]):
            self.context.notes.append(NO_PARALLAX)
        if self.positions.metres and (config.positions.file or len(self.positions.metres) >= _POSITIONS):
            models = optional("the alignment to positions", models, self._georeference, models)
        return models

    def _leading(self, models: Sequence[Model]) -> Sequence[Model]:
        """The models whose poses count: the first, or all."""
        return models if self.context.separate else models[:1]

    def _each(self, what: str, step: Callable[..., Model], models: list[Model], *arguments: Any) -> list[Model]:
        """The models after an optional step of those that count. The step gets a suffix for its folder, too."""
        changed = [
            self.context.optional(what, model, step, model, f"-{number}" if number else "", *arguments)
            for number, model in enumerate(self._leading(models))
        ]
        return [*changed, *models[len(changed) :]]

    def _readd(self, model: Model, suffix: str, left_out: Collection[Pair]) -> Model:
        """Bundle-adjust a model with those left-out pairs that agree with it."""
        return steps.readd(self.verified, model, left_out, *self._job("readded" + suffix, self.context.config.readding))

    def _merge(self, models: list[Model]) -> list[Model]:
        """Merge the models that share enough of the scene."""
        return steps.merge_models(self.verified, models, *self._job("merged", self.context.config.merging))

    def _localise(self, model: Model, suffix: str, missing: Sequence[str]) -> Model:
        """Localise missing images in a model, also with looser matches."""
        looser = self._with_loose_matches(model, missing)
        return steps.localise(looser, model, *self._job("localised" + suffix, self.context.config.localisation))

    def _find_principal_points(self, model: Model, suffix: str) -> Model:
        """Estimate the principal points of a model with several cameras."""
        job = self._job("principal points" + suffix, self.context.config.principal_points)
        found = steps.find_principal_points(self.verified, model, *job)
        if found is not model:
            self.context.notes.append(CROPPED)
        return found

    def _align(self, model: Model, suffix: str) -> Model:
        """Align the keypoints of a model."""
        photos = {name: (record.path, record.info.extra_quarters) for name, record in self.records.items()}
        return steps.align_keypoints(model, photos, *self._job("aligned" + suffix, self.context.config.subpixel))

    def _refine(self, model: Model, suffix: str) -> Model:
        """Bundle-adjust a model with a fuller camera model."""
        config, infos = self.context.config.refinement, [record.info for record in self.records.values()]
        if len({(info.size, info.exif_turn) for info in infos}) > len({info.size for info in infos}):
            config = replace(config, camera_model="RADIAL")  # the same for an image that is turned or mirrored
        return steps.refine(model, *self._job("refined" + suffix, config))

    def _georeference(self, models: list[Model]) -> list[Model]:
        """Align the models to the positions of their images."""
        job, positions = self._job("aligned to positions", self.context.config.positions), self.positions
        models, notes = steps.georeference(models, positions.solid(), positions.origin, *job)
        self.context.notes.extend(notes)
        return models

    def _job(self, folder: str, config: Any) -> tuple[Any, Workplace]:
        """The options of a COLMAP step, limited to the time left, and its workplace."""
        context = self.context
        config = replace(config, time_limit=min(config.time_limit, deadline.left(context.until)))
        return config, context.workplace(folder)

    def _with_loose_matches(self, model: Model, missing: Sequence[str]) -> Path:
        """A copy of the database with more matches of the missing images, from less strict matchers.

        Each is matched with the most similar images of the model.
        """
        context = self.context
        if context.config.matches_photos:
            return self.verified  # further keypoints depend on the pairs
        pairs: list[Pair] = []
        for name in missing:
            candidates = sorted(model.poses, key=lambda other: -(self.similarity(name, other) or 0.0))
            pairs += [(name, other) for other in candidates[:_LOOSE_PAIRS]]
        until = deadline.portion(context.until, _LOOSE_TIME)
        matching = Matching(context.scene, self.store, context.config.looser(), self.executor, until)
        with progress.titled("missing images"):
            found = matching.match(self.records, pairs)
        context.notes.extend(matching.notes)
        path = context.partial / "looser.db"
        shutil.copyfile(self.verified, path)
        database_edits.replace_matches(path, found.strong(pairs, LOOSE_MATCHES))
        return path


def on_turntable(context: SceneContext, records: Mapping[str, ImageRecord], models: Sequence[Model]) -> dict[str, Pose]:
    """Poses of the upright images on a circle if a turntable's reconstruction has failed; otherwise none."""
    config = context.config.turntable
    registered = turntable.placed(len(models[0].poses), models[0].observations, config) if models else 0
    if not config.on or registered > config.max_registered * len(records):
        return {}

    def step() -> dict[str, Pose]:
        until, side = context.until, config.long_side
        small = [record.load(side).pixels for record in records.values() if deadline.left(until)]
        if len(small) < len(records):
            raise KitError(f"{deadline.RAN_OUT} for trying a turntable")
        stack = frames.comparable(small, side)
        categories = context.scene.categories
        reason = turntable.suspicion(categories, len(records), registered, frames.still_share(stack), config)
        if reason is None:
            return {}
        found = turntable.arrange(list(records), stack, config, until)
        used = turntable.better(found.confidence, categories, len(records), registered, config)
        outcome = "so they are placed on a circle" if used else "too low to place them on a circle"
        context.notes.append(f"{reason}; the confidence in a circle is {found.confidence:.2f}, {outcome}")
        return found.poses if used else {}

    return context.optional("trying a turntable", {}, step)
