"""The command `imc-kit rehearse`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from imc_kit.cli.command import Command, Folder, Names
from imc_kit.kaggle.environments import Torch
from imc_kit.kaggle.limits import Limits
from imc_kit.kaggle.rehearse import Mount, rehearse


@dataclass(frozen=True)
class Rehearse(Command):
    """Run a kit's notebook offline, as Kaggle would, and check its submission."""

    kit: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="KIT")]
    """The folder that build_dataset.py wrote; the notebook is in `kernel` next to it."""
    competition: Folder
    """The root of a competition's data."""
    scenes: Annotated[Names, tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Only these scenes."""
    python: str | None = None
    """Version of Python, for example 3.12. Default: this one's if the kit has it, else the kit's first."""
    mount: Mount = "nested"
    """How inputs are mounted: datasets/OWNER/SLUG and competitions/SLUG, or all as SLUG."""
    torch: Torch = "auto"
    """Install the image's torch (gigabytes), borrow this Python's, or do without."""
    limits: Limits = field(default_factory=Limits)
    out: Folder = Path("build/rehearsal")
    """Folder for the executed notebook, its log and what it wrote."""
    cache: Folder = Path("build/kaggle")
    """Where environments are kept for the next time."""

    def run(self) -> int:
        """The exit status: 1 when Kaggle would not accept the submission."""
        report = rehearse(
            self.kit, self.competition, self.out, python=self.python, only=self.scenes, mount=self.mount,
            torch=self.torch, limits=self.limits, cache=self.cache,
        )  # fmt: skip
        print(report)
        return 1 if report.problems else 0
