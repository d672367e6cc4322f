"""Installs an attached kit into the running Python, without a network and without touching installed packages.

`build` copies this file into every kit. A cell of the notebook runs it before anything of the kit is installed, so it
uses the standard library only and imports nothing of this package.
"""

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
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version of the running Python."""
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
        raise InstallError(f"{kit} has no manifest.json: its upload was not complete, so upload it again") from None
    except (OSError, ValueError) as error:
        raise InstallError(f"{path} cannot be read ({error}): upload the kit again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InstallError(f"{path} is not a manifest of this version ({FORMAT}): build and upload the kit again")
    return manifest


def verify(kit: Path, start: str = "") -> dict[str, Any]:
    """Check the SHA-256 of the kit's files whose names begin with `start`, and return the manifest.

    Raises `InstallError` for the first flaw.
    """
    manifest = read_manifest(kit)
    for file in manifest["files"]:
        if file["name"].startswith(start):
            _verify_file(kit / file["name"], file)
    return manifest


def _verify_file(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise InstallError(f"{path} is missing: the kit's upload was not complete, so upload it again")
    if sha256(path) == expected["sha256"]:
        return
    size, wanted = path.stat().st_size, expected["bytes"]
    flaw = f"has {size:,} of {wanted:,} bytes" if size != wanted else "is damaged: its SHA-256 differs"
    raise InstallError(f"{path} {flaw}, so the kit is not used: upload it again")


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install(kit: Path) -> None:
    """Install the kit's wheels into the running Python; no other package is installed or replaced.

    This function checks the manifest's hashes, pip those of the lock. Raises `InstallError`, if possible before any
    change.
    """
    started = time.monotonic()
    manifest = read_manifest(kit)
    if PYTHON not in manifest["pythons"]:
        raise InstallError(
            f"this kit has wheels for Python {' and '.join(manifest['pythons'])} but the notebook runs {PYTHON}:"
            f" build it with --python {PYTHON}, or pin the notebook's environment to an earlier one"
        )
    verify(kit)
    before = {name: _version(name) for name in UNTOUCHED}
    _pip_install(kit)
    changed = {name: version for name in UNTOUCHED if (version := _version(name)) != before[name]}
    if changed:
        raise InstallError(f"the installation changed {changed}, which it must not: build the kit again")
    _check_needs(manifest["needs"])
    seconds = time.monotonic() - started
    print(f"imc_kit {manifest['version']} ({manifest['commit']}) installed from {kit} in {seconds:.0f} s")


def _pip_install(kit: Path) -> None:
    command = [
        sys.executable, "-P", "-m", "pip", "install", "--isolated", "--quiet", "--no-input", "--no-index", "--no-deps",
        "--require-hashes", "--find-links", str(kit / "wheels"), "--requirement", str(kit / "imc_kit.lock"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        raise InstallError(f"pip could not install the kit's wheels: {said[-1].removeprefix('ERROR: ')}")
    importlib.invalidate_caches()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


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
    """A version as a tuple that can be compared: '2.11.0+cu128' → (2, 11, 0)."""
    return tuple(map(int, re.match(r"\d+(\.\d+)*", version)[0].split(".")))  # type: ignore[index]
