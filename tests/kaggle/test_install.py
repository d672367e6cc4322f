"""The installer that every kit carries, and the notebook's cell that runs it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from imc_kit.kaggle import install
from kits import OWN, flip, one_sentence, seal, write_kit, write_wheel
from stages import layered_python

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "submission.ipynb"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the packages of the tests. No installation may change its numpy."""
    return layered_python(tmp_path_factory.mktemp("layer") / "environment")


def install_cell(input_root: Path, interpreter: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run the notebook's cell that installs the kit, in a process of its own."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = next(source for source in sources if "install.py" in source)
    environment = {"IMC_KIT_INPUT": str(input_root), "PATH": "/usr/bin:/bin"}
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, env=environment)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_installs_offline_and_leaves_numpy(attached: Path, python: Path) -> None:
    done = install_cell(attached, python)
    assert done.returncode == 0, done.stderr
    assert "imc_kit 9.9 (0123456789ab) installed" in done.stdout
    code = "import kit_toy, importlib.metadata as m; print(kit_toy.version, m.version('numpy'))"
    assert subprocess.check_output([python, "-c", code], text=True).split() == ["1.0", metadata.version("numpy")]
    assert install_cell(attached, python).returncode == 0  # the cell may be run again


def test_what_stops_the_install_cell(tmp_path: Path) -> None:
    """No kit, two kits, a kit for other Pythons, a kit without its manifest."""
    root = tmp_path / "input"
    root.mkdir()
    assert "attach one imc_kit dataset (Add Input): 0 of them" in last_line(install_cell(root))
    kit = write_kit(root / "datasets" / "me" / "a", pythons=("3.8", "3.9"))
    said = last_line(install_cell(root))
    assert f"this kit has wheels for Python 3.8 and 3.9 but the notebook runs {OWN}" in said
    (kit / "manifest.json").unlink()
    assert "has no manifest.json" in last_line(install_cell(root))
    write_kit(root / "b")
    assert "attach one imc_kit dataset (Add Input): 2 of them" in last_line(install_cell(root))


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


@pytest.mark.parametrize(
    ("name", "right", "said"),
    [
        ("kit-other", False, "pip could not install the kit's wheels"),
        ("opencv-python", True, "the installation changed {'opencv-python': '1.0'}"),
    ],
)
def test_wheels_that_must_not_be_installed(tmp_path: Path, python: Path, name: str, right: bool, said: str) -> None:
    """One is not the wheel of the lock, the other changes a package of the image; the manifest knows both."""
    kit = write_kit(tmp_path / "input" / "kit")
    wheel = write_wheel(kit / "wheels", name)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest() if right else "0" * 64
    (kit / "imc_kit.lock").write_text(f"{name}==1.0 --hash=sha256:{digest}\n")
    seal(kit)
    assert said in last_line(install_cell(tmp_path / "input", python))


@pytest.mark.parametrize(
    ("name", "range_", "said"),
    [
        ("numpy", ("2.1", "2.5"), r"has numpy 2\.0\.2, but the kit needs 2\.1 or newer, below 2\.5"),
        ("numpy", ("1.2", "2"), r"has numpy 2\.0\.2, but the kit needs 1\.2 or newer, below 2"),
        ("tqdm", ("4", "5"), "has no tqdm, which Kaggle's image should provide"),
        ("opencv-python-headless", ("4.10", "5"), "has no OpenCV"),
        ("numpy", ("2.0.2", "2.0.10"), None),
    ],
)
def test_what_the_image_must_provide(
    name: str, range_: tuple[str, str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_version", {"numpy": "2.0.2"}.get)
    monkeypatch.setattr(install, "find_spec", lambda module: None)
    needs = {name: dict(zip(("from", "below"), range_, strict=True))}
    if said is None:
        install._check_needs(needs)
    else:
        with pytest.raises(install.InstallError, match=said) as caught:
            install._check_needs(needs)
        one_sentence(caught.value)


def test_a_numba_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"numba": {"from": "0.60", "below": "0.69"}}
    install._check_needs(needs)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(install.InstallError, match="the notebook's numba cannot be loaded"):
        install._check_needs(needs)


@pytest.mark.parametrize("version", ["2.11.0+cu128", "2.11.0.post1", "2.11.0rc1"])
def test_versions_compare_by_their_numbers(version: str) -> None:
    assert install._numbers("2.9") < install._numbers("2.10") <= install._numbers(version) < install._numbers("2.12")
