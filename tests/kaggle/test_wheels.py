"""The wheels of a kit: what Kaggle's images lack is locked, and the same sources give the same wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.kaggle import wheels
from kits import one_sentence, write_lock, write_wheel

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("python", ["3.11", *wheels.PYTHONS])
def test_the_locks_are_up_to_date(python: str) -> None:
    names = {pin.split("==")[0] for pin in wheels.pins(wheels.lock_for(python).read_text())}
    assert names >= {"pycolmap", "kornia", "kornia-rs"}
    assert not names & set(wheels.image(python))
    rehearsed = [line.split() for line in wheels.rehearsed(python)]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+( --hash=sha256:[0-9a-f]{64})+", " ".join(line)) for line in rehearsed)
    versions = dict(line[0].split("==") for line in rehearsed)
    assert set(versions) >= {"nbclient", "ipykernel"}
    assert versions.items() >= wheels.image(python).items()


def test_a_lock_of_other_requirements_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CHECKOUT / "wheels", tmp_path / "wheels", ignore=shutil.ignore_patterns("*.whl"))
    text = (CHECKOUT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(wheels, "CHECKOUT", tmp_path)
    assert wheels.lock_for("3.12")
    (tmp_path / "pyproject.toml").write_text(text.replace("pycolmap>=4.1.1,<4.3", "pycolmap>=4.1.1,<4.2"))
    with pytest.raises(KitError, match=r"kaggle-3\.12\.lock is out of date: .* --lock --python 3\.12") as caught:
        wheels.lock_for("3.12")
    one_sentence(caught.value)
    (tmp_path / "wheels" / "kaggle-3.12.lock").unlink()
    with pytest.raises(KitError, match=r"kaggle-3\.12\.lock is missing"):
        wheels.lock_for("3.12")


def test_constraints_of_another_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "CHECKOUT", tmp_path)
    file = tmp_path / "wheels" / "kaggle-constraints-3.14.txt"
    file.parent.mkdir()
    file.write_text("# the image\n\nNumPy==2.0.2  # a comment\ntyping_extensions==4.15.0\n")
    assert wheels.image("3.14") == {"numpy": "2.0.2", "typing-extensions": "4.15.0"}
    file.write_text("numpy==2.0.2\ntorch>=2.11\n")
    with pytest.raises(KitError, match=r"constraints-3\.14\.txt, line 2, says 'torch>=2\.11': write it as") as caught:
        wheels.image("3.14")
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["torch", "numpy", "opencv-python", "nvidia-cublas"])
def test_what_the_image_has_is_never_packed(name: str) -> None:
    with pytest.raises(KitError, match=f"{name} must come from Kaggle's image"):
        wheels._refuse_untouchable(f"kornia==1.0\n{name}==1.0\n")


def test_locking_without_uv_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(wheels, "find_spec", lambda name: None if name == "uv" else find(name))
    with pytest.raises(KitError, match=r"pip install \"imc-kit\[build\]\""):
        wheels.write_lock("3.12")


def test_downloads_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete file in the cache is used; a broken one is replaced."""
    good = write_wheel(tmp_path / "there", "kit-toy")
    lock = write_lock(tmp_path / "toy.lock", good)
    calls = []

    def pip(command: list[str], failure: str) -> str:
        calls.append(command)
        shutil.copy(good, command[command.index("--dest") + 1])
        return ""

    monkeypatch.setattr(wheels, "run", pip)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / good.name).write_bytes(good.read_bytes()[:100])
    for _ in range(2):
        assert [path.read_bytes() for path in wheels.download(lock, "3.12", cache)] == [good.read_bytes()]
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == [good.name]
    assert {"--only-binary", "--require-hashes", "manylinux2014_x86_64", "manylinux_2_28_x86_64"} <= set(calls[0])


@pytest.mark.slow
def test_this_package_is_built_to_the_same_bytes(tmp_path: Path) -> None:
    """Also with other permissions for new files. Downloads setuptools once."""
    built = []
    for number, mask in enumerate((0o022, 0o077)):
        folder = tmp_path / str(number)
        folder.mkdir()
        before = os.umask(mask)
        try:
            built.append(wheels._build_own(folder, CHECKOUT / "build" / "kaggle"))
        finally:
            os.umask(before)
    assert built[0].read_bytes() == built[1].read_bytes()
    assert built[0].name.startswith("imc_kit-")
