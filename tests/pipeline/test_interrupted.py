"""Runs that are cut short, by the clock or by a kill: the submission is valid, and the next run goes on from there."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from children import running
from imc_kit.config import Config, preset
from imc_kit.data import scenes, submission, tables
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline import run as pipeline_run
from imc_kit.pipeline.run import Run, SceneResult, solve
from imc_kit.runtime import deadline
from imc_kit.runtime.executors import fan_out
from imc_kit.synthetic.plaza import write_scene
from imc_kit.types import Model, Placement, Pose, Scene

VIEWS = 16
OPTIONS = {"detector.max_keypoints": 1000, "threads": 2}
CONFIG = preset("sift", OPTIONS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two places: the plaza, and the plaza in a mirror."""
    root = tmp_path_factory.mktemp("two")
    write_scene(root, views=VIEWS, size=(320, 240))
    folder = root / "test/mirror/images"
    folder.mkdir(parents=True)
    for path in (root / "test/plaza/images").iterdir():
        cv2.imwrite(str(folder / path.name), cv2.imread(str(path))[:, ::-1])
    table = root / "sample_submission.csv"
    header, *rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([header, *rows, *(row.replace("plaza", "mirror") for row in rows)]))
    return root


def problems(root: Path, out: Path) -> list[str]:
    task = scenes.load(root)
    return submission.check(out / "submission.csv", task.columns, task.keys)


def registered(out: Path) -> dict[str, int]:
    told = json.loads((out / "run.json").read_text())
    return {name: scene["counts"]["registered"] for name, scene in told["scenes"].items()}


# ---- kills ----


@pytest.mark.slow
def test_ten_kills_at_random_times(root: Path, tmp_path: Path) -> None:
    """Each run takes up what the one before it left when it was killed; one that comes to its end is begun anew."""
    command = [sys.executable, "-m", "imc_kit.cli.main", "solve", str(root), "--out", str(tmp_path / "out")]
    command += ["--detector.max-keypoints", "1000", "--threads", "2"]
    chance = random.Random(5)
    kills, ended = 0, 0
    while kills < 10 or not ended:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while kills < 10 and not (tmp_path / "out/submission.csv").exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.wait(chance.uniform(0.5, 4.5) if kills < 10 else 60)
        except subprocess.TimeoutExpired:
            kills += 1
        process.kill()
        process.wait()
        assert problems(root, tmp_path / "out") == []
        if process.returncode == 0:
            ended += 1
            assert registered(tmp_path / "out") == {"plaza": VIEWS, "mirror": VIEWS}
            if kills < 10:
                shutil.rmtree(tmp_path / "out")
    end = time.monotonic() + 10
    while running(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.05)


# ---- the clock, for real ----


@pytest.mark.slow
def test_a_tenth_of_the_time(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, str]] = []
    real = pipeline_run.match_scene

    def match_scene(scene: Scene, folder: Path, *arguments: Any, **options: Any) -> Rest:
        begun.append((folder.parent.name, scene.name))
        return real(scene, folder, *arguments, **options)

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    started = time.monotonic()
    solve(root, tmp_path / "whole", CONFIG)
    limit = 0.1 * (time.monotonic() - started)
    assert begun == [("scenes", "plaza"), ("scenes", "mirror")]
    begun.clear()

    started = time.monotonic()
    hurried = solve(root, tmp_path / "out", replace(CONFIG, time_limit=limit))
    assert time.monotonic() - started <= 1.05 * limit + 1
    assert running(tmp_path / "out") == []
    assert problems(root, tmp_path / "out") == []
    assert begun == [("quick", "plaza"), ("quick", "mirror"), ("scenes", "plaza"), ("scenes", "mirror")]
    assert hurried.failed == {}
    assert all(deadline.ran_out(result.notes) for result in hurried.scenes.values())

    again = solve(root, tmp_path / "out", CONFIG)
    for name in ("plaza", "mirror"):
        assert again.scenes[name].counts["registered"] == VIEWS
        assert again.scenes[name].notes == []


# ---- the two rounds, with scenes that only the test solves ----

NAMES = ("a", "b", "c", "d")
Fake = Callable[[str, str, float], int]
Rest = Callable[[Executor, float, bool], SceneResult]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Four scenes of as many photographs, which nobody looks at."""
    rows = ["image_path,dataset,scene,rotation_matrix,translation_vector"]
    for name in NAMES:
        folder = tmp_path / "task/test" / name / "images"
        folder.mkdir(parents=True)
        for number in range(5):
            (folder / f"{number}.png").touch()
            rows.append(f"test/{name}/images/{number}.png,{name},{name},1;0;0;0;1;0;0;0;1,0;0;0")
    (tmp_path / "task/sample_submission.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "task"


def run(monkeypatch: pytest.MonkeyPatch, task: Path, fake: Fake, limit: float | None = 80.0) -> Run:
    """Solve with `fake`, which takes the round ("quick" or "scenes"), the scene and the seconds that it may take, and
    gives how many images are registered. It then took 2 seconds. The files of an answer say which round it is of."""
    now = 5000.0

    def reconstruct(scene: Scene, folder: Path, _: Executor, until: float, alone: bool) -> SceneResult:
        nonlocal now
        where = folder.parent.name
        (folder / "models/0").mkdir(parents=True, exist_ok=True)
        (folder / "models/0/images.bin").write_text(where)
        (folder / f"database-{where}.db").write_text(where)
        (folder / "colmap.log").write_text(where)
        count = fake(where, scene.name, until - now)
        now += 2
        placed = {
            name: Placement(Pose(np.eye(3), np.full(3, float(count))), 0 if number < count else None)
            for number, name in enumerate(scene.images)
        }
        counts = {"registered": count, "models": 1}
        return SceneResult(placed, [Model(folder / "models/0", {})], counts, notes=[f"the {where} one"])

    monkeypatch.setattr(
        pipeline_run, "match_scene", lambda scene, folder, *_, **__: partial(reconstruct, scene, folder)
    )
    monkeypatch.setattr(deadline.time, "time", lambda: now)
    return solve(task, task.parent / "out", replace(CONFIG, time_limit=limit))


def test_every_scene_has_its_quick_answer_first_and_shares_move(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    seen = []

    def fake(where: str, name: str, seconds: float) -> int:
        seen.append((where, name, seconds))
        return 5

    run(monkeypatch, task, fake)
    assert [(where, name) for where, name, _ in seen] == [
        (where, name) for where in ("quick", "scenes") for name in NAMES
    ]
    left = [80 - 0.3 * 4 - 2 * number for number in range(8)]  # a part of a second for each scene is for writing
    shares = [left[number] / (4 - number % 4) for number in range(8)]  # all scenes are equal
    assert [seconds for *_, seconds in seen] == pytest.approx(shares)


def test_a_share_is_large_enough_to_be_of_use(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    """Better some scenes solved than none."""
    seen = []

    def fake(where: str, name: str, seconds: float) -> int:
        seen.append(seconds)
        return 5

    run(monkeypatch, task, fake, 10.0)
    first, last = 5 * pipeline_run._ENOUGH["quick"], 10 - 0.6 - 3 * 2
    assert first > 10 / 4
    assert seen[0] == pytest.approx(first)
    assert seen[3] == pytest.approx(last)
    assert seen[4:] == [0] * 4  # too little for any to begin again


def test_small_scenes_come_first_when_time_is_limited(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    rows = task / "sample_submission.csv"
    for name in ("a", "c"):
        (task / f"test/{name}/images/more.png").touch()
        line = rows.read_text().splitlines()[1].replace("test/a/images/0", f"test/{name}/images/more")
        rows.write_text(rows.read_text() + line.replace(",a,a,", f",{name},{name},") + "\n")
    seen = []

    def fake(where: str, name: str, seconds: float) -> int:
        seen.append((where, name))
        return 5

    run(monkeypatch, task, fake)
    assert seen == [(where, name) for where in ("quick", "scenes") for name in "bdac"]
    seen.clear()
    shutil.rmtree(task.parent / "out")
    run(monkeypatch, task, fake, None)
    assert seen == [("scenes", name) for name in "abcd"]


def test_without_a_limit_there_is_one_round(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    seen = []
    run(monkeypatch, task, lambda where, name, seconds: seen.append((where, name, seconds)) or 5, None)
    assert seen == [("scenes", name, float("inf")) for name in NAMES]


def test_the_better_answer_is_kept_with_its_files(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def fake(where: str, name: str, _: float) -> int:
        """The dear answer is better for a, equal for b, worse for c, and none for d."""
        if (where, name) == ("scenes", "d"):
            raise ValueError("what nobody thought of")
        return 3 if where == "quick" else {"a": 5, "b": 3, "c": 1}[name]

    done = run(monkeypatch, task, fake)
    assert done.failed == {}
    assert problems(task, task.parent / "out") == []
    assert registered(task.parent / "out") == {"a": 5, "b": 3, "c": 3, "d": 3}
    table = tables.read_table(done.submission)
    for name, kept, count in (("a", "scenes", 5), ("b", "scenes", 3), ("c", "quick", 3), ("d", "quick", 3)):
        folder = task.parent / "out/scenes" / name
        assert (folder / "models/0/images.bin").read_text() == kept
        assert [path.read_text() for path in folder.glob("database-*.db")] == [kept]
        assert done.scenes[name].models[0].folder == folder / "models/0"
        assert set(table[table["scene"] == name]["translation_vector"]) == {f"{count}.0;{count}.0;{count}.0"}
        notes = done.scenes[name].notes
        assert any("the quick answer is kept" in note for note in notes) == (kept == "quick")
        if kept == "quick":
            told = json.loads((folder / "result.json").read_text())
            assert told["counts"]["registered"] == count
            assert told["identity"] == "the quick answer"
    assert "the scenes one" in done.scenes["c"].notes
    assert "ValueError: what nobody thought of" in done.scenes["d"].notes


def test_a_scene_that_the_dear_answer_solves_has_not_failed(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def fake(where: str, name: str, _: float) -> int:
        if where == "quick" and name == "b":
            raise KitError("not so quick")
        return 4

    done = run(monkeypatch, task, fake)
    assert done.failed == {}
    assert done.scenes["b"].counts["registered"] == 4


def test_a_scene_that_fails_twice_has_failed(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def fake(where: str, name: str, _: float) -> int:
        if name == "b":
            raise KitError(f"not {where}")
        return 4

    done = run(monkeypatch, task, fake)
    assert done.failed == {"b": "not scenes"}
    assert problems(task, task.parent / "out") == []


def solved(scene: Scene) -> SceneResult:
    placed = {name: Placement(Pose.identity(), 0) for name in scene.images}
    return SceneResult(placed, counts={"registered": len(placed)})


def test_the_next_scene_is_matched_while_one_is_mapped(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    matched = {name: threading.Event() for name in NAMES}

    def match_scene(scene: Scene, *_: Any, **__: Any) -> Rest:
        matched[scene.name].set()

        def rest(_: Any, until: float, alone: bool) -> SceneResult:
            number = NAMES.index(scene.name)
            assert alone == (number + 1 == len(NAMES))
            assert all(matched[name].wait(10) for name in NAMES[number + 1 : number + 2])
            assert not any(matched[name].wait(0.1) for name in NAMES[number + 2 :])  # one ahead, and no more
            return solved(scene)

        return rest

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    assert solve(task, task.parent / "out", CONFIG).failed == {}


def test_a_scene_that_cannot_be_matched_costs_itself_alone(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def match_scene(scene: Scene, *_: Any, **__: Any) -> Rest:
        if scene.name in "bd":
            raise KitError(f"nothing in {scene.name}")
        return lambda *_: solved(scene)

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    done = solve(task, task.parent / "out", CONFIG)
    assert list(done.scenes) == ["a", "c"]
    assert done.failed == {"b": "nothing in b", "d": "nothing in d"}


def test_an_interrupt_ends_the_matching_of_the_next_scene(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    matching = threading.Event()

    def chunk() -> tuple[int, list[str]]:
        matching.set()
        time.sleep(0.05)
        return 1, []

    def match_scene(scene: Scene, folder: Path, store: Store, config: Config, executor: Executor, **_: Any) -> Rest:
        if scene.name == "b":
            fan_out(executor, chunk, [()] * 10_000, "b", "chunk", 10_000)

        def rest(*_: Any) -> SceneResult:
            assert matching.wait(10)
            raise KeyboardInterrupt

        return rest

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    threads = threading.active_count()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        solve(task, task.parent / "out", CONFIG)
    while threading.active_count() > threads:
        assert time.monotonic() - started < 5
        time.sleep(0.01)


@pytest.mark.parametrize("full", [("b",), ("b", "c", "d")])
def test_a_submission_that_cannot_be_written_for_a_while(
    monkeypatch: pytest.MonkeyPatch, task: Path, full: tuple[str, ...]
) -> None:
    """The other scenes are solved all the same; what stays unwritten is an error at the end, and the last one stays."""
    now = ""
    real = submission.write

    def fake(where: str, name: str, _: float) -> int:
        nonlocal now
        now = name
        return 4

    def write(*arguments: Any) -> None:
        if now in full:
            raise KitError("the disk is full")
        real(*arguments)

    monkeypatch.setattr(submission, "write", write)
    if "d" in full:
        with pytest.raises(KitError, match="the disk is full"):
            run(monkeypatch, task, fake, None)
    else:
        assert set(run(monkeypatch, task, fake, None).scenes) == set(NAMES)
    assert now == "d"
    assert problems(task, task.parent / "out") == []
    written = tables.read_table(task.parent / "out/submission.csv").groupby("scene")["translation_vector"].first()
    solved = {"a"} if "d" in full else set(NAMES)
    assert {name for name in NAMES if written[name] == "4.0;4.0;4.0"} == solved
