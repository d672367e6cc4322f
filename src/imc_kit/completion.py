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

from imc_kit import clock
from imc_kit.bench import Bench
from imc_kit.colmap import database, localisation, merging, readmission, refinement
from imc_kit.colmap.attempts import Attempt
from imc_kit.errors import KitError
from imc_kit.matchers import DenseConfig
from imc_kit.matching import Matching
from imc_kit.poses import frames, turntable
from imc_kit.retrieval import Pair
from imc_kit.store import Store
from imc_kit.types import Model, Pose
from imc_kit.work import Shot

_LOOSE_MATCHES = 8
"""A pair needs so many loose matches to help localise an image."""
_LOOSE_PAIRS = 20
"""An unregistered image is matched once more with so many registered ones, the most similar."""


@dataclass(frozen=True, eq=False)
class Completion:
    """What completing the models of a scene takes.

    verified: the database with the verified matches. crops: as `Matching.crop` gives them. similarity: of two images
    by name, None where it is not known.
    """

    bench: Bench
    verified: Path
    shots: Mapping[str, Shot]
    crops: Mapping[str, Shot]
    similarity: Callable[[str, str], float | None]
    store: Store
    executor: Executor

    def complete(self, best: Attempt) -> list[Model]:
        """The models, largest first, after every step that the configuration has on."""
        models = self._merged(self._readmitted(best))
        return self._refined(self._localised(models))

    def _readmitted(self, best: Attempt) -> list[Model]:
        """The models, the first adjusted with those of the pairs that were left out which agree with it."""
        bench, config = self.bench, self.bench.config.readmission
        if not config.on or not best.models or not best.left_out:
            return best.models

        def step(seconds: float) -> list[Model]:
            first = readmission.readmit(
                self.verified, best.models[0], best.left_out, bench.partial / "readmitted", _within(config, seconds),
                bench.log, bench.threads, bench.config.seed,
            )  # fmt: skip
            return [first, *best.models[1:]]

        return bench.attempt("the readmission of pairs", step, best.models)

    def _merged(self, models: list[Model]) -> list[Model]:
        """The models with those joined that belong together."""
        bench, config = self.bench, self.bench.config.merging
        if not config.on or len(models) < 2:
            return models

        def step(seconds: float) -> list[Model]:
            return merging.merge_models(
                self.verified, models, bench.partial / "merged", _within(config, seconds),
                bench.log, bench.threads, bench.config.seed,
            )  # fmt: skip

        return bench.attempt("the merging of models", step, models)

    def _localised(self, models: list[Model]) -> list[Model]:
        """The models, the first with the images that it lacked and that could be localised, by looser matches too."""
        bench, config = self.bench, self.bench.config.localisation
        missing = [name for name in self.shots if models and name not in models[0].poses]
        if not config.on or not missing:
            return models

        def step(seconds: float) -> list[Model]:
            looser = self._loosened(models[0], missing)
            left = min(seconds, clock.left(bench.until))
            first = localisation.localise(
                looser, models[0], bench.partial / "localised", _within(config, left),
                bench.log, bench.threads, bench.config.seed,
            )  # fmt: skip
            return [first, *models[1:]]

        return bench.attempt("the localisation of further images", step, models)

    def _loosened(self, model: Model, missing: Sequence[str]) -> Path:
        """A copy of the database with more matches of the missing images: with the images of the model that are most
        like them, found with lower demands."""
        bench = self.bench
        if any(isinstance(branch.matcher, DenseConfig) for branch in bench.config.branches):
            return self.verified  # other pairs would make other keypoints
        pairs: list[Pair] = []
        for name in missing:
            alike = sorted(((name, other) for other in model.poses), key=lambda pair: -(self.similarity(*pair) or 0.0))
            pairs += alike[:_LOOSE_PAIRS]
        until = clock.portion(bench.until, 0.5)
        matching = Matching(bench.scene, self.store, bench.config.looser(), self.executor, until)
        found = matching.match(self.shots, pairs, self.crops)
        bench.notes.extend(matching.notes)
        path = bench.partial / "looser.db"
        shutil.copyfile(self.verified, path)
        some = ((first, second, found.matches(first, second)) for first, second in pairs)
        database.replace_matches(path, (entry for entry in some if len(entry[2]) >= _LOOSE_MATCHES))
        return path

    def _refined(self, models: list[Model]) -> list[Model]:
        """The models, the first adjusted with a fuller camera model."""
        bench, config = self.bench, self.bench.config.refinement
        if not config.on or not models:
            return models

        def step(seconds: float) -> list[Model]:
            folder = bench.partial / "refined"
            first = refinement.refine(models[0], folder, _within(config, seconds), bench.log, bench.threads)
            return [first, *models[1:]]

        return bench.attempt("the refinement of the model", step, models)


def on_turntable(bench: Bench, shots: Mapping[str, Shot], models: Sequence[Model]) -> dict[str, Pose]:
    """Poses on a circle, of upright images, if this is a turntable that reconstruction has failed on; else none."""
    config = bench.config.turntable
    registered = turntable.placed(len(models[0].poses), models[0].observations, config) if models else 0
    if not config.on or registered > config.max_registered * len(shots):
        return {}

    def step(_: float) -> dict[str, Pose]:
        small = []
        for shot in shots.values():
            if not clock.left(bench.until):
                raise KitError(f"{clock.RAN_OUT} for trying a turntable")
            small.append(shot.load(config.long_side).pixels)
        stack = frames.comparable(small, config.long_side)
        categories = bench.scene.categories
        reason = turntable.suspicion(categories, len(shots), registered, frames.still_share(stack), config)
        if reason is None:
            return {}
        found = turntable.arrange(list(shots), stack, config, bench.until)
        used = turntable.better(found.confidence, categories, len(shots), registered, config)
        said = "so they are placed on a circle" if used else "too little to place them on a circle"
        bench.notes.append(f"{reason}; as a turntable they have a confidence of {found.confidence:.2f}, {said}")
        return found.poses if used else {}

    return bench.attempt("trying a turntable", step, {})


def _within(config: Any, seconds: float) -> Any:
    """A configuration with a time limit of at most so many seconds."""
    return replace(config, time_limit=min(config.time_limit, seconds))
