"""The command `imc-kit score`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imc_kit.cli.command import Command, File, Names


@dataclass(frozen=True)
class Score(Command):
    """Compare a submission with the true poses: the competition's mAA."""

    truth: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TRUTH")]
    """CSV file with the true poses."""
    submission: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SUBMISSION")]
    """CSV file with the submitted poses."""
    thresholds: File = None
    """2025's train_thresholds.csv, or a JSON file {scene: [distances]} in the unit of the truth; for 2023
    {dataset/scene: [[degrees], [distances]]}. Default: train_thresholds.csv or thresholds.json next to the truth."""
    edition: Literal["2023", "2024", "2025"] | None = None
    """Year of the competition whose score is computed. Default: the year with these columns."""
    scenes: Names = ()
    """Score only these scenes (in 2025, datasets)."""
    json: bool = False
    """Print {"mean": …, "scenes": {name: …}} instead of a table."""

    def run(self) -> int:
        from imc_kit import metric

        result = metric.score_files(self.truth, self.submission, self.thresholds, self.edition, self.scenes)
        print(json.dumps(result.to_json(), indent=1) if self.json else result)
        return 0
