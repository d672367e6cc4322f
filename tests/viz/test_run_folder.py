"""What a run left: interrupted, with scenes that failed, with files that are gone or damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_kit import metric, preset, solve
from imc_kit.cli.main import main
from imc_kit.data.submission import NO_POSE, write
from imc_kit.data.tables import POSE_COLUMNS, format_pose, read_table
from imc_kit.errors import KitError
from imc_kit.pipeline import run as pipeline_run
from imc_kit.pipeline.scene import match_scene
from imc_kit.types import Pose
from imc_kit.viz.report import write_report
from imc_kit.viz.run_folder import read_run
from reports import copy, said

pytestmark = pytest.mark.usefixtures("without_pictures")
COLUMNS = ("image_path", "dataset", "scene", *POSE_COLUMNS)


def rows(scene: str, poses: list[Pose], dataset: str | None = None) -> list[dict[str, str]]:
    return [
        dict(zip(COLUMNS, (f"test/{scene}/images/{n}.png", dataset or scene, scene, *format_pose(pose)), strict=True))
        for n, pose in enumerate(poses)
    ]


def scattered(count: int, seed: int = 0) -> list[Pose]:
    centers = np.random.default_rng(seed).normal(0, 3, (count, 3))
    return [Pose.from_center(np.eye(3), center) for center in centers]


@contextmanager
def changed(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a JSON file, which is written again as it is left."""
    content = json.loads(path.read_text("utf-8"))
    yield content
    path.write_text(json.dumps(content), "utf-8")


# ---- scenes that failed ----


@pytest.fixture
def one_lost(solved: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """The run with a scene `lost` that failed, its truth, in which there is `elsewhere` too, and the thresholds."""
    run, data = copy(solved, tmp_path / "run"), solved / "data"
    guessed = rows("lost", [Pose.identity()] * 6)
    for source, target, more in (
        (run / "submission.csv", run / "submission.csv", guessed),
        (data / "truth.csv", tmp_path / "truth.csv", [*rows("lost", scattered(6)), *rows("elsewhere", scattered(5))]),
    ):
        table = read_table(source, COLUMNS)
        write(target, COLUMNS, [*table[list(COLUMNS)].to_dict("records"), *more])
    with changed(run / "run.json") as content:
        content["failed"]["lost"] = "none of the 6 images can be used"
    return run, tmp_path / "truth.csv", data / "thresholds.json"


def test_a_scene_that_failed_counts_as_in_the_competition(one_lost: tuple[Path, Path, Path]) -> None:
    run, truth, thresholds = one_lost
    expected = metric.score(truth, run / "submission.csv", metric.read_thresholds(thresholds))
    assert expected.scenes["plaza"].score > 0.5
    assert expected.scenes["lost"].score == expected.scenes["elsewhere"].score == 0
    mean = expected.scenes["plaza"].score / 2  # as `lost` was asked for, and `elsewhere` was not
    assert read_run(run, truth, thresholds).mean == pytest.approx(mean)
    text = said(write_report(run, truth=truth, thresholds=thresholds))
    assert f"mean mAA {mean:.3f}" in text
    assert "The mean mAA leaves out scenes of the truth that are not in this run: elsewhere" in text
    assert re.search(r"lost (– ){4}0\.000 – not solved: +none of the 6 images can be used", text)
    assert "2 of 3" in text
    assert "in the solved scenes" in text


@pytest.mark.parametrize("layout", ["2023", "2024", "2025"])
def test_the_mean_is_that_of_the_score(tmp_path: Path, layout: str) -> None:
    truth, answer, thresholds, scenes = [], [], {}, []
    for number, (dataset, scene, count) in enumerate([("a", "x", 6), ("a", "y", 5), ("b", "x", 4), ("b", "few", 2)]):
        poses = scattered(count, number)
        truth += rows(scene, poses, dataset)
        # One scene is right, of one nothing is there, the others are guesses.
        answer += rows(scene, poses if not number else [Pose.identity()] * count, dataset) if number != 1 else []
        thresholds[f"{dataset}/{scene}"] = [0.1, 0.2, 0.5, 1.0]
        scenes.append(f"{dataset}/{scene}")
    for table in (truth, answer):
        for number, row in enumerate(table):
            row["image_path"] = f"{row['dataset']}/{row['scene']}/images/{number}.png"
            row["image"] = f"{row['scene']}{row['image_path'].rpartition('/')[2]}"
    columns = ("image_path", "image", "dataset", "scene", *POSE_COLUMNS)
    if layout == "2025":
        answer = [row | {"scene": "outliers", **dict(zip(POSE_COLUMNS, NO_POSE, strict=True))} for row in answer]
    write(tmp_path / "truth.csv", columns, truth)
    write(tmp_path / "submission.csv", columns, answer)
    if layout == "2025":  # the others have defaults
        (tmp_path / "thresholds.json").write_text(json.dumps(thresholds))
    tables = tmp_path / "truth.csv", tmp_path / "submission.csv"
    expected = {
        "2023": lambda: metric.score_2023(*tables),
        "2024": lambda: metric.score(*tables),
        "2025": lambda: metric.score_2025(*tables, thresholds),
    }[layout]()
    names = {"2023": scenes, "2024": ["a/x", "y", "b/x", "few"], "2025": ["a", "b"]}[layout]  # of a task's scenes
    content = {"input": str(tmp_path / "gone"), "layout": layout, "scenes": {}, "failed": dict.fromkeys(names, "why")}
    (tmp_path / "run.json").write_text(json.dumps(content))
    given = tmp_path / "thresholds.json" if layout == "2025" else None
    assert read_run(tmp_path, tables[0], given).mean == pytest.approx(expected.mean)


def test_a_scene_that_failed_after_its_quick_answer_is_counted_once(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    with changed(run / "run.json") as content:
        content["failed"]["plaza"] = "no space left"
    found = read_run(run)
    assert (len(found.requested), found.failed, found.notes) == (2, {}, [])
    text = said(write_report(run))
    assert "2 of 2" in text
    assert "the steps after this answer failed: no space left" in text


def test_every_warning_is_listed(solved: Path, tmp_path: Path) -> None:
    """However many there are: of the run, of a scene, of a scene that failed."""
    run = copy(solved, tmp_path / "run")
    warnings = [f"warning number {number}, of the {part}" for number in range(30) for part in ("run", "scene")]
    with changed(run / "run.json") as content:
        content["notes"] += warnings[::2]
        content["scenes"]["plaza"]["notes"] += warnings[1::2]
        content["failed"]["lost"] = "why it is lost"
    text = said(write_report(run))
    assert [warning for warning in [*warnings, "why it is lost"] if warning not in text] == []


# ---- interrupted ----


def test_quick_answers_are_shown_and_said(solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy(solved, tmp_path / "run")
    (run / "quick").mkdir()
    (run / "scenes/plaza").rename(run / "quick/plaza")
    with changed(run / "run.json") as content:
        del content["scenes"]["bare & co"]
    assert main(["report", str(run)]) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    text = said(run / "report.html")
    assert (
        "The run is not finished: 1 of 2 scenes are not solved yet and 1 of 2 scenes have only a quick answer" in text
    )
    assert "of 10 images registered, quick answer" in text
    assert re.search(r"bare & co (– ){5}not solved yet", text)
    assert "The model of plaza in 3D" in (run / "report.html").read_text("utf-8")


def test_the_answer_that_run_json_tells_of_is_shown(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    shutil.copytree(run / "scenes/plaza", run / "quick/plaza")
    assert not next(scene for scene in read_run(run).scenes if scene.name == "plaza").quick
    with changed(run / "scenes/plaza/result.json") as content:  # of an earlier run
        content["seconds"]["map"] += 1
    scene = next(scene for scene in read_run(run).scenes if scene.name == "plaza")
    assert scene.quick
    assert scene.matched.path is not None
    assert scene.matched.path.parent == run / "quick/plaza"


@pytest.mark.parametrize("limit", [None, 600.0])
def test_a_run_in_its_first_scene(
    solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        text = said(write_report(tmp_path / "out"))  # while it runs
        assert "scenes solved 0 of 2" in text.replace("\n", " ")
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_run, "match_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        solve(solved / "data", tmp_path / "out", preset("small", {"time_limit": limit, "subpixel.on": False}))
    found = read_run(tmp_path / "out")
    assert (found.scenes, found.failed, found.waiting) == ([], {}, ["plaza", "bare & co"])
    data = solved / "data"
    text = said(write_report(tmp_path / "out", truth=data / "truth.csv", thresholds=data / "thresholds.json"))
    assert "The run is not finished: 2 of 2 scenes are not solved yet; unless it still runs, the same" in text
    assert re.search(r"plaza (– )+.*not solved yet", text)
    (tmp_path / "out/submission.csv").unlink()
    assert "scenes solved 0 of 0" in said(write_report(tmp_path / "out"))


def test_an_earlier_run_is_told_of_until_a_scene_is_solved(
    solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(solved, tmp_path / "run")
    before = (run / "run.json").read_bytes()

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_run, "match_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        solve(solved / "data", run, preset("small"))
    assert (run / "run.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_stopped_between_its_rounds(solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(scene: Any, folder: Path, *arguments: Any, **more: Any) -> Any:
        if folder.parent.name == "scenes":
            raise KeyboardInterrupt
        return match_scene(scene, folder, *arguments, **more)

    monkeypatch.setattr(pipeline_run, "match_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        solve(solved / "data", tmp_path / "out", preset("small", {"threads": 1, "time_limit": 600}))
    data = solved / "data"
    text = said(write_report(tmp_path / "out", truth=data / "truth.csv", thresholds=data / "thresholds.json"))
    assert "The run is not finished: 2 of 2 scenes have only a quick answer" in text
    assert re.search(r"of 10 images registered, mAA [01]\.\d{3}, quick answer", text)


# ---- gone or damaged ----


def test_what_is_gone_is_said(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    for database in run.glob("scenes/*/database.db"):
        database.unlink()
    content = json.loads((run / "run.json").read_text("utf-8"))
    content |= {"input": str(tmp_path / "gone"), "failed": {"lost": "none of the 3 images can be used"}}
    (run / "run.json").write_text(json.dumps(content), "utf-8")
    text = said(write_report(run))
    assert "database was deleted" in text
    assert "photos are not where they were" in text
    assert "none of the 3 images can be used" in text
    assert "2 of 3" in text


@pytest.mark.parametrize("content", [None, "", "[]", "{", "{}", '{"input": "x", "layout": "2024", "scenes": []}'])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(KitError, match=r"run\.json.*folder of a run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_files_that_are_damaged_are_said(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    next((run / "scenes/plaza").glob("database.db")).write_bytes(b"no database" * 100)
    (run / "scenes/plaza/models/0/points3D.bin").write_bytes(b"\0")
    text = said(write_report(run))
    assert "Matches are not shown: cannot read the COLMAP database" in text
    assert "The models are not shown: cannot read the COLMAP model" in text


def test_without_models_images_are_what_the_submission_says(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    before = next(scene for scene in read_run(run).scenes if scene.name == "plaza")
    shutil.rmtree(run / "scenes/plaza/models")
    after = next(scene for scene in read_run(run).scenes if scene.name == "plaza")
    assert (after.models, after.gone) == ([], ["The scene's models were deleted: they are not shown."])
    assert after.model_of == before.model_of
    assert after.out == before.out
    assert after.advice == before.advice


def test_a_result_that_is_gone_costs_its_scene_alone(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    (run / "scenes/plaza/result.json").unlink()
    text = said(write_report(run))
    assert "The scene's result.json is missing, damaged or from another run" in text
    assert "of 10 images registered" in text
    assert "Images of bare & co" in text
    assert "Images of plaza" not in text


HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("part", "value"),
    [("counts", {"images": HOSTILE, "registered": 1, "models": 1, "points": 1}), ("seconds", {"map": HOSTILE}),
     ("seconds", [1]), ("notes", 7), ("counts", None), ("notes", [HOSTILE])],
)  # fmt: skip
def test_a_foreign_run_json_gives_a_page_or_one_sentence(tmp_path: Path, part: str, value: Any) -> None:
    counts = {"images": 3, "registered": 2, "models": 1, "points": 9}
    scene = {"counts": counts, "seconds": {"map": 1.0}, "memory": {}, "notes": []}
    content = {"input": HOSTILE, "layout": "2024", "notes": [HOSTILE], "scenes": {HOSTILE: scene | {part: value}}}
    (tmp_path / "run.json").write_text(json.dumps(content))
    if value == [HOSTILE]:
        assert HOSTILE not in write_report(tmp_path).read_text("utf-8")
        return
    with pytest.raises(KitError, match=r"its run\.json is damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("damage", ["[" * 50_000, "7", '{"digest": 1}'])
def test_a_damaged_result_costs_its_scene_alone(solved: Path, tmp_path: Path, damage: str) -> None:
    run = copy(solved, tmp_path / "run")
    (run / "scenes/plaza/result.json").write_text(damage)
    scene = next(scene for scene in read_run(run).scenes if scene.name == "plaza")
    assert "result.json is missing, damaged or from another run" in scene.gone[0]
