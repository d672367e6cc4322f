"""The commands `imc-kit weights list`, `get` and `check`."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from imc_kit.cli.command import Command, Names
from imc_kit.config import PRESETS, preset
from imc_kit.errors import KitError, unknown_name
from imc_kit.runtime import weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class List(Command):
    """List the known weight files: what uses them, licence, size, and where they are."""

    def run(self) -> int:
        present = [*weights.present(weights.places(), weights.manifest().values())]
        here = {weight.name: path for weight, path in reversed(present)}  # the first place counts
        rows = [("name", "used by", "licence", "redistributable", "size", "here")]
        rows += [(*facts(weight), str(here.get(weight.name, "no"))) for weight in weights.manifest().values()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))
        return 0


@dataclass(frozen=True)
class Get(Command):
    """Download weight files: the only command that uses the network.

    The same command resumes a stopped download.
    """

    names: tyro.conf.Positional[Names] = ()
    """Files, or the detectors, matchers and global descriptors that use them: `imc-kit weights list` shows both."""
    preset: str | None = None
    """Get the files of this preset."""
    to: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Target folder. Default: the first of IMC_KIT_WEIGHTS, `weights` in a checkout, or torch's cache."""

    def run(self) -> int:
        """The exit status: 1 when a file could not be downloaded."""
        if not self.names and self.preset is None:
            raise KitError("name the files to get, or what uses them: 'imc-kit weights list' shows both")
        wanted = resolve([*self.names, *([] if self.preset is None else preset(self.preset).weight_files())])
        if not wanted:
            print(f"preset {self.preset} needs no weight files")
        got = [self._get(weight) for weight in wanted]
        return 0 if all(got) else 1

    def _get(self, weight: weights.Weight) -> bool:
        """Get one file if it is missing; returns whether it is here now."""
        here = weights.usable(weights.places() if self.to is None else [self.to], weight)
        if here is not None:
            print(f"{here} is here already")
            return True
        from imc_kit.runtime.download import fetch

        if not weight.redistributable:
            logger.warning("%s: you may use it but not pass it on (licence: %s)", weight.name, weight.license)
        try:
            print(fetch(weight, self.to or weights.download_folder()))
        except KitError as error:
            print(f"imc-kit: {error}", file=sys.stderr)
            return False
        return True

    def interrupted(self) -> str:
        return "interrupted: complete files are kept; run the same command to get the others"


@dataclass(frozen=True)
class Check(Command):
    """Compare the weight files here with the published ones, and name those that presets lack."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")] = None
    """Folder to check. Default: all the usual places."""
    preset: str | None = None
    """Name only what this preset lacks."""

    def run(self) -> int:
        """The exit status: 1 when a file differs from the published one, there is none, or `preset` lacks one."""
        if self.folder is not None and not self.folder.is_dir():
            raise KitError(f"{self.folder} is not a folder: give one that holds weight files")
        wanted = {name: preset(name).weight_files() for name in ([self.preset] if self.preset else PRESETS)}
        folders = weights.places() if self.folder is None else [self.folder]
        known = weights.manifest().values()
        renamed = {path: weight.name for weight, path in weights.renamed(folders)}
        right, flawed = set(), False
        for weight, path in weights.present(folders, known):
            flaw = weights.flaw_of(path, weight)
            flawed |= flaw is not None
            if flaw is None:
                right.add(weight.name)
                sure = weights.expected_sha256(weight, path.parent) is not None
                print(f"{path} is right" if sure else f"{path} has a known name, but its SHA-256 is not known")
            elif path not in renamed:
                print(f"imc-kit: {path} {flaw}", file=sys.stderr)
        for path, name in renamed.items():
            todo = f": to use it, {shlex.join(['mv', str(path), str(path.with_name(name))])}"
            print(f"{path} is {name} under another name{'' if name in right else todo}")
        names = {name for weight in known for name in weight.names}
        for path in sorted(self.folder.iterdir()) if self.folder is not None else []:
            if path.suffix.lower() in weights.SUFFIXES and path.name not in names and path not in renamed:
                print(f"{path} is no published file, by its name or by its content")
        if not (right or flawed or renamed or self.preset):
            print(f"imc-kit: no known weight file in {', '.join(map(str, folders))}", file=sys.stderr)
        target = f" --to {shlex.quote(str(self.folder))}" if self.folder else ""
        lacking = {name: set(files).difference(right, renamed.values()) for name, files in wanted.items()}
        for name, files in wanted.items():
            if lacking[name]:
                named = ", ".join(file for file in files if file in lacking[name])
                print(f"preset {name} lacks {named}: imc-kit weights get --preset {name}{target}")
            elif files or self.preset:
                print(f"preset {name} has all its weight files{'' if right.issuperset(files) else ', once renamed'}")
        enough = right.issuperset(wanted[self.preset]) if self.preset else right or renamed
        return 0 if enough and not flawed else 1


def resolve(names: Sequence[str]) -> list[weights.Weight]:
    """The weight files with these names, or used by these names, each once, in the manifest's order.

    Raises `KitError`, with the nearest name, for a name that is neither a weight file nor uses one.
    """
    known = weights.manifest().values()
    users = {user for weight in known for user in weight.used_by}
    for name in names:
        if name not in users and name not in weights.manifest():
            raise unknown_name("weight file or user of one", name, [*weights.manifest(), *users])
    return [weight for weight in known if {weight.name, *weight.used_by} & set(names)]


def facts(weight: weights.Weight) -> tuple[str, str, str, str, str]:
    """The cells of a table: the file's name, what uses it, licence, whether it may be redistributed, size."""
    size = f"{weight.bytes / 1e6:.1f} MB" if weight.bytes else "unknown"
    return weight.name, ", ".join(weight.used_by), weight.license, "yes" if weight.redistributable else "no", size
