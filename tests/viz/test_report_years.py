"""The report of the layouts of 2023 and 2025, with their own scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from imc_kit import metric, preset, solve
from imc_kit.data.submission import NO_POSE, write
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.errors import KitError
from imc_kit.pipeline.results import Run
from imc_kit.types import Pose
from imc_kit.viz.report import write_report
from reports import Page
from views import ORBIT, SIZE, views

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_pictures")]
VIEWS = 6
FAST = preset("small", {"threads": 1})
DISTANCES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
Poses = dict[str, Pose]


class Year(NamedTuple):
    """A solved competition of two places, and where its truth is."""

    root: Path
    run: Run

    def report(self, path: Path, **more: Path) -> Page:
        return Page(write_report(self.root / "out", path, truth=self.root / "truth.csv", **more))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Poses]]:
    """Two opposite sides of the plaza, a quarter of the way around: folders of photos, and the true poses of these."""
    found = {}
    for first, place in ((0, "north"), (len(ORBIT) // 2, "south")):
        folder, numbers = tmp_path_factory.mktemp(place), range(first, first + VIEWS)
        poses = {f"{number}.png": ORBIT[number] for number in numbers}
        for name, photo in zip(poses, views(tmp_path_factory, numbers), strict=True):
            Image.fromarray(photo).save(folder / name)
        found[place] = folder, poses
    return found


@pytest.fixture(scope="module")
def year_2023(places: dict[str, tuple[Path, Poses]], tmp_path_factory: pytest.TempPathFactory) -> Year:
    """Two datasets, each with a scene of the same name."""
    root, rows = tmp_path_factory.mktemp("2023"), []
    for dataset, (folder, poses) in places.items():
        shutil.copytree(folder, root / "test" / dataset / "plaza/images")
        keys = {"dataset": dataset, "scene": "plaza"}
        rows += [
            {"image_path": f"{dataset}/plaza/images/{name}", **keys, **posed(pose)} for name, pose in poses.items()
        ]
    return solved(root, ("image_path", "dataset", "scene"), rows)


@pytest.fixture(scope="module")
def year_2025(places: dict[str, tuple[Path, Poses]], tmp_path_factory: pytest.TempPathFactory) -> Year:
    """One dataset with both places mixed, and a photo of neither."""
    root, rows = tmp_path_factory.mktemp("2025"), []
    (root / "test/mixed").mkdir(parents=True)
    for scene, (folder, poses) in places.items():
        for name, pose in poses.items():
            shutil.copy(folder / name, root / "test/mixed" / f"{scene}_{name}")
            rows.append({"dataset": "mixed", "scene": scene, "image": f"{scene}_{name}", **posed(pose)})
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize(SIZE).save(root / "test/mixed/stranger.png")
    nowhere = dict(zip(POSE_COLUMNS, NO_POSE, strict=True))
    rows.append({"dataset": "mixed", "scene": "outliers", "image": "stranger.png", **nowhere})
    distances = {f"mixed/{scene}": DISTANCES for scene in places}
    (root / "thresholds.json").write_text(json.dumps(distances), "utf-8")
    return solved(root, ("dataset", "scene", "image"), rows)


def posed(pose: Pose) -> dict[str, str]:
    return dict(zip(POSE_COLUMNS, format_pose(pose), strict=True))


def solved(root: Path, keys: tuple[str, ...], rows: list[dict[str, str]]) -> Year:
    write(root / "truth.csv", (*keys, *POSE_COLUMNS), rows)
    write(root / "sample_submission.csv", (*keys, *POSE_COLUMNS), [row | posed(Pose.identity()) for row in rows])
    return Year(root, solve(root, root / "out", FAST))


def true_cameras(page: Page, label: str) -> list[str]:
    return [trace["name"] for trace in page.figures[label]["data"] if trace["name"].startswith("true cameras")]


def test_2023_says_its_own_score_and_shows_the_truth(year_2023: Year, tmp_path: Path) -> None:
    assert set(year_2023.run.scenes) == {"north/plaza", "south/plaza"}
    page = year_2023.report(tmp_path / "report.html")
    expected = metric.score_2023(year_2023.root / "truth.csv", year_2023.run.submission)
    head, *rows = page.tables["Scenes of the run"]
    column = head.index("mAA")
    for row, dataset in zip(rows, ("north", "south"), strict=True):
        assert row[0] == f"{dataset}/plaza"
        score = expected.datasets[dataset]["plaza"].score
        assert score > 0.5
        assert row[column] == f"{score:.3f}"
        assert f"mAA {score:.3f}" in page.text
        assert true_cameras(page, f"The model of {dataset}/plaza in 3D") == [f"true cameras ({VIEWS})"]
        images = page.tables[f"Images of {dataset}/plaza"]
        assert all(float(row[images[0].index("Error")]) < 0.5 for row in images[1:])
    assert f"{expected.mean:.3f}" in page.text
    assert "relative poses" in page.text  # the figure is of something else, and says so
    assert len(page.figures["Accuracy"]["data"]) == 2


def test_2023_takes_its_own_thresholds_and_a_truth_of_some_scenes(year_2023: Year, tmp_path: Path) -> None:
    truth = (year_2023.root / "truth.csv").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "truth.csv").write_text("".join(truth[: VIEWS + 1]), "utf-8")
    (tmp_path / "thresholds.json").write_text('{"north/plaza": [[1e-9, 180], [1e-9, 1e9]]}', "utf-8")
    files = {"truth": tmp_path / "truth.csv", "thresholds": tmp_path / "thresholds.json"}
    page = Page(write_report(year_2023.root / "out", tmp_path / "report.html", **files))
    head, *rows = page.tables["Scenes of the run"]
    assert [row[head.index("mAA")] for row in rows] == ["0.500", "–"]  # none and all of its pairs
    assert true_cameras(page, "The model of south/plaza in 3D") == []


def test_2025_has_a_scene_for_each_model(year_2025: Year, tmp_path: Path) -> None:
    thresholds = year_2025.root / "thresholds.json"
    page = year_2025.report(tmp_path / "report.html", thresholds=thresholds)
    expected = metric.score_2025(
        year_2025.root / "truth.csv", year_2025.run.submission, metric.read_thresholds(thresholds)
    )
    score = expected.datasets["mixed"].score
    assert score > 0.5
    head, row = page.tables["Scenes of the run"]
    assert "mAA" not in head
    assert row[head.index("score")] == f"{score:.3f}"
    assert row[head.index("Models")] == "2"
    for number in (1, 2):
        assert true_cameras(page, f"Model {number} of 2 of mixed in 3D") == [f"true cameras ({VIEWS})"]
    names = [trace["name"].split(",")[:2] for trace in page.figures["Accuracy"]["data"]]
    assert names == [["mixed", " model 1"], ["mixed", " model 2"]]
    assert "harmonic mean" in page.text
    assert "split into" not in page.text
    assert f"{2 * VIEWS} of {2 * VIEWS + 1} images registered" in page.text
    head, *rows = page.tables["Images of mixed"]
    states = {row[1]: row[head.index("State")] for row in rows}
    assert states.pop("stranger.png") == "unregistered"
    assert sorted(states.values()) == ["in model 2"] * VIEWS + ["registered"] * VIEWS
    assert rows[0][1] == "stranger.png"  # unregistered images come first
    assert all(float(row[head.index("Error")]) < 0.5 for row in rows[1:])
    assert f"1 of {2 * VIEWS + 1} images are not in any model" in page.text
    warnings = page.tables["Scenes of the run"][1][-1]
    assert "1 image is not in the model" in warnings
    assert "stranger.png" in warnings


def test_2025_without_thresholds_is_refused(year_2025: Year, tmp_path: Path) -> None:
    truth = shutil.copy(year_2025.root / "truth.csv", tmp_path)  # its folder has no thresholds.json
    with pytest.raises(KitError, match="thresholds"):
        write_report(year_2025.root / "out", tmp_path / "report.html", truth=truth)
    assert not (tmp_path / "report.html").exists()
