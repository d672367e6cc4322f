"""Whole runs, on rendered scenes with known cameras and on images that cannot be reconstructed."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from imc_kit import metric
from imc_kit.config import preset
from imc_kit.data import scenes, submission, tables
from imc_kit.errors import KitError
from imc_kit.pipeline.run import Run, solve
from small_tasks import NO_POSE, VIEWS, noise, write_task

OPTIONS = {"detector.max_keypoints": 1000, "threads": 2, "subpixel.on": False}
FAST = preset("sift", OPTIONS)


@pytest.fixture(scope="module")
def solved(plaza: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    out = tmp_path_factory.mktemp("solved")
    return out, solve(plaza, out, FAST)


def problems(root: Path, run: Run) -> list[str]:
    task = scenes.load(root)
    return submission.check(run.submission, task.columns, task.keys)


def maa(root: Path, run: Run) -> float:
    return metric.score(root / "truth.csv", run.submission, json.loads((root / "thresholds.json").read_text())).mean


def test_a_rendered_scene_is_recovered_and_described_in_run_json(plaza: Path, solved: tuple[Path, Run]) -> None:
    out, run = solved
    assert problems(plaza, run) == []
    assert maa(plaza, run) >= 0.9
    assert run.scenes["plaza"].counts["registered"] == VIEWS
    assert (out / "scenes/plaza/models/0/cameras.bin").is_file()
    told = json.loads((out / "run.json").read_text())
    assert told["scenes"]["plaza"]["counts"]["pairs"] == VIEWS * (VIEWS - 1) // 2
    assert set(told["scenes"]["plaza"]["seconds"]) == {
        "inspect", "detect", "pairs", "match", "verify", "map", "complete", "place",
    }  # fmt: skip
    assert told["config"]["detector"]["max_keypoints"] == 1000


def test_a_repeated_run_reads_back_and_a_changed_one_repeats_what_depends_on_it(
    plaza: Path, solved: tuple[Path, Run], tmp_path: Path
) -> None:
    out, run = solved
    shutil.copytree(out, tmp_path / "out")
    again = solve(plaza, tmp_path / "out", FAST)
    assert again.submission.read_bytes() == run.submission.read_bytes()
    assert again.scenes["plaza"].seconds == run.scenes["plaza"].seconds  # nothing ran again

    features = sorted((tmp_path / "out/store/features").rglob("*.h5"))
    config = preset("sift", {**OPTIONS, "matcher.ratio": 0.7})
    changed = solve(plaza, tmp_path / "out", config, pairs=lambda images: list(pairwise(images)))
    assert sorted((tmp_path / "out/store/features").rglob("*.h5")) == features
    assert len(list((tmp_path / "out/store/matches").iterdir())) == 2
    assert changed.scenes["plaza"].counts["pairs"] == VIEWS - 1  # those given
    assert problems(plaza, changed) == []


def test_one_thread_gives_the_same_poses_again_and_with_processes(photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.iterdir())[:8]
    root = write_task(tmp_path / "task", {"half": {path.name: path for path in paths}})
    config = preset("sift", {**OPTIONS, "threads": 1, "subpixel.on": True})
    first = solve(root, tmp_path / "a", config).submission.read_bytes()
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        second = solve(root, tmp_path / "b", config, executor=executor).submission.read_bytes()
    assert first == second


def test_hostile_names_and_files_cost_only_themselves(plaza: Path, photos: Path, tmp_path: Path) -> None:
    hostile = ["a b.jpg", "a.b.jpg", "Ünïcödé-塔.jpg", "left/same.jpg", "right/same.jpg"]
    originals = sorted(photos.iterdir())
    names = hostile + [path.name for path in originals[len(hostile) :]]
    bad = {
        "corrupt.jpg": b"\xff\xd8\xff" + os.urandom(3000),
        "empty.jpg": b"",
        "pixel.png": np.zeros((1, 1, 3), np.uint8),
        "nowhere.jpg": None,
    }
    good = dict(zip(names, originals, strict=True))
    root = write_task(tmp_path / "task", {"plaza": good | bad, "ruin": {f"{n}.jpg": b"not an image" for n in range(3)}})
    truth = (plaza / "truth.csv").read_text("utf-8")
    for name, path in good.items():
        truth = truth.replace(path.name, name)
    (root / "truth.csv").write_text(truth, "utf-8")
    shutil.copy(plaza / "thresholds.json", root)

    run = solve(root, tmp_path / "out", FAST)
    assert problems(root, run) == []
    assert maa(root, run) >= 0.9
    notes = " ".join(run.scenes["plaza"].notes)
    assert all(name in notes for name in ("corrupt.jpg", "empty.jpg", "pixel.png"))
    assert "none of the 3 images can be used" in run.failed["ruin"]


def test_images_that_cannot_be_reconstructed_and_very_few_images(photos: Path, tmp_path: Path) -> None:
    first = sorted(photos.iterdir())[:3]
    black = np.zeros((240, 320, 3), np.uint8)
    hopeless = {
        "strangers": {f"{number}.png": noise(number) for number in range(4)},
        "black": {f"{number}.png": black for number in range(4)},
        "identical": {f"{number}.png": noise(0) for number in range(4)},
        "one": {path.name: path for path in first[:1]},
    }
    few = {"two": {path.name: path for path in first[:2]}, "three": {path.name: path for path in first}}
    root = write_task(tmp_path / "task", hopeless | few)
    run = solve(root, tmp_path / "out", FAST)
    assert problems(root, run) == []
    assert run.failed == {}
    for name in hopeless:
        assert any("no model" in note for note in run.scenes[name].notes)
    for name in few:
        assert run.scenes[name].counts["registered"] in (0, 2, 3)


def test_input_and_output_that_cannot_be_used_are_refused(plaza: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(KitError, match="no images"):
        solve(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KitError, match="cannot make the folder"):
        solve(plaza, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    root = write_task(tmp_path / "task", {"scene": {"0.png": noise(0)}})
    table = root / "sample_submission.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    with pytest.raises(KitError, match="twice"):
        solve(root, tmp_path / "out")


def test_a_missing_weight_file_is_named_at_once_and_the_submission_is_valid(plaza: Path, tmp_path: Path) -> None:
    config = preset("aliked", {"detector.weights": tmp_path / "none"})
    with pytest.raises(KitError, match=r"aliked-n16\.pth"):
        solve(plaza, tmp_path / "out", config)
    task = scenes.load(plaza)
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []


def test_the_folder_explains_itself_and_keeps_a_text_of_yours(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48), "olive").save(tmp_path / "photos/x.jpg")
    solve(tmp_path / "photos", tmp_path / "out")
    text = (tmp_path / "out/README.txt").read_text()
    named = {line.split()[0].partition("/")[0] for line in text.splitlines()[2:] if line[:1] not in (" ", "T", "")}
    assert {"submission.csv", "run.json", "scenes", "store"} <= named
    (tmp_path / "out/README.txt").write_text("mine")
    solve(tmp_path / "photos", tmp_path / "out")
    assert (tmp_path / "out/README.txt").read_text() == "mine"


def test_2025_gives_each_model_a_scene_of_its_own(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root/test/mixed"
    folder.mkdir(parents=True)
    for path in photos.iterdir():
        shutil.copy(path, folder)
    cv2.imwrite(str(folder / "stranger.png"), noise(1))
    names = sorted(path.name for path in folder.iterdir())
    rows = [f"mixed_{name},mixed,cluster1,{name},{NO_POSE}" for name in names]
    header = "image_id,dataset,scene,image,rotation_matrix,translation_vector\n"
    (tmp_path / "root/sample_submission.csv").write_text(header + "".join(rows))
    run = solve(tmp_path / "root", tmp_path / "out", FAST)
    assert problems(tmp_path / "root", run) == []
    answer = tables.read_table(run.submission).set_index("image")
    assert answer.loc["stranger.png", "scene"] == "outliers"
    assert set(answer.drop("stranger.png")["scene"]) == {"cluster1"}
