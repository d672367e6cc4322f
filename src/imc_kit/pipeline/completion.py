"""From the models of the best attempt at mapping to the models of a scene: pairs come back, models are merged, images
localised, the first model refined; and a circle where all that has failed on a turntable.

Each step is one that a scene can do without: what goes wrong in it is noted, and the models stay as they were.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imc_kit.colmap import database, localisation, merging, readding, refinement
from imc_kit.colmap.mapping_runs import MappingRun
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.matchers import DetectorFreeConfig
from imc_kit.pipeline.context import SceneContext
from imc_kit.pipeline.matching import Matching
from imc_kit.pipeline.tasks import ImageRecord
from imc_kit.poses import frames, turntable
from imc_kit.runtime import deadline
from imc_kit.types import Model, Pair, Pose

_LOOSE_MATCHES = 8
"""A pair needs so many loose matches to help localise an image."""
_LOOSE_PAIRS = 20
"""An unregistered image is matched once more with so many registered ones, the most similar."""


@dataclass(frozen=True, eq=False)
class Completion:
    """What completing the models of a scene takes.

    verified: the database with the verified matches. similarity: of two images
    by name, None where it is not known.
    """

    context: SceneContext
    verified: Path
    records: Mapping[str, ImageRecord]
    similarity: Callable[[str, str], float | None]
    store: Store
    executor: Executor

    def complete(self, best: MappingRun) -> list[Model]:
        """The models, largest first, after every step that the configuration has on."""
        models = self._merged(self._readded(best))
        return self._refined(self._localised(models))

    def _readded(self, best: MappingRun) -> list[Model]:
        """The models, the first adjusted with those of the pairs that were left out which agree with it."""
        context, config = self.context, self.context.config.readding
        if not config.on or not best.models or not best.left_out:
            return best.models

        def step(seconds: float) -> list[Model]:
            first = readding.readd(
                self.verified, best.models[0], best.left_out, context.partial / "readded", _within(config, seconds),
                context.log, context.threads, context.config.seed,
            )  # fmt: skip
            return [first, *best.models[1:]]

        return context.attempt("the readding of pairs", step, best.models)

    def _merged(self, models: list[Model]) -> list[Model]:
        """The models with those joined that belong together."""
        context, config = self.context, self.context.config.merging
        if not config.on or len(models) < 2:
            return models

        def step(seconds: float) -> list[Model]:
            return merging.merge_models(
                self.verified, models, context.partial / "merged", _within(config, seconds),
                context.log, context.threads, context.config.seed,
            )  # fmt: skip

        return context.attempt("the merging of models", step, models)

    def _localised(self, models: list[Model]) -> list[Model]:
        """The models, the first with the images that it lacked and that could be localised, by looser matches too."""
        context, config = self.context, self.context.config.localisation
        missing = [name for name in self.records if models and name not in models[0].poses]
        if not config.on or not missing:
            return models

        def step(seconds: float) -> list[Model]:
            looser = self._loosened(models[0], missing)
            left = min(seconds, deadline.left(context.until))
            first = localisation.localise(
                looser, models[0], context.partial / "localised", _within(config, left),
                context.log, context.threads, context.config.seed,
            )  # fmt: skip
            return [first, *models[1:]]

        return context.attempt("the localisation of further images", step, models)

    def _loosened(self, model: Model, missing: Sequence[str]) -> Path:
        """A copy of the database with more matches of the missing images: with the images of the model that are most
        like them, found with lower demands."""
        context = self.context
        if any(
            isinstance(feature_pipeline.matcher, DetectorFreeConfig)
            for feature_pipeline in context.config.feature_pipelines
        ):
            return self.verified  # other pairs would make other keypoints
        pairs: list[Pair] = []
        for name in missing:
            alike = sorted(((name, other) for other in model.poses), key=lambda pair: -(self.similarity(*pair) or 0.0))
            pairs += alike[:_LOOSE_PAIRS]
        until = deadline.portion(context.until, 0.5)
        matching = Matching(context.scene, self.store, context.config.looser(), self.executor, until)
        found = matching.match(self.records, pairs)
        context.notes.extend(matching.notes)
        path = context.partial / "looser.db"
        shutil.copyfile(self.verified, path)
        some = ((first, second, found.matches(first, second)) for first, second in pairs)
        database.replace_matches(path, (entry for entry in some if len(entry[2]) >= _LOOSE_MATCHES))
        return path

    def _refined(self, models: list[Model]) -> list[Model]:
        """The models, the first adjusted with a fuller camera model."""
        context, config = self.context, self.context.config.refinement
        if not config.on or not models:
            return models

        def step(seconds: float) -> list[Model]:
            folder = context.partial / "refined"
            first = refinement.refine(models[0], folder, _within(config, seconds), context.log, context.threads)
            return [first, *models[1:]]

        return context.attempt("the refinement of the model", step, models)


def on_turntable(context: SceneContext, records: Mapping[str, ImageRecord], models: Sequence[Model]) -> dict[str, Pose]:
    """Poses on a circle, of upright images, if this is a turntable that reconstruction has failed on; else none."""
    config = context.config.turntable
    registered = turntable.placed(len(models[0].poses), models[0].observations, config) if models else 0
    if not config.on or registered > config.max_registered * len(records):
        return {}

    def step(_: float) -> dict[str, Pose]:
        small = []
        for record in records.values():
            if not deadline.left(context.until):
                raise KitError(f"{deadline.RAN_OUT} for trying a turntable")
            small.append(record.load(config.long_side).pixels)
        stack = frames.comparable(small, config.long_side)
        categories = context.scene.categories
        reason = turntable.suspicion(categories, len(records), registered, frames.still_share(stack), config)
        if reason is None:
            return {}
        found = turntable.arrange(list(records), stack, config, context.until)
        used = turntable.better(found.confidence, categories, len(records), registered, config)
        said = "so they are placed on a circle" if used else "too little to place them on a circle"
        context.notes.append(f"{reason}; as a turntable they have a confidence of {found.confidence:.2f}, {said}")
        return found.poses if used else {}

    return context.attempt("trying a turntable", step, {})


def _within(config: Any, seconds: float) -> Any:
    """A configuration with a time limit of at most so many seconds."""
    return replace(config, time_limit=min(config.time_limit, seconds))
