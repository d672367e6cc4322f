"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imc_kit.cli.main import main
from imc_kit.data.scenes import Task
from imc_kit.pipeline import run as pipeline_run
from imc_kit.pipeline.results import Run


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("solve", "score", "demo"))


def test_help_shows_the_options_of_the_chosen_detector(capsys: pytest.CaptureFixture[str]) -> None:
    for detector, option in (("sift", "--detector.contrast-threshold"), ("orb", "--detector.fast-threshold")):
        with pytest.raises(SystemExit):
            main(["solve", "--detector", detector, "--help"])
        said = capsys.readouterr().out
        assert option in said
        assert "--verification.options" in said


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--preset", "shift"], "sift"),
        (["--detector", "alike"], "aliked"),
        (["--matcher", "nearset"], "nearest"),
        (["--verification.options", "ransac.max_eror", "2"], "ransac.max_error"),
        (["--mapping.2.options", "mapper.init_max_eror", "2"], "mapper.init_max_error"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], nearest: str
) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(Path(__file__), tmp_path / "photos/a.jpg")
    assert main(["solve", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("imc-kit: ")
    assert nearest in said


def test_an_unknown_option_gets_the_nearest_known_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["solve", str(tmp_path), "--out", str(tmp_path), "--detector.max-keypoint", "5"])
    assert ended.value.code == 2
    assert "--detector.max-keypoints" in capsys.readouterr().err


def test_a_missing_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_some_of_the_scenes(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Task] = []

    def solve(task: Task, out: Path, *_: Any, **__: Any) -> Run:
        asked.append(task)
        return Run(out / "submission.csv", {}, {"fern20": "not tried"})

    monkeypatch.setattr(pipeline_run, "solve", solve)
    command = ["solve", str(shared / "scenes"), "--out", str(tmp_path), "--scenes"]
    assert main([*command, "door12", "fern20"]) == 1  # none could be solved
    (task,) = asked
    assert [scene.name for scene in task.scenes] == ["door12", "fern20"]
    assert {row.scene for row in task.rows} == {"door12", "fern20"}
    assert len(task.rows) == 32
    assert main([*command, "door21"]) == 2
    assert "door12" in capsys.readouterr().err
    assert len(asked) == 1


def test_score_prints_json(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, thresholds = shared / "scenes/truth.csv", shared / "scenes/thresholds.json"
    assert main(["score", str(truth), str(truth), "--thresholds", str(thresholds), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["mean"] == 1
    assert set(said["scenes"]) == set(json.loads(thresholds.read_text()))


def test_score_refuses_thresholds_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_text("[1, 2]")
    assert main(["score", "a.csv", "b.csv", "--thresholds", str(tmp_path / "t.json")]) == 2
    assert "t.json" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_ends_with_a_good_score(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "imc_kit.cli.main", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "100"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 of 24 images registered" in done.stdout
    assert "mAA 1.000" in done.stdout or "mAA 0.9" in done.stdout
    assert "it/s" not in done.stderr  # no progress bars in a log
