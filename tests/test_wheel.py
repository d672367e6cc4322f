"""The built package, installed into an environment of its own and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
PROGRAM = """
import imc_kit
print(imc_kit.__file__)
imc_kit.solve, imc_kit.score, imc_kit.preset
from imc_kit.cli.main import main
main(["weights", "list"])
main(["solve", "--help"])
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment: the wheel in it, and the packages of this Python behind it."""
    work = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work)
    shutil.copytree(ROOT / "src", work / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", ".", cwd=work)
    (wheel,) = work.glob("*.whl")
    venv.create(work / "venv", with_pip=False)
    paths = sysconfig.get_paths("venv", {"base": str(work / "venv"), "platbase": str(work / "venv")})
    scripts = Path(paths["scripts"])
    python = scripts / Path(sys.executable).name
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=work)
    Path(paths["purelib"], "behind.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    shutil.rmtree(work / "src")
    return scripts


@pytest.mark.slow
def test_the_wheel_works(scripts: Path, tmp_path: Path) -> None:
    assert run(scripts / "imc-kit", "--version", cwd=tmp_path) == f"imc-kit {metadata.version('imc-kit')}\n"
    said = run(scripts / Path(sys.executable).name, "-c", PROGRAM, cwd=tmp_path)
    assert "--help-all" in said  # it has read solve_help.txt
    assert "aliked" in said  # and weights.toml
    package = Path(said.splitlines()[0]).parent
    assert scripts.parent in package.parents
    source = ROOT / "src/imc_kit"
    files = [
        path.relative_to(source) for path in source.rglob("*.*") if path.is_file() and path.parent.name != "__pycache__"
    ]
    assert [path for path in files if not (package / path).is_file()] == []
