"""Rotated models, against pixels that are carried along with the raster by np.rot90."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.model_files import ALIGNMENT, read_model
from imc_kit.colmap.rotation import as_stored, rotated
from imc_kit.types import Alignment
from synthetic_models import synthesize

SIZE = 61, 43
MODELS = sorted(pycolmap.CameraModelId.__members__.keys() - {"INVALID", "EQUIRECTANGULAR"})


def carried(place: np.ndarray[Any, Any], quarters: int) -> np.ndarray[Any, Any]:
    """Where a pixel's centre, in COLMAP's coordinates, is after np.rot90 has turned the raster clockwise."""
    raster = np.zeros(SIZE[::-1], bool)
    column, row = np.floor(place).astype(int)
    raster[row, column] = True
    (row,), (column,) = np.nonzero(np.rot90(raster, -quarters))
    return np.array([column + 0.5, row + 0.5])


def seen(model: Any, name: str, point: Any) -> np.ndarray[Any, Any]:
    image = model.find_image_with_name(name)
    return np.asarray(image.project_point(point))


def model_of(camera_model: str) -> Any:
    """Two images of one distorted camera that see one point; the first sees it at the centre of a pixel."""
    random = np.random.default_rng(3)
    camera = pycolmap.Camera.create_from_model_name(7, camera_model, 50.0, *SIZE)
    values = np.array(camera.params)
    extra = [*camera.extra_params_idxs()]
    values[extra] += random.uniform(0.01, 0.03, len(extra))
    values[[*camera.principal_point_idxs()]] += (1.3, -2.1)
    if len(camera.focal_length_idxs()) == 2:
        values[1] = 53.0
    camera.params = values
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera)
    place = np.array([45.5, 8.5])
    ray = np.append(np.asarray(camera.cam_from_img(place)), 1.0)
    point = 3.0 * ray
    for number, name in enumerate(("a.jpg", "b.jpg"), 1):
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([0.1, 0.0, 0.0]) * (number - 1))
        pixel = camera.img_from_cam(pose * point)
        keypoints = [pycolmap.Point2D(xy=np.asarray(pixel).reshape(2), point3D_id=1)]
        image = pycolmap.Image(name=name, points2D=keypoints, camera_id=7, image_id=number)
        model.add_image_with_trivial_frame(image, pose)
    track = pycolmap.Track([pycolmap.TrackElement(1, 0), pycolmap.TrackElement(2, 0)])
    model.add_point3D_with_id(1, pycolmap.Point3D(xyz=point, track=track))
    return model


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("camera_model", MODELS)
def test_what_a_camera_sees_moves_with_the_raster(camera_model: str, quarters: int) -> None:
    model = model_of(camera_model)
    turned = rotated(model, {"a.jpg": quarters - 4})  # as many, anticlockwise
    point = model.points3D[1].xyz
    np.testing.assert_allclose(seen(turned, "a.jpg", point), carried(np.array([45.5, 8.5]), quarters), atol=1e-6)
    keypoint = turned.find_image_with_name("a.jpg").point2D(0).xy
    np.testing.assert_allclose(keypoint, carried(np.array([45.5, 8.5]), quarters), atol=1e-6)
    np.testing.assert_allclose(seen(turned, "b.jpg", point), seen(model, "b.jpg", point), atol=1e-9)
    assert turned.num_cameras() == (2 if quarters else 1)
    image = turned.find_image_with_name("a.jpg")
    camera = turned.cameras[image.camera_id]
    assert (camera.width, camera.height) == (SIZE[::-1] if quarters % 2 else SIZE)
    assert turned.is_valid()


def test_the_files_describe_stored_images_and_the_values_upright_ones(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "made", 6)
    (tmp_path / "model").mkdir()
    synthetic.scene.write(tmp_path / "model")
    alignment = Alignment((47.0, 8.0, 400.0), 2.0, 5, 4, 0.5)
    (tmp_path / "model" / ALIGNMENT).write_text(json.dumps(asdict(alignment)))
    model = read_model(tmp_path / "model")
    names = sorted(model.poses)
    quarters = dict(zip(names[1:], (1, 2, 3, 1), strict=False))
    (stored,) = as_stored([model], quarters, tmp_path, Workplace(tmp_path / "stored", tmp_path / "log"))
    assert stored.poses is model.poses
    written = pycolmap.Reconstruction(stored.folder)
    before = pycolmap.Reconstruction(model.folder)
    assert (written.num_cameras(), written.num_points3D()) == (4, before.num_points3D())
    # Not the errors in the file: computed anew from the keypoints.
    errors = [one.compute_mean_reprojection_error() for one in (before, written)]
    for one in (before, written):
        one.update_point_3d_errors()
        errors.append(one.compute_mean_reprojection_error())
    assert errors[0] > 0.1
    np.testing.assert_allclose(errors, errors[0], rtol=1e-9)
    plain, upright = read_model(stored.folder), read_model(stored.folder, quarters)
    assert plain.alignment == upright.alignment == alignment
    for name in names:
        np.testing.assert_allclose(upright.poses[name].rotation, model.poses[name].rotation, atol=1e-12)
        np.testing.assert_allclose(upright.poses[name].translation, model.poses[name].translation, atol=1e-9)
        np.testing.assert_allclose(plain.poses[name].center, model.poses[name].center, atol=1e-9)
        assert upright.frames[name] == pytest.approx(model.frames[name])
    assert plain.poses[names[1]].rotation == pytest.approx(model.poses[names[1]].rotated(-1).rotation)


def test_models_without_rotated_images_are_left_alone(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "made", 3, points=50)
    synthetic.scene.write(tmp_path)
    model = read_model(tmp_path)
    at = Workplace(tmp_path / "stored", tmp_path / "log")
    assert as_stored([model], {"another.jpg": 1}, tmp_path, at) == [model]
    assert as_stored([], {"another.jpg": 1}, tmp_path, at) == []
    assert not at.folder.exists()


def test_a_failure_is_one_sentence(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "made", 3, points=50)
    synthetic.scene.write(tmp_path)
    model = read_model(tmp_path)
    (tmp_path / "images.bin").unlink()
    at = Workplace(tmp_path / "stored", tmp_path / "log")
    with pytest.raises(ColmapError, match="the rotation of models ended with exit status 1"):
        as_stored([model], {next(iter(model.poses)): 1}, tmp_path, at)
