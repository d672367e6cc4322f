"""Rotate the images that COLMAP models describe by multiples of 90°: cameras, keypoints and poses together.

Bundle adjustment works on upright images. The files of finished models describe the images as they are stored.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import pi
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.model_files import ALIGNMENT
from imc_kit.data.images import ImageInfo, rotated_points
from imc_kit.types import Model

_TIME_LIMIT = 600.0
"""Seconds. A model of a thousand images takes a few."""
_VECTORS = ("p2", "p1"), ("p0", "p1"), ("sx1", "sy1"), ("s0", "s2"), ("s1", "s3")
"""Distortion parameters that are the (x, y) of a vector in the image plane: tangential, in two notations, and thin
prism. All others are radial: they stay."""


def as_stored(models: Sequence[Model], quarters: Mapping[str, int], images: Path, at: Workplace) -> list[Model]:
    """Write the models anew, so that their files describe the images as stored. The values stay those of upright ones.

    quarters: the clockwise 90° rotations that make a stored image upright, by name. Others are stored upright.
    images: the scene's root. The points get new colours: mappers look for upright keypoints in stored images.

    Raises `ColmapError` when the child process fails.
    """
    if not any(name in quarters for model in models for name in model.poses):
        return list(models)
    back = {name: -count for name, count in quarters.items()}
    folders = [model.folder for model in models]
    at.run("rotate", "the rotation of models", _TIME_LIMIT, models=folders, quarters=back, images=images)
    return [replace(model, folder=at.folder / str(number)) for number, model in enumerate(models)]


def rotate_job(models: Sequence[str], output: str, quarters: Mapping[str, int], images: str, **_: int) -> None:
    """Write the rotated models to `output`/0, 1, …"""
    import pycolmap

    for number, model in enumerate(models):
        folder = Path(output, str(number))
        folder.mkdir()
        stored = rotated(pycolmap.Reconstruction(model), quarters)
        stored.extract_colors_for_all_images(images)
        stored.write(folder)
        if (alignment := Path(model, ALIGNMENT)).exists():
            shutil.copy(alignment, folder)


def rotated(model: Any, quarters: Mapping[str, int]) -> Any:
    """A `pycolmap.Reconstruction` of the registered images, rotated clockwise by `quarters` · 90° by name, and its
    points. Images that shared a camera but are rotated differently no longer share it."""
    import pycolmap

    result = pycolmap.Reconstruction()
    camera_ids: dict[tuple[int, int], int] = {}
    for image_id in sorted(model.reg_image_ids()):
        image = model.images[image_id]
        camera, count = model.cameras[image.camera_id], quarters.get(image.name, 0) % 4
        if (key := (image.camera_id, count)) not in camera_ids:
            taken, other = {*camera_ids.values()}, rotated_camera(camera, count)
            other.camera_id = max(taken | {*model.cameras}) + 1 if image.camera_id in taken else image.camera_id
            camera_ids[key] = other.camera_id
            result.add_camera_with_trivial_rig(other)
        places = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
        places = rotated_points(places, (camera.width, camera.height), count)
        points = zip(places, image.points2D, strict=True)
        keypoints = [pycolmap.Point2D(xy=xy, point3D_id=point.point3D_id) for xy, point in points]
        of_camera = {"camera_id": camera_ids[key], "points2D": keypoints}
        turn = pycolmap.Rotation3d(np.array([0, 0, np.sin(count * pi / 4), np.cos(count * pi / 4)]))
        pose = pycolmap.Rigid3d(turn, np.zeros(3)) * image.cam_from_world()
        result.add_image_with_trivial_frame(pycolmap.Image(name=image.name, image_id=image_id, **of_camera), pose)
    for point_id, point in model.points3D.items():
        result.add_point3D_with_id(point_id, point)
    return result


def stored_camera(camera: Any, info: ImageInfo) -> Any:
    """The camera of the image as it is stored, from that of the upright image."""
    result = rotated_camera(camera, -info.rotation_quarters)
    if info.mirrored:
        values = dict(zip(result.params_info.split(", "), result.params, strict=True))
        across = {name: -values[name] for name, _ in _VECTORS if name in values}
        result.params = list((values | across | {"cx": result.width - values["cx"]}).values())
    return result


def rotated_camera(camera: Any, quarters: int) -> Any:
    """The camera of an image after its clockwise rotation by `quarters` · 90°."""
    import pycolmap

    result = pycolmap.Camera(camera.todict())
    for _ in range(quarters % 4):
        values = dict(zip(result.params_info.split(", "), result.params, strict=True))
        changed = {"cx": result.height - values["cy"], "cy": values["cx"]}
        if "fy" in values:
            changed |= {"fx": values["fy"], "fy": values["fx"]}
        for across, down in _VECTORS:
            if across in values and down in values:
                changed |= {across: -values[down], down: values[across]}
        result.width, result.height = result.height, result.width
        result.params = list((values | changed).values())
    return result
