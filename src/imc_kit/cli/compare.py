"""The command `imc-kit compare`."""

import sys
from ast import literal_eval
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import tyro

from imc_kit.cli.command import Command, File, Folder, Names
from imc_kit.config import Config, override
from imc_kit.errors import KitError


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
    """Presets, or DETECTOR+MATCHER for the sift preset with these two: sift orb+nearest. `imc-kit list` shows all."""
    scenes: Annotated[Names, tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Only these scenes."""
    set: Names = ()
    """Options of every configuration, OPTION=VALUE: detector.max_keypoints=2048 for equal budgets."""
    seeds: int = 1
    """Number of random seeds of each configuration; several show which differences are larger than the spread."""
    threads: int | None = None
    """Workers for detection and matching, threads for COLMAP. Default: all cores."""
    truth: File = None
    """CSV file with the true poses; adds the mAA."""
    thresholds: File = None
    """File with the metric's distances, as for `imc-kit score`."""
    split: Literal["test", "train"] = "test"
    """Which part of a competition's data."""

    def run(self) -> int:
        """The exit status: 1 when a configuration failed on a scene."""
        from imc_kit.compare.rows import summarize
        from imc_kit.compare.run import compare, configurations
        from imc_kit.data.scenes import load

        configs = {name: self._changed(config) for name, config in configurations(self.presets).items()}
        refused = []
        for name, config in configs.items():
            try:
                config.check()
            except KitError as error:
                refused.append(f"{name}: {error}")
        if refused:
            raise KitError(f"nothing was compared, because of {'; '.join(refused)}")
        comparison = compare(
            load(self.input, self.split, out=self.out), configs, self.out,
            truth=self.truth, thresholds=self.thresholds, scenes=self.scenes or None, seeds=self.seeds,
        )  # fmt: skip
        for row in summarize(comparison.rows):
            for remark in row.remarks:
                print(f"{row.configuration}, {remark}", file=sys.stderr)
        print(comparison)
        print(f"wrote {comparison.out / 'compare.html'}")
        return 0 if all(row.solved for row in comparison.rows) else 1

    def _changed(self, config: Config) -> Config:
        """A configuration with the options of `set` and `threads`."""
        changes: dict[str, Any] = {}
        for given in self.set:
            option, equals, value = given.partition("=")
            if not equals:
                raise KitError(f"--set needs OPTION=VALUE, such as detector.max_keypoints=2048, not {given!r}")
            try:
                changes[option.replace("-", "_")] = literal_eval(value)
            except (ValueError, SyntaxError):  # a word
                changes[option.replace("-", "_")] = {"true": True, "false": False}.get(value.lower(), value)
        return replace(override(config, changes), threads=self.threads)

    def interrupted(self) -> str:
        return "interrupted: run the same command to resume"
