"""The finished model is adjusted with a fuller camera, where enough images share it, and is left alone elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.steps import RefinementConfig, refine
from imc_kit.errors import KitError
from imc_kit.types import Model

TRUTH = [900.0, 910.0, 512.0, 384.0, -0.12, 0.03, 0.002, -0.001]
"""An OPENCV camera: focal lengths, principal point, radial and tangential distortion."""


def scene(images: int, cameras: int = 1, parameters: Sequence[float] = TRUTH) -> Any:
    """A true reconstruction, in which keypoints lie where such a camera sees the points."""
    pycolmap.set_random_seed(3)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=cameras,
        num_frames_per_rig=images // cameras,
        num_points3D=400,
        num_points2D_without_point3D=0,
        camera_model_id=pycolmap.CameraModelId.OPENCV,
        camera_params=parameters,
        camera_width=1024,
        camera_height=768,
    )
    return pycolmap.synthesize_dataset(options)


def simplified(truth: Any, folder: Path, focal: float = 930.0, model: str = "SIMPLE_RADIAL") -> Model:
    """The same with what the mapper's camera model can say: adjusted, so that poses and points have been bent."""
    found = pycolmap.Reconstruction(truth)
    for camera in found.cameras.values():
        camera.model = getattr(pycolmap.CameraModelId, model)
        camera.params = [focal, *TRUTH[2:4]] + ([0.0] if model == "SIMPLE_RADIAL" else [])
    pycolmap.bundle_adjustment(found, pycolmap.BundleAdjustmentOptions(print_summary=False))
    found.update_point_3d_errors()
    folder.mkdir()
    found.write(folder)
    return read_model(folder)


def refined(model: Model, folder: Path, **options: Any) -> Model:
    options = {"max_errors": (2.0, 1.0), "max_median_error": 9.0, **options}
    return refine(model, RefinementConfig(**options), Workplace(folder / "refined", folder / "log", threads=1))


def off(model: Model, truth: Any) -> float:
    """The largest distance of a camera from its true place after the best similarity, as a share of their spread."""
    true = {image.name: image.projection_center() for image in truth.images.values()}
    found, wanted = np.array([model.poses[name].center for name in true]), np.array(list(true.values()))
    similarity = pycolmap.estimate_sim3d(found, wanted)
    return float(np.linalg.norm(similarity * found - wanted, axis=1).max() / np.linalg.norm(np.ptp(wanted, 0)))


@pytest.mark.parametrize("simple", ["SIMPLE_RADIAL", "SIMPLE_PINHOLE"])
def test_a_lens_is_recovered(tmp_path: Path, simple: str) -> None:
    truth = scene(12)
    before = simplified(truth, tmp_path / "model", model=simple)
    after = refined(before, tmp_path)
    (camera,) = pycolmap.Reconstruction(after.folder).cameras.values()
    assert camera.model.name == "OPENCV"
    # Focal lengths and the distortion follow from the keypoints; the principal point stays.
    np.testing.assert_allclose(camera.params[:4], TRUTH[:4], rtol=1e-3)
    np.testing.assert_allclose(camera.params[4:], TRUTH[4:], atol=1e-3)
    assert set(after.poses) == set(before.poses)
    assert after.observations == before.observations
    assert after.reprojection_error < 0.01 < before.reprojection_error
    assert off(after, truth) < 1e-4 < off(before, truth)


def test_one_focal_length_and_two_numbers(tmp_path: Path) -> None:
    truth = scene(12, parameters=[900.0, 900.0, 512.0, 384.0, -0.12, 0.03, 0.0, 0.0])
    after = refined(simplified(truth, tmp_path / "model"), tmp_path, camera_model="RADIAL")
    (camera,) = pycolmap.Reconstruction(after.folder).cameras.values()
    assert camera.model.name == "RADIAL"
    np.testing.assert_allclose(camera.params[:3], [900, 512, 384], rtol=1e-3)
    np.testing.assert_allclose(camera.params[3:], [-0.12, 0.03], atol=2e-3)
    assert off(after, truth) < 1e-4


def test_cameras_of_few_images_are_left_alone(tmp_path: Path) -> None:
    before = simplified(scene(12), tmp_path / "model")
    assert refined(before, tmp_path, min_images=13) is before
    assert refined(before, tmp_path, min_images=12) is not before

    several = simplified(scene(12, cameras=3), tmp_path / "several")
    assert refined(several, tmp_path, min_images=5) is several


def test_a_model_that_fits_badly_is_left_alone(tmp_path: Path) -> None:
    before = simplified(scene(12), tmp_path / "model")
    points = pycolmap.Reconstruction(before.folder).points3D.values()
    median = float(np.median([point.error for point in points]))
    assert refined(before, tmp_path, max_median_error=0.99 * median) is before
    assert refined(before, tmp_path, max_median_error=1.01 * median) is not before


def test_points_whose_error_is_not_known_say_nothing(tmp_path: Path) -> None:
    before = simplified(scene(12), tmp_path / "model")
    unknown = pycolmap.Reconstruction(before.folder)
    for point in unknown.points3D.values():
        point.error = -1.0
    unknown.write(before.folder)
    assert refined(before, tmp_path) is before


def test_a_camera_that_says_as_much_is_left_alone(tmp_path: Path) -> None:
    truth = scene(12)
    (tmp_path / "model").mkdir()
    truth.write(tmp_path / "model")
    model = read_model(tmp_path / "model")
    assert refined(model, tmp_path) is model


def test_a_process_that_ends_badly_is_a_clear_error(tmp_path: Path) -> None:
    before = simplified(scene(12), tmp_path / "model")
    (before.folder / "rigs.bin").write_bytes(b"damaged")
    with pytest.raises(ColmapError, match="refinement of a model ended with"):
        refined(before, tmp_path)


def test_options_that_make_no_sense_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{name: 0} for name in ("min_images", "max_median_error", "max_iterations")]
    for options in (*wrong, {"time_limit": -1}, {"max_errors": ()}, {"max_errors": (1.0, 0.0)}):
        with pytest.raises(KitError, match=f"{next(iter(options))} of the refinement of a model must be"):
            RefinementConfig(**options)


def flat(folder: Path, yaws: Sequence[float]) -> Model:
    """A plane seen straight down from one height, with these headings in turn; adjusted with SIMPLE_RADIAL."""
    random = np.random.default_rng(0)
    made = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", 900.0, 1024, 768)
    made.add_camera_with_trivial_rig(camera)
    points = np.column_stack([random.uniform(-2, 2, (700, 2)), np.zeros(700)])
    seen_by: dict[int, list[Any]] = {}
    for number in range(12):
        center = np.array([number % 4 * 0.35 - 0.6, number // 4 * 0.35 - 0.6, -1.5])
        yaw = np.deg2rad(yaws[number % len(yaws)]) / 2
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, 0, np.sin(yaw), np.cos(yaw)])), np.zeros(3))
        pose.translation = -(pose.rotation.matrix() @ center)
        pixels = camera.img_from_cam((points - center) @ pose.rotation.matrix().T)
        inside = np.flatnonzero(((pixels > 0) & (pixels < (1024, 768))).all(1))
        noisy = pixels[inside] + random.normal(0, 0.3, (len(inside), 2))
        image = pycolmap.Image(name=f"{number}.jpg", keypoints=noisy, camera_id=1, image_id=number + 1)
        made.add_image_with_trivial_frame(image, pose)
        for row, point in enumerate(inside.tolist()):
            seen_by.setdefault(point, []).append(pycolmap.TrackElement(number + 1, row))
    for point, track in seen_by.items():
        if len(track) > 1:
            made.add_point3D(points[point], pycolmap.Track(track), np.zeros(3, np.uint8))
    pycolmap.bundle_adjustment(made, pycolmap.BundleAdjustmentOptions(print_summary=False))
    made.update_point_3d_errors()
    folder.mkdir()
    made.write(folder)
    return read_model(folder)


@pytest.mark.parametrize("yaws", [(0.0,), (0.0, 180.0)])
def test_a_flat_scene_from_above_keeps_square_pixels(tmp_path: Path, yaws: Sequence[float]) -> None:
    """Heights and a focal length along one axis may be exchanged there."""
    before = flat(tmp_path / "model", yaws)
    try:
        after = refined(before, tmp_path)
    except KitError as error:
        assert "do not determine a fuller camera model" in str(error)  # noqa: PT017
        after = before
    (camera,) = pycolmap.Reconstruction(after.folder).cameras.values()
    assert camera.focal_length_x == pytest.approx(camera.focal_length_y, rel=0.05)


def test_a_camera_that_is_not_determined_is_refused_with_a_note(tmp_path: Path) -> None:
    before = simplified(scene(12), tmp_path / "model")
    wrong = pycolmap.Reconstruction(before.folder)
    for camera in wrong.cameras.values():
        camera.focal_length = 500.0  # so refinement leaves it far behind
    wrong.write(before.folder)
    with pytest.raises(KitError, match=r"do not determine a fuller camera model .*: the model stays as it was"):
        refined(before, tmp_path, max_errors=(1e6,))
