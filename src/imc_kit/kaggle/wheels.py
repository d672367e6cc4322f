"""The wheels of a kit: locks and downloads the packages that Kaggle's images lack, and builds this package's wheel.

For each Python version, `wheels/` in the checkout holds a file of constraints (the packages of the image, written by
hand) and two locks with hashes, resolved by uv: the packages that the kit adds, and what a rehearsal installs (the
packages of the image and Jupyter).
"""

import hashlib
import json
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name, parse_wheel_filename

from imc_kit.errors import KitError
from imc_kit.kaggle import install
from imc_kit.kaggle.checkout import CHECKOUT, PACKED, git, run
from imc_kit.runtime.python import environment

PYTHONS = ("3.12", "3.13")
"""The Python versions of Kaggle's images (November 2026)."""
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
"""Kaggle's image has glibc 2.35. pip accepts only listed platform tags, so all older ones are listed too."""


class Packed(NamedTuple):
    """A file of the kit, with its licence. source: where it comes from. notice: the text of the licence."""

    name: str
    license: str
    source: str
    notice: str = ""


def pack(kit: Path, pythons: Sequence[str], cache: Path) -> list[Packed]:
    """Fill the kit's folder wheels/ and write imc_kit.lock, which lists exactly these wheels with their hashes."""
    own = _build_own(kit / "wheels", cache)
    packed, lines = {own.name: _describe(own, "this repository")}, [_lock_line(own)]
    for python in pythons:
        for wheel in download(lock_for(python), python, cache / python):
            shutil.copyfile(wheel, kit / "wheels" / wheel.name)
            lines.append(_lock_line(wheel, f' ; python_version == "{python}"'))
            packed[wheel.name] = _describe(wheel, f"https://pypi.org/project/{'/'.join(package(wheel))}/")
    (kit / "imc_kit.lock").write_text("".join(lines), "utf-8")
    return list(packed.values())


def package(wheel: Path) -> tuple[str, str]:
    """The normalised name and the version of the package in a wheel."""
    name, version, *_ = parse_wheel_filename(wheel.name)
    return name, str(version)


def _lock_line(wheel: Path, marker: str = "") -> str:
    return f"{'=='.join(package(wheel))}{marker} --hash=sha256:{install.sha256(wheel)}\n"


def download(lock: Path, python: str, cache: Path) -> list[Path]:
    """The wheels of a lock for Kaggle's machine: taken from the folder `cache`, or downloaded into it by pip."""
    text = lock.read_text("utf-8")
    hashes = set(re.findall(r"sha256:(\w+)", text))

    def cached() -> list[Path]:
        right = [path for path in sorted(cache.glob("*.whl")) if install.sha256(path) in hashes]
        return list({package(path): path for path in right}.values())

    if len(cached()) < len(pins(text)):
        print(f"getting {', '.join(pins(text))} for Python {python}", flush=True)
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
            "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock), "--dest", str(cache),
            "--cache-dir", str(cache.absolute() / "pip"), "--implementation", "cp", "--python-version", python,
            *(word for platform in _PLATFORMS for word in ("--platform", platform)),
        ]  # fmt: skip
        run(command, f"pip could not download the wheels of {lock.name} for Python {python}")
    return cached()


def _build_own(folder: Path, cache: Path) -> Path:
    """Build this package's wheel. The same sources produce the same bytes, whatever their times and permissions."""
    with tempfile.TemporaryDirectory() as work:
        source, tools = Path(work, "source"), Path(work, "tools")
        for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKED).split("\0"):
            if name and (CHECKOUT / name).is_file():
                target = source / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(CHECKOUT / name, target)
                target.chmod(0o644)
        (setuptools,) = download(CHECKOUT / "wheels" / "build.lock", PYTHONS[0], cache / "tools")
        shutil.unpack_archive(setuptools, tools, "zip")
        code = "import os, sys; from setuptools.build_meta import *; os.umask(0o22); build_wheel(sys.argv[1])"
        # Build with this version of setuptools only, and with the commit's time for all files.
        epoch = git("log", "-1", "--format=%ct").strip()
        settings = environment() | {"PYTHONPATH": str(tools), "SOURCE_DATE_EPOCH": epoch}
        run([sys.executable, "-c", code, str(folder)], "this package could not be built", cwd=source, env=settings)
    return next(folder.glob("imc_kit-*.whl"))


def _describe(wheel: Path, source: str) -> Packed:
    """The licence of a wheel, from its metadata."""
    (about,) = metadata.distributions(path=[str(wheel)])
    notices = re.compile(r"[^/]+\.dist-info/(licenses/.*[^/]|(LICEN[CS]E|COPYING|NOTICE)[^/]*)")
    texts = [file.read_binary().decode(errors="replace") for file in about.files or () if notices.fullmatch(str(file))]
    facts: dict[str, Any] = about.metadata.json
    said = facts.get("license_expression") or facts.get("license") or ""
    if not said or "\n" in said.strip():  # older packages have no licence here, or its whole text
        classified = (line for line in facts.get("classifier", ()) if line.startswith("License"))
        said = ", ".join(line.rpartition(" :: ")[2] for line in classified) or "see LICENSES"
    return Packed(f"wheels/{wheel.name}", said.strip(), source, "\n".join(texts))


def write_lock(python: str) -> None:
    """Resolve what Kaggle's image for this Python lacks, and what a rehearsal installs. Needs uv.

    Writes wheels/kaggle-VERSION.lock and wheels/rehearsal-VERSION.lock.
    """
    if find_spec("uv") is None:
        raise KitError('locking needs uv: pip install "imc-kit[build]"')
    present = image(python)
    with tempfile.TemporaryDirectory() as folder:
        # Drop the requirements of the image's packages, which the image meets: otherwise, uv downloads torch (3 GB).
        table = "[[dependency-metadata]]\nname = '{}'\nversion = '{}'\nrequires-dist = []\n"
        Path(folder, "uv.toml").write_text("".join(table.format(*one) for one in present.items()), "utf-8")
        project = [str(CHECKOUT / "pyproject.toml"), "--extra", "learned", "--config-file", f"{folder}/uv.toml"]
        text = _compile(python, *project, *(word for name in present for word in ("--no-emit-package", name)))
        tested = _compile(python, str(constraints(python)), str(CHECKOUT / "wheels" / "rehearsal.in"), "--no-config")
    _refuse_untouchable(text)
    what = {"kaggle": f"Kaggle's image for Python {python} lacks", "rehearsal": "a rehearsal installs"}
    for use, lock in (("kaggle", text), ("rehearsal", tested)):
        header = f"# What {what[use]} (build_dataset.py --lock wrote this; do not edit).\n# Inputs: {_inputs(python)}\n"
        _path(python, use).write_text(header + lock, "utf-8")
    print(f"{_path(python)}: {', '.join(pins(text))}")


def _compile(python: str, *arguments: str) -> str:
    """A lock, resolved by uv. arguments: the requirements, and options of `uv pip compile`."""
    command = [
        sys.executable, "-m", "uv", "--quiet", "--no-python-downloads", "pip", "compile", *arguments,
        "--no-annotate", "--no-header", "--constraint", str(constraints(python)), "--python-version", python,
        "--generate-hashes", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:",
    ]  # fmt: skip
    return run(command, f"uv could not lock Python {python}")


def lock_for(python: str) -> Path:
    """The lock of a Python version. Raises `KitError` if it is missing or was made from other requirements."""
    path = _path(python)
    _refuse_untouchable(_current(path, python))
    return path


def rehearsed(python: str) -> list[str]:
    """What a rehearsal installs, each as `NAME==VERSION --hash=sha256:…`. Raises `KitError` as `lock_for` does."""
    lines = _current(_path(python, "rehearsal"), python).replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if not line.startswith("#")]


def _current(path: Path, python: str) -> str:
    """The text of a lock."""
    text = path.read_text("utf-8") if path.is_file() else ""
    if f"# Inputs: {_inputs(python)}\n" not in text:
        raise KitError(
            f"{path} is {'out of date' if text else 'missing'}: the requirements in pyproject.toml or the constraints"
            f" in {constraints(python).name} changed; run build_dataset.py with --lock --python {python}"
        )
    return text


def image(python: str) -> dict[str, str]:
    """The packages of Kaggle's image: versions by normalised name. Raises `KitError` for a line of another form."""
    present: dict[str, str] = {}
    for number, line in enumerate(constraints(python).read_text("utf-8").splitlines(), 1):
        pin = line.partition("#")[0].strip()
        found = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)", pin)
        if found:
            present[canonicalize_name(found[1])] = found[2]
        elif pin:
            raise KitError(f"{constraints(python)}, line {number}, says {pin!r}: write it as NAME==VERSION")
    return present


def constraints(python: str) -> Path:
    """The file that lists the packages of Kaggle's image for this Python."""
    return CHECKOUT / "wheels" / f"kaggle-constraints-{python}.txt"


def requirements(*, learned: bool = True) -> list[str]:
    """The requirements of this package, with or without those of learned features."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *(project["optional-dependencies"]["learned"] if learned else [])]


def pins(lock: str) -> list[str]:
    """The packages in the text of a lock, each as NAME==VERSION."""
    return re.findall(r"^[\w.-]+==[^\s;]+", lock, re.MULTILINE)


def _path(python: str, use: str = "kaggle") -> Path:
    return CHECKOUT / "wheels" / f"{use}-{python}.lock"


def _inputs(python: str) -> str:
    """A hash of everything that a lock is resolved from."""
    content = json.dumps([requirements(), image(python)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _refuse_untouchable(lock: str) -> None:
    names = (pin.partition("==")[0] for pin in pins(lock))
    bad = [name for name in names if name in install.UNTOUCHED or name.startswith("nvidia")]
    if bad:
        raise KitError(f"{', '.join(bad)} must come from Kaggle's image, not from a kit: add it to the constraints")
