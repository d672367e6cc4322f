"""The only place that finds a weight file. It never uses the network: `download` does, when it is asked to."""

from __future__ import annotations

import hashlib
import logging
import os
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from imc_kit.errors import KitError, unknown_name

logger = logging.getLogger(__name__)

UNPINNED = "unpinned"
PINS = "pins.toml"
"""Beside downloaded files: the SHA-256 that those which are unpinned had at first, by name."""

_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Weight:
    """A published file, as weights.toml describes it."""

    name: str
    url: str
    sha256: str
    """Of its content, hexadecimal, or `UNPINNED`."""
    license: str
    """An SPDX identifier, or a few words."""
    redistributable: bool
    used_by: tuple[str, ...]
    """Names of detectors, matchers and global descriptors."""
    bytes: int = 0
    """Its size; 0 where it is not known."""
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it is looked for."""
        return (self.name, *self.aliases)


@cache
def manifest() -> dict[str, Weight]:
    """Every file that is known, by its name."""
    table = tomllib.loads(resources.files("imc_kit.runtime").joinpath("weights.toml").read_text("utf-8"))
    return {
        name: Weight(name, **facts | {key: tuple(facts.get(key, ())) for key in ("used_by", "aliases")})
        for name, facts in table.items()
    }


def find(name: str, explicit: Path | None = None) -> Path:
    """The path of the published file `name`, its content checked.

    explicit: a file, or a folder that holds it; it is looked for nowhere else then. A file with a name of its own is
        taken as it is: it may be a retrained one. Without `explicit` the places are those of `places`; among them a
        file with other content is passed over with a warning.

    Raises `KitError` for a name that is not in the manifest, and when there is no such file: with what was wrong with
    those that were found, all the places, the command that gets it and its licence.
    """
    if name not in manifest():
        raise unknown_name("weight file", name, manifest())
    weight = manifest()[name]
    folders = places() if explicit is None else [explicit]
    given = explicit is not None and explicit.is_file()
    flaws: list[str] = []
    for path in folders if given else [path for _, path in present(folders, [weight])]:
        flaw = flaw_of(path, weight)
        if flaw is None:
            for passed_over in flaws:
                logger.warning("weight file %s; took %s", passed_over, path)
            return path
        flaws.append(f"{path} {flaw}")
    looked = [] if given else [f"looked in {', '.join(map(str, folders))}"]
    target = f" --to {explicit}" if explicit is not None and explicit.is_dir() else ""
    raise KitError(
        f"weight file {name} is {'not usable' if flaws else 'missing'}: {'; '.join([*flaws, *looked])};"
        f" get it with 'imc-kit weights get {name}{target}' (licence: {weight.license}; from {weight.url}),"
        " or put it into a folder that IMC_KIT_WEIGHTS names"
    )


def places() -> list[Path]:
    """The folders to look in, in order: those in the environment variable IMC_KIT_WEIGHTS, `weights` in a checkout of
    this project, `kaggle_input` (at any depth), and torch's cache of downloads."""
    named = [Path(folder).expanduser() for folder in os.environ.get("IMC_KIT_WEIGHTS", "").split(os.pathsep) if folder]
    if (_CHECKOUT / "pyproject.toml").is_file():
        named.append(_CHECKOUT / "weights")
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", cache_home / "torch"))
    return [*named, kaggle_input(), torch_home.expanduser() / "hub" / "checkpoints"]


def kaggle_input() -> Path:
    """Where Kaggle mounts what is attached; IMC_KIT_INPUT names another folder, for rehearsals."""
    return Path(os.environ.get("IMC_KIT_INPUT", "/kaggle/input"))


def download_folder() -> Path:
    """Where downloads go unless a person says otherwise: the first of `places`, but not Kaggle's."""
    return next(place for place in places() if place != kaggle_input())


def present(folders: Iterable[Path], wanted: Iterable[Weight]) -> Iterator[tuple[Weight, Path]]:
    """The files in those folders that go by a name of a wanted one, in the order of the folders; nothing is read."""
    by_name = {name: weight for weight in wanted for name in weight.names}
    for folder in folders:
        if folder == kaggle_input():  # what is attached is unpacked at any depth
            paths = sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names if name in by_name)
        else:
            paths = [folder / name for name in by_name]
        yield from ((by_name[path.name], path) for path in paths if path.is_file())


def usable(folders: Iterable[Path], weight: Weight) -> Path | None:
    """The first file in those folders that is `weight`, its content checked."""
    return next((path for _, path in present(folders, [weight]) if flaw_of(path, weight) is None), None)


def flaw_of(path: Path, weight: Weight) -> str | None:
    """What is wrong with a file that is to be `weight`, to follow its path in a sentence; None if nothing is.

    The content of a file with a name of its own is not compared with the published one.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            flaw = other_content(file.read(1024))
        if flaw is not None:
            return flaw
        if path.name not in weight.names:
            return _flaw_of_own(path, weight)
        if weight.bytes and status.st_size != weight.bytes:
            kind = "cut off, or another file" if status.st_size < weight.bytes else "not the published file"
            return f"has {status.st_size:,} of {weight.bytes:,} bytes: it is {kind}"
        expected = expected_sha256(weight, path.parent)
        if expected is None or _sha256(path, status.st_size, status.st_mtime_ns) == expected:
            return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if weight.sha256 == UNPINNED:
        return f"is not the file that was first downloaded: its SHA-256 is not the one in {PINS}"
    return "is not the published file: its SHA-256 differs"


def other_content(start: bytes) -> str | None:
    """What a file that starts with these bytes is in place of weights, as for `flaw_of`; None if it may be weights."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        return "is a web page that was saved in its stead"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not what it points to"
    return None


def expected_sha256(weight: Weight, folder: Path) -> str | None:
    """The SHA-256 that a file in `folder` is held to; None for one that is unpinned and was not downloaded there."""
    return read_pins(folder).get(weight.name) if weight.sha256 == UNPINNED else weight.sha256


def read_pins(folder: Path) -> dict[str, str]:
    """The SHA-256 of unpinned files by name, as they were when first downloaded into `folder`."""
    try:
        text = (folder / PINS).read_text("utf-8")
        return {name: str(digest) for name, digest in tomllib.loads(text).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {folder / PINS}: {error}; delete it to trust the files beside it anew") from error


def _flaw_of_own(path: Path, weight: Weight) -> str | None:
    other = next((other.name for other in manifest().values() if path.name in other.names), None)
    if other is not None:
        return f"is not the published file: it has the name of another one, {other}"
    logger.info("%s is taken for %s; its name is its own, so its content is not compared", path, weight.name)
    return None


@cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """Of a file's content; read once in a process, unless the file's size or time of change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
