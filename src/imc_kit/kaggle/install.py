"""Installs an attached kit into the running Python, without a network and without touching installed packages.

`build` copies this file into every kit. A cell of the notebook runs it before anything of the kit is installed, so it
uses the standard library only and imports nothing of this package.
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
"""The format of manifest.json."""
UNTOUCHED = ("torch", "torchvision", "numpy", "opencv-python", "opencv-contrib-python", "opencv-python-headless")
"""Packages that are never in a kit and that an installation must not change."""


class InstallError(Exception):
    """A problem that a person can solve; the message is one sentence."""


def read_manifest(kit: Path) -> dict[str, Any]:
    """The kit's manifest.json: version, commit, pythons, needs, and the SHA-256 and size of every file.

    Raises `InstallError` if there is none, or if it is not the manifest of a kit.
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


def verify(kit: Path, start: str = "") -> None:
    """Check the SHA-256 of the kit's files whose names begin with `start`. Raises `InstallError` for the first flaw."""
    for file in read_manifest(kit)["files"]:
        if file["name"].startswith(start):
            _verify_file(kit / file["name"], file)


def _verify_file(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise InstallError(f"{path} is missing: the kit's upload was not complete, so upload it again")
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() == expected["sha256"]:
            return
    size, wanted = path.stat().st_size, expected["bytes"]
    flaw = f"has {size:,} of {wanted:,} bytes" if size != wanted else "is damaged: its SHA-256 differs"
    raise InstallError(f"{path} {flaw}, so nothing of the kit is used: upload the kit again")


def install(kit: Path) -> None:
    """Install the kit's wheels for the running Python; no other package is installed or replaced.

    The manifest's hashes are checked here, the lock's by pip. Raises `InstallError`, if possible before any change.
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
    before = _versions()
    _pip_install(kit)
    changed = {name: version for name, version in _versions().items() if before.get(name) != version}
    if changed:
        raise InstallError(f"the installation changed {changed}, which it must not: build the kit again")
    _check_needs(manifest["needs"])
    seconds = time.monotonic() - started
    print(f"imc_kit {manifest['version']} ({manifest['commit']}) installed from {kit} in {seconds:.0f} s")


def _pip_install(kit: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--isolated", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-index", "--no-deps", "--require-hashes", "--no-warn-script-location", "--root-user-action", "ignore",
        "--find-links", str(kit / "wheels"), "--requirement", str(kit / "imc_kit.lock"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        raise InstallError(f"pip could not install the kit's wheels: {said[-1].removeprefix('ERROR: ')}")
    importlib.invalidate_caches()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    """The installed packages among those that must not change, with their versions."""
    return {name: version for name in UNTOUCHED if (version := _version(name)) is not None}


def _check_needs(needs: dict[str, dict[str, str]]) -> None:
    """Raise `InstallError` if a package that the image should provide is missing, of a wrong version, or broken."""
    for name, need in needs.items():
        if name.startswith("opencv"):  # several builds of OpenCV provide the module cv2
            if find_spec("cv2") is None:
                raise InstallError("the notebook's Python has no OpenCV (cv2), which Kaggle's image should provide")
            continue
        version = _version(name)
        if version is None:
            raise InstallError(
                f"the notebook's Python has no {name}, which Kaggle's image should provide: remove it from the"
                " constraints file and build with --lock, then the kit will contain it"
            )
        if not _numbers(need["from"]) <= _numbers(version) < _numbers(need["below"]):
            raise InstallError(
                f"the notebook's Python has {name} {version}, but the kit needs {need['from']} or newer, below"
                f" {need['below']}: choose another environment for the notebook"
            )
    if "numba" in needs:  # each version of numba supports NumPy only up to some version
        try:
            importlib.import_module("numba")
        except ImportError as error:
            raise InstallError(
                f"the notebook's numba cannot be loaded ({error}): choose another environment for the notebook"
            ) from error


def _numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, which compare as versions do: '2.11.0+cu128' → (2, 11, 0)."""
    return tuple(map(int, re.match(r"\d+(\.\d+)*", version)[0].split(".")))  # type: ignore[index]
