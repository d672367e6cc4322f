"""Builds the offline kit: a folder to upload as a Kaggle dataset, and the notebook that uses it (see docs/kaggle.md).

This needs a checkout of the project, because the kit contains this package and the wheels locked in `wheels/`.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from packaging.utils import canonicalize_name

from imc_kit.config import PRESETS, Config, preset
from imc_kit.errors import KitError, require
from imc_kit.kaggle import install, wheels
from imc_kit.kaggle.checkout import CHECKOUT, commit
from imc_kit.kaggle.wheels import Packed
from imc_kit.runtime import weights
from imc_kit.runtime.console import printing
from imc_kit.runtime.download import fetch
from imc_kit.runtime.python import environment

_SAFE_NAME = re.compile(r"[A-Za-z0-9._/-]+")
"""Kaggle strips other characters from the names of files."""
_KERNEL_FILE = "kernel-metadata.json"
_ONLINE = ("pooch", "requests")
"""Required packages that are used for downloads only."""


@dataclass(frozen=True)
class Build:
    """Make the offline kit for Kaggle: a dataset folder and, next to it, the folder of the submission notebook."""

    owner: str
    """Your Kaggle user name, as in the address of your profile."""
    preset: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}")] = "sift"
    """Preset that the notebook runs; the kit contains its weight files."""
    python: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Python version of the wheels, for example 3.12. Repeat for several versions. Default: 3.12 and 3.13."""
    out: Path = Path("dist/imc-kit")
    """Dataset folder; the notebook goes to `kernel` next to it. Only a complete build replaces earlier folders."""
    slug: str = "imc-kit"
    """Name of the dataset on Kaggle."""
    competition: str = "image-matching-challenge-2025"
    """Name of the competition in its address on Kaggle."""
    weights_from: Path | None = None
    """Take weight files from this folder only. Default: search the usual places, then download what is missing."""
    cache: Path = Path("build/kaggle")
    """Folder for downloads. The next build reuses complete ones."""
    private: bool = False
    """Include weight files that must not be redistributed, because the dataset will stay private."""
    lock: bool = False
    """First resolve the versions again with uv and write wheels/kaggle-VERSION.lock."""
    upload: bool = False
    """Run the kaggle commands instead of printing them."""

    def __post_init__(self) -> None:
        for name, shape in (("owner", r"[A-Za-z0-9_-]+"), ("slug", r"[a-z0-9-]{6,50}"), ("competition", r"[a-z0-9-]+")):
            value = getattr(self, name)
            require(bool(re.fullmatch(shape, value)), f"--{name}", f"as in Kaggle's addresses ({shape})", value)
        object.__setattr__(self, "python", tuple(dict.fromkeys(self.python)) or wheels.PYTHONS)
        valid = self.out.name not in ("", "..", self.kernel.name)
        require(valid, "--out", "a named folder other than the notebook's, like dist/imc-kit", str(self.out))

    @property
    def kernel(self) -> Path:
        """The notebook's folder."""
        return self.out.parent / "kernel"

    def run(self) -> int:
        """Build the kit and print what to do next. Raises `KitError`; a failed build replaces nothing."""
        self._check()
        config = preset(self.preset)
        if self.lock:
            for python in self.python:
                wheels.write_lock(python)
        parent = self.out.absolute().parent  # absolute because the wheel is built in another working folder
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".building-") as folder:
            kit, kernel = Path(folder, "kit"), Path(folder, "kernel")
            for new in (kit / "wheels", kit / "weights", kernel):
                new.mkdir(parents=True)
            packed = wheels.pack(kit, self.python, self.cache)
            packed += _pack_weights(kit, config, self)
            _write_kit(kit, packed, config, self)
            _write_kernel(kernel, self)
            _replace(self.out, kit)
            _replace(self.kernel, kernel)
        parts = ((part, (self.out / part).iterdir()) for part in ("wheels", "weights"))
        sizes = (f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB of {part}" for part, files in parts)
        print(f"{self.out}: {', '.join(sizes)}")
        print(f'rehearse it: imc-kit rehearse "{self.out}" --competition DIR')
        _upload(self)
        return 0

    def _check(self) -> None:
        """Check the checkout, its files, and the folders to replace. Raises `KitError`."""
        if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
            raise KitError(f"{CHECKOUT} is not a git checkout of imc_kit: clone the repository and build there")
        for python in self.python:
            if not wheels.constraints(python).is_file():
                known = sorted((CHECKOUT / "wheels").glob("kaggle-constraints-*.txt"))
                raise KitError(
                    f"{wheels.constraints(python)}, the list of packages in Kaggle's image for Python {python}, is"
                    f" missing: choose {' or '.join(path.stem.rpartition('-')[2] for path in known)}, or write it"
                )
        if self.weights_from is not None and not self.weights_from.is_dir():
            raise KitError(f"--weights-from {self.weights_from} is not a folder")
        for folder, file in ((self.out, "imc_kit.lock"), (self.kernel, _KERNEL_FILE)):
            if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / file).is_file()):
                raise KitError(f"{folder} exists and is not from an earlier build: give another folder with --out")


def _pack_weights(kit: Path, config: Config, options: Build) -> list[Packed]:
    packed = []
    for name in config.weight_files():
        weight = weights.manifest()[name]
        if not weight.redistributable and not options.private:
            print(
                f"left out: {name}, whose licence ({weight.license}) does not allow redistribution; give --private if"
                " the dataset will stay private, or attach a dataset of your own that holds the file"
            )
            continue
        if weight.sha256 == weights.UNPINNED and options.weights_from is None:
            raise KitError(f"{name} has no published SHA-256: give your own copy with --weights-from DIR")
        if options.weights_from:
            path = weights.find(name, options.weights_from)
        else:
            path = weights.usable(weights.places(), weight) or fetch(weight, weights.download_folder())
        shutil.copyfile(path, kit / "weights" / name)
        packed.append(Packed(f"weights/{name}", weight.license, weight.url, _licence_text(weight)))
    return packed


def _licence_text(weight: weights.Weight) -> str:
    """The text of a weight file's licence: this project's, or wheels/LICENSE.START for names that begin with START."""
    if weight.license == "Apache-2.0":
        return (CHECKOUT / "LICENSE").read_text("utf-8")
    licences = (CHECKOUT / "wheels").glob("LICENSE.*")
    texts = (path.read_text("utf-8") for path in licences if weight.name.startswith(path.suffix[1:]))
    return next(texts, "The text of this licence is not in this kit: see the address above.")


def _write_kit(kit: Path, packed: Sequence[Packed], config: Config, options: Build) -> None:
    """Write everything except wheels and weights. The manifest comes last and names all other files."""
    shutil.copyfile(Path(install.__file__), kit / "install.py")
    notices = (f"{entry.name}\n{entry.license}\n{entry.source}\n\n{entry.notice}\n" for entry in packed)
    (kit / "LICENSES").write_text(("\n" + "=" * 100 + "\n").join(notices), "utf-8")
    (own,) = kit.glob("wheels/imc_kit-*.whl")
    about = {"version": wheels.package(own)[1], "commit": commit()}
    rows = "\n".join(f"| {entry.name} | {entry.license} | {entry.source} |" for entry in packed)
    readme = (CHECKOUT / "wheels" / "dataset-readme.md").read_text("utf-8")
    (kit / "README.md").write_text(readme.format(**about, rows=rows, preset=options.preset), "utf-8")
    images = {python: wheels.rehearsed(python) for python in options.python}
    manifest = {
        "format": install.FORMAT,
        **about,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": options.preset,
        "pythons": list(options.python),
        "needs": _needs(kit, config),
        "images": images,
        "files": _file_entries(kit, packed),
    }
    _write_json(kit / "manifest.json", manifest)
    metadata = {
        "id": f"{options.owner}/{options.slug}",
        "title": options.slug,
        "subtitle": "Wheels and weights of imc_kit, to solve image matching challenges offline",
        "licenses": [{"name": "other"}],
    }
    _write_json(kit / "dataset-metadata.json", metadata)


def _file_entries(kit: Path, packed: Sequence[Packed]) -> list[dict[str, Any]]:
    """Name, hash, size, licence and source of each file that is in the kit now."""
    described = {entry.name: entry for entry in packed}
    entries = []
    for path in sorted(path for path in kit.rglob("*") if path.is_file()):
        name = path.relative_to(kit).as_posix()
        if not _SAFE_NAME.fullmatch(name):
            raise KitError(
                f"Kaggle would rename {path.name}: names may have letters, digits, '.', '_' and '-' only; lock another"
                " version of a wheel"
            )
        entry = described.get(name, Packed(name, "Apache-2.0", "this repository"))
        facts = {"name": name, "sha256": install.sha256(path), "bytes": path.stat().st_size}
        entries.append(facts | {"license": entry.license, "source": entry.source})
    return entries


def _needs(kit: Path, config: Config) -> dict[str, dict[str, str]]:
    """The version ranges of packages that Kaggle's image must provide: required offline, but not in the kit."""
    packed = {wheels.package(path)[0] for path in kit.glob("wheels/*.whl")}
    needs: dict[str, dict[str, str]] = {}
    for requirement in wheels.requirements(learned=bool(config.weight_files())):
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+),<([\d.]+)", requirement)
        if found is None:
            raise KitError(f"pyproject.toml requires {requirement!r}: write it as NAME>=FIRST,<LAST")
        name = canonicalize_name(found[1])
        if name not in packed and name not in _ONLINE:
            needs[name] = {"from": found[2], "below": found[3]}
    return needs


def _write_kernel(kernel: Path, options: Build) -> None:
    shutil.copyfile(CHECKOUT / "notebooks" / "submission.ipynb", kernel / "submission.ipynb")
    metadata = {
        "id": f"{options.owner}/{options.slug}-submission",
        "title": f"{options.slug}-submission",
        "dataset_sources": [f"{options.owner}/{options.slug}"],
        "competition_sources": [options.competition],
    }
    settings = json.loads((CHECKOUT / "wheels" / _KERNEL_FILE).read_text("utf-8"))
    _write_json(kernel / _KERNEL_FILE, metadata | settings)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")


def _replace(target: Path, new: Path) -> None:
    """Replace the folder `target` with `new` by two renames, so it is never incomplete."""
    if target.exists():
        target.rename(new.with_name(f"{new.name}-old"))
    new.rename(target)


def _upload(options: Build) -> None:
    """Print the commands that upload the kit and push the notebook, or run them. Raises `KitError` if one fails."""
    create = ["kaggle", "datasets", "create", "-p", str(options.out), "--dir-mode", "zip"]
    update = ["kaggle", "datasets", "version", *create[3:], "-m", commit()]
    push = ["kaggle", "kernels", "push", "-p", str(options.kernel), "--accelerator", "NvidiaTeslaT4"]
    if not options.upload:
        print(f"upload it:   {' '.join(create)}")
        print(f"  (a later version: {' '.join(update)})")
        print(f"then run:    {' '.join(push)}")
        return
    if shutil.which("kaggle") is None:
        raise KitError("--upload needs Kaggle's command: pip install kaggle, and put your token where it tells you to")
    name = f"{options.owner}/{options.slug}"
    status = subprocess.run(["kaggle", "datasets", "status", name], capture_output=True, env=environment())
    for command in (create if status.returncode else update, push):
        print(" ".join(command), flush=True)
        if subprocess.run(command, env=environment()).returncode != 0:
            raise KitError(f"{' '.join(command[:3])} failed (see above); the kit is ready in {options.out}")


def main() -> int:
    """Run `build_dataset.py`. Returns the exit status: 2 for a problem that a person can solve."""
    with printing("build_dataset.py"):
        try:
            return tyro.cli(Build, prog="build_dataset.py", description=Build.__doc__).run()
        except KitError as error:
            print(f"build_dataset.py: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("build_dataset.py: interrupted: run it again; complete downloads are kept", file=sys.stderr)
            return 130
