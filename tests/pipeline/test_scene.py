"""One scene: its steps, what each is told of the time, what is left on disk and what is read back."""

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

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from children import inject
from imc_kit.colmap import child, database_files, mapping, mapping_runs
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.data import scenes, submission
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline import earlier
from imc_kit.pipeline import scene as scene_stages
from imc_kit.pipeline.scene import match_scene
from imc_kit.runtime import deadline
from imc_kit.synthetic.plaza import orbit
from imc_kit.types import Scene
from point_scenes import ALL, CONFIG, FIRST, MAPPING_ALONE, ONE_RUN, SECOND, solve_scene, without, write_photographs

ONE_ALONE = replace(MAPPING_ALONE, mapping=ONE_RUN.mapping)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    (scene,) = scenes.load(write_photographs(tmp_path_factory.mktemp("photos") / "mixed")).scenes
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


def identity(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["identity"])


def test_a_scene_is_finished_once_whatever_earlier_runs_have_left(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float]
) -> None:
    hurried = solve_scene(scene, tmp_path, store, ONE_RUN, executor, time.monotonic() - 1)
    assert deadline.ran_out(hurried.notes)
    assert identity(tmp_path).endswith("hurried")  # so it does not count as finished
    (tmp_path / "partial/models-0/9").mkdir(parents=True)
    for name in ("partial/models-0/9/images.bin", "database-old.db", "database-old.db-wal", "partial/database.db"):
        (tmp_path / name).write_bytes(b"old")
    assert jobs == {}

    whole = solve_scene(scene, tmp_path, store, ONE_RUN, executor)
    assert list(jobs) == ["incremental", "merge", "localise", "align", "refine"]
    assert whole.counts["registered"] == FIRST + 1
    assert len(whole.placements) == ALL
    assert whole.notes == []
    kept = database_files.kept(tmp_path, identity(tmp_path))
    assert kept is not None
    assert {path.name for path in tmp_path.iterdir()} == {
        kept.name, "database.json", "colmap.log", "colmap-1.log", "models", "result.json",
    }  # fmt: skip

    jobs.clear()
    for until in (inf, time.monotonic() - 1):  # read back, hurry or not
        assert solve_scene(scene, tmp_path, store, ONE_RUN, executor, until).seconds == whole.seconds
    assert jobs == {}


def test_each_place_of_a_folder_is_solved_by_itself(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in 2025: both places are mapped and completed, and the photo that matches neither well is an outlier."""
    steps: list[str] = []
    real = child.run
    monkeypatch.setattr(child, "run", lambda job, *rest: (steps.append(job["job"]), real(job, *rest))[1])
    result = solve_scene(scene, tmp_path, store, ONE_RUN, executor, separate=True)
    assert steps == ["incremental", "align", "refine", "incremental", "align"]  # eight photos are too few to refine
    assert [len(model.poses) for model in result.models] == [FIRST, SECOND]
    assert result.notes == []
    for place, (start, count) in enumerate([(0, FIRST), (FIRST, SECOND)]):
        names = list(scene.images[start : start + count])
        assert [result.placements[name].model for name in names] == [place] * count
        true = [pose.center for pose in orbit(ALL, seed=place)[start : start + count]]
        apart = [cdist(centers, centers) for centers in (true, [result.placements[name].pose.center for name in names])]
        np.testing.assert_allclose(*(one / one.mean() for one in apart), atol=0.02)
    assert result.placements[scene.images[-1]].model is None
    assert solve_scene(scene, tmp_path, store, ONE_RUN, executor, separate=True).seconds == result.seconds  # read back


def test_optional_steps_can_be_left_out_and_a_result_may_stay_unwritten(
    scene: Scene,
    store: Store,
    executor: Executor,
    tmp_path: Path,
    jobs: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(*_: Any) -> None:
        raise KitError("cannot write result.json: No space left on device")

    monkeypatch.setattr(earlier, "write_result", write)
    result = solve_scene(scene, tmp_path, store, ONE_ALONE, executor)
    assert list(jobs) == ["incremental"]
    assert result.counts["registered"] == FIRST
    assert len(result.placements) == ALL
    assert result.notes == ["cannot write result.json: No space left on device"]


def test_pairs_that_were_left_out_come_back(
    scene: Scene,
    store: Store,
    executor: Executor,
    tmp_path: Path,
    jobs: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mapping, "left_out", lambda *_: [("00.png", "02.png")])
    result = solve_scene(scene, tmp_path / "a", store, ONE_RUN, executor)
    assert list(jobs) == ["incremental", "readd", "merge", "localise", "align", "refine"]
    assert result.counts["registered"] == FIRST + 1
    assert [note for note in result.notes if "leaves out 1 weak pairs" not in note] == []
    assert re.search("1 of 1 .* agree with the model", (tmp_path / "a/colmap.log").read_text())
    jobs.clear()
    solve_scene(scene, tmp_path / "b", store, without(ONE_RUN, "readding", "localisation"), executor)
    assert list(jobs) == ["incremental", "merge", "align", "refine"]


def test_no_step_takes_longer_than_there_is_time(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float]
) -> None:
    config = replace(ONE_RUN, localisation=replace(ONE_RUN.localisation, time_limit=7.0))
    result = solve_scene(scene, tmp_path, store, config, executor, time.monotonic() + 60)
    assert result.counts["registered"] == FIRST + 1
    assert result.notes == []
    assert list(jobs) == ["incremental", "merge", "localise", "align", "refine"]
    assert jobs["localise"] == 7.0
    assert jobs["refine"] < jobs["merge"] < 60
    assert jobs["incremental"] < 60 - ALL * scene_stages._AFTER_MAPPING[0]


@pytest.mark.parametrize("seconds", [-1.0, 0.5])
def test_a_scene_without_time_ends_at_once(
    scene: Scene, executor: Executor, tmp_path: Path, jobs: dict[str, float], seconds: float
) -> None:
    started = time.monotonic()
    result = solve_scene(scene, tmp_path / "a", Store(tmp_path / "s"), CONFIG, executor, time.monotonic() + seconds)
    assert time.monotonic() - started < 3
    assert jobs == {}
    assert list(result.placements) == list(scene.images)
    assert result.counts["registered"] == 0
    assert any(re.match(r"time ran out for (\d) of \1 ", note) for note in result.notes)
    assert all("\n" not in note for note in result.notes)


def test_each_step_leaves_time_to_the_next_ones(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves what they need, or a share of a time that is too short; without a limit there is none."""
    monkeypatch.setattr(deadline.time, "monotonic", lambda: 100.0)
    for name in ("_AFTER_MATCHING", "_AFTER_VERIFICATION", "_AFTER_MAPPING", "_AFTER_COMPLETION"):
        seconds, share = need = getattr(scene_stages, name)
        short = 110 - min(ALL * seconds, 10 * share)
        for until, expected in ((110.0, short), (9100.0, 9100 - ALL * seconds), (inf, inf), (90.0, 90.0)):
            assert scene_stages._reserving(need, scene, until) == pytest.approx(expected)


def test_what_cannot_be_better_ends_after_detection(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, jobs: dict[str, float]
) -> None:
    empty = Store(tmp_path / "store")
    with pytest.raises(KitError, match=f"time ran out: 0 of {ALL} images have features"):
        solve_scene(scene, tmp_path / "a", empty, CONFIG, executor, time.monotonic() - 1, fewest=1)
    match_scene(scene, tmp_path / "b", store, CONFIG, executor)
    hurried = solve_scene(scene, tmp_path / "b", store, CONFIG, executor, time.monotonic() - 1, fewest=ALL)
    assert hurried.counts["matched pairs"] > 0  # what an earlier run left in the store is used, hurry or not
    assert jobs == {}


def test_a_scene_in_which_a_time_limit_has_ended_something_is_not_finished(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping run may take a share of the time: it is stopped when there is time left for the next one."""
    monkeypatch.setattr(mapping_runs, "IN_TURN", 0.3)
    inject(monkeypatch, "import time; time.sleep(600)", lambda job: job["job"] == "incremental")
    config = replace(MAPPING_ALONE, mapping=(MappingConfig(), MappingConfig("global")))
    result = solve_scene(scene, tmp_path, store, config, executor, time.monotonic() + 8)
    assert result.counts["registered"] == FIRST  # by the global mapper
    assert identity(tmp_path).endswith("hurried")


def test_all_of_colmap_fails(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, "import os; os.abort()", lambda job: True)
    runs = (MappingConfig("global"), MappingConfig("global", min_strength=0.7), MappingConfig())
    result = solve_scene(scene, tmp_path, store, replace(CONFIG, mapping=runs), executor)
    assert list(result.placements) == list(scene.images)
    # Two mapping runs: no pair is weak, so the second would be the first again.
    logs = [re.search(r"colmap-(\d)\.log", note) for note in result.notes if "ended with aborted" in note]
    assert [log and log[1] for log in logs] == ["1", "3"]
    assert result.counts["verified pairs"] > 0
    assert result.counts["models"] == 0


def test_a_fault_is_not_final_and_the_better_result_stays(
    scene: Scene, store: Store, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(MAPPING_ALONE, mapping=(MappingConfig("global"), MappingConfig()))
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    for which in (lambda job: job["job"] == "global", lambda job: True):  # the second time there is no model at all
        with monkeypatch.context() as patch:
            inject(patch, kill, which)
            result = solve_scene(scene, tmp_path, store, config, executor)
        assert result.counts["registered"] == FIRST
        assert (result.models[0].folder / "images.bin").is_file()
        assert any("COLMAP's global mapping ended with killed" in note for note in result.notes)
    assert result.notes[-1] == "the better result of an earlier run is kept"
    assert not any("too few matches" in note for note in result.notes)
    healthy = solve_scene(scene, tmp_path, store, config, executor)
    assert (healthy.counts["registered"], healthy.notes) == (FIRST, [])
    assert not identity(tmp_path).endswith("hurried")


@pytest.mark.parametrize(
    ("limit", "message"), [(6_000, "cannot write /"), (120_000, "cannot write the COLMAP database")]
)
def test_no_full_disk_ends_the_process(scene: Scene, tmp_path: Path, limit: int, message: str) -> None:
    """Files may grow to a limit only, for the run and its children; the submission fits."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
from point_scenes import CONFIG
from imc_kit.pipeline.run import solve
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
print(solve(sys.argv[1], sys.argv[2], CONFIG).failed["mixed"])
"""
    command = [sys.executable, "-c", code, str(scene.root), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(message)
    assert done.stdout.count("\n") == 1
    task = scenes.load(scene.root)
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []
    assert not list((tmp_path / "out").rglob("*.partial"))
