"""OpenSfM's `reconstruction.json`.

Its conventions, from its documentation ("Reconstruction file format", "Coordinate systems") and its `io.py`: lengths in
the image are divided by its longer side and start from its middle; a shot's rotation (axis · angle) and translation map
from the world to the camera.
"""

from typing import Any

from imc_kit.export.intrinsics import PERSPECTIVE, opencv


def reconstruction(model: Any) -> list[dict[str, Any]]:
    """The content of `reconstruction.json`, of a `pycolmap.Reconstruction`.

    Raises `KitError` for cameras that OpenSfM does not have.
    """
    import cv2

    cameras, shots = {}, {}
    for image_id in sorted(model.reg_image_ids()):
        image = model.images[image_id]
        pose = image.cam_from_world().matrix()
        cameras[str(image.camera_id)] = _camera(model.cameras[image.camera_id])
        shots[image.name] = {
            "rotation": cv2.Rodrigues(pose[:, :3])[0].ravel().tolist(),
            "translation": pose[:, 3].tolist(),
            "camera": str(image.camera_id),
            "orientation": 1,
        }
    points = {
        str(number): {"coordinates": point.xyz.tolist(), "color": point.color.tolist()}
        for number, point in model.points3D.items()
    }
    return [{"cameras": cameras, "shots": shots, "points": points}]


def _camera(camera: Any) -> dict[str, Any]:
    kind, values = opencv(camera)
    side = max(camera.width, camera.height)
    found = {
        "projection_type": "brown" if kind == PERSPECTIVE else "fisheye_opencv",
        "width": camera.width,
        "height": camera.height,
        "focal_x": values.pop("fx") / side,
        "focal_y": values.pop("fy") / side,
        "c_x": (values.pop("cx") - camera.width / 2) / side,
        "c_y": (values.pop("cy") - camera.height / 2) / side,
    }
    return found | ({"k3": 0.0} if kind == PERSPECTIVE else {}) | values
