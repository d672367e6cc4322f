"""nerfstudio's `transforms.json`.

Its conventions, from its documentation ("Data conventions") and its `nerfstudio_dataparser.py`: `transform_matrix` maps
from the camera to the world; the camera looks along −z and y points up, as in OpenGL, so y and z are COLMAP's negated;
intrinsics are COLMAP's, at the top level if all frames have the same. The world is the model's: there is no
`applied_transform`, and nerfstudio itself turns the mean up direction of the cameras to +z.
"""

from typing import Any

import numpy as np

from imc_kit.errors import KitError
from imc_kit.export.intrinsics import opencv

_OPENGL = np.diag([1.0, -1.0, -1.0])
_DIGITS = 10
"""Digits after the point of intrinsics: the rotations of photos and back change the last ones of a double."""


def transforms(model: Any, images: str, points: str) -> dict[str, Any]:
    """The content of `transforms.json`.

    model: a `pycolmap.Reconstruction`. images: the folder of its photos; points: the PLY file with its points; both
        relative to the file. Raises `KitError` for cameras that nerfstudio does not have.
    """
    intrinsics, kinds, frames = set(), set(), []
    for image_id in sorted(model.reg_image_ids()):
        image = model.images[image_id]
        camera = model.cameras[image.camera_id]
        kind, values = opencv(camera)
        kinds.add(kind)
        named = {"fl_x": values.pop("fx"), "fl_y": values.pop("fy"), "w": camera.width, "h": camera.height} | values
        named = {key: round(value, _DIGITS) for key, value in named.items()}
        intrinsics.add(tuple(named.items()))
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().inverse().matrix()
        pose[:3, :3] = pose[:3, :3] @ _OPENGL
        frames.append({"file_path": f"{images}/{image.name}", "transform_matrix": pose.tolist(), **named})
    if len(kinds) > 1:
        raise KitError("nerfstudio has no scenes with fisheye and other cameras: use the format undistorted")
    shared = dict(intrinsics.pop()) if len(intrinsics) == 1 else {}
    frames = [{key: value for key, value in frame.items() if key not in shared} for frame in frames]
    return {"camera_model": kinds.pop(), **shared, "ply_file_path": points, "frames": frames}
