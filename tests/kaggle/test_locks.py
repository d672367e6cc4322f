"""The packages that Kaggle's images have and lack: the constraints and the locks."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.kaggle import locks
from kits import one_sentence

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("python", ["3.11", *locks.PYTHONS])
def test_the_locks_are_up_to_date(python: str) -> None:
    names = {entry.name for entry in locks.read(python)}
    assert names >= {"pycolmap", "kornia", "kornia-rs"}
    assert not names & set(locks.image(python))


def test_a_lock_of_other_requirements_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CHECKOUT / "wheels", tmp_path / "wheels", ignore=shutil.ignore_patterns("*.whl"))
    text = (CHECKOUT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(locks, "CHECKOUT", tmp_path)
    assert locks.read("3.12")
    (tmp_path / "pyproject.toml").write_text(text.replace("pycolmap>=4.1.1,<4.3", "pycolmap>=4.1.1,<4.2"))
    with pytest.raises(KitError, match=r"kaggle-3\.12\.lock is out of date: .* --lock --python 3\.12") as caught:
        locks.read("3.12")
    one_sentence(caught.value)
    (tmp_path / "wheels" / "kaggle-3.12.lock").unlink()
    with pytest.raises(KitError, match=r"kaggle-3\.12\.lock is missing"):
        locks.read("3.12")


def test_constraints_of_another_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "CHECKOUT", tmp_path)
    file = tmp_path / "wheels" / "kaggle-constraints-3.14.txt"
    file.parent.mkdir()
    file.write_text("# the image\n\nNumPy==2.0.2  # a comment\ntyping_extensions==4.15.0\n")
    assert locks.image("3.14") == {"numpy": "2.0.2", "typing-extensions": "4.15.0"}
    file.write_text("numpy==2.0.2\ntorch>=2.11\n")
    with pytest.raises(KitError, match=r"constraints-3\.14\.txt, line 2, says 'torch>=2\.11': write it as") as caught:
        locks.image("3.14")
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["torch", "numpy", "opencv-python", "nvidia-cublas"])
def test_what_the_image_has_is_never_packed(name: str) -> None:
    with pytest.raises(KitError, match=f"{name} must come from Kaggle's image"):
        locks._refuse_untouchable([locks.Locked(name, "1.0", ())])


def test_locking_without_uv_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(locks, "find_spec", lambda name: None if name == "uv" else find(name))
    with pytest.raises(KitError, match=r"pip install \"imc-kit\[build\]\""):
        locks.lock("3.12")
