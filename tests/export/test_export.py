"""Every format, read back by readers that share no code with the export, against the true centres and the photos."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest

from imc_kit.cli.main import main
from imc_kit.errors import KitError
from imc_kit.export.run import export
from made_runs import PHOTOS, SIZE, MadeRun, camera_of, dots, make_run, model

COPIES = {**{name: name for name in PHOTOS}, "e.webp": "e.webp.jpg"}
"""The name of each photo's upright copy."""


def raster(path: Path) -> Any:
    """As other programs read it: without EXIF."""
    found = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert found is not None, path
    return found


def assert_shows(folder: Path, found: Any, run: MadeRun, names: set[str]) -> None:
    """A `pycolmap.Reconstruction` fits the photos in a folder, and its centres are right."""
    assert {image.name for image in found.images.values()} == names
    original = {copy: name for name, copy in COPIES.items()}
    for image in found.images.values():
        name = original.get(image.name, image.name)
        pixels, camera = raster(folder / image.name), found.cameras[image.camera_id]
        assert (camera.width, camera.height) == pixels.shape[1::-1]
        np.testing.assert_allclose(image.projection_center(), run.centres("one")[name], atol=1e-6)
        assert dots(pixels, image.project_point, found) == 1, name


def test_colmap_text_describes_the_files(tmp_path: Path) -> None:
    photos = {name.replace(" ", "_"): how for name, how in PHOTOS.items()}
    made = model([*photos], camera_of("OPENCV", fy=145.0, cx=103.0, k1=-0.1, k2=0.02, p1=0.004, p2=-0.006), 1)
    run = make_run(tmp_path / "made", {"one": [made]}, photos)
    export(run.folder, "colmap-text", tmp_path / "to", ["one"])
    found = pycolmap.Reconstruction(tmp_path / "to/one")
    assert sorted(path.name for path in (tmp_path / "to/one").iterdir() if path.name[:1] in "cip") == [
        "cameras.txt", "images.txt", "points3D.txt",
    ]  # fmt: skip
    for image in found.images.values():
        np.testing.assert_allclose(image.projection_center(), run.centres("one")[image.name], atol=1e-6)
        if photos[image.name][0] != 5:  # no camera sees what is mirrored
            pixels, camera = raster(run.photos["one"] / image.name), found.cameras[image.camera_id]
            assert (camera.width, camera.height) == pixels.shape[1::-1]
            assert dots(pixels, image.project_point, found) == 1, image.name
    found.update_point_3d_errors()
    assert found.compute_mean_reprojection_error() < 1e-6


def test_ply_has_the_points(run: MadeRun, tmp_path: Path) -> None:
    export(run.folder, "ply", tmp_path / "to", ["one"])
    found = pycolmap.Reconstruction()
    found.import_PLY(tmp_path / "to/one/points.ply")
    by_place = {tuple(np.round(point.xyz, 4)): point.color.tolist() for point in found.points3D.values()}
    true = {tuple(np.round(point.xyz, 4)): point.color.tolist() for point in run.upright["one"].points3D.values()}
    assert by_place == true


def test_upright_copies_fit_their_model(run: MadeRun, tmp_path: Path) -> None:
    export(run.folder, "upright", tmp_path / "to", ["one"])
    found = pycolmap.Reconstruction(tmp_path / "to/one/sparse/0")
    assert_shows(tmp_path / "to/one/images", found, run, set(COPIES.values()))
    assert {(camera.width, camera.height) for camera in found.cameras.values()} == {SIZE}
    assert {camera.model.name for camera in found.cameras.values()} == {"OPENCV"}
    for name in ("a.png", "f.jpg"):  # upright before
        assert (tmp_path / "to/one/images" / name).read_bytes() == (run.photos["one"] / name).read_bytes()


def test_undistorted_photos_fit_their_model(run: MadeRun, tmp_path: Path) -> None:
    export(run.folder, "undistorted", tmp_path / "to", ["one"])
    for folder in ("sparse", "sparse/0"):
        found = pycolmap.Reconstruction(tmp_path / "to/one" / folder)
        assert {camera.model.name for camera in found.cameras.values()} == {"PINHOLE"}
        assert_shows(tmp_path / "to/one/images", found, run, set(COPIES.values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to"]
    assert {"upright", "dense"}.isdisjoint(path.name for path in (tmp_path / "to/one").iterdir())


@pytest.mark.parametrize("scene", ["one", "two"])
def test_nerfstudio_by_its_documentation(run: MadeRun, tmp_path: Path, scene: str) -> None:
    """Camera to world, +x right, +y up, −z ahead; OpenCV's intrinsics with pixel corners at whole numbers."""
    export(run.folder, "nerfstudio", tmp_path / "to", [scene])
    content = json.loads((tmp_path / "to" / scene / "transforms.json").read_text())
    assert content["camera_model"] == {"one": "OPENCV", "two": "OPENCV_FISHEYE"}[scene]
    assert "applied_transform" not in content
    seen = set()
    for frame in content["frames"]:
        every = content | frame
        path = tmp_path / "to" / scene / frame["file_path"]
        name = next(name for name, copy in COPIES.items() if path.as_posix().endswith(f"/images/{copy}"))
        seen.add(name)
        to_world = np.array(frame["transform_matrix"])
        np.testing.assert_allclose(to_world[:3, 3], run.centres(scene)[name], atol=1e-6)
        assert to_world[3].tolist() == [0, 0, 0, 1]
        matrix = np.array([[every["fl_x"], 0, every["cx"]], [0, every["fl_y"], every["cy"]], [0, 0, 1]])

        def project(point: Any, to_world: Any = to_world, every: Any = every, matrix: Any = matrix) -> Any:
            x, y, z = (np.linalg.inv(to_world) @ np.append(point, 1))[:3]
            ahead = np.array([[[x, -y, -z]]])
            zero = np.zeros(3)
            if scene == "one":
                lens = np.array([every[key] for key in ("k1", "k2", "p1", "p2")])
                return cv2.projectPoints(ahead, zero, zero, matrix, lens)[0].ravel()
            lens = np.array([every[key] for key in ("k1", "k2", "k3", "k4")])
            return cv2.fisheye.projectPoints(ahead, zero, zero, matrix, lens)[0].ravel()

        pixels = raster(path)
        assert (every["w"], every["h"]) == pixels.shape[1::-1]
        assert dots(pixels, project, run.upright[scene]) == 1, name
    assert seen == set(PHOTOS)
    points = pycolmap.Reconstruction()
    points.import_PLY(tmp_path / "to" / scene / content["ply_file_path"])
    assert points.num_points3D() == run.upright[scene].num_points3D()


def test_nerfstudio_has_intrinsics_once_if_they_are_the_same(run: MadeRun, tmp_path: Path) -> None:
    """Upright copies of photos that shared a camera share it again, however they were stored."""
    export(run.folder, "nerfstudio", tmp_path / "to", ["one"])
    content = json.loads((tmp_path / "to/one/transforms.json").read_text())
    assert all(frame.keys() == {"file_path", "transform_matrix"} for frame in content["frames"])
    assert content["fl_x"] == 150


@pytest.mark.parametrize("scene", ["one", "two"])
def test_opensfm_by_its_documentation(run: MadeRun, tmp_path: Path, scene: str) -> None:
    """Angle-axis and translation from the world to the camera; lengths over the longer side, from the middle."""
    export(run.folder, "opensfm", tmp_path / "to", [scene])
    ((content,),) = [json.loads((tmp_path / "to" / scene / "reconstruction.json").read_text())]
    assert {COPIES[name] for name in PHOTOS} == content["shots"].keys()
    for name, copy in COPIES.items():
        shot = content["shots"][copy]
        camera = content["cameras"][shot["camera"]]
        rotation, translation = cv2.Rodrigues(np.array(shot["rotation"]))[0], np.array(shot["translation"])
        np.testing.assert_allclose(-rotation.T @ translation, run.centres(scene)[name], atol=1e-6)

        def project(point: Any, rotation: Any = rotation, translation: Any = translation, of: Any = camera) -> Any:
            x, y, z = rotation @ point + translation
            x, y = x / z, y / z
            if of["projection_type"] == "brown":
                r2 = x * x + y * y
                radial = 1 + r2 * (of["k1"] + r2 * (of["k2"] + r2 * of["k3"]))
                dx = 2 * of["p1"] * x * y + of["p2"] * (r2 + 2 * x * x)
                dy = 2 * of["p2"] * x * y + of["p1"] * (r2 + 2 * y * y)
                x, y = radial * x + dx, radial * y + dy
            else:
                r = np.hypot(x, y)
                angle = np.arctan(r)
                scale = angle / r * (1 + of["k1"] * angle**2 + of["k2"] * angle**4)
                x, y = scale * x, scale * y
            side = max(of["width"], of["height"])
            return np.array([of["focal_x"] * x + of["c_x"], of["focal_y"] * y + of["c_y"]]) * side + [
                of["width"] / 2,
                of["height"] / 2,
            ]

        assert dots(raster(tmp_path / "to" / scene / "images" / copy), project, run.upright[scene]) == 1, name
    (point,) = [content["points"]["3"]]
    np.testing.assert_allclose(point["coordinates"], run.upright[scene].points3D[3].xyz)


def test_kaggle_has_a_row_for_every_image_of_the_scenes(run: MadeRun, tmp_path: Path) -> None:
    export(run.folder, "kaggle", tmp_path / "to", ["two"])
    with (tmp_path / "to/submission.csv").open() as file:
        rows = {row["image_path"].split("images/")[1]: row for row in csv.DictReader(file)}
    assert rows.keys() == PHOTOS.keys()
    for name, row in rows.items():
        rotation = np.array(row["rotation_matrix"].split(";"), float).reshape(3, 3)
        translation = np.array(row["translation_vector"].split(";"), float)
        np.testing.assert_allclose(-rotation.T @ translation, run.centres("two")[name], atol=1e-6)


# ---- scenes, models and errors ----


def test_all_scenes_with_models_are_exported_and_counted(
    run: MadeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.folder), "--format", "ply", "--out", str(tmp_path / "new/to")]) == 0
    assert sorted(path.name for path in (tmp_path / "new/to").iterdir()) == ["one", "two"]
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["one", "6", "12"] in lines
    assert "model 0 of 2 (0 is the largest): choose with --model" in said
    assert "left out: it has no model" in said
    assert f"exported to {tmp_path / 'new/to'}" in said


def test_another_model_of_a_scene(run: MadeRun, tmp_path: Path) -> None:
    said = export(run.folder, "upright", tmp_path / "to", ["two"], 1)
    assert "model 1 of 2 (0 is the largest): choose with --model" in said
    assert pycolmap.Reconstruction(tmp_path / "to/two/sparse/0").num_images() == 3


@pytest.mark.parametrize(
    ("form", "scenes", "number", "message"),
    [
        ("nerfstdio", [], 0, "unknown format 'nerfstdio': did you mean 'nerfstudio'?"),
        ("ply", ["won"], 0, "unknown scene 'won': did you mean 'two'? known are bare, one, two"),
        ("ply", ["bare"], 0, "nothing to export of bare: it has no model"),
        ("ply", ["two"], 2, "nothing to export of two: it has 2 models, numbered from 0"),
        ("ply", ["two"], -1, "nothing to export of two: it has 2 models, numbered from 0"),
    ],
)
def test_wrong_names(run: MadeRun, tmp_path: Path, form: str, scenes: list[str], number: int, message: str) -> None:
    with pytest.raises(KitError, match=message.replace("?", r"\?")):
        export(run.folder, form, tmp_path / "to", scenes, number)
    assert not (tmp_path / "to").exists()


def test_what_is_in_the_way_stays(run: MadeRun, tmp_path: Path) -> None:
    for out, message in ((tmp_path, "is not empty"), (tmp_path / "file", "File exists")):
        (tmp_path / "file").touch()
        with pytest.raises(KitError, match=message):
            export(run.folder, "ply", out)
    with pytest.raises(KitError, match="cannot make the folder"):
        export(run.folder, "ply", tmp_path / "file/to")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"cannot read .*run\.json"):
        export(tmp_path, "ply", tmp_path / "to")


def test_a_run_without_models(tmp_path: Path) -> None:
    bare = make_run(tmp_path, {"bare": []})
    with pytest.raises(KitError, match="has no models to export: bare is left out: it has no model"):
        export(bare.folder, "ply", tmp_path / "to")
    content = json.loads((bare.folder / "run.json").read_text()) | {"scenes": {}}
    (bare.folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(KitError, match="has no models to export: no scene was solved"):
        export(bare.folder, "ply", tmp_path / "to")


def test_names_with_spaces_are_no_text(run: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"cannot hold names with spaces, such as 'nested/b c\.jpg': use binary ones"):
        export(run.folder, "colmap-text", tmp_path / "to")


@pytest.fixture
def small(tmp_path: Path) -> MadeRun:
    """A scene of two photos that may be changed."""
    names = ["a.png", "f.jpg"]
    made = model(names, camera_of("FULL_OPENCV", k1=0.01, k4=0.02), 4)
    return make_run(tmp_path / "small", {"one": [made]}, {name: PHOTOS[name] for name in names})


def test_photos_that_are_gone_or_changed(small: MadeRun, tmp_path: Path) -> None:
    photo = small.photos["one"] / "a.png"
    for form in ("upright", "undistorted"):
        cv2.imwrite(str(photo), np.zeros((SIZE[0], SIZE[1], 3)))
        with pytest.raises(KitError, match=r"a\.png has changed since it was solved \(150 × 200 pixels upright"):
            export(small.folder, form, tmp_path / "to")
        photo.write_bytes(b"")
        with pytest.raises(KitError, match=r"cannot read the image .*a\.png: the file is empty"):
            export(small.folder, form, tmp_path / "to")
        assert not (tmp_path / "to").exists()
    (small.folder.parent / "data").rename(tmp_path / "moved")
    with pytest.raises(KitError, match="the photos of one are not where they were"):
        export(small.folder, "upright", tmp_path / "to")
    with pytest.raises(KitError, match="the input of the run is gone"):
        export(small.folder, "kaggle", tmp_path / "to")
    assert "one         2      12" in export(small.folder, "ply", tmp_path / "to")


def test_a_camera_that_a_format_lacks(small: MadeRun, tmp_path: Path) -> None:
    for form in ("nerfstudio", "opensfm"):
        with pytest.raises(KitError, match="no camera model FULL_OPENCV: use the format undistorted"):
            export(small.folder, form, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_damaged_results(small: MadeRun, tmp_path: Path) -> None:
    images = small.folder / "scenes/one/models/0/images.bin"
    images.write_bytes(images.read_bytes()[:-9])
    with pytest.raises(KitError, match="its files are damaged"):
        export(small.folder, "colmap-text", tmp_path / "to")
    (small.folder / "scenes/one/result.json").write_text("{}")
    with pytest.raises(KitError, match=r"nothing to export of one: its result\.json is missing, damaged or from"):
        export(small.folder, "colmap-text", tmp_path / "to", ["one"])


def test_photos_that_colmap_cannot_read(small: MadeRun, tmp_path: Path) -> None:
    """WebP content in a .png: the kit reads it, COLMAP does not."""
    photo = small.photos["one"] / "a.png"
    photo.write_bytes(bytes(cv2.imencode(".webp", raster(photo))[1]))
    with pytest.raises(
        KitError, match=r"COLMAP cannot read 1 photos of one, such as images/a\.png \(see .*colmap\.log\)"
    ) as error:
        export(small.folder, "undistorted", tmp_path / "to")
    assert "Undistorting image" in Path(str(error.value).split("(see ")[1][:-1]).read_text("utf-8")
    assert not (tmp_path / "to").exists()
