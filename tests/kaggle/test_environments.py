"""The interpreter, torch and packages of a rehearsal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.kaggle import environments
from kits import OWN


def test_which_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    here = True
    monkeypatch.setattr(environments, "_is_installed", lambda name: here)
    needs = {"needs": {"torch": {}}}
    assert environments.which_torch("auto", {"needs": {}}, OWN) == "none"
    assert environments.which_torch("auto", needs, OWN) == "borrow"
    assert environments.which_torch("auto", needs, "3.1") == "install"
    assert environments.which_torch("none", needs, OWN) == "none"
    with pytest.raises(KitError, match=r"there is no torch to borrow: run this with a Python 3\.1 that has it"):
        environments.which_torch("borrow", needs, "3.1")
    here = False
    assert environments.which_torch("auto", needs, OWN) == "install"
    with pytest.raises(KitError, match="there is no torch to borrow"):
        environments.which_torch("borrow", needs, OWN)


@pytest.mark.parametrize("pins", [["numpy==2.0.2", "torch==2.11.0", "timm==1.0.27"], ["numpy==2.0.2", "torch==2.11.0"]])
def test_an_environment_with_and_without_the_images_timm(
    pins: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[list[str]] = []

    def run(command: list[str], failure: str) -> str:
        if command[2] == "venv":
            Path(command[-1], "lib", "python3", "site-packages").mkdir(parents=True)
        else:
            installed.append([word for word in command[5:] if not word.startswith("--")])
        return ""

    monkeypatch.setattr(environments, "run", run)
    monkeypatch.setattr(environments, "_with_requirements", lambda names: {})
    for _ in range(2):  # the second time it is there
        environments.base(Path(sys.executable), pins, "borrow", tmp_path)
    assert installed == [["nbclient", "ipykernel", "numpy==2.0.2"], *([pin] for pin in pins if "timm" in pin)]


def test_find_python() -> None:
    assert Path(environments.find_python(OWN)) == Path(sys.executable)
    with pytest.raises(KitError, match=r"there is no Python 3\.1 on this machine"):
        environments.find_python("3.1")
