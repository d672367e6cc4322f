"""The command `imc-kit solve`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import tyro

from imc_kit.cli import solve_help
from imc_kit.cli.command import Command, Folder, Names, parse, resumable
from imc_kit.config import Config, feature_pipeline, matcher_named, preset
from imc_kit.detectors import DETECTORS
from imc_kit.retrieval import DESCRIPTORS


@dataclass(frozen=True)
class Choices:
    """What is chosen by name. It decides which options the stages have."""

    preset: str = "sift"
    """Where all options start from."""
    detector: str | None = None
    """Replaces the preset's detector, with its own defaults."""
    matcher: str | None = None
    """Replaces the preset's matcher: nearest with a ratio test at 0.8, others with their own defaults."""
    add: Names = ()
    """DETECTOR+MATCHER whose keypoints and matches are joined to the others. Their options are --also.0.…"""
    descriptors: Names = ()
    """Global descriptors that find pairs in place of the preset's. Their options are --pairs.descriptors.0.…"""

    def config(self) -> Config:
        """The preset with these choices. Raises KitError for an unknown name, with the nearest one."""
        config = preset(self.preset)
        changes: dict[str, Any] = {"also": (*config.also, *map(feature_pipeline, self.add))}
        if self.detector:
            changes["detector"] = DETECTORS[self.detector]()
        if self.matcher:
            changes["matcher"] = matcher_named(self.matcher)
        if self.descriptors:
            descriptors = tuple(DESCRIPTORS[name]() for name in self.descriptors)
            changes["pairs"] = replace(config.pairs, method="similar", descriptors=descriptors)
        return replace(config, **changes)


@dataclass(frozen=True)
class Solve(Command):
    """Recover the pose of every photo and write submission.csv."""

    input: tyro.conf.Positional[Folder]
    """A competition's root (layouts of 2023, 2024, 2025), or a folder of photos of one place."""
    out: Folder
    """Folder for submission.csv, run.json, COLMAP's models and cached results."""
    choices: Annotated[Choices, tyro.conf.arg(name="")] = field(default_factory=Choices)
    split: Literal["test", "train"] = "test"
    """Which part of a competition's data."""
    scenes: Names = ()
    """Only these scenes; submission.csv then has no others."""
    report: bool = False
    """Also write report.html, which shows what happened."""
    cluster: str | None = None
    """Detect and match on the Dask cluster at this address, or of this scheduler file; `--out` must be on its disk."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str]) -> Self:
        """First what is chosen by name, then all options of the stages that this leads to."""
        choices, _ = tyro.cli(Choices, prog=f"imc-kit {name}", args=arguments, return_unknown_args=True, add_help=False)
        config = choices.config()
        topic = solve_help.topic(arguments)
        if topic is not None:
            solve_help.show(topic, config)
            sys.exit(0)
        return parse(cls, name, arguments, cls(tyro.MISSING, tyro.MISSING, config=config))

    def run(self) -> int:
        """The exit status: 0 when at least one scene could be solved."""
        from imc_kit.data.scenes import load
        from imc_kit.pipeline.run import solve
        from imc_kit.runtime.dask_executor import connected

        task = load(self.input, self.split)
        if self.scenes:
            task = task.only(*self.scenes)
        inputs = [task.root, *(scene.path(scene.images[0]) for scene in task.scenes), self.config.masks.folder]
        seen = [path for path in inputs if path]
        cluster = None if self.cluster is None else connected(self.cluster, self.out, seen, self.config.threads)
        with cluster or nullcontext() as executor:
            result = solve(task, self.out, self.config, executor=executor)
        print(f"wrote {result.submission}")
        if self.report:
            from imc_kit.viz.report import write_report

            print(f"wrote {write_report(self.out)}")
        for scene, reason in result.failed.items():
            print(f"{scene} could not be solved: {reason}", file=sys.stderr)
        return 0 if result.scenes else 1

    def interrupted(self) -> str:
        return resumable(self.out / "submission.csv")
