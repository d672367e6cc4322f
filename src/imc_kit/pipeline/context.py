"""What the steps of one scene's reconstruction share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from imc_kit.colmap import mapping_runs
from imc_kit.config import Config
from imc_kit.errors import KitError, said
from imc_kit.runtime import deadline
from imc_kit.runtime.executors import cores
from imc_kit.types import Scene

T = TypeVar("T")


@dataclass(frozen=True)
class SceneContext:
    """A scene with its configuration, folder, deadline and threads; `notes` collects what went wrong."""

    scene: Scene
    config: Config
    folder: Path
    until: float
    """The moment at which the last step that takes long must end; placing and writing come after it."""
    notes: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "colmap.log"

    @property
    def partial(self) -> Path:
        """The folder for intermediate files; it is deleted at the end."""
        return self.folder / "partial"

    @property
    def threads(self) -> int:
        return self.config.threads or cores()

    def optional(self, what: str, step: Callable[[float], T], fallback: T) -> T:
        """The result of a step that the scene can do without; `fallback` when it fails or there is no time for it.

        step: takes the seconds that it has.
        """
        seconds = deadline.left(self.until)
        if seconds < mapping_runs.SHORTEST:
            self.notes.append(f"{deadline.RAN_OUT} for {what}")
            return fallback
        try:
            return step(seconds)
        except (KitError, OSError, RuntimeError) as error:
            self.notes.append(said(error))
            return fallback
