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

_CHECKOUT = Path(__file__).resolve().parents[2]
_KAGGLE_INPUT = Path("/kaggle/input")


@dataclass(frozen=True)
class Weight:
    """A published file: the SHA-256 (hexadecimal) and size of its content, its licence (SPDX) and its address."""

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

    explicit: the file, or a folder that holds it; it is looked for nowhere else then. Without it the places are, in
        order: the folders in the environment variable IMC_KIT_WEIGHTS, `weights` in a checkout of this project,
        anywhere under /kaggle/input, and torch's cache of downloads. Among them a file with other content is passed
        over with a warning.

    Raises `KitError` for a name that is not in the manifest, and when there is no such file: with what was wrong with
    those that were found, all the places, its address and its licence.
    """
    if name not in manifest():
        raise unknown_name("weight file", name, manifest())
    weight = manifest()[name]
    places = _places() if explicit is None else [explicit]
    flaws: list[str] = []
    for path in _candidates(name, places):
        flaw = _flaw(path, weight)
        if flaw is None:
            for passed_over in flaws:
                logger.warning("weight file %s; took %s", passed_over, path)
            return path
        flaws.append(f"{path} {flaw}")
    looked = f"looked in {', '.join(map(str, places))}"
    raise KitError(
        f"weight file {name} is {'not usable' if flaws else 'missing'}: {'; '.join([*flaws, looked])};"
        f" get it from {weight.url} ({weight.license}, {weight.bytes:,} bytes) and put it there,"
        " or into a folder that IMC_KIT_WEIGHTS names"
    )


def _places() -> list[Path]:
    """The folders to look in, in order."""
    places = [Path(folder) for folder in os.environ.get("IMC_KIT_WEIGHTS", "").split(os.pathsep) if folder]
    if (_CHECKOUT / "pyproject.toml").is_file():
        places.append(_CHECKOUT / "weights")
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", cache_home / "torch"))
    return [*places, _KAGGLE_INPUT, torch_home.expanduser() / "hub" / "checkpoints"]


def _candidates(name: str, places: list[Path]) -> Iterator[Path]:
    """The files of this name in those places; a place that is a file is one, whatever its name."""
    for place in places:
        if place.is_file():
            yield place
        elif place == _KAGGLE_INPUT:  # what is attached is unpacked at any depth
            yield from sorted(path for path in place.rglob(name) if path.is_file())
        elif (place / name).is_file():
            yield place / name


def _flaw(path: Path, weight: Weight) -> str | None:
    """What is wrong with the content of a file, to follow its path in a sentence."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() == weight.sha256:
                return None
            size = file.tell()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page that was saved in its stead"
    if size < weight.bytes:
        return f"has {size:,} of {weight.bytes:,} bytes: it is cut off, or another file"
    return "is not the published file: its SHA-256 differs"
