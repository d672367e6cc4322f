"""What the steps after mapping share: each changes finished models in a child process, and a scene can do without it.

The steps are `readding`, `merging`, `localisation` and `refinement`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from imc_kit.colmap import child
from imc_kit.colmap.model_files import read_model
from imc_kit.errors import require
from imc_kit.types import Model


@dataclass(frozen=True)
class StepConfig:
    """The options of every step. Raises `KitError` when a value makes no sense."""

    job: ClassVar[str]
    """The name in `jobs.JOBS`."""
    what: ClassVar[str]
    """The step in words, for messages."""
    shares: ClassVar[Sequence[str]] = ()
    """The options that are fractions, from 0 to 1."""
    positive: ClassVar[Sequence[str]] = ()
    """The options that must be more than 0."""

    on: bool = True
    """Run this step."""
    time_limit: float = 600.0
    """Seconds that the step may take in one scene."""

    def __post_init__(self) -> None:
        for option in self.shares:
            self.require(0 <= getattr(self, option) <= 1, option, "in 0 … 1")
        for option in self.positive:
            self.require(getattr(self, option) > 0, option, "more than 0")
        self.require(self.time_limit >= 0, "time_limit", "at least 0")  # 0: no time is left for it

    def require(self, valid: bool, option: str, wanted: str) -> None:
        """Refuse the value of an option unless it is valid."""
        require(valid, f"{option} of the {self.what}", wanted, getattr(self, option))


def run_step(config: StepConfig, folder: Path, log: Path, **arguments: Any) -> None:
    """Run a step's job, which writes models to `folder`. The folder is emptied first.

    Raises `ColmapError` when the child process crashes or runs out of time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = {"job": config.job, "output": folder, "config": asdict(config), **arguments}
    child.run(job, config.what, log, config.time_limit)


def changed_model(folder: Path, model: Model) -> Model:
    """The model that a step wrote to `folder`, or `model` where it wrote none."""
    return read_model(folder) if (folder / "images.bin").is_file() else model
