"""Installs an attached kit into the running Python, without a network and without touching what is there.

`build.py` puts a copy of this file into every kit, where the notebook's first cell runs it before anything of the kit
is installed: so it uses the standard library alone, and imports nothing of this package.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FORMAT = "imc-kit 1"
UNTOUCHED = ("torch", "torchvision", "numpy", "opencv-python", "opencv-contrib-python", "opencv-python-headless")
"""Never in a kit: an installation must leave these as they are."""


class InstallError(Exception):
    """Something a person can put right; the message is one sentence that says what."""


def read_manifest(kit: Path) -> dict[str, Any]:
    """What the kit says of itself: version, commit, pythons, needs, and every file with its SHA-256 and size.

    Raises `InstallError` when there is no manifest, or it is not one of a kit.
    """
    path = kit / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InstallError(
            f"the kit in {kit} has no manifest.json: its upload was not complete, so upload it again"
        ) from None
    except (OSError, ValueError) as error:
        raise InstallError(f"{path} cannot be read ({error}): upload the kit again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InstallError(
            f"{path} is not the manifest of a kit of this version ({FORMAT}): build and upload the kit again"
        )
    return manifest


def verify(kit: Path, folder: str = "") -> None:
    """Check the SHA-256 of the kit's files whose names start with `folder`; `InstallError` tells the first flaw."""
    for file in read_manifest(kit)["files"]:
        if not file["name"].startswith(folder):
            continue
        path = kit / file["name"]
        if not path.is_file():
            raise InstallError(f"{path} is missing: the kit's upload was not complete, so upload it again")
        size = path.stat().st_size
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() == file["sha256"]:
                continue
        flaw = (
            f"has {size:,} of {file['bytes']:,} bytes" if size != file["bytes"] else "is damaged: its SHA-256 differs"
        )
        raise InstallError(f"{path} {flaw}, so nothing of the kit is used: upload the kit again")


def install(kit: Path) -> None:
    """Install the kit's wheels for the running Python. Raises `InstallError`, if possible before anything is changed.

    Each wheel is checked against the manifest and, by pip, against the lock. Nothing else is installed or replaced.
    """
    started = time.monotonic()
    manifest = read_manifest(kit)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running not in manifest["pythons"]:
        raise InstallError(
            f"this kit has wheels for Python {' and '.join(manifest['pythons'])} but the notebook runs {running}:"
            f" build it with --python {running}, or pin the notebook's environment to an earlier one"
        )
    verify(kit)
    before = _versions(UNTOUCHED)
    command = [
        sys.executable, "-m", "pip", "install", "--isolated", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-index", "--no-deps", "--require-hashes", "--no-warn-script-location", "--root-user-action", "ignore",
        "--find-links", str(kit / "wheels"), "--requirement", str(kit / "imc_kit.lock"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise InstallError(f"pip could not install the kit's wheels: {said[-1].removeprefix('ERROR: ')}")
    importlib.invalidate_caches()
    changed = {name: version for name, version in _versions(UNTOUCHED).items() if before.get(name) != version}
    if changed:
        raise InstallError(f"the installation changed {changed}, which it must not: build the kit again")
    _check_needs(manifest["needs"])
    print(
        f"imc_kit {manifest['version']} ({manifest['commit']}) installed from {kit}"
        f" in {time.monotonic() - started:.0f} s"
    )


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_needs(needs: dict[str, dict[str, str]]) -> None:
    """Raise `InstallError` when a package that the image should provide is missing, of another version, or broken."""
    for name, need in needs.items():
        if name.startswith("opencv"):  # several builds provide the same module
            if find_spec("cv2") is None:
                raise InstallError("the notebook's Python has no OpenCV (cv2), which Kaggle's image should provide")
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise InstallError(
                f"the notebook's Python has no {name}, which the kit expected of Kaggle's image:"
                f" leave it out of the constraints file, lock and build again, and it will be in the kit"
            ) from None
        if not _numbers(need["from"]) <= _numbers(version) < _numbers(need["below"]):
            raise InstallError(
                f"the notebook's Python has {name} {version}, but the kit needs {need['from']} or newer, below"
                f" {need['below']}: choose another environment for the notebook"
            )
    if "numba" in needs:  # each of its versions has a newest NumPy
        try:
            importlib.import_module("numba")
        except ImportError as error:
            raise InstallError(
                f"the notebook's numba cannot be loaded ({error}): choose another environment for the notebook"
            ) from error


def _numbers(version: str) -> tuple[int, ...]:
    """'2.11.0+cu128' → (2, 11, 0), which compares as versions do."""
    return tuple(map(int, re.match(r"\d+(\.\d+)*", version)[0].split(".")))  # type: ignore[index]
