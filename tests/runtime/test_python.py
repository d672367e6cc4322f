"""Python in child processes imports nothing from the current folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imc_kit.kaggle import checkout
from imc_kit.runtime.python import environment


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder has modules that end every process that imports them."""
    for name in ("tomllib", "zipfile", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(66)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["", ":", "/nowhere:", ":/nowhere", ".", "/nowhere:./"])
def test_nothing_is_imported_from_the_current_folder(hostile: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("PYTHONPATH", path.replace(":", os.pathsep))
    for command in (["-c", "import tomllib, zipfile"], ["-m", "zipfile", "--help"]):
        subprocess.run([sys.executable, *command], env=environment(), check=True, capture_output=True)
    assert "usage" in checkout.run([sys.executable, "-m", "zipfile", "--help"], "it failed")


def test_folders_that_are_named_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "named.py").write_text(f"print({folder!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "second"))
    command = [sys.executable, "-c", "import named"]
    for first, said in (([str(tmp_path / "first")], "first\n"), ([], "second\n")):
        done = subprocess.run(command, env=environment(*first), check=True, capture_output=True, text=True)
        assert done.stdout == said
