"""The only place that finds a weight file. It never uses the network."""

from __future__ import annotations

import hashlib
import logging
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from imc_kit.errors import KitError, unknown_name

logger = logging.getLogger(__name__)

_KAGGLE_INPUT = Path("/kaggle/input")
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Weight:
    """A published file, as `weights.toml` lists it: its content's SHA-256 (hexadecimal) and size, its licence (SPDX),
    and its address."""

    name: str
    sha256: str
    bytes: int
    license: str
    url: str


@cache
def manifest() -> dict[str, Weight]:
    """Every file that is known, by its name."""
    table = tomllib.loads(resources.files("imc_kit").joinpath("weights.toml").read_text("utf-8"))
    return {name: Weight(name, **facts) for name, facts in table.items()}


def find(name: str, explicit: Path | None = None) -> Path:
    """The path of the published file `name`, its content checked.

    Where `explicit`, a file or a folder, is given, only there. Else in each folder of the environment variable
    IMC_KIT_WEIGHTS, in `weights` of a checkout of this project, anywhere under /kaggle/input, and in torch's cache of
    downloads, in this order; a file with other content is passed over with a warning.

    Raises `KitError` for a name that is not in the manifest; when the file is nowhere, with all the places, its address
    and its licence; and when what is there is not the published file.
    """
    if name not in manifest():
        raise unknown_name("weight file", name, manifest())
    weight = manifest()[name]
    if explicit is not None:
        places = [explicit]
    else:
        places = [*_folders(), _KAGGLE_INPUT]
    flaws = []
    for place in places:
        for path in _candidates(place, name):
            flaw = _flaw(path, weight)
            if flaw is None:
                return path
            flaws.append(f"{path} {flaw}")
            logger.warning("%s", flaws[-1])
    looked = ", ".join(str(place) for place in places)
    wanted = f"weight file {name} ({weight.bytes} bytes, {weight.license}): looked in {looked}"
    raise KitError("")
