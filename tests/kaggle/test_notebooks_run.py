"""Every notebook runs from top to bottom without a network, on a small scene, as the rehearsal runs them.

All but `submission` run in one kernel, which forgets all names after each: so what they import is loaded once.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from imc_kit.data import images, scenes
from imc_kit.kaggle import rehearse
from imc_kit.kaggle.rehearse import Report
from jpegs import as_jpeg
from kits import write_kit
from stages import job

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PHOTOS = 4


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """A competition of one scene: a few real photos, reduced so that the notebooks take seconds."""
    root = tmp_path_factory.mktemp("competition")
    task = scenes.load(shared / "scenes").only("herzjesu_P8")
    scene = task.scenes[0]
    folder = root / "test" / scene.name / "images"
    folder.mkdir(parents=True)
    for name in scene.images[:PHOTOS]:
        (folder / name).write_bytes(as_jpeg(images.load(scene.path(name), 400).pixels))
    for table in ("sample_submission.csv", "truth.csv"):
        header, *rows = (shared / "scenes" / table).read_text("utf-8").splitlines(keepends=True)
        kept = [
            row for row in rows if row.startswith(tuple(f"test/{scene.name}/images/{n}" for n in scene.images[:PHOTOS]))
        ]
        (root / table).write_text(header + "".join(kept), "utf-8")
    return root


def executed(notebook: Path, folder: Path, competition: Path, python: Path, with_submission: bool) -> str:
    """The text of the executed notebook."""
    kit = write_kit(folder / "kit")
    task = scenes.load(competition)
    inputs = rehearse.attached_inputs(kit, task, "nested", folder / "sample_submission.csv")
    report = Report()
    rehearse.run_notebook(job(folder, notebook, python, inputs), task if with_submission else None, report)
    assert report.problems == []
    return (folder / "results" / "executed.ipynb").read_text("utf-8")


@pytest.mark.slow
def test_the_notebook_of_the_submission_runs(tmp_path: Path, competition: Path, notebook_python: Path) -> None:
    shown = executed(NOTEBOOKS / "submission.ipynb", tmp_path, competition, notebook_python, True)
    assert f"herzjesu_P8 (1 of 1, full round): {PHOTOS} of {PHOTOS} images" in shown


@pytest.mark.slow
def test_the_other_notebooks_run(tmp_path: Path, competition: Path, notebook_python: Path) -> None:
    paths = sorted(path for path in NOTEBOOKS.glob("*.ipynb") if path.stem != "submission")
    assert len(paths) == 4
    cells = []
    for path in paths:
        cells += [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        # Frozen, because %reset would look for garbage in all that is loaded.
        end = f"import gc\ngc.freeze()\n%reset -f\nprint('the end of {path.stem}')"
        cells.append(nbformat.v4.new_code_cell(end))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "all.ipynb")
    shown = executed(tmp_path / "all.ipynb", tmp_path, competition, notebook_python, False)
    assert all(f"the end of {path.stem}\\n" in shown for path in paths)
