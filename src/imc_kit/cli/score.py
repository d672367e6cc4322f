"""The command `imc-kit score`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from imc_kit.cli.command import Command, File
from imc_kit.errors import KitError


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
    """Year of the competition whose score is computed."""
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
