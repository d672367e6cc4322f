"""COLMAP's cameras as OpenCV's two camera models, which nerfstudio and OpenSfM have too."""

from typing import Any

from imc_kit.errors import KitError

PERSPECTIVE, FISHEYE = "OPENCV", "OPENCV_FISHEYE"
_KINDS = {
    PERSPECTIVE: ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"),
    FISHEYE: ("SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"),
}
"""COLMAP's camera models that are special cases of each."""


def opencv(camera: Any) -> tuple[str, dict[str, float]]:
    """`PERSPECTIVE` or `FISHEYE`, and fx, fy, cx, cy, k1, k2, p1, p2 or fx, fy, cx, cy, k1 to k4.

    They are COLMAP's, in pixels, where the corner of the top-left pixel is (0, 0).

    Raises `KitError` for a camera that is neither.
    """
    values = dict(zip(camera.params_info.split(", "), map(float, camera.params), strict=True))
    kind = next((kind for kind, names in _KINDS.items() if camera.model.name in names), None)
    if kind is None:
        raise KitError(f"this format has no camera model {camera.model.name}: use the format undistorted")
    focal = values.get("f", 0.0)
    names = ("k1", "k2", "p1", "p2") if kind == PERSPECTIVE else ("k1", "k2", "k3", "k4")
    found = {"fx": focal, "fy": focal, **dict.fromkeys(("cx", "cy", *names), 0.0), "k1": values.get("k", 0.0)}
    return kind, {name: values.get(name, value) for name, value in found.items()}
