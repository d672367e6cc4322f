"""The command `imc-kit frames`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from imc_kit.cli.command import Command, Folder


@dataclass(frozen=True)
class Frames(Command):
    """Take photos from a video: the sharpest of every N frames."""

    video: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="VIDEO")]]
    """A video that OpenCV can read."""
    out: Folder
    """A new or empty folder for the photos. Their names sort in time order."""
    every: int = 15
    """Frames per photo: 15 are half a second of most videos."""

    def run(self) -> int:
        from imc_kit.data.video import extract_frames

        paths = extract_frames(self.video, self.out, self.every)
        print(f"wrote {len(paths)} photos to {self.out}, {paths[0].name} to {paths[-1].name}")
        return 0

    def interrupted(self) -> str:
        return f"interrupted: delete {self.out} and run the same command again"
