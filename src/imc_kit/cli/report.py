"""`imc-kit report`: a run as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

_FILE = tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")


@dataclass(frozen=True)
class Report:
    """Show what happened in a run, finished or not: one HTML file that opens without a network."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder that `imc-kit solve` wrote."""
    out: Annotated[Path | None, _FILE] = None
    """The file to write; report.html in that folder when left out."""
    truth: Annotated[Path | None, _FILE] = None
    """CSV file with the true poses: shows the mAA, and the true cameras beside the found ones."""
    thresholds: Annotated[Path | None, _FILE] = None
    """JSON file with the metric's distances, as for `imc-kit score`."""

    def run(self) -> int:
        from imc_kit.viz.report import write_report

        print(f"wrote {write_report(self.run_folder, self.out, truth=self.truth, thresholds=self.thresholds)}")
        return 0
