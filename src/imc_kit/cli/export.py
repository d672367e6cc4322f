"""The command `imc-kit export`."""

from dataclasses import dataclass

import tyro

from imc_kit.cli.command import Command, Folder, Names


@dataclass(frozen=True)
class Export(Command):
    """Export the models of a run to other programs: see docs/other-programs.md."""

    run_folder: tyro.conf.Positional[Folder]
    """The folder that `imc-kit solve` wrote."""
    format: str
    """colmap-text, ply, nerfstudio, undistorted (for splatting and MVS), upright (copies of the photos and their
    model), opensfm, hloc or colmap-database (features and matches), or kaggle (a submission)."""
    out: Folder
    """A new or empty folder. Each scene gets a folder in it."""
    scenes: Names = ()
    """Only these scenes."""
    model: int = 0
    """Which model of a scene with several; 0 is the largest."""

    def run(self) -> int:
        from imc_kit.export.run import export

        print(export(self.run_folder, self.format, self.out, self.scenes, self.model))
        return 0
