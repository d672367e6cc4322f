"""The help of `imc-kit solve`: what people use on one screen, and every option of a stage or of all stages."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, make_dataclass
from importlib.resources import files
from inspect import getdoc
from typing import Annotated, Any

import tyro

from imc_kit.cli.command import parse
from imc_kit.config import PRESETS, Config
from imc_kit.detectors import DETECTORS
from imc_kit.errors import unknown_name
from imc_kit.matchers import MATCHERS
from imc_kit.retrieval import DESCRIPTORS

_WIDTH = 100
_INDENT = " " * 22
"""Where the descriptions begin in solve_help.txt, whose lines have at most 100 characters."""


def topic(arguments: Sequence[str]) -> str | None:
    """Which help is asked for: "" the short one, "all", the name of a stage, or None."""
    if "--help-all" in arguments:
        return "all"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("-h", "--help"):
            return "" if following.startswith("-") else following.replace("-", "_")
    return None


def show(topic: str, config: Config) -> None:
    """Print the help on a topic. Raises KitError for a stage that does not exist, with the nearest one."""
    stages = _stages(config)
    if topic in ("", "all"):
        print(_short(stages))
    elif topic not in stages:
        raise unknown_name("stage", topic, stages)
    if topic:
        _show([group for stage in (stages if topic == "all" else [topic]) for group in stages[stage]])


def _stages(config: Config) -> dict[str, list[tuple[str, Any, str]]]:
    """By stage its groups of options: how their names begin, their values, and what they are for."""
    stages = {}
    for name, value in ((entry.name, getattr(config, entry.name)) for entry in fields(config)):
        if name == "mapping":  # all runs have the same options: show them once
            stages[name] = [("mapping.N", type(value[0])(), _runs(value))]
        elif is_dataclass(value):
            stages[name] = [(name, value, _summary(value))]
        elif isinstance(value, tuple) and value:
            stages[name] = [(f"{name}.{place}", item, _summary(item)) for place, item in enumerate(value)]
    return stages


def _short(stages: Iterable[str]) -> str:
    text = (files("imc_kit.cli") / "solve_help.txt").read_text("utf-8").format(
        presets=", ".join(PRESETS), detectors=", ".join(DETECTORS), matchers=", ".join(MATCHERS),
        descriptors=", ".join(DESCRIPTORS), stages=", ".join(stages),
    )  # fmt: skip
    return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent=_INDENT) for line in text.splitlines())


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
    """What N is, and where each mapping run differs from the defaults."""
    default, runs = type(mapping[0])(), []
    for place, run in enumerate(mapping):
        values = ((entry.name, getattr(run, entry.name)) for entry in fields(run))
        changed = [f"{name} {value}" for name, value in values if value != getattr(default, name)]
        runs.append(f"{place}: {', '.join(changed) or 'the defaults below'}")
    return f"N is the place of a mapping run. {'; '.join(runs)}."
