"""`imc-kit compare`: several configurations on the same scenes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_FILE = tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")


@dataclass(frozen=True)
class Compare:
    """Run several configurations, and report accuracy, features, matches and time side by side.

    The same command again takes up where an earlier one was stopped.
    """

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The root of a competition's data (layouts of 2023, 2024, 2025), or a folder of photographs of one place."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for compare.html, compare.csv and compare.json, and in NAME what `imc-kit solve` would write."""
    presets: Annotated[str, tyro.conf.arg(metavar="NAME,NAME,…")]
    """Presets, and DETECTOR+MATCHER for the sift preset with these two: sift,orb+nearest,aliked"""
    scenes: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME,…", help_behavior_hint="(default: all)")] = None
    """Only these scenes."""
    truth: Annotated[Path | None, _FILE] = None
    """CSV file with the true poses: shows the mAA."""
    thresholds: Annotated[Path | None, _FILE] = None
    """JSON file with the metric's distances, as for `imc-kit score`."""
    split: Literal["test", "train"] = "test"
    """Which half of a competition's data."""

    def run(self) -> int:
        """The exit status: 0 when at least one configuration solved a scene."""
        from imc_kit.compare.run import compare, configurations
        from imc_kit.data.scenes import load

        comparison = compare(
            load(self.input, self.split),
            configurations(_names(self.presets)),
            self.out,
            truth=self.truth,
            thresholds=self.thresholds,
            scenes=None if self.scenes is None else _names(self.scenes),
        )
        for row in comparison.rows:
            for remark in row.remarks:
                of = f"{row.configuration}, {row.scene}" if row.scene else row.configuration
                print(f"{of}: {remark}", file=sys.stderr)
        print(comparison)
        print(f"wrote {comparison.out / 'compare.html'}")
        return 0 if any(row.solved for row in comparison.rows) else 1


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
