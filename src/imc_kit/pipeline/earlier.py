"""What an earlier run left of a scene: a final result is read back, and a better one is not replaced."""

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from imc_kit.colmap import database_files
from imc_kit.errors import KitError, said
from imc_kit.pipeline.results import SceneResult, read_result, write_result
from imc_kit.runtime import deadline, faults
from imc_kit.types import Model

log = logging.getLogger(__name__)
T = TypeVar("T")


def is_final(notes: Iterable[str]) -> bool:
    """Whether a result with these notes would be the same in another run: no time ran out, and no step failed."""
    notes = list(notes)
    return not deadline.ran_out(notes) and not faults.happened(notes)


@dataclass(frozen=True)
class Earlier:
    """The result of a scene in its folder. identity: of its images and configuration."""

    scene: str
    folder: Path
    identity: str
    _told: set[str] = field(default_factory=set)
    """Notes that need not be logged, because they were."""

    def final(self) -> SceneResult | None:
        """The final result of an earlier run, if there is one; its notes are logged again."""
        found = read_result(self.folder / "result.json", self.identity)
        if found is not None:
            log.info("%s: solved before with the same images and configuration", self.scene)
            self._log(found.notes)
        return found

    def unless_fails(self, work: Callable[[], T]) -> T | SceneResult:
        """The result of `work`; if it fails, what an earlier run found. Raises its error if that is nothing."""
        try:
            return work()
        except Exception as error:  # of any kind: there is an earlier result
            if self._unfinished is None:
                raise
            log.error("%s: %s", self.scene, said(error), exc_info=not isinstance(error, KitError))
            self._told.add(said(error))
            return self._kept([said(error)])

    def unless_worse(self, models: Sequence[Model], notes: Sequence[str]) -> SceneResult | None:
        """What an earlier run found, if it has more images than these models, which a fault has touched."""
        registered = len({name for model in models for name in model.poses})
        if is_final(notes) or self._unfinished is None or self._unfinished.counts["registered"] <= registered:
            return None
        return self._kept(notes)

    def told(self, warnings: Sequence[str]) -> list[str]:
        """These warnings, which were logged, as notes."""
        self._told.update(warnings)
        return [*warnings]

    def replace(self, result: SceneResult) -> None:
        """Write the result, final or not, and log its notes."""
        try:
            write_result(self.folder / "result.json", self._named(is_final(result.notes)), result)
        except KitError as error:
            result.notes.append(str(error))
        self._log(result.notes)

    @cached_property
    def _unfinished(self) -> SceneResult | None:
        return read_result(self.folder / "result.json", self._named(False))

    def _named(self, final: bool) -> str:
        return self.identity if final else f"{self.identity}, hurried"

    def _kept(self, notes: Sequence[str]) -> SceneResult:
        assert self._unfinished is not None  # the callers check
        notes = [*notes, "the better result of an earlier run is kept"]
        self._log(notes)
        return replace(self._unfinished, notes=list(dict.fromkeys([*self._unfinished.notes, *notes])))

    def _log(self, notes: Sequence[str]) -> None:
        for note in filter(lambda note: note not in self._told, notes):
            log.warning("%s: %s", self.scene, note)


def better(quick: SceneResult, quick_folder: Path, solve: Callable[[], SceneResult], folder: Path) -> SceneResult:
    """The full answer to a scene, from `solve`; the quick one if that has more images or `solve` fails.

    quick_folder, folder: the files of the quick and of the full answer. `folder` ends up with the better answer's
        files.
    """
    try:
        full = solve()
        if full.counts["registered"] >= quick.counts["registered"]:
            return full
        notes = full.notes
    except Exception as error:  # of any kind: there is a quick answer
        notes = [said(error)]
        log.error("%s", notes[0], exc_info=not isinstance(error, KitError))
    shutil.rmtree(folder / "models", ignore_errors=True)
    database_files.discard(folder)
    for path in (*quick_folder.glob("models"), *quick_folder.glob(database_files.FILES)):
        path.replace(folder / path.name)
    models = [replace(model, folder=folder / "models" / model.folder.name) for model in quick.models]
    notes = [*quick.notes, *notes, "the quick answer is kept, because it has more images than the full one"]
    kept = replace(quick, models=models, notes=notes)
    write_result(folder / "result.json", "the quick answer", kept)  # a later run must not treat it as finished
    return kept
