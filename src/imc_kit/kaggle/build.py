"""Builds the offline kit: a folder to upload as a Kaggle dataset, and the notebook that uses it (see docs/kaggle.md).

It needs a checkout of this project, because it packs this package and reads `wheels/`: for each Python version a file
of constraints (what Kaggle's image already has) and a lock (what it lacks, with hashes).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from imc_kit import weights
from imc_kit.config import PRESETS, Config, preset
from imc_kit.download import fetch
from imc_kit.errors import KitError
from imc_kit.kaggle import install

_CHECKOUT = Path(__file__).resolve().parents[3]
_PACKED = ("src", "pyproject.toml", "README.md", "LICENSE")
"""What this package's wheel is built from."""
_SAFE = re.compile(r"[A-Za-z0-9._-]+")
"""Kaggle strips other characters from the names of files."""
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
"""Kaggle's image has glibc 2.35. pip takes a tag only as it is written, so that those of older ones are named too."""
PYTHONS = ("3.12", "3.13")
_KERNEL = "kernel-metadata.json"
_NOTICES = {
    "aliked-": "wheels/LICENSE.aliked",
    "superpoint_v6_": "wheels/LICENSE.superpoint_v6",
    "AffNet.": "wheels/LICENSE.affnet",
    "OriNet.": "wheels/LICENSE.affnet",
    "checkpoint_liberty_": "wheels/LICENSE.hardnet",
}
"""The texts of licences, by how the names of weight files start. (The one of Apache-2.0 is this project's own.)"""
_ONLINE = ("pooch", "requests")
"""What only downloads need."""


@dataclass(frozen=True)
class Build:
    """Make the offline kit for Kaggle: a dataset folder, and beside it the folder of the submission notebook."""

    owner: str
    """Your Kaggle user name, as it is in the address of your profile."""
    preset: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}")] = "sift"
    """What the notebook will run; it decides which weight files are packed."""
    python: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Python version to pack wheels for, for example 3.12; once for each. When left out: 3.12 and 3.13."""
    out: Path = Path("dist/imc-kit")
    """The dataset folder; the notebook's is `kernel` beside it. Both replace earlier ones when all is ready."""
    slug: str = "imc-kit"
    """The dataset's name on Kaggle."""
    competition: str = "image-matching-challenge-2025"
    """The competition's name on Kaggle, as it is in its address."""
    weights_from: Path | None = None
    """Take weight files from this folder alone. When left out they are taken from the usual places, or downloaded."""
    cache: Path = Path("build/kaggle")
    """Where downloads are kept, so that an interrupted build goes on from there."""
    private: bool = False
    """The dataset will stay private: pack weight files, too, that may not be passed on."""
    lock: bool = False
    """Resolve the versions anew, with uv, and write wheels/kaggle-VERSION.lock first."""
    upload: bool = False
    """Run the kaggle commands instead of printing them."""

    def run(self) -> int:
        """Build, and print what to do next. Raises `KitError` before anything is replaced."""
        pythons = tuple(dict.fromkeys(self.python)) or PYTHONS
        self._check(pythons)
        config = preset(self.preset)
        if self.lock:
            for python in pythons:
                lock(python)
        with tempfile.TemporaryDirectory(dir=_made(self.out.absolute().parent), prefix=".building-") as folder:
            kit, kernel = Path(folder, "kit"), Path(folder, "kernel")
            (kit / "wheels").mkdir(parents=True)
            (kit / "weights").mkdir()
            kernel.mkdir()
            packed = _pack_wheels(kit, pythons, self.cache)
            packed += _pack_weights(kit, config, self.weights_from, self.private)
            _write_kit(kit, packed, pythons, self)
            _write_kernel(kernel, self)
            _replace(self.out.absolute(), kit)
            _replace(self.out.absolute().parent / "kernel", kernel)
        wheels, files = (
            sum(path.stat().st_size for path in (self.out / part).iterdir()) / 1e6 for part in ("wheels", "weights")
        )
        print(f"{self.out}: {wheels:.1f} MB of wheels, {files:.1f} MB of weights")
        print(f'rehearse it: imc-kit rehearse "{self.out}" --competition DIR')
        return _upload(self)

    def _check(self, pythons: Sequence[str]) -> None:
        for name, value, shape in (
            ("owner", self.owner, r"[A-Za-z0-9_-]+"),
            ("slug", self.slug, r"[a-z0-9-]{6,50}"),
            ("competition", self.competition, r"[a-z0-9-]+"),
        ):
            if not re.fullmatch(shape, value):
                raise KitError(f"--{name} must be as it is in Kaggle's addresses ({shape}), not {value!r}")
        for python in pythons:
            if not _constraints_path(python).is_file():
                known = sorted((_CHECKOUT / "wheels").glob("kaggle-constraints-*.txt"))
                raise KitError(
                    f"there is no {_constraints_path(python)}, which says what Kaggle's image for Python {python} has:"
                    f" choose {' or '.join(path.stem.rpartition('-')[2] for path in known)}, or write it"
                )
        if shutil.which("git") is None or not (_CHECKOUT / ".git").exists():
            raise KitError(f"{_CHECKOUT} is not a git checkout of imc_kit: clone the repository, and build there")
        if self.weights_from is not None and not self.weights_from.is_dir():
            raise KitError(f"--weights-from {self.weights_from} is not a folder")
        for folder, file in ((self.out, "manifest.json"), (self.out.absolute().parent / "kernel", _KERNEL)):
            if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / file).is_file()):
                raise KitError(f"{folder} is there and is not of an earlier build: give another folder with --out")


class Packed(NamedTuple):
    """A file of the kit."""

    name: str
    license: str
    source: str
    notice: str = ""
    """The text of its licence."""


class Locked(NamedTuple):
    """A package of a lock: its version, and the SHA-256 of each of its published files."""

    name: str
    version: str
    hashes: tuple[str, ...]


def lock(python: str) -> None:
    """Resolve what Kaggle's image for this Python lacks, and write wheels/kaggle-VERSION.lock. Needs uv."""
    if find_spec("uv") is None:
        raise KitError('locking needs uv: pip install "imc-kit[build]"')
    present = image(python)
    with tempfile.TemporaryDirectory() as folder:
        wanted, settings = Path(folder, "wanted.in"), Path(folder, "uv.toml")
        wanted.write_text("\n".join(_requirements()), "utf-8")
        # What is in the image has its own requirements there: without them torch's 3 GB are not even looked at.
        settings.write_text(
            "\n".join(
                f"[[dependency-metadata]]\nname = '{name}'\nversion = '{version}'\nrequires-dist = []"
                for name, version in present.items()
            ),
            "utf-8",
        )
        command = [
            sys.executable, "-m", "uv", "--quiet", "--no-python-downloads", "--config-file", str(settings),
            "pip", "compile", str(wanted), "--constraint", str(_constraints_path(python)), "--python-version", python,
            "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:",
            "--generate-hashes", "--no-annotate", "--no-header",
        ]  # fmt: skip
        text = _run(command, f"uv could not lock Python {python}")
    missing = [entry for entry in _parse_lock(text) if entry.name not in present]
    _refuse_untouchable(missing)
    lines = [
        f"# What Kaggle's image for Python {python} lacks (build_dataset.py --lock wrote this; do not edit).",
        f"# Inputs: {_inputs(python)}",
    ]
    for entry in missing:
        lines.append(f"{entry.name}=={entry.version} \\")
        lines.append(" \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(entry.hashes)))
    _lock_path(python).write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{_lock_path(python)}: {', '.join(f'{entry.name} {entry.version}' for entry in missing)}")


def image(python: str) -> dict[str, str]:
    """What Kaggle's image has, by normalised name: its version. Read from the constraints file."""
    lines = (line.partition("#")[0].strip() for line in _constraints_path(python).read_text("utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {_normal(name): version for name, version in pairs}


def _requirements(*, learned: bool = True) -> list[str]:
    """What this package requires, with its learned features or without."""
    project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *(project["optional-dependencies"]["learned"] if learned else [])]


def _locked(python: str) -> list[Locked]:
    """The lock of a Python version. Raises `KitError` when it is missing or was made from other requirements."""
    path = _lock_path(python)
    text = path.read_text("utf-8") if path.is_file() else ""
    if f"# Inputs: {_inputs(python)}\n" not in text:
        raise KitError(
            f"{path} is {'out of date' if text else 'missing'}: the requirements in pyproject.toml or the constraints"
            f" in {_constraints_path(python).name} changed; run build_dataset.py with --lock --python {python}"
        )
    entries = _parse_lock(text)
    _refuse_untouchable(entries)
    return entries


def _parse_lock(text: str) -> list[Locked]:
    text = re.sub(r"#.*", "", text).replace("\\\n", " ")
    entries = (line.split() for line in text.splitlines() if line.strip())
    locked = []
    for first, *hashes in entries:
        name, version = first.split("==")
        locked.append(Locked(name, version, tuple(digest.removeprefix("--hash=sha256:") for digest in hashes)))
    return locked


def _refuse_untouchable(entries: Sequence[Locked]) -> None:
    bad = [entry.name for entry in entries if entry.name in install.UNTOUCHED or entry.name.startswith("nvidia")]
    if bad:
        raise KitError(
            f"{', '.join(bad)} must come from Kaggle's image, not from a kit: add it to the constraints file"
        )


def _inputs(python: str) -> str:
    content = json.dumps([_requirements(), image(python)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _constraints_path(python: str) -> Path:
    return _CHECKOUT / "wheels" / f"kaggle-constraints-{python}.txt"


def _lock_path(python: str) -> Path:
    return _CHECKOUT / "wheels" / f"kaggle-{python}.lock"


def _pack_wheels(kit: Path, pythons: Sequence[str], cache: Path) -> list[Packed]:
    """Fill wheels/ and write imc_kit.lock, which names exactly those files."""
    packed: dict[str, Packed] = {}
    own = _build_own_wheel(kit / "wheels", cache)
    lines = [_lock_line(own, "")]
    packed[own.name] = _describe_wheel(own, "this repository")
    for python in pythons:
        for entry in _locked(python):
            wheel = _fetch_wheel(entry, python, cache / python)
            if not _SAFE.fullmatch(wheel.name):
                raise KitError(f"Kaggle would rename {wheel.name}: lock a version without '+' in its name")
            shutil.copyfile(wheel, kit / "wheels" / wheel.name)
            lines.append(_lock_line(wheel, python))
            packed[wheel.name] = _describe_wheel(wheel, f"https://pypi.org/project/{entry.name}/{entry.version}/")
    (kit / "imc_kit.lock").write_text("".join(lines), "utf-8")
    return list(packed.values())


def _lock_line(wheel: Path, python: str) -> str:
    name, version = wheel.name.split("-")[:2]
    marker = f' ; python_version == "{python}"' if python else ""
    return f"{_normal(name)}=={version}{marker} --hash=sha256:{_sha256(wheel)}\n"


def _fetch_wheel(entry: Locked, python: str, cache: Path) -> Path:
    """The wheel of a package for this Python on Kaggle, from the cache or by pip, with its own settings."""
    known = [
        path for path in sorted(_made(cache).glob("*.whl"))
        if _normal(path.name.split("-")[0]) == entry.name and _sha256(path) in entry.hashes
    ]  # fmt: skip
    if known:
        return known[0]
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
        _run(command, f"pip could not download {entry.name} {entry.version} for Python {python}")
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.replace(cache / wheel.name)  # whole, or not there


def _build_own_wheel(folder: Path, cache: Path) -> Path:
    """This package's wheel: the same bytes for the same files, whatever their times and modes are."""
    with tempfile.TemporaryDirectory() as work:
        source, tools = Path(work, "source"), Path(work, "tools")
        for name in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_PACKED).split("\0"):
            if name and (_CHECKOUT / name).is_file():
                target = source / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_CHECKOUT / name, target)
                target.chmod(0o644)
        (tool,) = _parse_lock((_CHECKOUT / "wheels" / "build.lock").read_text("utf-8"))
        with zipfile.ZipFile(_fetch_wheel(tool, PYTHONS[0], cache / "tools")) as archive:
            archive.extractall(tools)
        code = "import os, sys; from setuptools.build_meta import *; os.umask(0o22); build_wheel(sys.argv[1])"
        # The environment of the build is the tool alone, and its time that of the commit.
        epoch = _git("log", "-1", "--format=%ct").strip()
        settings = os.environ | {"PYTHONPATH": str(tools), "SOURCE_DATE_EPOCH": epoch}
        _run([sys.executable, "-c", code, str(folder)], "this package could not be built", source, settings)
    (wheel,) = folder.glob("imc_kit-*.whl")
    return wheel


def _describe_wheel(wheel: Path, source: str) -> Packed:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        headers = HeaderParser().parsestr(archive.read(about).decode())
        said = headers["License-Expression"] or headers["License"] or ""
        if not said or "\n" in said.strip():  # a whole text, in older packages
            classified = (line for line in headers.get_all("Classifier", []) if line.startswith("License"))
            said = ", ".join(line.rpartition(" :: ")[2] for line in classified) or "see LICENSES"
        notices = re.compile(r"[^/]+\.dist-info/(licenses/.*[^/]|(LICEN[CS]E|COPYING|NOTICE)[^/]*)")
        texts = [archive.read(name).decode(errors="replace") for name in names if notices.fullmatch(name)]
    return Packed(f"wheels/{wheel.name}", said.strip(), source, "\n".join(texts))


def _pack_weights(kit: Path, config: Config, folder: Path | None, private: bool) -> list[Packed]:
    packed = []
    for name in config.weight_files():
        weight = weights.manifest()[name]
        if not weight.redistributable and not private:
            print(
                f"left out: {name}, whose licence ({weight.license}) does not allow passing it on; give --private if"
                " the dataset will stay private, or attach a dataset of your own that holds the file"
            )
            continue
        path = _get_weight(weight) if folder is None else weights.find(name, folder)
        shutil.copyfile(path, kit / "weights" / name)
        packed.append(Packed(f"weights/{name}", weight.license, weight.url, _notice(weight)))
    return packed


def _get_weight(weight: weights.Weight) -> Path:
    here = weights.usable(weights.places(), weight)
    if here is None:
        print(f"getting {weight.name}", flush=True)
        here = fetch(weight, weights.download_folder())
    return here


def _notice(weight: weights.Weight) -> str:
    known = (text for start, text in _NOTICES.items() if weight.name.startswith(start))
    text = "LICENSE" if weight.license == "Apache-2.0" else next(known, None)
    if text is None:
        return "The text of this licence is not in this kit: see the address above."
    return (_CHECKOUT / text).read_text("utf-8")


def _write_kit(kit: Path, packed: list[Packed], pythons: Sequence[str], options: Build) -> None:
    """Everything but wheels and weights; the manifest comes last and names all other files."""
    shutil.copyfile(Path(install.__file__), kit / "install.py")
    notices = (f"{entry.name}\n{entry.license}\n{entry.source}\n\n{entry.notice}\n" for entry in packed)
    (kit / "LICENSES").write_text(("\n" + "=" * 100 + "\n").join(notices), "utf-8")
    (wheel,) = kit.glob("wheels/imc_kit-*.whl")
    version = wheel.name.split("-")[1]
    commit = _git("rev-parse", "--short=12", "HEAD").strip()
    if _git("status", "--porcelain", "--", *_PACKED).strip():
        commit += "-modified"
    rows = "\n".join(f"| {entry.name} | {entry.license} | {entry.source} |" for entry in packed)
    (kit / "README.md").write_text(_README.format(version=version, commit=commit, rows=rows, o=options), "utf-8")
    own = Packed("", "Apache-2.0", "this repository")
    described = {entry.name: entry for entry in packed}
    files = []
    for path in sorted(path for path in kit.rglob("*") if path.is_file()):
        name = path.relative_to(kit).as_posix()
        if not all(_SAFE.fullmatch(part) for part in name.split("/")):
            raise KitError(f"Kaggle would rename {name}: names may have letters, digits, '.', '_' and '-' only")
        entry = described.get(name, own)
        facts = {
            "sha256": _sha256(path),
            "bytes": path.stat().st_size,
            "license": entry.license,
            "source": entry.source,
        }
        files.append({"name": name, **facts})
    manifest = {
        "format": install.FORMAT,
        "version": version,
        "commit": commit,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": options.preset,
        "pythons": list(pythons),
        "needs": _needs(kit, preset(options.preset)),
        "images": {python: [f"{name}=={version}" for name, version in image(python).items()] for python in pythons},
        "files": files,
    }
    (kit / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    metadata = {
        "id": f"{options.owner}/{options.slug}",
        "title": options.slug,
        "subtitle": "Wheels and weights of imc_kit, to solve image matching challenges offline",
        "licenses": [{"name": "other"}],
    }
    (kit / "dataset-metadata.json").write_text(json.dumps(metadata, indent=1), "utf-8")


_README = """\
# imc_kit {version}, offline

Everything that a Kaggle notebook without internet needs to run imc_kit, which turns folders of photographs into camera
poses. Attach this dataset and the competition's data, and start the notebook with the cell of `submission.ipynb` that
runs `install.py`. It checks every file against `manifest.json` and leaves torch, numpy and OpenCV as they are.

Preset: `{o.preset}`. Commit: `{commit}`. Licences: in the table, and their texts in `LICENSES`.

| file | licence | source |
|---|---|---|
{rows}
"""


def _needs(kit: Path, config: Config) -> dict[str, dict[str, str]]:
    """What the image has to provide, with the range of versions: what the package requires, offline, beyond the kit."""
    packed = {_normal(path.name.split("-")[0]) for path in kit.glob("wheels/*.whl")}
    needs = {}
    for requirement in _requirements(learned=bool(config.weight_files())):
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+),<([\d.]+)", requirement)
        if found is None:
            raise KitError(f"pyproject.toml requires {requirement!r}: write it as NAME>=FIRST,<LAST")
        if _normal(found[1]) not in packed and found[1] not in _ONLINE:
            needs[_normal(found[1])] = {"from": found[2], "below": found[3]}
    return needs


def _write_kernel(kernel: Path, options: Build) -> None:
    shutil.copyfile(_CHECKOUT / "notebooks" / "submission.ipynb", kernel / "submission.ipynb")
    metadata: dict[str, Any] = {
        "id": f"{options.owner}/{options.slug}-submission",
        "title": f"{options.slug}-submission",
        "code_file": "submission.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": [f"{options.owner}/{options.slug}"],
        "competition_sources": [options.competition],
        "kernel_sources": [],
        "model_sources": [],
    }
    (kernel / _KERNEL).write_text(json.dumps(metadata, indent=1), "utf-8")


def _replace(target: Path, new: Path) -> None:
    """Put the folder `new` in the place of `target`, which is whole at any time, but missing between two renames."""
    old = new.with_name(f"{new.name}-old")
    if target.exists():
        target.rename(old)
    new.rename(target)


def _upload(options: Build) -> int:
    """Print the commands that upload the kit and push the notebook, or run them."""
    dataset = ["kaggle", "datasets", "create", "-p", str(options.out), "--dir-mode", "zip"]
    kernel = ["kaggle", "kernels", "push", "-p", str(options.out.parent / "kernel"), "--accelerator", "NvidiaTeslaT4"]
    again = ["kaggle", "datasets", "version", *dataset[3:], "-m", _git("rev-parse", "--short", "HEAD").strip()]
    if not options.upload:
        print(f"upload it:   {' '.join(dataset)}")
        print(f"  (a later version: {' '.join(again)})")
        print(f"then run:    {' '.join(kernel)}")
        return 0
    if shutil.which("kaggle") is None:
        raise KitError("--upload needs Kaggle's command: pip install kaggle, and put your token where it says")
    name = f"{options.owner}/{options.slug}"
    exists = subprocess.run(["kaggle", "datasets", "status", name], capture_output=True).returncode == 0
    for command in (again if exists else dataset, kernel):
        print(" ".join(command), flush=True)
        if subprocess.run(command).returncode != 0:
            raise KitError(f"{' '.join(command[:3])} failed (see above); the kit is ready in {options.out}")
    return 0


def _run(
    command: Sequence[str], failure: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise KitError(f"{failure}: {' '.join(' '.join(said[-3:]).split())}")
    return done.stdout


def _git(*arguments: str) -> str:
    return _run(["git", "-C", str(_CHECKOUT), *arguments], "git failed")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """`python build_dataset.py`: the exit status, 2 for what a person can put right."""
    try:
        return tyro.cli(Build, prog="build_dataset.py", description=Build.__doc__).run()
    except KitError as error:
        print(f"build_dataset.py: {error}", file=sys.stderr)
        return 2
