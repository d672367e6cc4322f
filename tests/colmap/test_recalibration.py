"""Focal lengths from the matches alone: wrong ones are replaced, and zoomed photos get cameras of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import best_model
from imc_kit.colmap.best_model import map_best
from imc_kit.colmap.cameras import CameraConfig
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.mapping import MappingConfig, intrinsics_are_per_image
from imc_kit.colmap.mapping_runs import RunPolicy
from imc_kit.colmap.options import Known
from imc_kit.colmap.recalibration import recalibrated
from imc_kit.types import Scene
from point_cloud import ORBIT, database


def intrinsics(path: Path) -> list[tuple[int, float]]:
    """The camera of each image and its focal length, by name."""
    with pycolmap.Database.open(path) as opened:
        images = sorted(opened.read_all_images(), key=lambda image: image.name)
        rigs = {rig.rig_id: rig.ref_sensor_id.id for rig in opened.read_all_rigs()}
        for image in images:
            frame = opened.read_frame(image.frame_id)
            assert rigs[frame.rig_id] == image.camera_id
            assert [data.sensor_id.id for data in frame.data_ids] == [image.camera_id]
        return [(image.camera_id, opened.read_camera(image.camera_id).mean_focal_length()) for image in images]


ZOOMED = [900.0 if number % 3 != 1 else 1500.0 for number in range(8)]


def place(folder: Path) -> Workplace:
    return Workplace(folder / "work", folder / "log.txt", 1)


def test_zoomed_photos_get_a_camera_of_their_own(tmp_path: Path) -> None:
    before = database(tmp_path, ORBIT, ZOOMED)
    after = recalibrated(before, place(tmp_path), split=True)
    assert after is not None
    found = intrinsics(after)
    np.testing.assert_allclose([focal for _, focal in found], ZOOMED, rtol=0.05)
    assert len({camera for camera, _ in found}) == 2
    assert not intrinsics_are_per_image(after)
    assert len({camera for camera, _ in intrinsics(before)}) == 1  # it is a copy


def test_one_camera_stays_one(tmp_path: Path) -> None:
    path = database(tmp_path, ORBIT, [900.0] * 8)
    assert recalibrated(path, place(tmp_path), split=True) is None
    assert recalibrated(path, place(tmp_path), split=False) is None


@pytest.mark.parametrize("prior", [200.0, 5500.0])
def test_a_wrong_focal_length_from_exif_is_replaced(tmp_path: Path, prior: float) -> None:
    after = recalibrated(database(tmp_path, ORBIT, [900.0] * 8, prior), place(tmp_path), split=False)
    assert after is not None
    assert intrinsics(after) == [(1, pytest.approx(900, rel=0.05))] * 8


def test_mapping_is_repeated_where_intrinsics_do_not_fit(tmp_path: Path) -> None:
    """The zoomed photos, and centres by COLMAP's own similarity."""
    path = database(tmp_path, ORBIT, ZOOMED)
    scene = Scene("zoomed", tmp_path, tuple(f"{number:02}.jpg" for number in range(8)))
    work = RunPolicy(), place(tmp_path)
    runs = (MappingConfig("global"),)
    found = map_best(path, scene, runs, *work, cameras=CameraConfig())
    assert found.notes == [best_model.RECALIBRATED]
    assert found.database != path
    centres = np.array([found.models[0].poses[name].center for name in scene.images])
    truth = np.array([pose.center for pose in ORBIT])
    similarity: Any = pycolmap.estimate_sim3d(centres, truth)
    assert np.abs(similarity * centres - truth).max() < 0.02
    known = RunPolicy(), replace(place(tmp_path), known=Known((1,)))  # is not questioned
    assert map_best(path, scene, runs, *known, cameras=CameraConfig()).notes == []
