"""Further feature pipelines, used only where the model of the first one alone is not trusted."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from imc_kit.colmap.best_model import MappingResult
from imc_kit.pipeline.completion import SceneContext
from imc_kit.pipeline.matched import Matched
from imc_kit.runtime import progress

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Joined:
    """A scene with all its feature pipelines, matched and verified when the first place needs them.

    used: whether a model of the scene comes from it.
    """

    context: SceneContext
    match: Callable[[], Matched]
    verify: Callable[[Matched], Path]
    map: Callable[[SceneContext, Path], MappingResult]
    used: bool = False
    what: ClassVar[str] = "the use of further feature pipelines"

    def better(self, place: SceneContext, best: MappingResult) -> tuple[SceneContext, MappingResult]:
        """The better mapping result of a place, `best` of the first feature pipeline alone or that of all."""
        config = self.matched.matching.config
        joined = replace(place, config=config, partial=place.partial / "joined")
        joined.partial.mkdir()
        path = self.matched.of_place(joined, self.verified)
        joined = replace(joined, known=self.matched.known_in(path))
        with progress.titled("all features"):
            found = self.map(joined, path)
        if not found.run.beats(best.run):
            return place, best
        self.used = True
        return joined, found

    @cached_property
    def matched(self) -> Matched:
        name = self.context.scene.name
        log.info("%s: a model of the first features alone is not trusted, so all are used", name)
        found = self.match()
        self.context.notes.extend(found.matching.notes)
        return found

    @cached_property
    def verified(self) -> Path:
        return self.verify(self.matched)
