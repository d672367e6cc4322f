"""A run of two scenes shows every step that takes longer than the threshold, in a log and in a notebook."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from imc_kit import solve
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.kaggle import inside
from imc_kit.runtime import progress
from point_scenes import CONFIG, Points, write_photographs
from stages import layered_python

FIRST = 0.1
RUNS = MappingConfig("global"), MappingConfig()
TWO_RUNS = replace(CONFIG, mapping=RUNS, trusted=2.0)
CELL = """
import logging, sys
from pytest import MonkeyPatch

sys.path[:0] = {path!r}
import test_progress_of_a_run as test

logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
test.hurry(MonkeyPatch())
print(test.solve("data", "out", test.TWO_RUNS))
"""
LABELS = {
    "inspect": "reading photos|stage inspect",
    "detect": "points keypoints|stage detect",
    "pairs": "stage pairs|global descriptors",
    "match": "nearest matches|static overlays|stage match",
    "verify": "verification|stage verify",
    "map": "mapping run|stage map",
    "complete": "merging|localisation|refinement|re-adding|missing images|global descriptors|stage complete",
    "place": "global descriptors|stage place",
}


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress early and often, and detect slowly."""
    for name, seconds in {"FIRST": FIRST, "_BAR": FIRST, "EVERY": 0.06, "_LOOK": 0.03}.items():
        monkeypatch.setattr(progress, name, seconds)
    seen = Points.seen
    monkeypatch.setattr(Points, "seen", lambda self, number: time.sleep(0.04) or seen(self, number))


def in_a_notebook(folder: Path) -> str:
    """What a person sees of the run below its cell."""
    import nbformat

    python = layered_python(folder / "environment")
    code = CELL.format(path=[str(Path(__file__).parent), *filter(None, sys.path)])
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), folder / "run.ipynb")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE")}
    command = [str(python), "-c", inside._RUNNER, "run.ipynb", "executed.ipynb", "."]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = nbformat.read(folder / "executed.ipynb", 4).cells[0].outputs
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", [False, True], ids=["log", "notebook"])
def test_every_long_step_is_visible(
    tmp_path: Path, notebook: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate("ab"):
        for path in write_photographs(tmp_path / "data/test" / name / "images").iterdir():
            photo = cv2.imread(str(path))
            photo[5, 5] = number  # otherwise the features of the first scene would be used again
            cv2.imwrite(str(path), photo)
    if notebook:
        text = in_a_notebook(tmp_path)
    else:
        hurry(monkeypatch)
        with caplog.at_level(logging.INFO, "imc_kit"):
            solve(tmp_path / "data", tmp_path / "out", TWO_RUNS)
        text = "".join(f"{message}\n" for message in caplog.messages)
    shown = re.split(r"[\r\n]|\x1b\[A", text)  # also where bars below each other are drawn again
    for number, name in enumerate("ab", 1):
        seconds = json.loads((tmp_path / "out/scenes" / name / "result.json").read_text())["seconds"]
        long = [stage for stage, taken in seconds.items() if taken > FIRST + 0.4]
        assert {"detect", "map"} <= {*long}
        for stage in long:
            scene = rf"{name} \({number} of 2\), .*({LABELS[stage]})"
            how_far = r"(: .*\d+ of \d+ \[|.* after \d+ s)" if notebook else r".* after \d+ s(, about \d+ s left)?$"
            assert any(re.match(scene + how_far, line) for line in shown), (name, stage, text)
        assert f"{name} ({number} of 2), mapping run 2 of 2, incremental mapping" in text
        assert f"{name} ({number} of 2): 19 images" in shown
        last = "; about [0-9]+ s for the other scenes" if number < 2 else ""
        assert re.search(rf"{name} \({number} of 2\): 1\d of 19 images registered in \d+ s{last}[\r\n]", text)
    assert re.search(r"2\), mapping run 2 of 2, incremental mapping: .*\d+ of 19", text)
