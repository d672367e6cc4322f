"""On Kaggle: what is attached, which kind of run this is. (`build` makes the kit, `rehearse` tries it at home.)"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imc_kit.errors import KitError
from imc_kit.kaggle import install
from imc_kit.kaggle.inputs import input_root

RunType = Literal["interactive", "batch", "rerun", "local"]
"""A session at the screen; "Save & Run All"; the scoring of a submission, on the hidden photographs; not on Kaggle."""

_DEEPEST = 4
"""Folders below the input root: datasets/OWNER/SLUG, and one more where a folder was zipped whole."""


@dataclass(frozen=True)
class Session:
    """What a notebook has to work with.

    kit: the folder of the attached kit. version, commit, preset: what it was built from and for.
    competition: the folder of the attached competition's data.
    """

    kit: Path
    version: str
    commit: str
    preset: str
    competition: Path
    run_type: RunType

    def __str__(self) -> str:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"imc_kit {self.version} ({self.commit}), preset {self.preset}, Python {python}, {self.run_type} run\n"
            f"kit: {self.kit}\ncompetition: {self.competition}"
        )


def attach(root: Path | None = None, competition: str | None = None) -> Session:
    """Find the kit and the competition, check the kit's weights, and let `weights.find` look there first.

    root: where inputs are mounted; IMC_KIT_INPUT or /kaggle/input when left out.
    competition: the name of its folder, needed only where several are attached.

    Raises `KitError` when one of them is missing or not the only one, a weight file is damaged, or the working folder
    cannot be written.
    """
    root = input_root() if root is None else root
    kit = find_kit(root)
    data = find_competition(root, competition)
    try:
        manifest = install.read_manifest(kit)
        install.verify(kit, "weights/")
    except install.InstallError as problem:
        raise KitError(str(problem)) from problem
    _check_writable(Path.cwd())
    others = os.environ.get("IMC_KIT_WEIGHTS")
    os.environ["IMC_KIT_WEIGHTS"] = os.pathsep.join([str(kit / "weights"), *([others] if others else [])])
    return Session(kit, manifest["version"], manifest["commit"], manifest["preset"], data, run_type())


def run_type() -> RunType:
    """Which kind of run this is, by the variables that Kaggle sets."""
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN", "").lower() not in ("", "0", "false"):
        return "rerun"
    kinds: dict[str, RunType] = {"Interactive": "interactive", "Batch": "batch"}
    return kinds.get(os.environ.get("KAGGLE_KERNEL_RUN_TYPE", ""), "local")


def find_kit(root: Path) -> Path:
    """The folder of the one attached kit, in whichever way it is mounted. Raises `KitError` for none and for two."""
    kits = _find(root, "imc_kit.lock")
    if not kits:
        raise KitError(f"no kit is attached: {_attached(root)}; add the dataset that build_dataset.py made")
    if len(kits) > 1:
        raise KitError(f"more than one kit is attached: {', '.join(map(str, kits))}; remove all but one")
    return kits[0]


def find_competition(root: Path, name: str | None = None) -> Path:
    """The folder of the attached competition's data, called `name` if given. Raises `KitError` for none and for two."""
    found = [folder for folder in _find(root, "sample_submission.csv") if name in (None, folder.name)]
    if not found:
        called = f"called {name} " if name else ""
        raise KitError(f"no competition {called}is attached: {_attached(root)}; add the competition's data as an input")
    if len(found) > 1:
        raise KitError(
            f"more than one competition is attached: {', '.join(map(str, found))}; name one: attach(competition=…)"
        )
    return found[0]


def _find(root: Path, file: str) -> list[Path]:
    """The folders below `root` that hold `file`. Nothing inside a kit or a competition is listed: it may be large."""

    def below(folder: Path, depth: int) -> Iterator[Path]:
        try:
            with os.scandir(folder) as entries:
                folders, files = [], set()
                for entry in entries:
                    if entry.is_dir():
                        folders.append(entry.name)
                    else:
                        files.add(entry.name)
        except OSError:
            return
        if file in files:
            yield folder
        elif depth < _DEEPEST and not files & {"imc_kit.lock", "sample_submission.csv"}:
            for name in sorted(folders):
                yield from below(folder / name, depth + 1)

    return list(below(root, 0))


def _attached(root: Path) -> str:
    if not root.is_dir():
        return f"there is no folder {root}"
    names = sorted(entry.name for entry in root.iterdir())
    return f"{root} holds {', '.join(names) or 'nothing'}"


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        raise KitError(
            f"the working folder {folder} cannot be written ({error.strerror}): free some space, or run in another one"
        ) from error
