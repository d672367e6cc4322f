"""The command `imc-kit rehearse`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from imc_kit.cli.command import Command, Names
from imc_kit.kaggle.rehearse import Rehearsal, rehearse


@dataclass(frozen=True)
class Rehearse(Rehearsal, Command):
    """Run a kit's notebook offline, as Kaggle would, and check its submission."""

    scenes: Annotated[Names, tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Only these scenes."""

    def run(self) -> int:
        """The exit status: 1 when Kaggle would not accept the submission."""
        report = rehearse(self)
        print(report)
        return 1 if report.problems else 0

    def interrupted(self) -> str:
        return f"interrupted: the notebook was not tested; run the same command to start again (it uses {self.cache})"
