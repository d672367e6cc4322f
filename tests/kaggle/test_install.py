"""The installer that every kit carries, and the notebook's first cell, which runs it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imc_kit.kaggle import install
from kits import OWN, flip, one_sentence, seal, write_kit, write_wheel

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "submission.ipynb"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with pip and a numpy of its own, which no installation may change."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    numpy = write_wheel(folder / "found", "numpy", "2.0.2")
    interpreter = folder / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", "--no-index", str(numpy)], check=True)
    return interpreter


def first_cell(input_root: Path, interpreter: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run the notebook's first cell of code as it is, in a process of its own."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = {"IMC_KIT_INPUT": str(input_root), "PATH": "/usr/bin:/bin"}
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, env=environment)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_installs_offline_and_leaves_numpy(attached: Path, python: Path) -> None:
    done = first_cell(attached, python)
    assert done.returncode == 0, done.stderr
    assert "imc_kit 9.9 (0123456789ab) installed" in done.stdout
    code = "import kit_toy, numpy, importlib.metadata as m; print(kit_toy.version, numpy.version, m.version('numpy'))"
    assert subprocess.check_output([python, "-c", code], text=True).split() == ["1.0", "2.0.2", "2.0.2"]
    assert first_cell(attached, python).returncode == 0  # the cell may be run again


def test_no_kit_and_two(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    assert "attach one imc_kit dataset (Add Input): 0 of them" in last_line(first_cell(tmp_path / "input"))
    write_kit(tmp_path / "input" / "a")
    write_kit(tmp_path / "input" / "datasets" / "me" / "b")
    assert "attach one imc_kit dataset (Add Input): 2 of them" in last_line(first_cell(tmp_path / "input"))


def test_missing_manifest(tmp_path: Path) -> None:
    kit = write_kit(tmp_path / "input" / "kit")
    (kit / "manifest.json").unlink()
    assert "has no manifest.json" in last_line(first_cell(tmp_path / "input"))


@pytest.mark.parametrize("file", ["wheels/kit_toy-1.0-py3-none-any.whl", "weights/toy.pth", "imc_kit.lock"])
@pytest.mark.parametrize(("harm", "said"), [("flip", "is damaged"), ("cut", "bytes"), ("lose", "is missing")])
def test_broken_files_stop_it_before_anything_is_installed(tmp_path: Path, file: str, harm: str, said: str) -> None:
    kit = write_kit(tmp_path / "kit")
    if harm == "flip":
        flip(kit / file)
    elif harm == "cut":
        (kit / file).write_bytes((kit / file).read_bytes()[:-1])
    else:
        (kit / file).unlink()
    with pytest.raises(install.InstallError, match=said) as caught:
        install.install(kit)
    assert file in one_sentence(caught.value)


def test_python_without_wheels(tmp_path: Path) -> None:
    kit = write_kit(tmp_path / "input" / "kit", pythons=("3.8", "3.9"))
    said = last_line(first_cell(tmp_path / "input"))
    assert f"this kit has wheels for Python 3.8 and 3.9 but the notebook runs {OWN}" in said
    assert kit.is_dir()


def test_wheel_that_is_not_the_locked_one(tmp_path: Path, python: Path) -> None:
    """The manifest may be right about a wheel that the lock does not know: pip refuses it."""
    kit = write_kit(tmp_path / "input" / "kit")
    write_wheel(kit / "wheels", "kit-other")
    (kit / "imc_kit.lock").write_text(f"kit-other==1.0 --hash=sha256:{'0' * 64}\n")
    seal(kit)
    said = last_line(first_cell(tmp_path / "input", python))
    assert "pip could not install the kit's wheels" in said


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"numpy": {"from": "2.1", "below": "2.5"}}, "has numpy 2.0.2, but the kit needs 2.1 or newer, below 2.5"),
        ({"numpy": {"from": "1.2", "below": "2"}}, "has numpy 2.0.2, but the kit needs 1.2 or newer, below 2"),
        ({"tqdm": {"from": "4", "below": "5"}}, "has no tqdm, which the kit expected"),
        ({"opencv-python-headless": {"from": "4.10", "below": "5"}}, "has no OpenCV"),
        ({"numpy": {"from": "2.0.2", "below": "2.0.10"}}, ""),
    ],
)
def test_what_the_image_must_provide(tmp_path: Path, python: Path, needs: dict[str, dict[str, str]], said: str) -> None:
    write_kit(tmp_path / "input" / "kit", needs=needs)
    done = first_cell(tmp_path / "input", python)
    assert said in last_line(done) if said else done.returncode == 0


def test_a_numba_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"numba": {"from": "0.60", "below": "0.69"}}
    install._check_needs(needs)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(install.InstallError, match="the notebook's numba cannot be loaded"):
        install._check_needs(needs)


def test_a_kit_that_would_change_numpy_is_found_out(tmp_path: Path, python: Path) -> None:
    kit = write_kit(tmp_path / "input" / "kit")
    wheel = write_wheel(kit / "wheels", "opencv-python", "5.0")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (kit / "imc_kit.lock").write_text(f"opencv-python==5.0 --hash=sha256:{digest}\n")
    seal(kit)
    assert "the installation changed {'opencv-python': '5.0'}" in last_line(first_cell(tmp_path / "input", python))


@pytest.mark.parametrize("version", ["2.11.0+cu128", "2.11.0.post1", "2.11.0rc1"])
def test_versions_compare_by_their_numbers(version: str) -> None:
    assert install._numbers("2.9") < install._numbers("2.10") <= install._numbers(version) < install._numbers("2.12")
