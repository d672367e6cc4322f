"""Python environments for rehearsals: a base with the packages of Kaggle's image, and a fresh environment on top of it.

The base is made once and kept. Each rehearsal gets a fresh environment, as each session on Kaggle does.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from imc_kit.errors import KitError
from imc_kit.kaggle import guard, install
from imc_kit.kaggle.checkout import run
from imc_kit.runtime.weights import expanded

Torch = Literal["auto", "install", "borrow", "none"]

_WITH_TORCH = ("torch", "torchvision", "timm")
_HUGE = ("torch", "triton", "nvidia-", "cuda-")
"""The beginnings of the names of packages that take gigabytes."""
_FAILED = "no environment to rehearse in"


def find_python(version: str) -> Path:
    """An interpreter of this version, from the search path, pyenv or uv. Raises `KitError` if none runs."""
    pyenv = expanded(Path(os.environ.get("PYENV_ROOT") or "~/.pyenv", "versions"))
    uv = expanded("~/.local/share/uv/python")
    found = [*pyenv.glob(f"{version}.*/bin/python")] if pyenv else []
    found += uv.glob(f"cpython-{version}.*/bin/python{version}") if uv else []
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, (sys.executable, shutil.which(f"python{version}"), *sorted(map(str, found)))):
        asked = subprocess.run([candidate, "-I", "-c", code], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip() == version:  # a shim of pyenv may fail
            return Path(candidate)
    raise KitError(f"there is no Python {version} on this machine: install it, for example with uv, or give --python")


def which_torch(asked: Torch, manifest: Mapping[str, Any], version: str) -> Torch:
    """How to provide torch: as asked; for "auto", in the cheapest way that works.

    Raises `KitError` if torch is to be borrowed and this Python has none.
    """
    can_borrow = version == install.PYTHON and all(map(find_spec, ("torch", "torchvision")))
    if asked == "borrow" and not can_borrow:
        wanted = f"run this with a Python {version} that has it and torchvision, or give --torch install"
        raise KitError(f"there is no torch to borrow: {wanted}")
    if asked == "auto" and "torch" in manifest["needs"]:
        return "borrow" if can_borrow else "install"
    return "none" if asked == "auto" else asked


def base(interpreter: Path, pins: Sequence[str], torch: Torch, cache: Path) -> tuple[Path, str]:
    """The environment with the packages in `pins`, from the cache or new.

    pins: the packages of Kaggle's image and Jupyter, each as `NAME==VERSION --hash=…`: pip installs these files only.
    Returns its site-packages, and a text about the origin of torch. Raises `KitError` for a package without a hash.
    """
    if unhashed := [pin for pin in pins if "--hash=" not in pin]:
        raise KitError(f"the kit names {unhashed[0]} without a hash, as older ones do: build it again")
    borrowed = _with_requirements(("torch", "torchvision")) if torch == "borrow" else {}
    said = ", ".join(f"{one.name} {one.version}" for name, one in borrowed.items() if name in _WITH_TORCH)
    about_torch = {
        "none": "not installed",
        "install": f"{versions(pins, _WITH_TORCH)}, installed",
        "borrow": f"borrowed from {sys.executable}, not Kaggle's: {said}",
    }[torch]
    version = run([str(interpreter), "-VV"], _FAILED)
    identity = json.dumps([str(interpreter), version, sorted(pins), about_torch])
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not (folder / "ready").is_file():
        print(f"making an environment in {folder} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        run([str(interpreter), "-I", "-m", "venv", str(folder)], _FAILED)
        left_out = {"install": (), "borrow": _HUGE, "none": (*_HUGE, "timm")}[torch]
        lock = folder / "requirements.txt"
        lock.write_text("\n".join(pin for pin in pins if not pin.startswith(left_out)), "utf-8")
        pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock)], _FAILED)
        _link(borrowed.values(), site(folder))
        (folder / "ready").touch()
    return site(folder), about_torch


def versions(pins: Iterable[str], names: tuple[str, ...]) -> str:
    """The packages of these names, as in "numpy 2.0.2, pandas 2.2.2"."""
    found = (pin.split()[0].split("==") for pin in pins)
    return ", ".join(f"{name} {version}" for name, version in found if name in names)


def fresh(interpreter: Path, base: Path, folder: Path) -> Path:
    """Make a new environment in `folder` on top of the site-packages `base`; returns its interpreter.

    In a rehearsal, each of its processes loads `guard`, which blocks and records calls to the network.
    """
    run([str(interpreter), "-I", "-m", "venv", "--without-pip", str(folder)], _FAILED)
    shutil.copyfile(guard.__file__, site(folder) / "imc_kit_guard.py")
    (site(folder) / "imc_kit_guard.pth").write_text("import imc_kit_guard; imc_kit_guard.start()\n", "utf-8")
    (site(folder) / "imc_kit_base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n", "utf-8")
    return folder / "bin" / "python"


def _with_requirements(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """The named distributions of this Python and everything that they require, by normalised name."""
    found: dict[str, metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = pending.pop().lower().replace("_", "-")
        one = next(iter(metadata.Distribution.discover(name=name)), None)
        if one is None or name in found:
            continue
        found[name] = one
        # Packages that only other platforms require are not installed here, so only extras must be skipped.
        pending += [re.split(r"[^\w.-]", need)[0] for need in one.requires or () if "extra ==" not in need]
    return found


def _link(distributions: Iterable[metadata.Distribution], site: Path) -> None:
    """Link the packages into `site`, unless a file or folder of that name exists."""
    for one in distributions:
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in sorted(tops):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(one.locate_file(top))))


def site(environment: Path) -> Path:
    """The site-packages of an environment."""
    return next(environment.glob("lib/python3*/site-packages"))
