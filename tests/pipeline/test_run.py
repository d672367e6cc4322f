"""Whole runs, on rendered scenes with known cameras, under good and bad conditions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from children import inject
from imc_kit import metric
from imc_kit.config import preset
from imc_kit.data import scenes, submission, tables
from imc_kit.errors import KitError
from imc_kit.pipeline.run import Run, solve
from imc_kit.poses.rotation import rotated
from imc_kit.synthetic.plaza import write_scene
from imc_kit.types import Scene

FAST = preset("sift", {"detector.max_keypoints": 2000, "detector.edge_threshold": 20.0, "threads": 2})
SIZE = (400, 300)
VIEWS = 18


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rendered")
    write_scene(root, views=VIEWS, size=SIZE)
    return root


@pytest.fixture
def root(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "root"))


def photographs(root: Path) -> list[Path]:
    return sorted((root / "test/plaza/images").iterdir())


def problems(root: Path, run: Run) -> list[str]:
    task = scenes.load(root)
    return submission.check(run.submission, task.columns, task.keys)


def maa(root: Path, run: Run) -> float:
    return metric.score(root / "truth.csv", run.submission, json.loads((root / "thresholds.json").read_text())).mean


def noise(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (240, 320, 3), np.uint8)


def test_a_rendered_scene_is_recovered_and_read_back(root: Path, tmp_path: Path) -> None:
    run = solve(root, tmp_path / "out", FAST)
    assert problems(root, run) == []
    assert maa(root, run) >= 0.9
    result = run.scenes["plaza"]
    assert result.counts["registered"] == VIEWS
    assert (tmp_path / "out/scenes/plaza/models/0/cameras.bin").is_file()
    told = json.loads((tmp_path / "out/run.json").read_text())
    assert told["scenes"]["plaza"]["counts"]["pairs"] == VIEWS * (VIEWS - 1) // 2
    assert set(told["scenes"]["plaza"]["seconds"]) == {
        "inspect", "detect", "pairs", "match", "verify", "map", "complete", "place",
    }  # fmt: skip
    assert told["config"]["detector"]["max_keypoints"] == 2000

    before = run.submission.read_bytes()
    again = solve(root, tmp_path / "out", FAST)
    assert again.submission.read_bytes() == before
    assert again.scenes["plaza"].seconds == result.seconds  # nothing ran again


def test_what_depends_on_a_changed_option_runs_again_and_nothing_else(root: Path, tmp_path: Path) -> None:
    solve(root, tmp_path / "out", FAST)
    features = sorted((tmp_path / "out/store/features").rglob("*.h5"))
    solve(
        root,
        tmp_path / "out",
        preset("sift", {"detector.max_keypoints": 2000, "detector.edge_threshold": 20.0, "matcher.ratio": 0.7}),
    )
    assert sorted((tmp_path / "out/store/features").rglob("*.h5")) == features
    assert len(list((tmp_path / "out/store/matches").iterdir())) == 2


def test_one_thread_gives_the_same_poses_twice(root: Path, tmp_path: Path) -> None:
    config = preset("sift", {"detector.max_keypoints": 1000, "threads": 1})
    runs = [solve(root, tmp_path / name, config) for name in ("a", "b")]
    assert runs[0].submission.read_bytes() == runs[1].submission.read_bytes()


@pytest.mark.slow
def test_an_executor_of_processes_gives_what_threads_give(root: Path, tmp_path: Path) -> None:
    config = preset("sift", {"detector.max_keypoints": 1000, "threads": 1})
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        processes = solve(root, tmp_path / "processes", config, executor=executor)
    threads = solve(root, tmp_path / "threads", config)
    assert processes.submission.read_bytes() == threads.submission.read_bytes()


def test_a_given_list_of_pairs_is_what_is_matched(root: Path, tmp_path: Path) -> None:
    run = solve(root, tmp_path / "out", FAST, pairs=lambda images: list(pairwise(images)))
    assert run.scenes["plaza"].counts["pairs"] == VIEWS - 1
    assert problems(root, run) == []


def test_hostile_names_and_files_cost_only_themselves(root: Path, tmp_path: Path) -> None:
    folder = root / "test/plaza/images"
    renamed = ["a b.jpg", "a.b.jpg", "Ünïcödé-塔.jpg", "left/same.jpg", "right/same.jpg"]
    table = (root / "sample_submission.csv").read_text("utf-8")
    truth = (root / "truth.csv").read_text("utf-8")
    for path, name in zip(photographs(root), renamed, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        path.rename(folder / name)
        table = table.replace(path.name, name)
        truth = truth.replace(path.name, name)
    extra = ["corrupt.jpg", "empty.jpg", "pixel.png", "nowhere.jpg"]
    (folder / "corrupt.jpg").write_bytes(b"\xff\xd8\xff" + os.urandom(3000))
    (folder / "empty.jpg").touch()
    cv2.imwrite(str(folder / "pixel.png"), np.zeros((1, 1, 3), np.uint8))
    for name in extra:
        table += f"test/plaza/images/{name},plaza,plaza,1;0;0;0;1;0;0;0;1,0;0;0\n"
    (root / "sample_submission.csv").write_text(table, "utf-8")
    (root / "truth.csv").write_text(truth, "utf-8")

    run = solve(root, tmp_path / "out", FAST)
    assert problems(root, run) == []
    assert maa(root, run) >= 0.9
    notes = " ".join(run.scenes["plaza"].notes)
    assert all(name in notes for name in ("corrupt.jpg", "empty.jpg", "pixel.png"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(root: Path, tmp_path: Path, count: int) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for path in photographs(root)[:count]:
        shutil.copy(path, folder)
    run = solve(folder, tmp_path / "out", FAST)
    assert problems(folder, run) == []
    assert run.scenes["few"].counts["registered"] in (0, 2, 3)


def black(number: int) -> np.ndarray[Any, Any]:
    return np.full((240, 320, 3), number, np.uint8)


@pytest.mark.parametrize("picture", [noise, black, lambda number: noise(0)], ids=["no overlap", "black", "identical"])
def test_images_that_cannot_be_reconstructed(tmp_path: Path, picture: Callable[[int], np.ndarray[Any, Any]]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number))
    run = solve(folder, tmp_path / "out", FAST)
    assert problems(folder, run) == []
    assert any("no model" in note for note in run.scenes["photos"].notes)


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(KitError, match="no images"):
        solve(tmp_path / "nothing", tmp_path / "out")


def test_a_scene_of_unreadable_files_keeps_its_rows(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "test/plaza", root / "test/ruin")
    table = (root / "sample_submission.csv").read_text("utf-8").splitlines(keepends=True)
    table += [row.replace("plaza", "ruin") for row in table[1:]]
    (root / "sample_submission.csv").write_text("".join(table), "utf-8")
    for path in (root / "test/ruin/images").iterdir():
        path.write_bytes(b"not an image")
    run = solve(root, tmp_path / "out", FAST)
    assert problems(root, run) == []
    assert "none of the 18 images can be used" in run.failed["ruin"]
    assert run.scenes["plaza"].counts["registered"] == VIEWS


def test_rows_asked_for_twice_are_refused(root: Path, tmp_path: Path) -> None:
    table = root / "sample_submission.csv"
    lines = table.read_text("utf-8").splitlines(keepends=True)
    table.write_text("".join([*lines, lines[1]]), "utf-8")
    with pytest.raises(KitError, match="twice"):
        solve(root, tmp_path / "out")


def test_an_output_that_is_a_file_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(KitError, match="cannot make the folder"):
        solve(root, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_missing_weight_file_is_said_at_once_and_the_submission_is_valid(root: Path, tmp_path: Path) -> None:
    config = preset("aliked", {"detector.weights": tmp_path / "none"})
    with pytest.raises(KitError, match=r"aliked-n16\.pth"):
        solve(root, tmp_path / "out", config)
    task = scenes.load(root)
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []


def test_a_full_disk_costs_the_scene_and_not_the_submission(root: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys; from imc_kit.pipeline.run import solve;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "print(solve(sys.argv[1], sys.argv[2]).failed)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root), str(tmp_path / "out")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write to the store" in done.stdout
    task = scenes.load(root)
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []
    assert not list((tmp_path / "out").rglob("*.partial"))


ENDINGS = {
    "kill": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "segmentation fault"),
    "hang": ("import time; time.sleep(600)", "time limit of 2 s"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_end_of_colmap_costs_one_attempt_in_one_scene(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    shutil.copytree(root / "test/plaza", root / "test/second")
    table = (root / "sample_submission.csv").read_text("utf-8").splitlines(keepends=True)
    table += [row.replace("plaza", "second") for row in table[1:]]
    (root / "sample_submission.csv").write_text("".join(table), "utf-8")
    code, said = ENDINGS[ending]
    met = inject(monkeypatch, code, lambda job: job["output"].endswith("/plaza/partial/models-0"))
    limit = {"mapping.0.time_limit": 2.0} if ending == "hang" else {}
    run = solve(
        root,
        tmp_path / "out",
        preset("sift", {"detector.max_keypoints": 2000, "detector.edge_threshold": 20.0, **limit}),
    )
    assert met == ["global"]
    assert problems(root, run) == []
    assert said in " ".join(run.scenes["plaza"].notes)
    assert run.scenes["plaza"].counts["registered"] == VIEWS  # another attempt came next
    assert run.scenes["second"].counts["registered"] == VIEWS


@pytest.fixture
def process(root: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "imc_kit.cli.main", "solve", str(root), "--out", str(tmp_path / "out")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield started
    started.kill()
    started.wait()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("sign", ["submission.csv", "store/features/*/*.h5", "scenes/plaza/colmap.log"])
def test_a_stopped_run_leaves_a_valid_submission_and_is_taken_up(
    root: Path, tmp_path: Path, process: subprocess.Popen[str], sign: str, ending: signal.Signals
) -> None:
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(sign)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(ending)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    if ending == signal.SIGINT:
        assert "stopped" in said.splitlines()[-1]
        assert "Traceback" not in said
    task = scenes.load(root)
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []
    run = solve(root, tmp_path / "out")
    assert problems(root, run) == []
    assert run.scenes["plaza"].counts["registered"] == VIEWS


def test_2025_gives_each_model_a_scene_of_its_own(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root/test/mixed"
    folder.mkdir(parents=True)
    for path in photographs(rendered):
        shutil.copy(path, folder)
    cv2.imwrite(str(folder / "stranger.png"), noise(1))
    names = sorted(path.name for path in folder.iterdir())
    rows = [f"mixed_{name},mixed,cluster1,{name},1;0;0;0;1;0;0;0;1,0;0;0\n" for name in names]
    header = "image_id,dataset,scene,image,rotation_matrix,translation_vector\n"
    (tmp_path / "root/sample_submission.csv").write_text(header + "".join(rows))
    run = solve(tmp_path / "root", tmp_path / "out", FAST)
    assert problems(tmp_path / "root", run) == []
    answer = tables.read_table(run.submission).set_index("image")
    assert answer.loc["stranger.png", "scene"] == "outliers"
    assert set(answer.drop("stranger.png")["scene"]) == {"cluster1"}


def test_poses_are_for_the_image_as_it_is_stored(rendered: Path, tmp_path: Path) -> None:
    """Photographs stored on their side with an EXIF orientation: the centres stay, the rotations turn."""
    from PIL import Image

    upright, stored = tmp_path / "upright", tmp_path / "stored"
    for folder in (upright, stored):
        folder.mkdir()
    for path in photographs(rendered):
        with Image.open(path) as image:
            image.save(upright / f"{path.stem}.png")
            exif = Image.Exif()
            exif[0x0112] = 6  # turn it clockwise to see it upright
            image.transpose(Image.Transpose.ROTATE_90).save(stored / f"{path.stem}.png", exif=exif)
    config = preset("sift", {"detector.max_keypoints": 2000, "detector.edge_threshold": 20.0, "threads": 1})
    one, other = solve(upright, tmp_path / "a", config), solve(stored, tmp_path / "b", config)
    for name, placement in one.scenes["upright"].placements.items():
        expected = rotated(placement.pose, -1)
        np.testing.assert_allclose(other.scenes["stored"].placements[name].pose.rotation, expected.rotation, atol=0.02)
        np.testing.assert_allclose(other.scenes["stored"].placements[name].pose.center, expected.center, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fountain_P11", "herzjesu_P8"])
def test_real_photographs(shared: Path, tmp_path: Path, name: str) -> None:
    task = scenes.load(shared / "scenes")
    folder = next(scene.root for scene in task.scenes if scene.name == name)
    run = solve(folder, tmp_path / "out")
    truth = tables.read_table(shared / "scenes/truth.csv")
    truth = truth[truth["scene"] == name]
    expected, found = [], []
    for row in truth.to_dict("records"):
        rotation, translation = tables.parse_pose(row["rotation_matrix"], row["translation_vector"])
        expected.append(-rotation.T @ translation)
        found.append(run.scenes[folder.name].placements[Path(row["image_path"]).name].pose.center)
    assert metric.score_centers(np.array(expected), np.array(found), metric.THRESHOLDS).score >= 0.95


def test_a_scene_says_where_its_images_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        Scene("x", tmp_path, ("a", "a"))
