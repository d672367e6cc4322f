"""`imc-kit report`: a finished run as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """Show what happened in a finished run: one HTML file that opens without a network."""

    run_folder: tyro.conf.Positional[Path]
    """The folder that `imc-kit solve` wrote."""
    out: Path | None = None
    """The file to write; report.html in that folder when left out."""
    truth: Path | None = None
    """CSV file with the true poses: shows the mAA, and the true cameras beside the found ones."""
    thresholds: Path | None = None
    """JSON file with the metric's distances, as for `imc-kit score`."""

    def run(self) -> int:
        from imc_kit.viz.report import write_report

        print(f"wrote {write_report(self.run_folder, self.out, truth=self.truth, thresholds=self.thresholds)}")
        return 0
