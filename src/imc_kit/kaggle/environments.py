"""Environments to rehearse in: an interpreter, what Kaggle's image has, and a fresh environment on top of that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from imc_kit.errors import KitError
from imc_kit.kaggle.processes import run

Torch = Literal["auto", "install", "borrow", "none"]

_JUPYTER = ("nbclient", "ipykernel")
_WITH_TORCH = ("torch", "torchvision", "timm")
_NONE = "no environment to rehearse in"
_OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version of this Python."""


def find_python(version: str) -> Path:
    """An interpreter of this version, from the search path, pyenv or uv. Raises `KitError` if none runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        sys.executable,
        shutil.which(f"python{version}"),
        *sorted(map(str, pyenv.glob(f"{version}.*/bin/python"))),
        *sorted(map(str, (Path.home() / ".local/share/uv/python").glob(f"cpython-{version}.*/bin/python{version}"))),
    ]
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        asked = subprocess.run(
            [candidate, "-I", "-c", code], capture_output=True, text=True
        )  # pyenv's shims may refuse
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return Path(candidate)
    raise KitError(f"there is no Python {version} on this machine: install it, for example with uv, or give --python")


def default_python(pythons: Sequence[str]) -> str:
    """This Python's version if it is among these, else the first."""
    return _OWN if _OWN in pythons else pythons[0]


def which_torch(asked: Torch, manifest: Mapping[str, Any], version: str) -> Torch:
    """What is asked for, or the best that can be. Raises `KitError` where there is no torch to borrow."""
    can_borrow = version == _OWN and all(map(_is_installed, ("torch", "torchvision")))
    if asked == "borrow" and not can_borrow:
        raise KitError(
            f"there is no torch to borrow: run this with a Python {version} that has it and torchvision, or give"
            " --torch install"
        )
    if asked != "auto":
        return asked
    if "torch" not in manifest["needs"]:
        return "none"
    return "borrow" if can_borrow else "install"


def _is_installed(name: str) -> bool:
    return any(metadata.Distribution.discover(name=name))


def base(interpreter: Path, pins: Sequence[str], torch: Torch, cache: Path) -> tuple[Path, str]:
    """An environment with what Kaggle's image has of the packages in `pins`, and Jupyter; made once.

    Returns its site-packages, and which packages it borrows.
    """
    borrowed = _closure(("torch", "torchvision")) if torch == "borrow" else {}
    said = ", ".join(f"{one.name} {one.version}" for name, one in borrowed.items() if name in _WITH_TORCH)
    version = subprocess.run([interpreter, "-VV"], capture_output=True, text=True).stdout
    identity = json.dumps([str(interpreter), version, sorted(pins), torch, said, _JUPYTER])
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not (folder / "ready").is_file():
        print(f"making an environment in {folder} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        run([str(interpreter), "-m", "venv", str(folder)], _NONE)
        alone = [pin for pin in pins if pin.split("==")[0] in _WITH_TORCH]
        timm = [pin for pin in alone if pin.startswith("timm==")]  # not there where the kit brings it
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, *_JUPYTER, *(pin for pin in pins if pin not in alone)], _NONE)
        if torch == "install":
            run([*pip, *alone], _NONE)
        elif torch == "borrow":
            if timm:
                run([*pip, "--no-deps", *timm], _NONE)
            _link(borrowed.values(), site(folder))
        (folder / "ready").touch()
    return site(folder), said


def fresh(interpreter: Path, base: Path, folder: Path) -> Path:
    """A new environment on top of another's packages; returns its interpreter."""
    run([str(interpreter), "-m", "venv", "--without-pip", str(folder)], _NONE)
    (site(folder) / "imc_kit_base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n", "utf-8")
    return folder / "bin" / "python"


def _closure(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """The named distributions of this Python and all that they need, by normalised name."""
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = pending.pop().lower().replace("_", "-")
        one = next(iter(metadata.Distribution.discover(name=name)), None)
        if one is None or name in found:
            continue
        found[name] = one
        wanted = map(Requirement, one.requires or [])
        pending += [need.name for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def _link(distributions: Iterable[metadata.Distribution], site: Path) -> None:
    """Let the packages appear in `site`, where nothing else has their place."""
    for one in distributions:
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in sorted(tops):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(one.locate_file(top))))


def site(environment: Path) -> Path:
    """Where an environment has its packages."""
    return next(environment.glob("lib/python3*/site-packages"))
