"""The command `imc-kit solve` and its help: common options on one screen, or every option of one stage or of all."""

import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, is_dataclass, make_dataclass, replace
from importlib.resources import files
from inspect import getdoc
from typing import Annotated, Any, Literal, Self

import tyro

from imc_kit.cli.command import Command, File, Folder, Names, Switch, parse, resumable, with_seconds
from imc_kit.cli.unused import unused
from imc_kit.config import PRESETS, Config, feature_pipeline, matcher_named, preset
from imc_kit.detectors import DETECTORS
from imc_kit.errors import unknown_name
from imc_kit.matchers import MATCHERS
from imc_kit.retrieval import DESCRIPTORS

_WIDTH = 100
_INDENT = " " * 22
"""Where the descriptions begin in solve_help.txt, whose lines have at most 100 characters."""


@dataclass(frozen=True)
class Choices:
    """Components chosen by name. They determine which options the stages have."""

    preset: str = "sift"
    """Sets the defaults of all options."""
    detector: str | None = None
    """Replaces the preset's detector, with its own defaults."""
    matcher: str | None = None
    """Replaces the preset's matcher: nearest with a ratio test at 0.8, others with their own defaults."""
    add: Names = ()
    """DETECTOR+MATCHER whose keypoints and matches are joined to the others. Their options are --also.0.…"""
    descriptors: Names = ()
    """Global descriptors that find pairs instead of the preset's. Their options are --pairs.descriptors.0.…"""

    def config(self) -> Config:
        """The preset with these choices. Raises `KitError` for an unknown name, with the nearest one."""
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
    images: File = None
    """Text file of the only images to solve, one path in each line, relative to the input or to its scene."""
    score: Switch = False
    """Also score the submission against the true poses in the input: train_labels.csv or truth.csv."""
    report: bool = False
    """Also write report.html, which shows what happened."""
    cluster: str | None = None
    """Detect and match on the Dask cluster at this address or scheduler file; `--out` must be on its shared disk."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str]) -> Self:
        """Parse the choices first, then the options of the stages that they select."""
        arguments = with_seconds(arguments, "--time-limit")
        choices, _ = tyro.cli(Choices, prog=f"imc-kit {name}", args=arguments, return_unknown_args=True, add_help=False)
        config = choices.config()
        topic = _topic(arguments)
        if topic is not None:
            _show_help(topic, config)
            sys.exit(0)
        return parse(cls, name, arguments, cls(tyro.MISSING, tyro.MISSING, config=config))

    def run(self) -> int:
        """The exit status: 0 when at least one scene could be solved."""
        from imc_kit.data.scenes import load
        from imc_kit.pipeline.run import README, solve
        from imc_kit.pipeline.schedule import FULL
        from imc_kit.runtime.dask_executor import connected

        task = load(self.input, self.split, out=self.out)
        task = replace(task, notes=(*task.notes, *unused(self.config, preset(self.choices.preset))))
        if self.scenes:
            task = task.only(*self.scenes)
        if self.images:
            task = task.only_images(self.images)
            left_out = ("the score counts the images that --images leaves out as lost",) if self.score else ()
            task = replace(task, notes=(*task.notes, *left_out))
        inputs = [task.root, *(scene.path(scene.images[0]) for scene in task.scenes), self.config.masks.folder]
        seen = [path for path in inputs if path]
        cluster = None if self.cluster is None else connected(self.cluster, self.out, seen, self.config.threads)
        with cluster or nullcontext() as executor:
            result = solve(task, self.out, self.config, executor=executor, score=self.score)
        print(result)
        print(f"models and COLMAP's logs: {self.out / FULL}; {self.out / README} explains the files")
        if self.report:
            from imc_kit.viz.report import write_report

            print(f"wrote {write_report(self.out)}")
        else:
            print(f"next, to see what happened: imc-kit report {shlex.quote(str(self.out))}")
        return 0 if result.scenes else 1

    def interrupted(self) -> str:
        return resumable(self.out / "submission.csv")


def _topic(arguments: Sequence[str]) -> str | None:
    """The requested help: "" for the short one, "all", the name of a stage, or None."""
    if "--help-all" in arguments:
        return "all"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("-h", "--help"):
            return "" if following.startswith("-") else following.replace("-", "_")
    return None


def _show_help(topic: str, config: Config) -> None:
    """Print the help on a topic. Raises `KitError` for an unknown stage, with the nearest one."""
    stages = _stages(config)
    if topic in ("", "all"):
        known = {"presets": [*PRESETS], "detectors": [*DETECTORS], "matchers": [*MATCHERS], "stages": [*stages]}
        known["descriptors"] = [*DESCRIPTORS]
        short = files("imc_kit.cli").joinpath("solve_help.txt").read_text("utf-8")
        short = short.format(**{name: ", ".join(values) for name, values in known.items()})
        print("\n".join(textwrap.fill(line, _WIDTH, subsequent_indent=_INDENT) for line in short.splitlines()))
    elif topic not in stages:
        raise unknown_name("stage", topic, stages)
    if topic:
        _show([group for stage in (stages if topic == "all" else [topic]) for group in stages[stage]])


def _stages(config: Config) -> dict[str, list[tuple[str, Any, str]]]:
    """The groups of options of each stage: the prefix of their names, their default values, their description."""
    stages = {}
    for name, value in vars(config).items():
        if name == "mapping":  # all runs have the same options: show them once
            stages[name] = [("mapping.N", type(value[0])(), _runs(value))]
        elif is_dataclass(value):
            stages[name] = [(name, value, _summary(value))]
        elif isinstance(value, tuple) and value:
            stages[name] = [(f"{name}.{place}", item, _summary(item)) for place, item in enumerate(value)]
    return stages


def _show(groups: Sequence[tuple[str, Any, str]]) -> None:
    """Print tyro's help of a class that has a field for each group."""
    shown = [
        (name.replace(".", "_"), Annotated[type(values), tyro.conf.arg(name=name, help=text)])
        for name, values, text in groups
    ]
    holder = make_dataclass("Stages", shown)
    holder.__doc__ = "Options of stages, in addition to those of 'imc-kit solve --help'."
    default = holder(*(values for _, values, _ in groups))
    parse(holder, "solve DIR --out DIR", ["--help"], default)


def _summary(config: Any) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=[.:]) (?=[A-Z])", " ".join((getdoc(type(config)) or "").split()))[0]


def _runs(mapping: Sequence[Any]) -> str:
    """What N means, and how each mapping run differs from the defaults."""
    default, runs = type(mapping[0])(), []
    for place, run in enumerate(mapping):
        changed = [f"{name} {value}" for name, value in vars(run).items() if value != getattr(default, name)]
        runs.append(f"{place}: {', '.join(changed) or 'the defaults below'}")
    return f"N is the number of a mapping run. {'; '.join(runs)}."
