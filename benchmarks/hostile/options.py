"""Hostile configurations: random values for every option, in Python and on the command line."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from hostile.cases import CONTROLS, SENTENCE, TEXTS, Failed, Place, expect, sentence, word
from imc_kit.cli.main import parse
from imc_kit.cli.terminal import escaping
from imc_kit.config import PRESETS, Config, fingerprint, plain, preset
from imc_kit.detectors import DETECTORS
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS
from imc_kit.retrieval import DESCRIPTORS

NUMBERS = (
    *(math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.5, 1, 2, 1e-300, 1e308, 10**6, 2**31, 2**63, 10**30, -(10**30)),
)
OTHERS: tuple[Any, ...] = (None, True, False, "", "auto", "nan", [], (), {}, b"x", 1j, Path(), object, *TEXTS[:12])
MAY_BE_NEGATIVE = ("min_similarity", "seed")
"""Options whose range includes negative numbers: a cosine, and a seed."""


def options_of(target: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option below a configuration, by its dotted name, with its value."""
    if is_dataclass(target):
        entries = [(field.name, getattr(target, field.name)) for field in fields(target)]
    else:
        entries = [(str(number), entry) for number, entry in enumerate(target)]
    for name, value in entries:
        if is_dataclass(value) or (isinstance(value, tuple) and value):
            yield from options_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@cache
def all_options(name: str) -> dict[str, Any]:
    return dict(options_of(PRESETS[name]))


def option_case(number: int, random: Random, at: Place) -> str:
    """One configuration with one to three hostile values."""
    try:
        config = (_in_python if number % 3 else _on_the_command_line)(random, at)
        config.check()
    except KitError as error:
        return sentence(str(error), at)
    if config is None:
        return SENTENCE
    check_sane(config)
    return "a sane configuration"


def _in_python(random: Random, at: Place) -> Config:
    name = random.choice(list(PRESETS))
    options = all_options(name)
    changes: dict[str, Any] = {}
    for option in random.sample(list(options), random.choice((1, 1, 1, 2, 3))):
        spelt = option if random.random() < 0.95 else option + word(random)
        changes[spelt] = random.choice(NUMBERS if random.random() < 0.7 else OTHERS)
    return preset(name, changes)


def _on_the_command_line(random: Random, at: Place) -> Any:
    """The configuration of a command; None when the parser explained why there is none, and exited."""
    name = random.choice(list(PRESETS))
    arguments = ["solve", "photos", "--out", str(at.folder), "--preset", name]
    for option in random.sample(list(all_options(name)), random.choice((1, 1, 2))):
        value = str(random.choice(NUMBERS)) if random.random() < 0.6 else random.choice(TEXTS)
        arguments += [f"--{option.replace('_', '-')}", value]
    extra = random.choice(
        ("", "", "--detector", "--matcher", "--add", "--descriptors", "--split", "--scenes", "--preset")
    )
    if extra:
        pool = [*DETECTORS, *MATCHERS, *DESCRIPTORS, *PRESETS, *TEXTS, "sift+nearest", "orb+lightglue", "+", "a+b+c"]
        arguments += [extra, *random.choices(pool, k=random.choice((1, 1, 2)))]
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said), escaping():
            return parse(arguments).config  # type: ignore[attr-defined]
    except SystemExit as end:
        expect(end.code in (0, 2), f"exit status {end.code}")
        strange = [line for line in said.getvalue().split("\n") if CONTROLS.search(line)]
        expect(not strange, f"control characters in a message: {strange[:1]}")
        raise KitError("the parser explains the wrong option") from end


def check_sane(config: Config) -> None:
    """Check that no accepted value is nan or negative, and that the configuration can be recorded."""
    for option, value in options_of(config):
        if isinstance(value, int | float) and not isinstance(value, bool):
            expect(not math.isnan(value), f"{option} nan was accepted")
            expect(value >= 0 or option.endswith(MAY_BE_NEGATIVE), f"{option} {value} was accepted")
    json.dumps(config, default=plain)
    fingerprint(config)


def accepted(random: Random, at: Place, count: int) -> list[str]:
    """Options of a run with hostile values that are accepted; as arguments of the command."""
    chosen: list[str] = []
    for _ in range(100 * count):
        option = random.choice(list(all_options("small")))
        if option.endswith("threads"):
            continue
        pair = [f"--{option.replace('_', '-')}", str(random.choice(NUMBERS))]
        try:
            with redirect_stderr(io.StringIO()):
                parse(["solve", "photos", "--out", str(at.folder), "--preset", "small", *chosen, *pair])
        except (KitError, SystemExit):
            continue
        chosen += pair
        if len(chosen) == 2 * count:
            return chosen
    raise Failed("no hostile value is accepted")
