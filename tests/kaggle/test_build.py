"""The builder: what a kit contains, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.kaggle import build, environments, install, wheels
from imc_kit.runtime import weights
from kits import OWN, one_sentence, write_lock, write_wheel

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def options(tmp_path: Path) -> build.Build:
    return build.Build("someone", out=tmp_path / "dist" / "imc-kit", cache=tmp_path / "cache", python=(OWN,))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The lock has one small package, which is in the cache. Returns its wheel."""
    wheel = write_wheel(tmp_path / "cache" / OWN, "kit-toy")
    lock = write_lock(tmp_path / "toy.lock", wheel)
    monkeypatch.setattr(wheels, "lock_for", lambda python: lock)
    monkeypatch.setattr(wheels, "_build_own", lambda folder, cache: write_wheel(folder, "imc-kit", "9.9"))
    return wheel


def read(kit: Path) -> dict[str, bytes]:
    return {path.relative_to(kit).as_posix(): path.read_bytes() for path in sorted(kit.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("where", "name"), [("imc-kit", "precious.txt"), ("imc-kit", "manifest.json"), ("kernel", "precious.txt")]
)
def test_folders_of_others_are_not_replaced(options: build.Build, small: Path, where: str, name: str) -> None:
    file = options.out.parent / where / name
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    with pytest.raises(KitError, match=f"{where} exists and is not from an earlier build: give another folder"):
        options.run()
    assert file.read_text() == "years of work"
    file.unlink()
    assert options.run() == 0  # an empty folder is replaced
    assert options.run() == 0  # and so is an earlier build


def test_a_whole_kit(options: build.Build, small: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = dataclasses.replace(options, preset="aliked", weights_from=shared / "weights")
    assert options.run() == 0
    files = read(options.out)
    manifest = json.loads(files["manifest.json"])
    listed = {entry["name"]: entry for entry in manifest["files"]}
    assert set(listed) == set(files) - {"manifest.json", "dataset-metadata.json"}
    for name, entry in listed.items():
        assert entry["sha256"] == hashlib.sha256(files[name]).hexdigest()
        assert entry["bytes"] == len(files[name])
        assert entry["license"]
        assert entry["source"]
    assert listed["weights/aliked-n16.pth"]["license"] == "BSD-3-Clause"
    assert listed["wheels/kit_toy-1.0-py3-none-any.whl"]["license"] == "MIT"
    assert b"Permission is hereby granted." in files["LICENSES"]
    assert b"Zhao Xiaoming" in files["LICENSES"]
    assert manifest["needs"]["torch"] == {"from": "2.10", "below": "2.15"}
    assert not {"pooch", "requests"} & set(manifest["needs"])  # only downloads need these
    metadata = json.loads(files["dataset-metadata.json"])
    assert metadata["id"] == "someone/imc-kit"
    assert 6 <= len(metadata["title"]) <= 50
    assert 20 <= len(metadata["subtitle"]) <= 80
    install.verify(options.out)

    kernel = options.out.parent / "kernel"
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is False
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert metadata["dataset_sources"] == ["someone/imc-kit"]
    assert metadata["competition_sources"] == ["image-matching-challenge-2025"]
    assert (kernel / metadata["code_file"]).read_bytes() == (CHECKOUT / "notebooks/submission.ipynb").read_bytes()

    said = capsys.readouterr().out
    assert f"kaggle datasets create -p {options.out} --dir-mode zip" in said
    assert f"kaggle kernels push -p {kernel}" in said


def test_two_builds_differ_in_the_time_only(options: build.Build, small: Path) -> None:
    options.run()
    first = read(options.out)
    options.run()
    second = read(options.out)
    manifests = [json.loads(files.pop("manifest.json")) for files in (first, second)]
    assert first == second
    for manifest in manifests:
        assert re.fullmatch(r"[\d-]+T[\d:]+\+00:00", manifest.pop("created"))
    assert manifests[0] == manifests[1]


def test_a_build_that_fails_leaves_the_old_kit(options: build.Build, small: Path, tmp_path: Path) -> None:
    options.run()
    before = read(options.out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KitError, match=r"aliked-n16\.pth is missing"):
        dataclasses.replace(options, preset="aliked", weights_from=tmp_path / "empty").run()
    assert read(options.out) == before
    assert {path.name for path in options.out.parent.iterdir()} == {"imc-kit", "kernel"}  # nothing half-written is left


def test_weights_that_must_not_be_redistributed(
    options: build.Build, small: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = weights.manifest()
    mine = dataclasses.replace(known["aliked-n16.pth"], redistributable=False, license="research only")
    monkeypatch.setattr(weights, "manifest", lambda: {**known, "aliked-n16.pth": mine})
    options = dataclasses.replace(options, preset="aliked", weights_from=shared / "weights")
    options.run()
    assert list((options.out / "weights").iterdir()) == []
    assert "left out: aliked-n16.pth, whose licence (research only)" in capsys.readouterr().out
    dataclasses.replace(options, private=True).run()
    assert [path.name for path in (options.out / "weights").iterdir()] == ["aliked-n16.pth"]


def test_a_file_of_unknown_content_is_packed_only_from_a_named_folder(
    options: build.Build, small: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = weights.manifest()
    loose = dataclasses.replace(known["aliked-n16.pth"], sha256=weights.UNPINNED, bytes=0)
    monkeypatch.setattr(weights, "manifest", lambda: {**known, "aliked-n16.pth": loose})
    monkeypatch.setenv("IMC_KIT_WEIGHTS", str(shared / "weights"))
    options = dataclasses.replace(options, preset="aliked")
    with pytest.raises(KitError, match=r"aliked-n16\.pth has no published SHA-256: give your own copy"):
        options.run()
    assert not options.out.exists()
    dataclasses.replace(options, weights_from=shared / "weights").run()
    assert [path.name for path in (options.out / "weights").iterdir()] == ["aliked-n16.pth"]


def test_an_interrupted_build_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: build.Build) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(build.Build, "run", stopped)
    monkeypatch.setattr(sys, "argv", ["build_dataset.py", "--owner", "someone"])
    assert build.main() == 130
    assert capsys.readouterr().err.startswith(
        "build_dataset.py: interrupted: run it again; complete downloads are kept"
    )


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every weight file can be downloaded and none is here. Returns the names of those that are downloaded."""
    known = {
        name: dataclasses.replace(weight, sha256=hashlib.sha256(name.encode()).hexdigest(), bytes=len(name))
        for name, weight in weights.manifest().items()
    }
    asked: list[str] = []

    def fetch(weight: weights.Weight, folder: Path) -> Path:
        asked.append(weight.name)
        folder.mkdir(exist_ok=True)
        (folder / weight.name).write_text(weight.name)
        return folder / weight.name

    monkeypatch.setattr(build, "fetch", fetch)
    monkeypatch.setattr(weights, "manifest", lambda: known)
    monkeypatch.setattr(weights, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("IMC_KIT_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setenv("IMC_KIT_INPUT", str(tmp_path / "nothing"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return asked


def test_missing_weights_are_downloaded(
    options: build.Build, small: Path, published: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that are here are not downloaded, nor files that must not be packed."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "aliked-n16.pth").write_text("aliked-n16.pth")
    options = dataclasses.replace(options, preset="ensemble")
    options.run()
    there = {"aliked-n16.pth", "aliked_lightglue.pth", "superpoint_lightglue.pth", "dinov2_vits14_pretrain.pth"}
    assert {path.name for path in (options.out / "weights").iterdir() if path.read_text() == path.name} == there
    assert sorted(published) == sorted(there - {"aliked-n16.pth"})
    assert "left out: superpoint_v1.pth" in capsys.readouterr().out
    dataclasses.replace(options, private=True).run()
    assert {path.name for path in (options.out / "weights").iterdir()} == there | {"superpoint_v1.pth"}
    assert published[3:] == ["superpoint_v1.pth"]


def test_weights_from_a_folder_are_not_downloaded(
    options: build.Build, small: Path, published: list[str], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("aliked-n16.pth", "dinov2_vits14_pretrain.pth"):
        (tmp_path / "folder" / name).write_text(name)
    with pytest.raises(KitError, match=r"aliked_lightglue\.pth is missing: looked in \S+folder;") as caught:
        dataclasses.replace(options, preset="baseline", weights_from=tmp_path / "folder").run()
    one_sentence(caught.value)
    assert published == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aliked-n16.pth", ["Copyright (c) 2022, Zhao Xiaoming", "BSD 3-Clause License"]),
        ("aliked_lightglue.pth", ["Apache License", "Version 2.0"]),
        ("superpoint_v6_from_tf.pth", ["Paul-Edouard Sarlin & Rémi Pautrat", "MIT License"]),
        ("AffNet.pth", ["Copyright (c) 2018 Dmytro Mishkin", "MIT License"]),
        ("checkpoint_liberty_with_aug.pth", ["Anastasiia Mishchuk", "MIT License"]),
        ("dedode_descriptor_B.pth", ["is not in this kit: see the address above"]),
        ("dedodeb_lightglue.pth", ["is not in this kit"]),
        ("superpoint_v1.pth", ["is not in this kit"]),
    ],
)
def test_the_text_of_a_licence(name: str, said: list[str]) -> None:
    notice = build._licence_text(weights.manifest()[name])
    assert all(words in notice for words in said)


def test_names_that_kaggle_would_change(options: build.Build, small: Path) -> None:
    small.rename(small.with_name("kit_toy-1.0+cpu-py3-none-any.whl"))
    with pytest.raises(KitError, match=r"Kaggle would rename kit_toy-1\.0\+cpu") as caught:
        options.run()
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"owner": "some one"}, "--owner must be as in Kaggle's addresses"),
        ({"slug": "Kit"}, "--slug must be"),
        ({"python": ("3.7",)}, r"kaggle-constraints-3\.7\.txt, .* is missing: choose 3\.11 or 3\.12 or 3\.13"),
        ({"preset": "sfit"}, "did you mean 'sift'"),
        ({"weights_from": Path("/nowhere")}, "--weights-from /nowhere is not a folder"),
        ({"out": Path("dist/kernel")}, "--out must be a named folder other than the notebook's"),
        ({"out": Path()}, r"--out must be a named folder .* not '\.'"),
    ],
)
def test_wrong_options_are_one_sentence(options: build.Build, change: dict[str, object], said: str) -> None:
    with pytest.raises(KitError, match=said) as caught:
        dataclasses.replace(options, **change).run()
    one_sentence(caught.value)
    assert not options.out.parent.exists()


def test_a_wrong_option_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["build_dataset.py", "--owner", "some one"])
    assert build.main() == 2
    assert capsys.readouterr().err.startswith("build_dataset.py: --owner must be as in Kaggle's addresses")


def test_without_a_checkout(options: build.Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (build, wheels):
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    with pytest.raises(KitError, match="is not a git checkout of imc_kit: clone the repository and build there"):
        options.run()


@cache
def interpreters() -> dict[str, Path]:
    """The interpreters on this machine for the Pythons of Kaggle's images; this one's if there is none."""
    found = {}
    for python in wheels.PYTHONS:
        with contextlib.suppress(KitError):
            found[python] = environments.find_python(python)
    return found or {OWN: Path(sys.executable)}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit as a person builds it, from the package index."""
    out = tmp_path_factory.mktemp("real") / "imc-kit"
    pythons = [word for python in {*wheels.PYTHONS, *interpreters()} for word in ("--python", python)]
    command = [sys.executable, "build_dataset.py", "--owner", "someone", "--out", str(out), *pythons]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    return out


@pytest.mark.slow
def test_size_of_a_real_kit(real: Path) -> None:
    """For the two Pythons of Kaggle's images, without weights: under 150 MB."""
    sizes = [path.stat().st_size for path in (real / "wheels").iterdir() if "cp311" not in path.name]
    assert sum(sizes) < 150e6
    assert not [path for path in (real / "wheels").iterdir() if not re.fullmatch(r"[A-Za-z0-9._-]+\.whl", path.name)]


@pytest.mark.slow
def test_a_real_kit_installs(real: Path, tmp_path: Path) -> None:
    """Into an environment with the numpy of Kaggle's image, which does not change.

    kornia imports torch, whose builds for Kaggle's image take gigabytes. So this test imports kornia's compiled part
    and only checks that the rest is installed (docs/kaggle.md says what was tried with torch).
    """
    python, interpreter = max(interpreters().items())
    numpy = wheels.image(python)["numpy"]
    own = environment_with_pip(interpreter, tmp_path / "environment")
    subprocess.run([own, "-m", "pip", "install", "-q", "--no-compile", f"numpy=={numpy}"], check=True)
    script = tmp_path / "try.py"
    script.write_text(
        "import importlib.metadata as m, importlib.util as u, runpy, sys\nfrom pathlib import Path\n"
        "space = runpy.run_path(sys.argv[1] + '/install.py')\n"
        "space['install'].__globals__['_check_needs'] = lambda needs: None\n"  # the image's other packages are not here
        "space['install'](Path(sys.argv[1]))\n"
        "import imc_kit, kornia_rs, numpy, pycolmap\n"
        "assert all(u.find_spec(name) and m.version(name) for name in ('kornia', 'tyro'))\n"
        "assert pycolmap.Rotation3d().matrix().shape == (3, 3)\n"
        "print('numpy', numpy.__version__, imc_kit.__file__)\n"
    )
    said = subprocess.check_output([own, "-I", str(script), str(real)], text=True).splitlines()[-1].split()
    assert said[:2] == ["numpy", numpy]
    assert Path(said[2]).is_relative_to(tmp_path / "environment")


def environment_with_pip(interpreter: Path, folder: Path) -> Path:
    """A new environment with its interpreter's own pip, as the one of these tests may be too old for it.

    It is linked where the interpreter has it, as unpacking it takes seconds.
    """
    asked = subprocess.run([interpreter, "-c", "import pip; print(*pip.__path__)"], capture_output=True, text=True)
    there = asked.stdout.strip()
    subprocess.run([interpreter, "-m", "venv", *(["--without-pip"] if there else []), folder], check=True)
    if there:
        (environments.site(folder) / "pip").symlink_to(there)
    return folder / "bin" / "python"


def test_upload_without_kaggles_command(options: build.Build, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(build.shutil, "which", lambda name: None if name == "kaggle" else which(name))
    with pytest.raises(KitError, match="--upload needs Kaggle's command"):
        dataclasses.replace(options, upload=True).run()
    assert (options.out / "manifest.json").is_file()


def test_upload_runs_the_commands(
    options: build.Build, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new dataset is created; an existing one gets a new version."""
    log = tmp_path / "log"
    fake = tmp_path / "bin" / "kaggle"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n[ "$2" = status ] && exit $(cat {tmp_path}/status)\necho "$@" >> {log}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/local/bin:/usr/bin:/bin")
    for status, verb in ((1, "create"), (0, "version")):
        (tmp_path / "status").write_text(str(status))
        log.unlink(missing_ok=True)
        dataclasses.replace(options, upload=True).run()
        first, second = log.read_text().splitlines()
        assert first.startswith(f"datasets {verb} -p {options.out} --dir-mode zip")
        assert second.startswith(f"kernels push -p {options.out.parent / 'kernel'}")
