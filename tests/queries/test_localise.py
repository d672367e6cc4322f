"""New photos of a rendered scene are localised where they were taken, however they are stored; others are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

import imc_kit
from imc_kit.cli.main import main
from imc_kit.colmap.model_files import read_model
from imc_kit.config import Config
from imc_kit.data.tables import parse_pose, read_table
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.queries.run import COLUMNS, Localised, localise
from imc_kit.types import Pose
from small_tasks import noise
from views import ORBIT, views

CONFIG = Config(SiftConfig(max_keypoints=1500), NearestConfig(ratio=0.8), threads=2, upright=True)
USED = 12
"""Photos that are taken, half a round."""
WITHHELD = {2: "02.png", 6: "06.png", 9: "05.png"}
"""The withheld images and their names as queries. One is called like an image of the scene."""
TURNED = 4
"""An image of the scene that is stored rotated."""


@dataclass
class Solved:
    """photos: of the scene `photos`. out: its run. queries: the withheld photos, and others.

    poses: true ones of the scene's photos and of the withheld ones (in `queries/`), as they are stored.
    """

    photos: Path
    out: Path
    queries: Path
    poses: dict[str, Pose]

    def copy(self, folder: Path) -> Solved:
        """A copy that a test may change."""
        copy = Solved(folder / "photos", folder / "out", folder / "queries", self.poses)
        for source, target in ((self.photos, copy.photos), (self.out, copy.out), (self.queries, copy.queries)):
            shutil.copytree(source, target)
        copy.change(input=str(copy.photos))
        return copy

    def change(self, **values: Any) -> None:
        """Change run.json."""
        path = self.out / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Solved:
    root = tmp_path_factory.mktemp("localise")
    made = Solved(root / "photos", root / "out", root / "queries", {})
    made.photos.mkdir()
    made.queries.mkdir()
    rendered = views(tmp_path_factory, range(USED))
    for number, (pixels, pose) in enumerate(zip(rendered, ORBIT[:USED], strict=True)):
        exif, turns = Image.Exif(), 0
        if number in (2, 6, TURNED):
            turns = 1
            exif[0x0112] = 6 if number == 2 else 1
        stored = f"queries/{WITHHELD[number]}" if number in WITHHELD else f"photos/{number:02}.png"
        Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns))).save(root / stored, exif=exif)
        made.poses[stored.removeprefix("photos/")] = pose.rotated(-turns)
    cv2.imwrite(str(made.queries / "noise.png"), noise(1))
    (made.queries / "broken.jpg").write_bytes(b"no image")
    shutil.copy(made.photos / "00.png", made.queries / "copy.png")
    imc_kit.solve(made.photos, made.out, CONFIG)
    return made


@pytest.fixture(scope="module")
def localised(solved: Solved, tmp_path_factory: pytest.TempPathFactory) -> Localised:
    before = files(solved.out)
    result = localise(solved.out, solved.queries, tmp_path_factory.mktemp("localised") / "new")
    assert files(solved.out) == before
    return result


def test_photos_are_localised_where_they_were_taken(solved: Solved, localised: Localised) -> None:
    answers = {name: answer for name, answer in localised.answers.items() if answer.pose}
    assert sorted(answers) == sorted(WITHHELD.values())
    own = read_model(solved.out / "scenes/photos/models/0").poses
    common = sorted(
        name for name in own if name != f"{TURNED:02}.png"
    )  # the others are stored as they are in the model
    places = [np.array([of[name].center for name in common]) for of in (own, solved.poses)]
    to_truth = pycolmap.estimate_sim3d(*places)

    def errors(pose: Pose, true: Pose) -> tuple[float, float]:
        """The distance from the true centre, and degrees."""
        turn = pose.rotation @ (true.rotation @ to_truth.rotation.matrix()).T
        cosine = min(1.0, (np.trace(turn) - 1) / 2)
        return float(np.linalg.norm(to_truth * pose.center - true.center)), float(np.degrees(np.arccos(cosine)))

    limits = np.max([errors(own[name], solved.poses[name]) for name in common], axis=0)
    assert (limits < (0.2, 1.0)).all()  # metres and degrees; the cameras are 8 metres from the middle
    for name, answer in answers.items():
        assert answer.pose is not None
        assert (errors(answer.pose, solved.poses[f"queries/{name}"]) < 1.5 * limits).all()
        assert answer.inliers >= 50
        assert answer.matches >= answer.inliers / len(own)
        assert set(answer.neighbours) <= set(own)
        assert answer.neighbours


def test_others_are_not_localised(localised: Localised) -> None:
    reasons = {name: answer.reason for name, answer in localised.answers.items() if not answer.pose}
    assert reasons.keys() == {"noise.png", "broken.jpg", "copy.png"}
    assert "broken.jpg" in reasons["broken.jpg"]
    assert reasons["copy.png"] == "it is the same file as 00.png of the scene"
    assert "matches" in reasons["noise.png"] or "keypoints" in reasons["noise.png"]


def test_the_model_has_the_scene_as_it_was_and_the_queries_as_stored(solved: Solved, localised: Localised) -> None:
    own = read_model(solved.out / "scenes/photos/models/0")
    model = pycolmap.Reconstruction(localised.folder / "models/photos/0")
    names = {image.name: image for image in model.images.values()}
    assert names.keys() == own.poses.keys() | {f"queries/{name}" for name in WITHHELD.values()}
    for name, pose in own.poses.items():
        assert np.allclose(names[name].cam_from_world().matrix()[:, 3], pose.translation, atol=1e-9)
    for name in WITHHELD.values():
        image, answer = names[f"queries/{name}"], localised.answers[name]
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == Image.open(solved.queries / name).size
        assert answer.pose is not None
        assert np.allclose(image.cam_from_world().matrix()[:, :3], answer.pose.rotation)
        assert image.num_points3D == answer.inliers
        seen = [(point.xy, model.points3D[point.point3D_id]) for point in image.get_observation_points2D()]
        errors = [np.linalg.norm(image.project_point(point.xyz) - xy) for xy, point in seen]
        assert np.median(errors) < 1
        assert np.mean([point.color.any() for _, point in seen]) > 0.9


def test_the_table_is_a_submission_with_more_columns(localised: Localised) -> None:
    table = read_table(localised.folder / "poses.csv", COLUMNS).set_index("image_path")
    assert sorted(table.index) == sorted(localised.answers)
    for name, answer in localised.answers.items():
        row = table.loc[name]
        rotation, translation = parse_pose(row["rotation_matrix"], row["translation_vector"])
        assert row["status"] == ("localised" if answer.pose else "not localised")
        assert np.isnan(rotation).all() if answer.pose is None else (translation == answer.pose.translation).all()
        assert row["reason"] == answer.reason
    assert f"{len(WITHHELD)} of {len(table)} photos are localised" in str(localised)


def test_single_files_by_the_command(
    solved: Solved, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    copy = solved.copy(tmp_path)
    copy.change(failed={"other": "the disk was full"})
    command = ["localise", str(copy.out), str(copy.queries / "05.png"), "--threads", "1"]
    assert main([*command, "--out", str(tmp_path / "new")]) == 0
    assert "1 of 1 photos are localised" in capsys.readouterr().out
    assert "other is left out: it could not be solved (the disk was full)" in caplog.text
    command[2] = str(copy.queries / "noise.png")
    assert main([*command, "--out", str(tmp_path / "none"), "--scenes", "photos"]) == 1
    assert not (tmp_path / "none/models").exists()


def vanish(it: Solved) -> None:
    (it.photos / "00.png").unlink()


def resize(it: Solved) -> None:
    cv2.imwrite(str(it.photos / "00.png"), noise(0)[:200])


def repaint(it: Solved) -> None:
    cv2.imwrite(str(it.photos / "00.png"), noise(0))


def move(it: Solved) -> None:
    it.photos.rename(it.photos.with_name("elsewhere"))


def unsolve(it: Solved) -> None:
    it.change(scenes={}, failed={"photos": "the disk was full"})


def lose_database(it: Solved) -> None:
    (it.out / "scenes/photos/database.db").unlink()


def lose_model(it: Solved) -> None:
    (it.out / "scenes/photos/models/0/images.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (vanish, "00.png"),
        (resize, "00.png has changed since it was solved"),
        (repaint, "00.png or imc-kit has changed since photos was solved"),
        (move, "photos are not where they were"),
        (unsolve, "could not be solved .the disk was full"),
        (lose_database, "database.db"),
        (lose_model, "damaged"),
    ],
)
def test_a_run_that_has_changed(solved: Solved, tmp_path: Path, damage: Callable[[Solved], None], message: str) -> None:
    changed = solved.copy(tmp_path)
    damage(changed)
    with pytest.raises(KitError, match=message):
        localise(changed.out, changed.queries / "05.png", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        ("broken.jpg", {}, "broken.jpg"),
        ("nothing.jpg", {}, "there is no file or folder .*nothing.jpg"),
        ("05.png", {"scenes": ["fotos"]}, "did you mean 'photos'"),
        ("05.png", {"threads": 0}, "threads must be at least 1"),
    ],
)
def test_wrong_arguments(solved: Solved, tmp_path: Path, queries: str, options: Any, message: str) -> None:
    with pytest.raises(KitError, match=message):
        localise(solved.out, solved.queries / queries, tmp_path / "new", **options)


def test_no_run_no_photos_and_no_empty_folder(solved: Solved, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(KitError, match="give the folder of a run"):
        localise(tmp_path, solved.queries, tmp_path / "new")
    with pytest.raises(KitError, match="there are no photos to localise"):
        localise(solved.out, tmp_path / "empty", tmp_path / "new")
    with pytest.raises(KitError, match="is not empty: choose another --out"):
        localise(solved.out, solved.queries, tmp_path / "full")


def test_a_matcher_that_takes_photos(solved: Solved, tmp_path: Path) -> None:
    changed = solved.copy(tmp_path)
    config = json.loads((changed.out / "run.json").read_text("utf-8"))["config"]
    matcher = {"name": "loftr"}
    changed.change(config=config | {"detector": {"name": "none"}, "matcher": matcher})
    with pytest.raises(KitError, match="a matcher that takes photos"):
        localise(changed.out, changed.queries, tmp_path / "new")
