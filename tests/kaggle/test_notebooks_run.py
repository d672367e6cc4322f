"""Every notebook runs from top to bottom without a network, on a small scene, as the rehearsal runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_kit.data import scenes
from imc_kit.kaggle import rehearse
from imc_kit.kaggle.report import Report
from kits import write_kit
from stages import job

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_runs(name: str, tmp_path: Path, shared: Path, notebook_python: Path) -> None:
    kit = write_kit(tmp_path / "kit")
    task = scenes.load(shared / "scenes").only("herzjesu_P8")
    inputs = rehearse.attached_inputs(kit, task, "nested", tmp_path / "sample_submission.csv")
    report = Report()
    rehearse.run_notebook(
        job(tmp_path, NOTEBOOKS / f"{name}.ipynb", notebook_python, inputs),
        task if name == "submission" else None,
        report,
    )
    assert report.problems == []
    if name == "submission":
        assert "herzjesu_P8: 8 of 8 images" in (tmp_path / "results" / "executed.ipynb").read_text("utf-8")
