"""Runs that are cut short, by a deadline or by a kill: the submission is valid, and the next run resumes.

Also the two rounds of a run with a time limit, and what is done at the same time.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import inf
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
from imc_kit.types import Model, Placement, Pose, Scene
from small_tasks import write_task

CONFIG = preset("sift", {"detector.max_keypoints": 1000, "threads": 2, "subpixel.on": False})
FEW = 8
"""Photos of each scene."""


def command(root: Path, out: Path) -> list[str]:
    options = ["--out", str(out), "--detector.max-keypoints", "1000", "--threads", "2", "--subpixel.no-on"]
    return [sys.executable, "-m", "imc_kit.cli.main", "solve", str(root), *options]


def problems(root: Path, out: Path) -> list[str]:
    task = scenes.load(root)
    return submission.check(out / "submission.csv", task.columns, task.keys)


def registered(out: Path) -> dict[str, int]:
    told = json.loads((out / "run.json").read_text())
    return {name: scene["counts"]["registered"] for name, scene in told["scenes"].items()}


def nothing_runs(folder: Path) -> bool:
    end = time.monotonic() + 10
    while running(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ---- kills and deadlines, for real ----


def test_a_run_that_is_stopped_again_and_again_is_resumed(photos: Path, tmp_path: Path) -> None:
    named = {path.name: path for path in sorted(photos.iterdir())[:FEW]}
    root, out = write_task(tmp_path / "task", {"plaza": named}), tmp_path / "out"
    for sign, ending in (
        ("submission.csv", signal.SIGKILL),
        ("store/features/*/*.h5", signal.SIGKILL),
        ("scenes/plaza/colmap*.log", signal.SIGINT),
    ):
        with subprocess.Popen(
            command(root, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            end = time.monotonic() + 120
            while not list(out.glob(sign)):
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(ending)
            said, _ = process.communicate(timeout=60)
        assert process.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
        assert problems(root, out) == []
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "imc-kit: interrupted: run the same command to resume"
    run = solve(root, out, CONFIG)
    assert problems(root, out) == []
    assert run.scenes["plaza"].counts["registered"] == FEW
    assert nothing_runs(tmp_path)


@pytest.fixture(scope="module")
def two(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two places: the plaza, and the plaza in a mirror."""
    named = {path.name: path for path in sorted(photos.iterdir())[:FEW]}
    mirrored = {name: cv2.imread(str(path))[:, ::-1] for name, path in named.items()}
    return write_task(tmp_path_factory.mktemp("two"), {"plaza": named, "mirror": mirrored})


@pytest.mark.slow
def test_a_tenth_of_the_time(two: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    solve(two, tmp_path / "whole", CONFIG)
    limit = 0.1 * (time.monotonic() - started)

    started = time.monotonic()
    hurried = solve(two, tmp_path / "out", replace(CONFIG, time_limit=limit))
    assert time.monotonic() - started <= 1.05 * limit + 1
    assert nothing_runs(tmp_path / "out")
    assert problems(two, tmp_path / "out") == []
    assert hurried.failed == {}
    assert all(deadline.ran_out(result.notes) for result in hurried.scenes.values())

    again = solve(two, tmp_path / "out", CONFIG)
    for name in ("plaza", "mirror"):
        assert again.scenes[name].counts["registered"] == FEW
        assert again.scenes[name].notes == []


# ---- the two rounds, with scenes that only the test solves ----

NAMES = ("a", "b", "c", "d")
Fake = Callable[[str, str, float], int]


@dataclass
class Matched:
    """What takes the place of a `MatchedScene`."""

    reconstruct: Callable[..., SceneResult]
    until: float = inf


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Four scenes of five photos each, which nobody looks at."""
    return write_task(tmp_path / "task", {name: {f"{number}.png": b"" for number in range(5)} for name in NAMES})


def run(monkeypatch: pytest.MonkeyPatch, task: Path, fake: Fake, limit: float | None = 80.0) -> Run:
    """Solve with `fake`, which takes the round ("quick" or "scenes"), the scene and the seconds that it may take, and
    gives how many images are registered. It then took 2 seconds. The files of an answer say which round it is of."""
    now = 5000.0

    def match_scene(scene: Scene, folder: Path, *_: Any, until: float, **__: Any) -> Matched:
        def reconstruct(_: Executor, until: float, alone: bool) -> SceneResult:
            nonlocal now
            where = folder.parent.name
            (folder / "models/0").mkdir(parents=True, exist_ok=True)
            (folder / "models/0/images.bin").write_text(where)
            (folder / "database.db").write_text(where)
            (folder / "colmap.log").write_text(where)
            count = fake(where, scene.name, until - now)
            now += 2
            placed = {
                name: Placement(Pose(np.eye(3), np.full(3, float(count))), 0 if number < count else None)
                for number, name in enumerate(scene.images)
            }
            counts = {"registered": count, "models": 1}
            return SceneResult(placed, [Model(folder / "models/0", {})], counts, notes=[f"the {where} one"])

        return Matched(reconstruct, until)

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now)
    return solve(task, task.parent / "out", replace(CONFIG, time_limit=limit))


def test_with_a_limit_every_scene_gets_a_quick_answer_first(
    monkeypatch: pytest.MonkeyPatch, task: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Shares move on: what one scene does not use, the next ones can."""
    seen: list[tuple[str, str, float]] = []

    def fake(where: str, name: str, seconds: float) -> int:
        seen.append((where, name, seconds))
        return 5

    caplog.set_level(logging.INFO, logger="imc_kit")
    run(monkeypatch, task, fake)
    rounds = [(where, name) for where in ("quick", "scenes") for name in NAMES]
    assert [(where, name) for where, name, _ in seen] == rounds
    for title, left in (
        ("c (3 of 4, quick round)", "; about 2 s for the other scenes"),
        ("d (4 of 4, full round)", ""),
    ):
        assert f"{title}: 5 images" in caplog.messages
        assert f"{title}: 5 of 5 images registered in 0 s{left}" in caplog.messages
    left = [80 - 0.3 * 4 - 2 * number for number in range(8)]  # a part of a second for each scene is for writing
    assert [seconds for *_, seconds in seen] == pytest.approx([left[number] / (4 - number % 4) for number in range(8)])

    seen.clear()
    shutil.rmtree(task.parent / "out")
    run(monkeypatch, task, fake, 10.0)
    assert [seconds for *_, seconds in seen[4:]] == [0] * 4  # too little for any to be begun again

    seen.clear()
    shutil.rmtree(task.parent / "out")
    run(monkeypatch, task, fake, None)
    assert seen == [("scenes", name, inf) for name in NAMES]


def test_the_better_answer_is_kept_with_its_files(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def fake(where: str, name: str, _: float) -> int:
        """The full answer is better for a, equal for b, worse for c, and none for d."""
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
        assert [path.read_text() for path in folder.glob("database*")] == [kept]
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


def test_a_scene_has_failed_when_both_answers_have(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def fake(where: str, name: str, _: float) -> int:
        if name == "b" or (name, where) == ("c", "quick"):
            raise KitError(f"not {where}")
        return 4

    done = run(monkeypatch, task, fake)
    assert done.failed == {"b": "not scenes"}
    assert done.scenes["c"].counts["registered"] == 4
    assert problems(task, task.parent / "out") == []


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


# ---- one scene is matched while another is mapped ----


def solved(scene: Scene) -> SceneResult:
    placed = {name: Placement(Pose.identity(), 0) for name in scene.images}
    return SceneResult(placed, counts={"registered": len(placed)})


def test_the_next_scene_is_matched_while_one_is_mapped(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    matched = {name: threading.Event() for name in NAMES}

    def match_scene(scene: Scene, *_: Any, **__: Any) -> Matched:
        matched[scene.name].set()

        def reconstruct(_: Any, until: float, alone: bool) -> SceneResult:
            number = NAMES.index(scene.name)
            assert alone == (number + 1 == len(NAMES))
            assert all(matched[name].wait(10) for name in NAMES[number + 1 : number + 2])
            assert not any(matched[name].wait(0.1) for name in NAMES[number + 2 :])  # one ahead, and no more
            return solved(scene)

        return Matched(reconstruct)

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    assert solve(task, task.parent / "out", CONFIG).failed == {}


def test_a_scene_that_cannot_be_matched_costs_itself_alone(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    def match_scene(scene: Scene, *_: Any, **__: Any) -> SceneResult:
        if scene.name in "bd":
            raise KitError(f"nothing in {scene.name}")
        return solved(scene)  # as one that was finished before

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

    def match_scene(scene: Scene, folder: Path, store: Store, config: Config, executor: Executor, **_: Any) -> Matched:
        if scene.name == "b":
            fan_out(executor, chunk, [()] * 10_000, "b", "chunk", 10_000)

        def reconstruct(*_: Any, **__: Any) -> SceneResult:
            assert matching.wait(10)
            raise KeyboardInterrupt

        return Matched(reconstruct)

    monkeypatch.setattr(pipeline_run, "match_scene", match_scene)
    threads = threading.active_count()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        solve(task, task.parent / "out", CONFIG)
    while threading.active_count() > threads:
        assert time.monotonic() - started < 5
        time.sleep(0.01)
