"""Builds the offline kit: a folder to upload as a Kaggle dataset, and the notebook that uses it (see docs/kaggle.md).

It needs a checkout of this project, because it packs this package and what `wheels/` locks (see `locks`).
"""

from __future__ import annotations

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

from imc_kit.config import PRESETS, Config, preset
from imc_kit.errors import KitError
from imc_kit.kaggle import install, locks, wheels
from imc_kit.kaggle.checkout import CHECKOUT, commit
from imc_kit.kaggle.wheels import Packed
from imc_kit.runtime import weights
from imc_kit.runtime.download import fetch

_SAFE = re.compile(r"[A-Za-z0-9._-]+")
"""Kaggle strips other characters from the names of files."""
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
        """Build, and print what to do next. Raises `KitError`; a build that fails replaces nothing."""
        pythons = tuple(dict.fromkeys(self.python)) or locks.PYTHONS
        self._check(pythons)
        config = preset(self.preset)
        if self.lock:
            for python in pythons:
                locks.lock(python)
        beside = self.out.absolute().parent  # absolute, as the wheel is built in another working folder
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".building-") as folder:
            kit, kernel = Path(folder, "kit"), Path(folder, "kernel")
            (kit / "wheels").mkdir(parents=True)
            (kit / "weights").mkdir()
            kernel.mkdir()
            packed = wheels.pack(kit, pythons, self.cache)
            packed += _pack_weights(kit, config, self.weights_from, self.private)
            _write_kit(kit, packed, pythons, self)
            _write_kernel(kernel, self)
            _replace(self.out, kit)
            _replace(self.kernel, kernel)
        of_wheels, of_weights = (
            sum(path.stat().st_size for path in (self.out / part).iterdir()) / 1e6 for part in ("wheels", "weights")
        )
        print(f"{self.out}: {of_wheels:.1f} MB of wheels, {of_weights:.1f} MB of weights")
        print(f'rehearse it: imc-kit rehearse "{self.out}" --competition DIR')
        return _upload(self)

    @property
    def kernel(self) -> Path:
        """The notebook's folder."""
        return self.out.with_name("kernel")

    def _check(self, pythons: Sequence[str]) -> None:
        if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
            raise KitError(f"{CHECKOUT} is not a git checkout of imc_kit: clone the repository, and build there")
        for name, value, shape in (
            ("owner", self.owner, r"[A-Za-z0-9_-]+"),
            ("slug", self.slug, r"[a-z0-9-]{6,50}"),
            ("competition", self.competition, r"[a-z0-9-]+"),
        ):
            if not re.fullmatch(shape, value):
                raise KitError(f"--{name} must be as it is in Kaggle's addresses ({shape}), not {value!r}")
        for python in pythons:
            if not locks.constraints(python).is_file():
                known = sorted((CHECKOUT / "wheels").glob("kaggle-constraints-*.txt"))
                raise KitError(
                    f"there is no {locks.constraints(python)}, which says what Kaggle's image for Python {python} has:"
                    f" choose {' or '.join(path.stem.rpartition('-')[2] for path in known)}, or write it"
                )
        if self.weights_from is not None and not self.weights_from.is_dir():
            raise KitError(f"--weights-from {self.weights_from} is not a folder")
        if self.out.name in ("", "..", "kernel"):
            raise KitError(f"--out {self.out} has no name, or the notebook's: give the kit a folder like dist/imc-kit")
        for folder, file in ((self.out, "imc_kit.lock"), (self.kernel, _KERNEL)):
            if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / file).is_file()):
                raise KitError(f"{folder} is there and is not of an earlier build: give another folder with --out")


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
    return (CHECKOUT / text).read_text("utf-8")


def _write_kit(kit: Path, packed: list[Packed], pythons: Sequence[str], options: Build) -> None:
    """Everything but wheels and weights; the manifest comes last and names all other files."""
    shutil.copyfile(Path(install.__file__), kit / "install.py")
    notices = (f"{entry.name}\n{entry.license}\n{entry.source}\n\n{entry.notice}\n" for entry in packed)
    (kit / "LICENSES").write_text(("\n" + "=" * 100 + "\n").join(notices), "utf-8")
    (wheel,) = kit.glob("wheels/imc_kit-*.whl")
    about = {"version": wheels.version(wheel), "commit": commit()}
    rows = "\n".join(f"| {entry.name} | {entry.license} | {entry.source} |" for entry in packed)
    (kit / "README.md").write_text(_README.format(**about, rows=rows, o=options), "utf-8")
    own = Packed("", "Apache-2.0", "this repository")
    described = {entry.name: entry for entry in packed}
    files = []
    for path in sorted(path for path in kit.rglob("*") if path.is_file()):
        name = path.relative_to(kit).as_posix()
        if not all(_SAFE.fullmatch(part) for part in name.split("/")):
            raise KitError(
                f"Kaggle would rename {path.name}: names may have letters, digits, '.', '_' and '-' only; lock another"
                " version of a wheel"
            )
        entry = described.get(name, own)
        facts = {
            "sha256": wheels.sha256(path),
            "bytes": path.stat().st_size,
            "license": entry.license,
            "source": entry.source,
        }
        files.append({"name": name, **facts})
    manifest = {
        "format": install.FORMAT,
        **about,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": options.preset,
        "pythons": list(pythons),
        "needs": _needs(kit, preset(options.preset)),
        "images": {
            python: [f"{name}=={version}" for name, version in locks.image(python).items()] for python in pythons
        },
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
    packed = {wheels.package(path) for path in kit.glob("wheels/*.whl")}
    needs = {}
    for requirement in locks.requirements(learned=bool(config.weight_files())):
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+),<([\d.]+)", requirement)
        if found is None:
            raise KitError(f"pyproject.toml requires {requirement!r}: write it as NAME>=FIRST,<LAST")
        name = locks.normal(found[1])
        if name not in packed and name not in _ONLINE:
            needs[name] = {"from": found[2], "below": found[3]}
    return needs


def _write_kernel(kernel: Path, options: Build) -> None:
    shutil.copyfile(CHECKOUT / "notebooks" / "submission.ipynb", kernel / "submission.ipynb")
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
    kernel = ["kaggle", "kernels", "push", "-p", str(options.kernel), "--accelerator", "NvidiaTeslaT4"]
    again = ["kaggle", "datasets", "version", *dataset[3:], "-m", commit()]
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


def main() -> int:
    """`python build_dataset.py`: the exit status, 2 for what a person can put right."""
    try:
        return tyro.cli(Build, prog="build_dataset.py", description=Build.__doc__).run()
    except KitError as error:
        print(f"build_dataset.py: {error}", file=sys.stderr)
        return 2
