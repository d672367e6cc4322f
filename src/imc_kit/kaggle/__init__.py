"""The kit on Kaggle: what is attached to the notebook, and which kind of run this is.

`build` makes the offline kit, `rehearse` runs its notebook at home, `limits` holds Kaggle's limits, as the nine hours.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imc_kit.errors import KitError
from imc_kit.kaggle.inputs import input_root
from imc_kit.kaggle.install import InstallError, read_manifest, verify

RunType = Literal["interactive", "batch", "rerun", "local"]
"""An open session; "Save & Run All"; the scoring of a submission on the hidden images; not on Kaggle."""

_KIT_FILE, _COMPETITION_FILE = "imc_kit.lock", "sample_submission.csv"
"""The files by which a kit and a competition are recognised."""
_DEEPEST = 4
"""How many folders below the input root a kit or a competition may be. Kaggle mounts datasets/OWNER/SLUG, and a folder
that was zipped as a whole adds one more."""


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
    """Find the kit and the competition, check the kit's weight files, and let `weights.find` look there first.

    root: where inputs are mounted; default: IMC_KIT_INPUT or /kaggle/input.
    competition: the name of its folder; needed only if several competitions are attached.

    Raises `KitError` if the kit or the competition is missing or ambiguous, if a weight file is damaged, or if the
    working folder cannot be written.
    """
    root = input_root() if root is None else root
    kit = find_kit(root)
    data = find_competition(root, competition)
    manifest = manifest_of(kit, verified="weights/")
    _check_writable(Path.cwd())
    others = os.environ.get("IMC_KIT_WEIGHTS")
    os.environ["IMC_KIT_WEIGHTS"] = os.pathsep.join([str(kit / "weights"), *([others] if others else [])])
    return Session(kit, manifest["version"], manifest["commit"], manifest["preset"], data, run_type())


def run_type() -> RunType:
    """The kind of this run, according to the variables that Kaggle sets."""
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN", "").lower() not in ("", "0", "false"):
        return "rerun"
    kinds: dict[str, RunType] = {"Interactive": "interactive", "Batch": "batch"}
    return kinds.get(os.environ.get("KAGGLE_KERNEL_RUN_TYPE", ""), "local")


def find_kit(root: Path) -> Path:
    """The folder of the attached kit. Raises `KitError` unless there is exactly one."""
    add = "add the dataset that build_dataset.py made"
    return _only(_folders_with(root, _KIT_FILE), "kit", add, "remove all but one", root)


def find_competition(root: Path, name: str | None = None) -> Path:
    """The folder of the attached competition's data. Raises `KitError` unless there is exactly one.

    name: the folder's name, to choose one of several competitions.
    """
    found = [folder for folder in _folders_with(root, _COMPETITION_FILE) if name in (None, folder.name)]
    what = f"competition called {name}" if name else "competition"
    return _only(found, what, "add the competition's data as an input", "name one: attach(competition=…)", root)


def _only(found: list[Path], what: str, add: str, choose: str, root: Path) -> Path:
    if not found:
        names = ", ".join(sorted(entry.name for entry in root.iterdir())) if root.is_dir() else ""
        holds = f"{root} holds {names or 'nothing'}" if root.is_dir() else f"there is no folder {root}"
        raise KitError(f"no {what} is attached: {holds}; {add}")
    if len(found) > 1:
        raise KitError(f"more than one {what} is attached: {', '.join(map(str, found))}; {choose}")
    return found[0]


def manifest_of(kit: Path, verified: str | None = None) -> dict[str, Any]:
    """The kit's manifest. verified: check the files whose names start with this. Raises `KitError` for a flaw."""
    try:
        if verified is not None:
            verify(kit, verified)
        return read_manifest(kit)
    except InstallError as problem:
        raise KitError(str(problem)) from problem


def _folders_with(root: Path, file: str) -> list[Path]:
    """The folders below `root` that hold `file`. Folders inside a kit or a competition are not read: they are large."""
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        if file in files:
            found.append(Path(folder))
        depth = len(Path(folder).relative_to(root).parts)
        inside = not {_KIT_FILE, _COMPETITION_FILE}.isdisjoint(files)
        folders[:] = [] if inside or depth == _DEEPEST else sorted(folders)
    return found


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))  # 1 MiB, more than a file system reserves for an empty file
    except OSError as error:
        raise KitError(
            f"the working folder {folder} cannot be written ({error.strerror}): free some space, or run in another one"
        ) from error
