"""The command line: `imc-kit solve`, `imc-kit score`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.contrib.logging import logging_redirect_tqdm

from imc_kit.config import Config, preset
from imc_kit.detectors import config_class
from imc_kit.errors import KitError
from imc_kit.matchers import config_class as matcher_class


@dataclass(frozen=True)
class Solve:
    """Recover the pose of every photograph and write submission.csv.

    The same command again takes up where an earlier one was stopped. Every option of every stage is below; those of
    the detector and the matcher belong to the ones chosen (so `--detector orb --help` shows ORB's).
    """

    input: tyro.conf.Positional[Path]
    """The root of a competition's data (layouts of 2023, 2024, 2025), or a folder of photographs of one place."""
    out: Path
    """Folder for submission.csv, run.json, each scene's COLMAP model, and what a repeated run can take up."""
    preset: str = "sift"
    """Where the options below start from."""
    detector: str | None = None
    """Take this detector, with its own defaults, in place of the preset's."""
    matcher: str | None = None
    """Take this matcher, with its own defaults, in place of the preset's."""
    split: Literal["test", "train"] = "test"
    """Which half of a competition's data."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)

    def run(self) -> int:
        """The exit status: 0 when at least one scene could be solved."""
        from imc_kit.pipeline import solve
        from imc_kit.scenes import load

        result = solve(load(self.input, self.split), self.out, self.config)
        print(f"wrote {result.submission}")
        for scene, reason in result.failed.items():
            print(f"{scene} could not be solved: {reason}", file=sys.stderr)
        return 0 if result.scenes else 1


@dataclass(frozen=True)
class Score:
    """Compare a submission with the true poses: the competition's mAA."""

    truth: tyro.conf.Positional[Path]
    """CSV file with the true poses."""
    submission: tyro.conf.Positional[Path]
    """CSV file with the submitted poses."""
    thresholds: Path | None = None
    """JSON file, {scene: [distances]}, in the unit of the truth; the competition's metres when left out."""
    edition: Literal["2024", "2023", "2025"] = "2024"
    """Whose definition of the score."""
    json: bool = False
    """Print {"mean": …, "scenes": {name: …}} instead of a table."""

    def run(self) -> int:
        from imc_kit import metric

        thresholds = _read_thresholds(self.thresholds) if self.thresholds else None
        result: metric.Score | metric.Score2023 | metric.Score2025
        if self.edition == "2024":
            result = metric.score(self.truth, self.submission, thresholds)
        elif self.edition == "2023":
            result = metric.score_2023(self.truth, self.submission, thresholds)
        else:
            if thresholds is None:
                raise KitError("the score of 2025 needs the distances of each scene: give --thresholds FILE.json")
            result = metric.score_2025(self.truth, self.submission, thresholds)
        print(json.dumps(result.to_json(), indent=1) if self.json else result)
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 nothing could be solved, 2 wrong use, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("imc_kit").setLevel(logging.INFO)
    try:
        commands = (
            Annotated[Solve, tyro.conf.subcommand("solve", default=_solve_defaults(arguments))]
            | Annotated[Score, tyro.conf.subcommand("score")]
        )
        command = tyro.cli(
            commands,
            prog="imc-kit",
            description=__doc__,
            args=arguments or ["--help"],
            config=(tyro.conf.AvoidSubcommands,),
        )
        with logging_redirect_tqdm():
            return command.run()
    except KitError as error:
        print(f"imc-kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "imc-kit: stopped; the submission is valid as it is, and the same command goes on from here",
            file=sys.stderr,
        )
        return 130


def _solve_defaults(arguments: Sequence[str]) -> Solve:
    """Where `solve` starts from: the preset, detector and matcher decide which other options there are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="sift")
    first.add_argument("--detector")
    first.add_argument("--matcher")
    chosen, _ = first.parse_known_args(arguments)
    config = preset(chosen.preset)
    if chosen.detector:
        config = dataclasses.replace(config, detector=config_class(chosen.detector)())
    if chosen.matcher:
        config = dataclasses.replace(config, matcher=matcher_class(chosen.matcher)())
    return Solve(tyro.MISSING, tyro.MISSING, config=config)


def _read_thresholds(path: Path) -> dict[str, list[float]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        return {str(scene): [float(distance) for distance in distances] for scene, distances in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise KitError(f"cannot read thresholds from {path} as {{scene: [distances]}}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
