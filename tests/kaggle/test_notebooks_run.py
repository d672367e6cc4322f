"""Every notebook runs from top to bottom without a network, on a small scene, as the rehearsal runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_kit.data import scenes
from imc_kit.kaggle import rehearse
from kits import write_kit
from stages import layered_python

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_runs(name: str, tmp_path: Path, shared: Path) -> None:
    stage, results = tmp_path / "stage", tmp_path / "results"
    stage.mkdir()
    results.mkdir()
    kit = write_kit(tmp_path / "kit")
    task = scenes.load(shared / "scenes").only("herzjesu_P8")
    inputs = rehearse._inputs(kit, task, "nested", stage / "sample_submission.csv")
    asked = (task.columns, task.keys) if name == "submission" else None
    report = rehearse.Report()
    rehearse.run_notebook(
        NOTEBOOKS / f"{name}.ipynb", layered_python(tmp_path / "environment"), inputs,
        asked, len(task.rows), results, stage, rehearse.Limits(), report,
    )  # fmt: skip
    assert report.problems == []
    if name == "submission":
        assert "herzjesu_P8: 8 of 8 images" in (results / "executed.ipynb").read_text("utf-8")
