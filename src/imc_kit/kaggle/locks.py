"""What each Python of Kaggle's images has, and what it lacks.

For each version, `wheels/` holds a file of constraints (the packages of the image, written by hand) and a lock (the
packages that the kit adds, with hashes, resolved by uv).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from imc_kit.errors import KitError
from imc_kit.kaggle import install
from imc_kit.kaggle.checkout import CHECKOUT, run

PYTHONS = ("3.12", "3.13")
"""The Python versions of Kaggle's images (November 2026)."""


class Locked(NamedTuple):
    """A package of a lock, with the SHA-256 of each of its published files."""

    name: str
    version: str
    hashes: tuple[str, ...]


def lock(python: str) -> None:
    """Resolve what Kaggle's image for this Python lacks and write wheels/kaggle-VERSION.lock. Needs uv."""
    if find_spec("uv") is None:
        raise KitError('locking needs uv: pip install "imc-kit[build]"')
    present = image(python)
    with tempfile.TemporaryDirectory() as folder:
        wanted, settings = Path(folder, "wanted.in"), Path(folder, "uv.toml")
        wanted.write_text("\n".join(requirements()), "utf-8")
        # The requirements of the image's packages are met in the image. Without them uv does not download torch (3 GB).
        tables = (
            f"[[dependency-metadata]]\nname = '{name}'\nversion = '{version}'\nrequires-dist = []\n"
            for name, version in present.items()
        )
        settings.write_text("".join(tables), "utf-8")
        command = [
            sys.executable, "-m", "uv", "--quiet", "--no-python-downloads", "--config-file", str(settings),
            "pip", "compile", str(wanted), "--constraint", str(constraints(python)), "--python-version", python,
            "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:",
            "--generate-hashes", "--no-annotate", "--no-header",
            *(word for name in present for word in ("--no-emit-package", name)),
        ]  # fmt: skip
        text = run(command, f"uv could not lock Python {python}")
    missing = parse(text)
    _refuse_untouchable(missing)
    header = f"# What Kaggle's image for Python {python} lacks (build_dataset.py --lock wrote this; do not edit).\n"
    _path(python).write_text(f"{header}# Inputs: {_inputs(python)}\n{text}", "utf-8")
    print(f"{_path(python)}: {', '.join(f'{entry.name} {entry.version}' for entry in missing)}")


def read(python: str) -> list[Locked]:
    """The lock of a Python version. Raises `KitError` if it is missing or was made from other requirements."""
    path = _path(python)
    text = path.read_text("utf-8") if path.is_file() else ""
    if f"# Inputs: {_inputs(python)}\n" not in text:
        raise KitError(
            f"{path} is {'out of date' if text else 'missing'}: the requirements in pyproject.toml or the constraints"
            f" in {constraints(python).name} changed; run build_dataset.py with --lock --python {python}"
        )
    entries = parse(text)
    _refuse_untouchable(entries)
    return entries


def image(python: str) -> dict[str, str]:
    """The packages of Kaggle's image: versions by normalised name. Raises `KitError` for a line of another form."""
    present = {}
    for number, line in enumerate(constraints(python).read_text("utf-8").splitlines(), 1):
        pin = line.partition("#")[0].strip()
        if not pin:
            continue
        found = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)", pin)
        if found is None:
            raise KitError(f"{constraints(python)}, line {number}, says {pin!r}: write it as NAME==VERSION")
        present[normal(found[1])] = found[2]
    return present


def constraints(python: str) -> Path:
    """The file that lists the packages of Kaggle's image for this Python."""
    return CHECKOUT / "wheels" / f"kaggle-constraints-{python}.txt"


def requirements(*, learned: bool = True) -> list[str]:
    """The requirements of this package, with or without those of learned features."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *(project["optional-dependencies"]["learned"] if learned else [])]


def parse(text: str) -> list[Locked]:
    """The entries of a lock file in pip's format, NAME==VERSION followed by hashes."""
    entries = re.findall(r"^([\w.-]+)==(\S+)(.*(?:\n .*)*)", text, re.MULTILINE)
    return [Locked(name, version, tuple(re.findall(r"sha256:(\w+)", rest))) for name, version, rest in entries]


def normal(name: str) -> str:
    """A package's name in the normalised form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _path(python: str) -> Path:
    return CHECKOUT / "wheels" / f"kaggle-{python}.lock"


def _inputs(python: str) -> str:
    """A hash of everything that a lock is resolved from."""
    content = json.dumps([requirements(), image(python)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _refuse_untouchable(entries: Sequence[Locked]) -> None:
    bad = [entry.name for entry in entries if entry.name in install.UNTOUCHED or entry.name.startswith("nvidia")]
    if bad:
        raise KitError(
            f"{', '.join(bad)} must come from Kaggle's image, not from a kit: add it to the constraints file"
        )
