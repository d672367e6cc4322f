"""From folders of photographs to camera poses, offline. `imc-kit demo` shows it; `imc-kit COMMAND --help` explains."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm.contrib.logging import logging_redirect_tqdm

from imc_kit.cli.compare import Compare
from imc_kit.cli.rehearse import Rehearse
from imc_kit.cli.report import Report
from imc_kit.cli.weights import Weights
from imc_kit.config import PRESETS, Config, feature_pipeline, matcher_named, preset
from imc_kit.detectors import DETECTORS
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS
from imc_kit.retrieval import DESCRIPTORS, descriptor_class


def _choice(names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}")


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
    preset: Annotated[str, _choice(PRESETS)] = "sift"
    """Where the options below start from."""
    detector: Annotated[str | None, _choice(DETECTORS)] = None
    """Take this detector, with its own defaults, in place of the preset's."""
    matcher: Annotated[str | None, _choice(MATCHERS)] = None
    """Take this matcher in place of the preset's: nearest with a ratio test at 0.8, others with their own defaults."""
    add: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DETECTOR+MATCHER …")] = ()
    """Join the keypoints and matches of these too: aliked+lightglue, none+loftr, … Their options are --also.0.…"""
    descriptors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="{" + ",".join(DESCRIPTORS) + "} …")] = ()
    """Find pairs by these global descriptors, not as the preset does. Their options are --pairs.descriptors.0.…"""
    split: Literal["test", "train"] = "test"
    """Which half of a competition's data."""
    scenes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """Solve these scenes only; submission.csv then has the rows of no others."""
    report: bool = False
    """Also write report.html, which shows what happened."""
    cluster: str | None = None
    """Detect and match on the Dask cluster at this address, or of this scheduler file; `--out` must be on its disk."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)

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
        where = None if self.cluster is None else connected(self.cluster, self.out, seen, self.config.threads)
        with where or nullcontext() as executor:
            result = solve(task, self.out, self.config, executor=executor)
        print(f"wrote {result.submission}")
        if self.report:
            from imc_kit.viz.report import write_report

            print(f"wrote {write_report(self.out)}")
        for scene, reason in result.failed.items():
            print(f"{scene} could not be solved: {reason}", file=sys.stderr)
        return 0 if result.scenes else 1


@dataclass(frozen=True)
class Demo:
    """Render a scene with known cameras, solve and score it; or solve your own photographs."""

    input: Path | None = None
    """A folder of photographs to solve; the rendered scene when left out."""
    out: Path = Path("demo")
    """Folder for everything that it writes."""

    def run(self) -> int:
        """The exit status: 1 when the rendered scene scores less than 0.95, or no photograph is registered."""
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
        return 0 if mean >= 0.95 else 1


@dataclass(frozen=True)
class Score:
    """Compare a submission with the true poses: the competition's mAA."""

    truth: tyro.conf.Positional[Path]
    """CSV file with the true poses."""
    submission: tyro.conf.Positional[Path]
    """CSV file with the submitted poses."""
    thresholds: Path | None = None
    """JSON file in the unit of the truth: {scene: [distances]}; for 2023 {dataset/scene: [[degrees], [distances]]}.
    When left out, the competition's own."""
    edition: Literal["2024", "2023", "2025"] = "2024"
    """Whose definition of the score."""
    json: bool = False
    """Print {"mean": …, "scenes": {name: …}} instead of a table."""

    def run(self) -> int:
        from imc_kit import metric

        thresholds = metric.read_thresholds(self.thresholds) if self.thresholds else None
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
            | Annotated[Report, tyro.conf.subcommand("report")]
            | Annotated[Compare, tyro.conf.subcommand("compare")]
            | Annotated[Demo, tyro.conf.subcommand("demo")]
            | Annotated[Weights, tyro.conf.subcommand("weights")]
            | Annotated[Rehearse, tyro.conf.subcommand("rehearse")]
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
    """Where `solve` starts from: what is chosen by name decides which other options there are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="sift")
    first.add_argument("--detector")
    first.add_argument("--matcher")
    first.add_argument("--add", nargs="*", default=[])
    first.add_argument("--descriptors", nargs="*", default=[])
    chosen, _ = first.parse_known_args(arguments)
    config = preset(chosen.preset)
    if chosen.detector:
        config = dataclasses.replace(config, detector=DETECTORS[chosen.detector]())
    if chosen.matcher:
        config = dataclasses.replace(config, matcher=matcher_named(chosen.matcher))
    if chosen.add:
        config = dataclasses.replace(config, also=(*config.also, *map(feature_pipeline, chosen.add)))
    if chosen.descriptors:
        described = tuple(descriptor_class(name)() for name in chosen.descriptors)
        config = dataclasses.replace(
            config, pairs=dataclasses.replace(config.pairs, method="similar", descriptors=described)
        )
    return Solve(tyro.MISSING, tyro.MISSING, config=config)


if __name__ == "__main__":
    sys.exit(main())
