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
        cameras[str(image.camera_id)] = _camera(model.cameras[image.camera_id])
        pose = image.cam_from_world().matrix()
        turn = cv2.Rodrigues(pose[:, :3])[0].ravel().tolist()
        shot = {"rotation": turn, "translation": pose[:, 3].tolist(), "camera": str(image.camera_id), "orientation": 1}
        shots[image.name] = shot
    found = model.points3D.items()
    points = {str(n): {"coordinates": point.xyz.tolist(), "color": point.color.tolist()} for n, point in found}
    return [{"cameras": cameras, "shots": shots, "points": points}]


def _camera(camera: Any) -> dict[str, Any]:
    kind, values = opencv(camera)
    side, projection = max(camera.width, camera.height), "brown" if kind == PERSPECTIVE else "fisheye_opencv"
    found = {"projection_type": projection, "width": camera.width, "height": camera.height}
    for axis, length in (("x", camera.width), ("y", camera.height)):
        found[f"focal_{axis}"] = values.pop(f"f{axis}") / side
        found[f"c_{axis}"] = (values.pop(f"c{axis}") - length / 2) / side
    return found | ({"k3": 0.0} if kind == PERSPECTIVE else {}) | values
