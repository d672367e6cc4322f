"""Find the weight files of networks. This module never goes online: `download` does, on request."""

import hashlib
import logging
import os
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path

from imc_kit.errors import KitError, unknown_name

logger = logging.getLogger(__name__)

UNPINNED = "unpinned"
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
PINS = "pins.toml"
"""The file, in the folder of downloads, with the SHA-256 of unpinned files at their first download, by name."""

_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Weight:
    """A published file, as described in weights.toml.

    sha256: of its content, hexadecimal, or `UNPINNED`.
    license: an SPDX identifier, or a few words.
    used_by: names of detectors, matchers and global descriptors.
    bytes: its size; 0 if unknown.
    aliases: other file names that are accepted, such as those in torch's cache.
    """

    name: str
    url: str
    sha256: str
    license: str
    redistributable: bool
    used_by: tuple[str, ...]
    bytes: int = 0
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All accepted file names."""
        return (self.name, *self.aliases)


@cache
def manifest() -> dict[str, Weight]:
    """All known files by name."""
    table = tomllib.loads(resources.files("imc_kit.runtime").joinpath("weights.toml").read_text("utf-8"))
    for facts in table.values():
        facts |= {key: tuple(facts.get(key, ())) for key in ("used_by", "aliases")}
    return {name: Weight(name, **facts) for name, facts in table.items()}


class MissingWeightsError(KitError):
    """A weight file was not found."""


def find(name: str, explicit: Path | None = None) -> Path:
    """Find the published file `name`, check its content, and return its path.

    explicit: a file, or a folder that holds it; no other place is searched. A file whose name is not a published one is
        accepted with any content, because it may be retrained. Without `explicit`, `places` are searched, and a file
        with wrong content is skipped with a warning.

    Raises `KitError` for an unknown name, or if no usable file is found. The message lists the flaws of the files
    found, the folders searched, the command that downloads the file, and its licence.
    """
    if name not in manifest():
        raise unknown_name("weight file", name, manifest())
    weight = manifest()[name]
    is_file = explicit is not None and explicit.is_file()
    folders = places() if explicit is None else [explicit]
    flaws: list[str] = []
    for path in folders if is_file else [path for _, path in present(folders, [weight])]:
        flaw = flaw_of(path, weight)
        if flaw is None:
            for skipped in flaws:
                logger.warning("weight file %s; using %s", skipped, path)
            return path
        flaws.append(f"{path} {flaw}")
    looked = [] if is_file else [f"looked in {', '.join(map(str, folders))}"]
    target = f" --to {explicit}" if explicit is not None and explicit.is_dir() else ""
    state = f"weight file {name} is {'not usable' if flaws else 'missing'}: {'; '.join([*flaws, *looked])}"
    get = f"get it with 'imc-kit weights get {name}{target}' (licence: {weight.license}; from {weight.url})"
    raise MissingWeightsError(f"{state}; {get}, or put it into a folder that IMC_KIT_WEIGHTS names")


def missing(names: Iterable[str]) -> list[str]:
    """Those of the published files that are in none of the usual places."""
    known = manifest()
    return [name for name in names if not any(present(places(), [known[name]]))]


def places() -> list[Path]:
    """The folders to search, in order.

    They are those in the environment variable IMC_KIT_WEIGHTS, `weights` in a checkout of this project, the folder of
    attached inputs with all its subfolders, and torch's download cache, if there is a home folder.
    """
    named = [expanded(folder) for folder in os.environ.get("IMC_KIT_WEIGHTS", "").split(os.pathsep) if folder]
    if (_CHECKOUT / "pyproject.toml").is_file():
        named.append(_CHECKOUT / "weights")
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    torch_home = os.environ.get("TORCH_HOME") or f"{cache_home}/torch"
    return [place for place in (*named, _attached(), expanded(f"{torch_home}/hub/checkpoints")) if place]


def expanded(folder: Path | str) -> Path | None:
    """The folder, with the home folder in place of `~`; None if there is no home, as for a container's `--user`."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        return None


def _attached() -> Path:
    """The folder of attached inputs, as in `kaggle.input_root`, which this lower layer must not import."""
    return Path(os.environ.get("IMC_KIT_INPUT", "/kaggle/input"))


def download_folder() -> Path:
    """The default folder for downloads: the first of `places` that is not the folder of attached inputs.

    Raises `KitError` if there is none.
    """
    for place in places():
        if place != _attached():
            return place
    raise KitError("there is no home folder for weight files: name a folder in IMC_KIT_WEIGHTS")


def present(folders: Iterable[Path], wanted: Iterable[Weight]) -> Iterator[tuple[Weight, Path]]:
    """The files in `folders`, in that order, that have the name of a wanted file. Does not read their content."""
    by_name = {name: weight for weight in wanted for name in weight.names}
    for folder in folders:
        if folder == _attached():  # attached data sets may lie at any depth
            paths = [path for path in _files(folder) if path.name in by_name]
        else:
            paths = [folder / name for name in by_name]
        yield from ((by_name[path.name], path) for path in paths if path.is_file())


def renamed(folders: Iterable[Path]) -> Iterator[tuple[Weight, Path]]:
    """The files in `folders` that have the content of a published file, but not its name.

    Reads every file with a suffix of weights or the size of a published file, if it has another name.
    """
    by_content = {weight.sha256: weight for weight in manifest().values()}
    sizes = {weight.bytes for weight in manifest().values()} - {0}
    for path in (path for folder in folders for path in _files(folder)):
        with suppress(OSError):  # what cannot be read is not recognised
            status = path.stat()
            if path.is_file() and (path.suffix.lower() in SUFFIXES or status.st_size in sizes):
                weight = by_content.get(_sha256(path, status.st_size, status.st_mtime_ns))
                if weight and path.name not in weight.names:
                    yield weight, path


def _files(folder: Path) -> list[Path]:
    """The files of a folder; of that of attached inputs, where data sets may lie at any depth, also the subfolders'."""
    levels = os.walk(folder)
    wanted = levels if folder == _attached() else islice(levels, 1)
    return sorted(Path(at) / name for at, _, names in wanted for name in names)


def usable(folders: Iterable[Path], weight: Weight) -> Path | None:
    """The first file in `folders` that is `weight`, by name and content; None if there is none."""
    return next((path for _, path in present(folders, [weight]) if flaw_of(path, weight) is None), None)


def flaw_of(path: Path, weight: Weight) -> str | None:
    """The flaw of a file that should be `weight`, as a clause that follows its path in a message; None if it has none.

    A file whose name is not a published one is only checked by `other_content`.
    """
    try:
        status = path.stat()
        if flaw := other_content(path):
            return flaw
        if path.name not in weight.names:
            if other := next((other.name for other in manifest().values() if path.name in other.names), None):
                return f"is not the published file: it has the name of another one, {other}"
            logger.info("using %s for %s; its content is not checked, because it has another name", path, weight.name)
            return None
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


def other_content(path: Path) -> str | None:
    """What a file's first bytes show it to be instead of weights, worded as in `flaw_of`; None if it may be weights."""
    with path.open("rb") as file:
        start = file.read(1024)
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        return "is a web page that was saved instead"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself"
    return None


def expected_sha256(weight: Weight, folder: Path) -> str | None:
    """The SHA-256 that a file in `folder` must have; None if it is unpinned and was not downloaded there."""
    return read_pins(folder).get(weight.name) if weight.sha256 == UNPINNED else weight.sha256


def read_pins(folder: Path) -> dict[str, str]:
    """The SHA-256, by name, of unpinned files at their first download into `folder`."""
    path = folder / PINS
    try:
        return {name: str(digest) for name, digest in tomllib.loads(path.read_text("utf-8")).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {path}: {error}; delete it to trust the files in its folder again") from error


@cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """The SHA-256 of a file, read once per process unless its size or modification time changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
