"""The command `imc-kit compare`."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from imc_kit.cli.command import Command, File, Folder, Names


@dataclass(frozen=True)
class Compare(Command):
    """Run several configurations and show accuracy, features, matches and time side by side.

    The same command resumes a stopped comparison.
    """

    input: tyro.conf.Positional[Folder]
    """A competition's root (layouts of 2023, 2024, 2025), or a folder of photos of one place."""
    out: Folder
    """Folder for compare.html, compare.csv, compare.json, and for the output of `imc-kit solve` in NAME."""
    presets: Names
    """Presets, or DETECTOR+MATCHER for the sift preset with these two. Example: sift orb+nearest aliked"""
    scenes: Annotated[Names, tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Only these scenes."""
    truth: File = None
    """CSV file with the true poses; adds the mAA."""
    thresholds: File = None
    """JSON file with the metric's distances, as for `imc-kit score`."""
    split: Literal["test", "train"] = "test"
    """Which part of a competition's data."""

    def run(self) -> int:
        """The exit status: 0 when at least one configuration solved a scene."""
        from imc_kit.compare.run import compare, configurations
        from imc_kit.data.scenes import load

        comparison = compare(
            load(self.input, self.split, out=self.out), configurations(self.presets), self.out,
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
