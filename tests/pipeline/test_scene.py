"""The steps of one scene: what each is told of the time, and what is read back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from children import inject
from imc_kit.colmap import child, mapping, mapping_runs
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.config import Config
from imc_kit.data import scenes, submission
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline import scene as scene_stages
from imc_kit.pipeline.results import SceneResult
from imc_kit.runtime import deadline
from imc_kit.types import Scene
from point_scenes import ALL, BY_COLMAP, CONFIG, FIRST, ONE_ATTEMPT, write_photographs


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    (scene,) = scenes.load(write_photographs(tmp_path_factory.mktemp("photographs") / "mixed")).scenes
    return scene


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shared: detection and matching are done once."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The jobs of the child process, with the seconds that each may take."""
    seen: dict[str, float] = {}
    real = child.run

    def run(job: dict[str, Any], what: str, log: Path, time_limit: float, *given_up: Any) -> None:
        seen[job["job"]] = time_limit
        real(job, what, log, time_limit, *given_up)

    monkeypatch.setattr(child, "run", run)
    return seen


def off(config: Config, *options: str) -> Config:
    return replace(config, **{option: replace(getattr(config, option), on=False) for option in options})


def test_every_step_is_taken_and_can_be_left_out(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float]
) -> None:
    whole = scene_stages.solve_scene(scene, tmp_path / "a", store, ONE_ATTEMPT, executor)
    assert list(jobs) == ["incremental", "merge", "localise", "refine"]
    assert whole.counts["registered"] == FIRST + 1
    assert not (tmp_path / "a/partial").exists()
    jobs.clear()
    config = off(ONE_ATTEMPT, "merging", "localisation", "refinement")
    plain = scene_stages.solve_scene(scene, tmp_path / "b", store, config, executor)
    assert list(jobs) == ["incremental"]
    assert plain.counts["registered"] == FIRST
    assert len(plain.placements) == len(whole.placements) == ALL


def test_a_damaged_photograph_costs_no_more_than_the_picture_of_its_mask(
    store: Store, executor: Executor, tmp_path: Path
) -> None:
    folder = write_photographs(tmp_path / "mixed")
    damaged = folder / "03.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])  # its header is whole
    (scene,) = scenes.load(folder).scenes
    config = replace(ONE_ATTEMPT, masks=replace(ONE_ATTEMPT.masks, vegetation=True, pictures=True))
    result = scene_stages.solve_scene(scene, tmp_path / "a", store, config, executor)
    assert list(result.placements) == list(scene.images)
    assert any("no picture of the mask of 03.png: " in note for note in result.notes)


def test_pairs_that_the_best_attempt_left_out_come_back(
    scene: Scene,
    store: Store,
    executor: Executor,
    tmp_path: Path,
    jobs: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mapping, "left_out", lambda *_: mapping.LeftOut([], [("00.png", "02.png")]))
    result = scene_stages.solve_scene(scene, tmp_path / "a", store, ONE_ATTEMPT, executor)
    assert list(jobs) == ["incremental", "readd", "merge", "localise", "refine"]
    assert result.counts["registered"] == FIRST + 1
    assert result.notes == []
    assert "1 of 1 left-out pairs agree with the model" in (tmp_path / "a/colmap.log").read_text()
    jobs.clear()
    scene_stages.solve_scene(scene, tmp_path / "b", store, off(ONE_ATTEMPT, "readding"), executor)
    assert list(jobs) == ["incremental", "merge", "localise", "refine"]


@pytest.mark.parametrize("lens", ["SIMPLE_PINHOLE", "OPENCV"])
def test_an_attempt_may_have_another_lens_and_leave_pairs_out(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float], lens: str
) -> None:
    """All steps after it take its model as it is."""
    config = replace(ONE_ATTEMPT, mapping=(MappingConfig(camera_model=lens, max_cycle_error=15.0),))
    result = scene_stages.solve_scene(scene, tmp_path, store, config, executor)
    # OPENCV says already what refinement would make of the others.
    refined = ["refine"] if lens != "OPENCV" else []
    assert list(jobs) == ["incremental", "readd", "merge", "localise", *refined]
    assert result.counts["registered"] == FIRST + 1
    assert result.notes == []


def test_no_step_takes_longer_than_there_is_time(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float]
) -> None:
    config = replace(ONE_ATTEMPT, localisation=replace(ONE_ATTEMPT.localisation, time_limit=7.0))
    result = scene_stages.solve_scene(scene, tmp_path / "a", store, config, executor, until=time.time() + 60)
    assert result.counts["registered"] == FIRST + 1
    assert result.notes == []
    assert list(jobs) == ["incremental", "merge", "localise", "refine"]
    assert jobs["localise"] == 7.0
    assert 30 < jobs["refine"] < jobs["merge"] < 60
    assert 30 < jobs["incremental"] < 60 - ALL * scene_stages._AFTER_MAPPING[0]


@pytest.mark.parametrize("seconds", [-1.0, 0.5])
def test_a_scene_without_time_ends_at_once(
    scene: Scene, executor: Executor, tmp_path: Path, jobs: dict[str, float], seconds: float
) -> None:
    started = time.monotonic()
    empty = Store(tmp_path / "store")
    result = scene_stages.solve_scene(scene, tmp_path / "a", empty, CONFIG, executor, until=time.time() + seconds)
    assert time.monotonic() - started < 3
    assert jobs == {}
    assert list(result.placements) == list(scene.images)
    assert result.counts["registered"] == 0
    assert any(re.fullmatch(r"time ran out for (\d) of \1 mapping runs", note) for note in result.notes)
    assert all("\n" not in note for note in result.notes)


def test_what_a_step_leaves_to_the_next_ones(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they need, and a share where there is not so much; without a limit there is none."""
    monkeypatch.setattr(deadline.time, "time", lambda: 100.0)
    needs = (
        scene_stages._AFTER_MATCHING,
        scene_stages._AFTER_VERIFICATION,
        scene_stages._AFTER_MAPPING,
        scene_stages._AFTER_ALL,
    )
    for seconds, share in needs:
        assert scene_stages._leaving((seconds, share), scene, 110.0) == pytest.approx(
            110 - min(ALL * seconds, 10 * share)
        )
        assert scene_stages._leaving((seconds, share), scene, 9100.0) == pytest.approx(9100 - ALL * seconds)
        assert scene_stages._leaving((seconds, share), scene, inf) == inf
        assert scene_stages._leaving((seconds, share), scene, 90.0) == 90.0


def test_what_cannot_be_better_ends_after_detection(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float]
) -> None:
    empty = Store(tmp_path / "store")
    with pytest.raises(KitError, match=f"time ran out: 0 of {ALL} images have features"):
        scene_stages.solve_scene(scene, tmp_path / "a", empty, CONFIG, executor, until=time.time() - 1, fewest=1)
    scene_stages.solve_scene(scene, tmp_path / "b", store, ONE_ATTEMPT, executor)
    jobs.clear()
    hurried = scene_stages.solve_scene(
        scene, tmp_path / "b", store, CONFIG, executor, until=time.time() - 1, fewest=ALL
    )
    assert hurried.counts["matched pairs"] > 0  # what an earlier run left in the store is of use, hurry or not
    assert jobs == {}


def identity(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["identity"])


def test_a_hurried_result_is_not_taken_for_finished(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path
) -> None:
    def solve(until: float = inf) -> SceneResult:
        return scene_stages.solve_scene(scene, tmp_path / "a", store, ONE_ATTEMPT, executor, until=until)

    hurried = solve(time.time() - 1)
    assert deadline.ran_out(hurried.notes)
    assert identity(tmp_path / "a").endswith("hurried")
    whole = solve()
    assert whole.notes == []
    assert not identity(tmp_path / "a").endswith("hurried")
    assert solve(time.time() - 1).seconds == whole.seconds  # what is finished is read back, hurry or not
    assert solve().seconds == whole.seconds


def test_what_a_time_limit_has_ended_is_not_finished(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt may take a share of the time: it is stopped when there is time left for the next one."""
    monkeypatch.setattr(mapping_runs, "IN_TURN", 0.3)
    inject(monkeypatch, "import time; time.sleep(600)", lambda job: job["job"] == "incremental")
    both = (MappingConfig(), MappingConfig("global"))
    config = off(replace(CONFIG, mapping=both), "merging", "localisation", "refinement")
    result = scene_stages.solve_scene(scene, tmp_path / "a", store, config, executor, until=time.time() + 8)
    assert result.counts["registered"] == FIRST  # by the global mapper
    assert identity(tmp_path / "a").endswith("hurried")


def test_all_of_colmap_fails(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, "import os; os.abort()", lambda job: True)
    config = replace(BY_COLMAP, mapping=CONFIG.mapping)
    result = scene_stages.solve_scene(scene, tmp_path / "a", store, config, executor)
    assert list(result.placements) == list(scene.images)
    # Verification, and two mapping runs: no pair is weak, so the second would be the first again.
    logs = [re.search(r"colmap(-\d)?\.log", note) for note in result.notes if "ended with aborted" in note]
    assert [log and log[1] for log in logs] == [None, "-1", "-3"]
    assert result.counts["verified pairs"] > 0
    assert result.counts["models"] == 0


def test_a_result_that_cannot_be_kept_is_given_all_the_same(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> None:
        raise KitError("cannot write result.json: No space left on device")

    monkeypatch.setattr(scene_stages, "write_result", write)
    config = off(ONE_ATTEMPT, "merging", "localisation", "refinement")
    result = scene_stages.solve_scene(scene, tmp_path / "a", store, config, executor)
    assert result.counts["registered"] == FIRST
    assert result.notes == ["cannot write result.json: No space left on device"]


def test_what_an_ended_run_has_left_is_in_nobodys_way(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    config = off(ONE_ATTEMPT, "merging", "localisation", "refinement")
    (folder / "partial/models-0/9").mkdir(parents=True)
    (folder / "partial/models-0/9/images.bin").write_bytes(b"old")
    for name in ("database-old.db", "database-old.db-wal", "partial/database.db", "partial/database.db-wal"):
        (folder / name).write_bytes(b"old")
    (folder / "result.json").write_text("{")
    result = scene_stages.solve_scene(scene, folder, store, config, executor)
    assert result.counts["registered"] == FIRST
    assert len(list(folder.glob("database-*"))) == 1
    left = {path.name for path in folder.iterdir()} - {path.name for path in folder.glob("database-*")}
    assert left == {"colmap-1.log", "models", "result.json"}


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (6_000, "cannot write to the store"),  # the submission fits, and little else
        (40_000, "cannot write to the store"),
        (120_000, "cannot write the COLMAP database"),
        (400_000, "cannot write the COLMAP database"),
    ],
)
def test_no_full_disk_ends_the_process(scene: Scene, tmp_path: Path, limit: int, said: str) -> None:
    """Of files that may grow so far only, for the run and its children."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
from point_scenes import BY_COLMAP
from imc_kit.pipeline.run import solve
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
print(solve(sys.argv[1], sys.argv[2], BY_COLMAP).failed["mixed"])
"""
    command = [sys.executable, "-c", code, str(scene.root), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
    assert done.stdout.count("\n") == 1
    task = scenes.load(scene.root)
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []
