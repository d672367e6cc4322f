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
    monkeypatch.setattr(environments, "find_spec", lambda name: here)
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


HASHED = [
    f"{name} --hash=sha256:0" for name in ("ipykernel==7", "numpy==2.0.2", "nvidia-nccl-cu13==2", "torch==2.11.0")
]
TIMM = "timm==1.0.27 --hash=sha256:0"


@pytest.mark.parametrize(
    ("torch", "pins", "kept"),
    [
        ("install", [*HASHED, TIMM], [*HASHED, TIMM]),
        ("borrow", [*HASHED, TIMM], [*HASHED[:2], TIMM]),
        ("borrow", HASHED, HASHED[:2]),
        ("none", [*HASHED, TIMM], HASHED[:2]),
    ],
)
def test_an_environment_is_installed_by_hash(
    torch: environments.Torch, pins: list[str], kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[tuple[list[str], list[str]]] = []

    def run(command: list[str], failure: str) -> str:
        if "venv" in command:
            Path(command[-1], "lib", "python3", "site-packages").mkdir(parents=True)
        elif "pip" in command:
            installed.append((command, Path(command[-1]).read_text().splitlines()))
        return ""

    monkeypatch.setattr(environments, "run", run)
    monkeypatch.setattr(environments, "_with_requirements", lambda names: {})
    for _ in range(2):  # the second time it is there
        environments.base(Path(sys.executable), pins, torch, tmp_path)
    ((command, lines),) = installed
    assert lines == kept
    assert {"-I", "--require-hashes", "--no-deps", "--requirement"} <= set(command)


def test_a_package_without_a_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        KitError, match=r"the kit names numpy==2\.0\.2 without a hash, as older ones do: build it again"
    ):
        environments.base(Path(sys.executable), [HASHED[0], "numpy==2.0.2"], "none", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")
    monkeypatch.setenv("PYENV_ROOT", "~nobody-of-this-name/pyenv")
    assert environments.find_python(OWN)


def test_find_python() -> None:
    assert Path(environments.find_python(OWN)) == Path(sys.executable)
    with pytest.raises(KitError, match=r"there is no Python 3\.1 on this machine"):
        environments.find_python("3.1")
