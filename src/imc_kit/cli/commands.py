"""The commands `imc-kit demo`, `score`, `report`, `compare` and `rehearse`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from imc_kit.cli.command import Command, File, Folder, Names, resumable
from imc_kit.errors import KitError
from imc_kit.kaggle.rehearse import Rehearsal, rehearse

_GOOD_SCORE = 0.95
"""With a lower mAA the demo fails. The kit reaches 1.0 on the plaza, so a lower score is a fault, not noise."""


@dataclass(frozen=True)
class Demo(Command):
    """Render a scene with known cameras, solve it and score it; or solve your own photos."""

    input: File = None
    """A folder of photos to solve in place of the rendered scene."""
    out: Folder = Path("demo")
    """Folder for everything that the demo writes."""

    def run(self) -> int:
        """The exit status: 1 when the rendered scene scores less than 0.95, or no photo is registered."""
        from imc_kit.data.scenes import load
        from imc_kit.metric import read_thresholds, score
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
        mean = score(root / "truth.csv", out / "submission.csv", read_thresholds(root / "thresholds.json")).mean
        print(f"mAA {mean:.3f}: the share of cameras within 2.5 cm … 1 m of the truth")
        return 0 if mean >= _GOOD_SCORE else 1

    def interrupted(self) -> str:
        return resumable(self.out / "solution" / "submission.csv")


@dataclass(frozen=True)
class Score(Command):
    """Compare a submission with the true poses: the competition's mAA."""

    truth: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TRUTH")]
    """CSV file with the true poses."""
    submission: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SUBMISSION")]
    """CSV file with the submitted poses."""
    thresholds: File = None
    """JSON file in the unit of the truth: {scene: [distances]}; for 2023 {dataset/scene: [[degrees], [distances]]}.
    Default: the edition's own (2025 has none), in metres, which are wrong for scenes without metric scale."""
    edition: Literal["2024", "2023", "2025"] = "2024"
    """Whose definition of the score."""
    json: bool = False
    """Print {"mean": …, "scenes": {name: …}} instead of a table."""

    def run(self) -> int:
        from imc_kit import metric

        thresholds = metric.read_thresholds(self.thresholds) if self.thresholds else None
        if self.edition == "2025" and thresholds is None:
            raise KitError("the score of 2025 needs the distances of each scene: give --thresholds FILE.json")
        scores: dict[str, Any] = {"2023": metric.score_2023, "2024": metric.score, "2025": metric.score_2025}
        result = scores[self.edition](self.truth, self.submission, thresholds)
        print(json.dumps(result.to_json(), indent=1) if self.json else result)
        return 0


@dataclass(frozen=True)
class Report(Command):
    """Show what happened in a run, finished or not, in one HTML file that works offline."""

    run_folder: tyro.conf.Positional[Folder]
    """The folder that `imc-kit solve` wrote."""
    out: File = None
    """The file to write. Default: report.html in that folder."""
    truth: File = None
    """CSV file with the true poses: shows the mAA, and the true cameras next to the estimated ones."""
    thresholds: File = None
    """JSON file with the metric's distances, as for `imc-kit score`."""

    def run(self) -> int:
        from imc_kit.viz.report import write_report

        print(f"wrote {write_report(self.run_folder, self.out, truth=self.truth, thresholds=self.thresholds)}")
        return 0


@dataclass(frozen=True)
class Compare(Command):
    """Run several configurations and show accuracy, features, matches and time side by side.

    The same command resumes a stopped comparison.
    """

    input: tyro.conf.Positional[Folder]
    """A competition's root (layouts of 2023, 2024, 2025), or a folder of photos of one place."""
    out: Folder
    """Folder for compare.html, compare.csv, compare.json, and for each NAME what `imc-kit solve` writes."""
    presets: Names
    """Presets, or DETECTOR+MATCHER, which is the sift preset with these two: sift orb+nearest aliked"""
    scenes: Annotated[Names, tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Only these scenes."""
    truth: File = None
    """CSV file with the true poses: shows the mAA."""
    thresholds: File = None
    """JSON file with the metric's distances, as for `imc-kit score`."""
    split: Literal["test", "train"] = "test"
    """Which part of a competition's data."""

    def run(self) -> int:
        """The exit status: 0 when at least one configuration solved a scene."""
        from imc_kit.compare.run import compare, configurations
        from imc_kit.data.scenes import load

        comparison = compare(
            load(self.input, self.split), configurations(self.presets), self.out,
            truth=self.truth, thresholds=self.thresholds, scenes=self.scenes or None,
        )  # fmt: skip
        for row in comparison.rows:
            where = f"{row.configuration}, {row.scene}" if row.scene else row.configuration
            for remark in row.remarks:
                print(f"{where}: {remark}", file=sys.stderr)
        print(comparison)
        print(f"wrote {comparison.out / 'compare.html'}")
        return 0 if any(row.solved for row in comparison.rows) else 1

    def interrupted(self) -> str:
        return "interrupted: run the same command to resume"


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
