"""A competition's files as it publishes them: the training photos are solved and scored without any other option."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from imc_kit.cli.main import main
from imc_kit.data import images
from imc_kit.data.tables import POSE_COLUMNS, read_table
from jpegs import as_jpeg

PHOTOS = 5
SCENE = "herzjesu_P8"
QUICK = ["--preset", "small", "--detector.max-keypoints", "800", "--threads", "1"]


@pytest.fixture(scope="module")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Small photos of one scene, and the rows of their true poses with the name of the photo."""
    folder = tmp_path_factory.mktemp("photos")
    truth = read_table(shared / "scenes/truth.csv")
    truth = truth[truth["scene"] == SCENE].head(PHOTOS)
    truth = truth.assign(name=[Path(path).name for path in truth["image_path"]])
    for path, name in zip(truth["image_path"], truth["name"], strict=True):
        (folder / name).write_bytes(as_jpeg(images.load(shared / "scenes" / path, 480).pixels))
    return folder, truth


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the runs share, because all years have the same photos."""
    return tmp_path_factory.mktemp("store")


def publish(root: Path, year: str, photos: tuple[Path, pd.DataFrame], distances: list[float]) -> None:
    """Write the training photos and their labels in the layout of a year."""
    folder, rows = photos
    place = {"2023": f"heritage/{SCENE}/images", "2024": f"{SCENE}/images", "2025": "imc2025_mix"}[year]
    (root / "train" / place).mkdir(parents=True)
    for name in rows["name"]:
        (root / "train" / place / name).symlink_to(folder / name)
    labels = rows.assign(dataset={"2023": "heritage", "2025": "imc2025_mix"}.get(year, SCENE))
    if year == "2023":
        labels = labels.assign(image_path=[f"{place}/{name}" for name in rows["name"]])
        labels = labels[["dataset", "scene", "image_path", *POSE_COLUMNS]]
    elif year == "2024":
        labels = labels.rename(columns={"name": "image_name"})[["image_name", "dataset", "scene", *POSE_COLUMNS]]
        (root / "thresholds.json").write_text(json.dumps({SCENE: distances}))
    else:
        labels = labels.rename(columns={"name": "image"})[["dataset", "scene", "image", *POSE_COLUMNS]]
        text = ";".join(map(str, [0.0, 0.0, *distances]))
        (root / "train_thresholds.csv").write_text(f"dataset,scene,thresholds\nimc2025_mix,{SCENE},{text}\n")
    labels.to_csv(root / ("train_labels.csv" if year == "2025" else "train/train_labels.csv"), index=False)
    (root / "sample_submission.csv").write_text("image_path\ntest/x/images/1.png\n")


@pytest.mark.parametrize("year", ["2023", "2024", "2025"])
def test_the_training_photos_are_solved_and_scored(
    photos: tuple[Path, pd.DataFrame],
    store: Path,
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    year: str,
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    publish(root, year, photos, json.loads((shared / "scenes/thresholds.json").read_text())[SCENE])
    out.mkdir()
    (out / "store").symlink_to(store)
    monkeypatch.chdir(root)
    assert main(["solve", ".", "--out", str(out), "--split", "train", "--score", *QUICK]) == 0
    said = capsys.readouterr().out
    score = json.loads((out / "run.json").read_text())["score"]
    assert score["edition"] == year
    assert score["mean"] > 0.6
    assert f"score of {year}" in said
    assert f"{score['mean']:.4f}" in said
    labels = "train_labels.csv" if year == "2025" else "train/train_labels.csv"
    assert main(["score", labels, str(out / "submission.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] == score["mean"]


def test_a_score_that_cannot_be_is_refused_before_the_work(
    photos: tuple[Path, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "data", "2025", photos, [0.1, 0.2, 0.3])
    asked = ["solve", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--split", "train", "--score"]
    (tmp_path / "data/train_thresholds.csv").unlink()
    assert main(asked) == 2
    assert "train_labels.csv has no distances: put train_thresholds.csv next to it" in capsys.readouterr().err
    assert main(["solve", str(photos[0]), "--out", str(tmp_path / "out"), "--score"]) == 2
    assert "has no true poses of these images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
