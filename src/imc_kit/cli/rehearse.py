"""The command `imc-kit rehearse`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from imc_kit.kaggle.environments import Torch
from imc_kit.kaggle.limits import Limits
from imc_kit.kaggle.rehearse import Mount, rehearse


@dataclass(frozen=True)
class Rehearse:
    """Run an offline kit's notebook as Kaggle would, without network, and check its submission."""

    kit: tyro.conf.Positional[Path]
    """The folder that build_dataset.py made; the notebook is in `kernel` beside it."""
    competition: Path
    """The root of a competition's data."""
    scenes: tuple[str, ...] = ()
    """Use these scenes only; all when left out."""
    python: str | None = None
    """Version of Python, for example 3.12. When left out this one's, if it is in the kit, else the kit's first."""
    mount: Mount = "nested"
    """How inputs are mounted: datasets/OWNER/SLUG and competitions/SLUG, or all as SLUG."""
    torch: Torch = "auto"
    """Install the image's torch (gigabytes), borrow this Python's, or do without."""
    limits: Limits = field(default_factory=Limits)
    out: Path = Path("build/rehearsal")
    """Gets the executed notebook, its log and what it wrote."""
    cache: Path = Path("build/kaggle")
    """Where environments are kept for the next time."""

    def run(self) -> int:
        """The exit status: 1 when Kaggle would not accept it."""
        report = rehearse(
            self.kit, self.competition, self.out, python=self.python, only=self.scenes, mount=self.mount,
            torch=self.torch, limits=self.limits, cache=self.cache,
        )  # fmt: skip
        print(report)
        return 1 if report.problems else 0
