"""Models fit the photos on disk, however these are stored."""

from __future__ import annotations

from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from imc_kit.colmap import rotation
from imc_kit.colmap.child import ColmapError
from imc_kit.config import Config
from imc_kit.data import images
from imc_kit.detectors.sift import SiftConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline.completion import SceneContext
from imc_kit.pipeline.records import ImageRecord
from imc_kit.pipeline.run import Run, solve
from imc_kit.pipeline.scene import MatchedScene
from imc_kit.runtime import faults
from imc_kit.types import Model, Pose, Scene
from small_tasks import VIEWS

CONFIG = Config(SiftConfig(max_keypoints=1500), NearestConfig(ratio=0.8), threads=2, upright=True)
ORIENTATION = 0x0112
STORING = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: np.swapaxes(pixels, 0, 1)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels, -1),
}
"""How the upright raster is stored with each EXIF orientation."""


def stored_as(pixels: Any, orientation: int) -> Any:
    return np.ascontiguousarray(STORING[orientation](pixels))


@pytest.fixture(scope="module")
def folder(rendered: tuple[Path, dict[str, Pose]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered photos: eight as EXIF orients them (mirrored first), the rest turned without EXIF or upright."""
    root = tmp_path_factory.mktemp("stored")
    (root / "photos").mkdir()
    for number, path in enumerate(sorted((rendered[0] / "test/plaza/images").iterdir())):
        pixels, exif = np.asarray(Image.open(path)), Image.Exif()
        if number < 8:
            exif[ORIENTATION] = (2, 4, 5, 7, 1, 3, 6, 8)[number]
            stored = stored_as(pixels, exif[ORIENTATION])
        else:
            stored = np.rot90(pixels, number - 8)
        kind = "png" if number % 3 == 0 else "jpg"
        Image.fromarray(stored).save(root / f"photos/{number:02}.{kind}", quality=95, subsampling=0, exif=exif)
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return solve(folder / "photos", folder / "out", CONFIG)


def mirrored(path: Path) -> bool:
    return Image.open(path).getexif().get(ORIENTATION) in (2, 4, 5, 7)


def test_the_model_fits_the_files(folder: Path, run: Run) -> None:
    """Sizes, colours and reprojection errors, from the files alone: pixels are read as COLMAP reads them."""
    (result,) = run.scenes.values()
    model = pycolmap.Reconstruction(folder / "out/scenes/photos/models/0")
    assert model.num_reg_images() == result.counts["registered"] == VIEWS
    apart, described = {}, 0
    for image in model.images.values():
        path = folder / "photos" / image.name
        if mirrored(path):
            continue
        described += 1
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        raster = cv2.imread(str(path), flags)[..., ::-1]
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == raster.shape[1::-1], image.name
        points = [point for point in model.points3D.values() if has(point, image.image_id)]
        places = np.array([image.project_point(point.xyz) for point in points])
        seen = cv2.remap(raster, *(places.T[:, None] - 0.5).astype(np.float32), cv2.INTER_LINEAR)[0]
        colours = np.array([point.color for point in points], float)
        apart[image.name] = np.median(np.abs(seen - colours))
    assert described == VIEWS - 4
    # Grey levels. Photos that are stored mirrored give some points wrong colours.
    assert max(apart.values()) < 25, apart
    assert np.median(list(apart.values())) < 8, apart
    before = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() == pytest.approx(before, rel=1e-6)
    assert before == pytest.approx(result.models[0].reprojection_error, rel=0.05)  # over points, not over observations


def has(point: Any, image_id: int) -> bool:
    return any(element.image_id == image_id for element in point.track.elements)


def test_the_model_has_the_poses_of_the_submission(folder: Path, run: Run) -> None:
    (result,) = run.scenes.values()
    model = pycolmap.Reconstruction(folder / "out/scenes/photos/models/0")
    for image in model.images.values():
        pose = result.placements[image.name].pose
        matrix = image.cam_from_world().matrix()
        np.testing.assert_allclose(matrix[:, :3], pose.rotation, atol=1e-9)
        np.testing.assert_allclose(matrix[:, 3], pose.translation, atol=1e-9)


def test_colmap_undistorts_the_files(folder: Path, run: Run, tmp_path: Path) -> None:
    """All that no camera sees mirrored: for those there is a note."""
    model = folder / "out/scenes/photos/models/0"
    names = [image.name for image in pycolmap.Reconstruction(model).images.values()]
    fit = [name for name in names if not mirrored(folder / "photos" / name)]
    pycolmap.undistort_images(tmp_path / "dense", model, folder / "photos", image_names=fit)
    assert sorted(path.name for path in (tmp_path / "dense/images").iterdir()) == sorted(fit)
    (note,) = [note for note in next(iter(run.scenes.values())).notes if "mirrored" in note]
    assert note.startswith("photos that are stored mirrored (4): ")


def test_a_resumed_run_has_the_same_values(folder: Path, run: Run) -> None:
    (again,), (result,) = solve(folder / "photos", folder / "out", CONFIG).scenes.values(), run.scenes.values()
    assert again.stored_quarters == result.stored_quarters
    assert len(result.stored_quarters) == 6
    for name, pose in result.models[0].poses.items():
        np.testing.assert_allclose(again.models[0].poses[name].rotation, pose.rotation, atol=1e-12)
        assert again.models[0].frames[name] == pytest.approx(result.models[0].frames[name])
        info = images.probe(folder / "photos" / name).rotated(result.rotation_quarters.get(name, 0))
        assert result.stored_quarters.get(name, 0) == info.stored_quarters


def test_a_failed_rotation_leaves_upright_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ColmapError("the rotation of models ended with killed")

    monkeypatch.setattr(rotation, "as_stored", fail)
    record = ImageRecord(Path("a.jpg"), images.ImageInfo((4, 3), 1, False), "")
    scene = Scene("one", tmp_path, ("a.jpg",))
    context = SceneContext(scene, CONFIG, tmp_path, tmp_path, inf)
    matched: Any = SimpleNamespace(matched=SimpleNamespace(records={"a.jpg": record}), scene=scene)
    models = [Model(tmp_path, {"a.jpg": Pose.identity()})]
    assert MatchedScene._as_stored(matched, models, context) == (models, {})
    (note,) = context.notes
    assert note.startswith("the rotation of models ended with killed; so the models describe upright images; ")
    assert faults.happened([note])
