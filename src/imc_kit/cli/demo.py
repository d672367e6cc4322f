"""The command `imc-kit demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from imc_kit.cli.command import Command, Folder, resumable

_GOOD_SCORE = 0.95
"""With a lower mAA the demo fails. The kit reaches 1.0 on the plaza, so a lower score is a fault, not noise."""


@dataclass(frozen=True)
class Demo(Command):
    """Render a scene with known cameras, solve it and score it; or solve your own photos."""

    input: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(optional)")] = None
    """Folder of photos to solve instead of the rendered scene."""
    out: Folder = Path("demo")
    """Folder for all output of the demo."""

    def run(self) -> int:
        """The exit status: 1 when the rendered scene scores less than 0.95, or no photo is registered."""
        from imc_kit.data.scenes import load
        from imc_kit.metric import score_files
        from imc_kit.pipeline.run import solve
        from imc_kit.synthetic.plaza import write_scene

        root = self.input or self.out / "scene"
        if self.input is None:
            print(f"rendering 24 views of a plaza into {root}", flush=True)
            write_scene(root)
        out = self.out / "solution"
        result = solve(load(root), out)
        placements = [placement for scene in result.scenes.values() for placement in scene.placements.values()]
        registered = sum(placement.model is not None for placement in placements)
        print(f"{registered} of {len(placements)} images registered")
        print(f"{out / 'submission.csv'}: a pose for every image")
        print(f"{out / 'scenes'}: a COLMAP model for every scene, in NAME/models/0")
        print(f"{out / 'run.json'}: configuration, versions, counts, seconds")
        if self.input is not None:
            return 0 if registered else 1
        mean = score_files(root / "truth.csv", out / "submission.csv").result.mean
        print(f"mAA {mean:.3f}: the share of cameras within 2.5 cm … 1 m of the truth")
        return 0 if mean >= _GOOD_SCORE else 1

    def interrupted(self) -> str:
        return resumable(self.out / "solution" / "submission.csv")
