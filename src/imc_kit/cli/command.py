"""Shared by all commands: parsing, verbosity, and lists of names."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

import tyro

from imc_kit.errors import KitError

T = TypeVar("T")
_NUMBER = r"(\d+\.?\d*|\.\d+)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s?)?", re.IGNORECASE)
_STARTED = time.time()
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value and without a `--no-` form."""


def _split(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


Names = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*", metavar="NAME ...", instance_from_str=_split, is_instance=lambda _: True, str_from_instance=list
    ),
]
"""A list of names, separated by spaces or commas."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its options are its fields."""

    quiet: Switch = False
    """Print results, warnings and errors only."""
    verbose: Switch = False
    """Print the time and the module of each message."""

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str]) -> Self:
        """Parse the options of the command. Exits after the help, and after an invalid option."""
        return parse(cls, name, arguments)

    def run(self) -> int:
        """Run the command; returns the exit status."""
        raise NotImplementedError  # each command has its own

    def interrupted(self) -> str:
        """The message after Ctrl-C."""
        return "interrupted: nothing was written; run the same command again"


def with_seconds(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments with the value of `option` in seconds: 8.5h, 90m, 1h30m, 45s and 3600 are accepted.

    Raises `KitError` for any other text.
    """
    changed = list(arguments)
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == option and (equals or arguments[place + 1 :]):
            at = place if equals else place + 1
            text = value if equals else arguments[at]
            amount = _DURATION.fullmatch(text)
            if amount is None or not text:
                raise KitError(f"{option} is a time such as 8.5h, 90m or 3600 (seconds), not {text!r}")
            seconds = sum(float(part or 0) * unit for part, unit in zip(amount.groups(), (3600, 60, 1), strict=True))
            changed[at] = f"{name}{equals}{seconds:g}" if equals else f"{seconds:g}"
    return changed


def resumable(submission: Path) -> str:
    """The message after Ctrl-C in a run that writes this file."""
    written = submission.is_file() and submission.stat().st_mtime >= _STARTED  # an older one may be of other photos
    valid = "submission.csv is valid; " if written else ""
    return f"interrupted: {valid}run the same command to resume"


def parse(kind: type[T], name: str, arguments: Sequence[str], default: Any = tyro.MISSING_NONPROP) -> T:
    """Parse the options into a dataclass with tyro. name: the command's name in its help."""
    avoid = (tyro.conf.AvoidSubcommands,)  # a field with a union type takes the type of its default
    return cast(T, tyro.cli(kind, prog=f"imc-kit {name}", args=arguments, default=default, config=avoid))
