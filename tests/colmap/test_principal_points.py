"""Principal points of cropped photos are found where the matches ask for it, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.bundle_adjustment import off_centre, offset, precise_observations
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.options import Known
from imc_kit.colmap.steps import PrincipalPointsConfig, find_principal_points
from imc_kit.errors import KitError
from imc_kit.types import Model
from synthetic_models import Synthetic, errors, synthesize

VIEWS = 10
OWN = {"num_rigs": VIEWS, "num_frames_per_rig": 1}
"""Every photo has a camera of its own."""


def photos(folder: Path, crop: float, **options: Any) -> tuple[Synthetic, Model, dict[int, Any]]:
    """A scene, the model whose principal points are centred, and by image the true ones, as `offset` has them.

    crop: the largest distance of a principal point from the centre, as a share of the image's side. A photo that was
    cropped is a shifted one, because only distances from the principal point count.
    """
    made = synthesize(folder, VIEWS, noise=0.2, **(OWN | options))
    random, shifted, offsets = np.random.default_rng(0), pycolmap.Reconstruction(made.scene), {}
    for image in shifted.images.values():
        camera = shifted.cameras[image.camera_id]
        offsets[image.image_id] = random.uniform(-crop, crop, 2)
        for point in image.points2D:
            point.xy = point.xy + offsets[image.image_id] * (camera.width, camera.height)
    pycolmap.bundle_adjustment(shifted, pycolmap.BundleAdjustmentOptions(print_summary=False))
    shifted.update_point_3d_errors()
    (folder / "centred").mkdir()
    shifted.write(folder / "centred")
    return made, read_model(folder / "centred"), offsets


def at(folder: Path, known: Known | None = None) -> Workplace:
    return Workplace(folder / "found", folder / "log.txt", threads=1, known=known or Known())


def test_those_of_cropped_photos_are_found(tmp_path: Path) -> None:
    made, centred, offsets = photos(tmp_path, 0.12)
    found = find_principal_points(made.database, centred, PrincipalPointsConfig(), at(tmp_path))
    model = pycolmap.Reconstruction(found.folder)
    assert off_centre(model, Known())
    for number, true in offsets.items():
        assert offset(model.cameras[model.images[number].camera_id]) == pytest.approx(true, abs=0.01)
    assert found.poses.keys() == centred.poses.keys()
    assert errors(found.poses, made.poses)[0] < 0.2 * errors(centred.poses, made.poses)[0]


def test_centred_ones_stay(tmp_path: Path) -> None:
    made, centred, _ = photos(tmp_path, 0.0)
    assert find_principal_points(made.database, centred, PrincipalPointsConfig(), at(tmp_path)) is centred


def test_a_camera_of_all_photos_and_a_known_one_stay(tmp_path: Path) -> None:
    made, centred, _ = photos(tmp_path / "one", 0.12, num_rigs=1, num_frames_per_rig=VIEWS)
    assert find_principal_points(made.database, centred, PrincipalPointsConfig(), at(tmp_path)) is centred
    assert not (tmp_path / "log.txt").exists()  # no job was started
    made, centred, _ = photos(tmp_path / "known", 0.12)
    known = Known(ids=(1,))
    assert find_principal_points(made.database, centred, PrincipalPointsConfig(), at(tmp_path, known)) is centred


def test_implausible_ones_are_refused(tmp_path: Path) -> None:
    made, centred, _ = photos(tmp_path, 0.12)
    config = PrincipalPointsConfig(max_offset=0.05)
    assert find_principal_points(made.database, centred, config, at(tmp_path)) is centred


def test_options_that_make_no_sense() -> None:
    with pytest.raises(KitError, match="max_offset of the estimation of principal points must be more than 0"):
        PrincipalPointsConfig(max_offset=0.0)


def test_precise_observations_are_those_of_precise_points() -> None:
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", 100.0, 100, 80)
    model.add_camera_with_trivial_rig(camera)
    for number in (1, 2, 3):
        seen = np.zeros((2, 2))
        model.add_image_with_trivial_frame(pycolmap.Image(f"{number}.png", seen, 1, number), pycolmap.Rigid3d())
    for index, (views, error) in enumerate(((3, 0.2), (2, 0.3))):
        track = pycolmap.Track([pycolmap.TrackElement(number, index) for number in range(1, views + 1)])
        point = model.add_point3D(np.array([0.0, 0.0, 5.0]), track)
        model.points3D[point].error = error
    assert precise_observations(model) == 3
    assert precise_observations(model, [2, 7]) == 0  # 7 is no point any more
    assert not off_centre(model, Known())
    model.cameras[1].principal_point_x += 1
    assert offset(model.cameras[1]) == pytest.approx([0.01, 0])
    assert off_centre(model, Known())
    assert not off_centre(model, Known(ids=(1,)))
