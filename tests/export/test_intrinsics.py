"""Cameras in OpenCV's terms, against OpenCV's own projection."""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
import pytest

from imc_kit.errors import KitError
from imc_kit.export.intrinsics import FISHEYE, PERSPECTIVE, opencv

SUPPORTED = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"),
    *("SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"),
)


@pytest.mark.parametrize("name", sorted(pycolmap.CameraModelId.__members__.keys() - {"INVALID", "EQUIRECTANGULAR"}))
def test_opencv_projects_as_colmap(name: str) -> None:
    random = np.random.default_rng(5)
    camera = pycolmap.Camera.create_from_model_name(1, name, 500.0, 640, 480)
    params, extra = np.array(camera.params), [*camera.extra_params_idxs()]
    params += random.uniform(0, 9, len(params))
    params[extra] = random.uniform(-0.05, 0.05, len(extra))
    camera.params = params
    if name not in SUPPORTED:
        with pytest.raises(KitError, match=f"this format has no camera model {name}"):
            opencv(camera)
        return
    kind, values = opencv(camera)
    assert kind == (FISHEYE if "FISHEYE" in name else PERSPECTIVE)
    fx, fy, cx, cy, *lens = values.values()
    points = np.column_stack([random.uniform(-0.5, 0.5, (20, 2)), np.ones(20)])
    project = cv2.fisheye.projectPoints if kind == FISHEYE else cv2.projectPoints
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    seen = project(points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(lens))[0].reshape(-1, 2)
    np.testing.assert_allclose(camera.img_from_cam(points), seen, atol=1e-9)
