"""The wheels of a kit: this package's own is built, the locked ones are downloaded."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from imc_kit.kaggle import locks
from imc_kit.kaggle.checkout import CHECKOUT, PACKED, git, run

_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
"""Kaggle's image has glibc 2.35. pip accepts only the tags that it is given, so all older ones are listed."""


class Packed(NamedTuple):
    """A file of the kit, with its licence; notice is the licence's text."""

    name: str
    license: str
    source: str
    notice: str = ""


def pack(kit: Path, pythons: Sequence[str], cache: Path) -> list[Packed]:
    """Fill the kit's folder wheels/ and write imc_kit.lock, which names exactly these wheels with their hashes."""
    own = _build_own(kit / "wheels", cache)
    packed = {own.name: _describe(own, "this repository")}
    lines = [_lock_line(own, "")]
    for python in pythons:
        for entry in locks.read(python):
            wheel = _fetch(entry, python, cache / python)
            shutil.copyfile(wheel, kit / "wheels" / wheel.name)
            lines.append(_lock_line(wheel, python))
            packed[wheel.name] = _describe(wheel, f"https://pypi.org/project/{entry.name}/{entry.version}/")
    (kit / "imc_kit.lock").write_text("".join(lines), "utf-8")
    return list(packed.values())


def package(wheel: Path) -> str:
    """The normalised name of the package in a wheel."""
    return locks.normal(wheel.name.split("-")[0])


def version(wheel: Path) -> str:
    """The version of the package in a wheel."""
    return wheel.name.split("-")[1]


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock_line(wheel: Path, python: str) -> str:
    marker = f' ; python_version == "{python}"' if python else ""
    return f"{package(wheel)}=={version(wheel)}{marker} --hash=sha256:{sha256(wheel)}\n"


def _fetch(entry: locks.Locked, python: str, cache: Path) -> Path:
    """The wheel of a locked package for Kaggle's machine, from the cache or downloaded by pip."""
    cache.mkdir(parents=True, exist_ok=True)
    for path in sorted(cache.glob("*.whl")):
        if package(path) == entry.name and sha256(path) in entry.hashes:
            return path
    print(f"getting {entry.name} {entry.version} for Python {python}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        only = Path(folder, "only.txt")
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in entry.hashes)
        only.write_text(f"{entry.name}=={entry.version} {hashes}\n", "utf-8")
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
            "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(only), "--dest", folder,
            "--implementation", "cp", "--python-version", python,
            *(word for platform in _PLATFORMS for word in ("--platform", platform)),
        ]  # fmt: skip
        run(command, f"pip could not download {entry.name} {entry.version} for Python {python}")
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.replace(cache / wheel.name)  # in one step, so the cache never holds a part of a wheel


def _build_own(folder: Path, cache: Path) -> Path:
    """Build this package's wheel. The same sources give the same bytes, whatever their times and permissions are."""
    with tempfile.TemporaryDirectory() as work:
        source, tools = Path(work, "source"), Path(work, "tools")
        for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKED).split("\0"):
            if name and (CHECKOUT / name).is_file():
                target = source / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(CHECKOUT / name, target)
                target.chmod(0o644)
        (tool,) = locks.parse((CHECKOUT / "wheels" / "build.lock").read_text("utf-8"))
        with zipfile.ZipFile(_fetch(tool, locks.PYTHONS[0], cache / "tools")) as archive:
            archive.extractall(tools)
        code = "import os, sys; from setuptools.build_meta import *; os.umask(0o22); build_wheel(sys.argv[1])"
        # The build uses this version of setuptools only, and the commit's time as the time of all files.
        epoch = git("log", "-1", "--format=%ct").strip()
        settings = os.environ | {"PYTHONPATH": str(tools), "SOURCE_DATE_EPOCH": epoch}
        run([sys.executable, "-c", code, str(folder)], "this package could not be built", source, settings)
    (wheel,) = folder.glob("imc_kit-*.whl")
    return wheel


def _describe(wheel: Path, source: str) -> Packed:
    """The licence of a wheel, from its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        headers = HeaderParser().parsestr(archive.read(about).decode())
        notices = re.compile(r"[^/]+\.dist-info/(licenses/.*[^/]|(LICEN[CS]E|COPYING|NOTICE)[^/]*)")
        texts = [archive.read(name).decode(errors="replace") for name in names if notices.fullmatch(name)]
    said = headers["License-Expression"] or headers["License"] or ""
    if not said or "\n" in said.strip():  # older packages have no licence here, or its whole text
        classified = (line for line in headers.get_all("Classifier", []) if line.startswith("License"))
        said = ", ".join(line.rpartition(" :: ")[2] for line in classified) or "see LICENSES"
    return Packed(f"wheels/{wheel.name}", said.strip(), source, "\n".join(texts))
