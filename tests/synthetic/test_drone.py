"""The rendered flight: its cameras see the ground where they should, and its photos say where they were taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imc_kit.colmap.geodesy import geographic
from imc_kit.data import images, scenes
from imc_kit.errors import KitError
from rendered.drone import ORIGIN, flight, write_flight


def test_the_cameras_look_down_and_overlap() -> None:
    poses = flight(200)
    centers = np.array([pose.center for pose in poses])
    assert np.abs(centers[:, 2] - 60).max() < 5
    tilts = np.degrees([np.arccos(-pose.rotation[2, 2]) for pose in poses])
    assert 0.3 < (tilts > 15).mean() < 0.4
    assert tilts.max() < 35
    for pose in poses:
        np.testing.assert_allclose(pose.rotation @ pose.rotation.T, np.eye(3), atol=1e-12)
    apart = np.linalg.norm(centers[:, None, :2] - centers[:, :2], axis=2) + 1e9 * np.eye(200)
    assert apart.min(axis=1).max() < 20  # photos cover 67 × 50 m


def test_a_written_flight(tmp_path: Path) -> None:
    poses = write_flight(tmp_path, 3, size=(32, 24), noise=0.0)
    (scene,) = scenes.load(tmp_path).scenes
    true = geographic(np.array([pose.center for pose in poses.values()]), ORIGIN)
    for name, place in zip(scene.images, true, strict=True):
        info = images.probe(scene.path(name))
        assert info.size == (32, 24)
        assert info.gps == pytest.approx(place, abs=2e-3)
        assert info.gps is not None
        assert info.gps[:2] == pytest.approx(place[:2], abs=3e-8)  # 3 mm
    with pytest.raises(KitError, match="at least one"):
        write_flight(tmp_path, 0)
