"""Every notebook runs from top to bottom without a network, on a small scene, as the rehearsal runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_kit.data import images, scenes
from imc_kit.kaggle import rehearse
from imc_kit.kaggle.rehearse import Report
from kits import write_kit
from stages import job

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PHOTOS = 5


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """A competition of one scene: a few real photos, reduced so that the notebooks take seconds."""
    root = tmp_path_factory.mktemp("competition")
    task = scenes.load(shared / "scenes").only("herzjesu_P8")
    scene = task.scenes[0]
    folder = root / "test" / scene.name / "images"
    folder.mkdir(parents=True)
    for name in scene.images[:PHOTOS]:
        (folder / name).write_bytes(images.as_jpeg(images.load(scene.path(name), 448).pixels))
    for table in ("sample_submission.csv", "truth.csv"):
        header, *rows = (shared / "scenes" / table).read_text("utf-8").splitlines(keepends=True)
        kept = [
            row for row in rows if row.startswith(tuple(f"test/{scene.name}/images/{n}" for n in scene.images[:PHOTOS]))
        ]
        (root / table).write_text(header + "".join(kept), "utf-8")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_runs(name: str, tmp_path: Path, competition: Path, notebook_python: Path) -> None:
    kit = write_kit(tmp_path / "kit")
    task = scenes.load(competition)
    inputs = rehearse.attached_inputs(kit, task, tmp_path / "sample_submission.csv")
    report = Report()
    rehearse.run_notebook(
        job(tmp_path, NOTEBOOKS / f"{name}.ipynb", notebook_python, inputs),
        task if name == "submission" else None,
        report,
    )
    assert report.problems == []
    if name == "submission":
        shown = (tmp_path / "results" / "executed.ipynb").read_text("utf-8")
        assert f"herzjesu_P8 (1 of 1, full round): {PHOTOS} of {PHOTOS} images" in shown
