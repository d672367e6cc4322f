"""The command `imc-kit report`."""

from dataclasses import dataclass

import tyro

from imc_kit.cli.command import Command, File, Folder


@dataclass(frozen=True)
class Report(Command):
    """Show what happened in a run, finished or not, in one HTML file that works offline."""

    run_folder: tyro.conf.Positional[Folder]
    """The folder that `imc-kit solve` wrote."""
    out: File = None
    """The file to write. Default: report.html in that folder."""
    truth: File = None
    """CSV file with the true poses; adds the mAA, and the true cameras next to the estimated ones."""
    thresholds: File = None
    """JSON file with the metric's distances, as for `imc-kit score`."""

    def run(self) -> int:
        from imc_kit.viz.report import write_report

        print(f"wrote {write_report(self.run_folder, self.out, truth=self.truth, thresholds=self.thresholds)}")
        return 0
