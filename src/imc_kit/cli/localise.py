"""The command `imc-kit localise`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from imc_kit.cli.command import Command, Folder, Names


@dataclass(frozen=True)
class Localise(Command):
    """Find the poses of new photos in the scenes of a finished run: see docs/localising.md."""

    run_folder: tyro.conf.Positional[Folder]
    """The folder that `imc-kit solve` wrote. It stays as it is."""
    queries: tyro.conf.Positional[tuple[Path, ...]]
    """A folder of new photos, or image files."""
    out: Folder
    """A new folder for poses.csv, and COLMAP's models with the new photos."""
    scenes: Names = ()
    """Try only these scenes. Default: all that are finished."""
    threads: int | None = None
    """Threads for detection, matching and COLMAP. Default: as in the run."""

    def run(self) -> int:
        """The exit status: 0 when at least one photo could be localised."""
        from imc_kit.queries.run import localise

        result = localise(self.run_folder, self.queries, self.out, scenes=self.scenes, threads=self.threads)
        print(result)
        return 0 if any(answer.pose for answer in result.answers.values()) else 1
