"""Python environments for rehearsals: a base with the packages of Kaggle's image, and a fresh environment on top of it.

The base is made once and kept. The fresh environment is new for each rehearsal, as a session on Kaggle is.
"""

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
from imc_kit.kaggle.checkout import run

Torch = Literal["auto", "install", "borrow", "none"]

_JUPYTER = ("nbclient", "ipykernel")
_WITH_TORCH = ("torch", "torchvision", "timm")
"""Gigabytes to install, so they are handled apart from the other packages of the image."""
_FAILED = "no environment to rehearse in"
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
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "-I", "-c", code], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip() == version:  # a shim of pyenv may fail
            return Path(candidate)
    raise KitError(f"there is no Python {version} on this machine: install it, for example with uv, or give --python")


def default_python(pythons: Sequence[str]) -> str:
    """The version of this Python if it is one of these, else the first of these."""
    return _OWN if _OWN in pythons else pythons[0]


def which_torch(asked: Torch, manifest: Mapping[str, Any], version: str) -> Torch:
    """What to do for torch: what was asked for; for "auto" the cheapest way that works.

    Raises `KitError` if torch is to be borrowed and this Python has none.
    """
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
    """The environment with the packages in `pins` and Jupyter, from the cache or new.

    pins: packages of Kaggle's image as NAME==VERSION. Returns its site-packages, and the borrowed packages in words.
    """
    borrowed = _with_requirements(("torch", "torchvision")) if torch == "borrow" else {}
    said = ", ".join(f"{one.name} {one.version}" for name, one in borrowed.items() if name in _WITH_TORCH)
    version = subprocess.run([interpreter, "-VV"], capture_output=True, text=True).stdout
    identity = json.dumps([str(interpreter), version, sorted(pins), torch, said, _JUPYTER])
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not (folder / "ready").is_file():
        print(f"making an environment in {folder} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        run([str(interpreter), "-m", "venv", str(folder)], _FAILED)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        with_torch = [pin for pin in pins if pin.split("==")[0] in _WITH_TORCH]
        run([*pip, *_JUPYTER, *(pin for pin in pins if pin not in with_torch)], _FAILED)
        timm = [pin for pin in with_torch if pin.startswith("timm==")]  # none if the kit brings timm
        if torch == "install":
            run([*pip, *with_torch], _FAILED)
        elif torch == "borrow":
            if timm:
                run([*pip, "--no-deps", *timm], _FAILED)
            _link(borrowed.values(), site(folder))
        (folder / "ready").touch()
    return site(folder), said


def fresh(interpreter: Path, base: Path, folder: Path) -> Path:
    """Make a new environment in `folder` on top of the site-packages `base`; returns its interpreter."""
    run([str(interpreter), "-m", "venv", "--without-pip", str(folder)], _FAILED)
    (site(folder) / "imc_kit_base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n", "utf-8")
    return folder / "bin" / "python"


def _with_requirements(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """The named distributions of this Python and everything that they require, by normalised name."""
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
    """Link the packages into `site`, except where a file or folder of that name is there already."""
    for one in distributions:
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in sorted(tops):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(one.locate_file(top))))


def site(environment: Path) -> Path:
    """The site-packages of an environment."""
    return next(environment.glob("lib/python3*/site-packages"))
