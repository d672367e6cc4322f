"""The kit on Kaggle: finds the attached kit and competition, and the kind of run.

`build` makes the offline kit, `rehearse` runs its notebook at home, `limits` holds Kaggle's limits, such as nine hours.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imc_kit.errors import KitError
from imc_kit.kaggle.install import PYTHON, InstallError, read_manifest, verify
from imc_kit.runtime import malloc

RunType = Literal["interactive", "batch", "rerun", "local"]
"""An open session; "Save & Run All"; the scoring of a submission on the hidden images; not on Kaggle."""

_KIT_FILE, _COMPETITION_FILE = "imc_kit.lock", "sample_submission.csv"
"""The files that identify a kit and a competition."""
_DEEPEST = 4
"""Folder levels to search below the input root. Kaggle mounts datasets/OWNER/SLUG, and a folder that was zipped as a
whole adds one level."""


@dataclass(frozen=True)
class Session:
    """The inputs of a notebook, and the kind of run.

    kit: the folder of the attached kit. version, commit: what it was built from. preset: what it was built for.
    competition: the folder of the attached competition's data.
    """

    kit: Path
    version: str
    commit: str
    preset: str
    competition: Path
    run_type: RunType

    def __str__(self) -> str:
        about = f"imc_kit {self.version} ({self.commit}), preset {self.preset}, Python {PYTHON}, {self.run_type} run"
        return f"{about}\nkit: {self.kit}\ncompetition: {self.competition}"


def attach(root: Path | None = None, competition: str | None = None) -> Session:
    """Find the kit and the competition, check the kit's weight files, and make `weights.find` search them first.

    This process stays changed: IMC_KIT_WEIGHTS names the kit's weight files, and memory is allocated as `malloc.tune`
    says.

    root: the folder of mounted inputs; default: IMC_KIT_INPUT or /kaggle/input.
    competition: the name of its folder; needed only if several competitions are attached.

    Raises `KitError` if the kit or the competition is missing or ambiguous, if a weight file is damaged, or if the
    working folder cannot be written.
    """
    root = input_root() if root is None else root
    kit = _find(root, _KIT_FILE, "kit", "add the dataset that build_dataset.py made", "remove all but one")
    what = f"competition called {competition}" if competition else "competition"
    add, choose = "add the competition's data as an input", "name one: attach(competition=…)"
    data = _find(root, _COMPETITION_FILE, what, add, choose, competition)
    manifest = manifest_of(kit, verified="weights/")
    _check_writable(Path.cwd())
    malloc.tune()
    others = os.environ.get("IMC_KIT_WEIGHTS")
    os.environ["IMC_KIT_WEIGHTS"] = os.pathsep.join([str(kit / "weights"), *([others] if others else [])])
    return Session(kit, manifest["version"], manifest["commit"], manifest["preset"], data, run_type())


def input_root() -> Path:
    """The folder of attached inputs: `/kaggle/input`, or IMC_KIT_INPUT if set, as in a rehearsal."""
    return Path(os.environ.get("IMC_KIT_INPUT", "/kaggle/input"))


def run_type() -> RunType:
    """The kind of this run, according to the variables that Kaggle sets."""
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN", "").lower() not in ("", "0", "false"):
        return "rerun"
    kinds: dict[str, RunType] = {"Interactive": "interactive", "Batch": "batch"}
    return kinds.get(os.environ.get("KAGGLE_KERNEL_RUN_TYPE", ""), "local")


def _find(root: Path, file: str, what: str, add: str, choose: str, name: str | None = None) -> Path:
    """The folder below `root` that holds `file` and is called `name`. Raises `KitError` unless there is exactly one.

    what: its name in messages. add, choose: the advice if there is none, or more than one.
    """
    found = [folder for folder in _folders_with(root, file) if name in (None, folder.name)]
    if not found:
        names = ", ".join(sorted(entry.name for entry in root.iterdir())) if root.is_dir() else ""
        holds = f"{root} holds {names or 'nothing'}" if root.is_dir() else f"there is no folder {root}"
        raise KitError(f"no {what} is attached: {holds}; {add}")
    if len(found) > 1:
        raise KitError(f"more than one {what} is attached: {', '.join(map(str, found))}; {choose}")
    return found[0]


def manifest_of(kit: Path, verified: str | None = None) -> dict[str, Any]:
    """The kit's manifest. verified: also check the files whose names start with this. Raises `KitError` for a flaw."""
    try:
        return read_manifest(kit) if verified is None else verify(kit, verified)
    except InstallError as problem:
        raise KitError(str(problem)) from problem


def _folders_with(root: Path, file: str) -> list[Path]:
    """The folders below `root` that hold `file`. Folders inside a kit or a competition are skipped: they are large."""
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
        said = f"the working folder {folder} cannot be written ({error.strerror})"
        raise KitError(f"{said}: free some space, or run in another one") from error
