"""Made-up runs: photos that show coloured dots where the points of its models are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
from PIL import Image

from imc_kit.colmap.model_files import read_models
from imc_kit.colmap.rotation import rotated
from imc_kit.config import Config
from imc_kit.data import images, scenes
from imc_kit.pipeline.results import SceneResult, write_result, write_run
from imc_kit.types import Placement
from small_tasks import write_task

SIZE = 200, 150
ORIENTATION = 0x0112
DOTS = 12
PHOTOS = {
    "a.png": (1, 0),
    "nested/b c.jpg": (6, 0),
    "c.jpg": (5, 0),  # mirrored
    "d.png": (1, 3),
    "e.webp": (8, 2),
    "f.jpg": (1, 0),
}
"""EXIF orientation, and further clockwise 90° rotations that make the photo upright."""
_STORED = {
    1: lambda pixels: pixels,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels),
    8: lambda pixels: np.rot90(pixels, -1),
}


@dataclass
class MadeRun:
    """folder: of the run. photos: the root of each scene's photos. upright: its `pycolmap.Reconstruction`."""

    folder: Path
    photos: dict[str, Path]
    upright: dict[str, Any]

    def centres(self, scene: str) -> dict[str, np.ndarray[Any, Any]]:
        return {image.name: image.projection_center() for image in self.upright[scene].images.values()}


def model(names: list[str], camera: Any, seed: int) -> Any:
    """Images that look at the same dots, and have keypoints where they see them."""
    random = np.random.default_rng(seed)
    made = pycolmap.Reconstruction()
    made.add_camera_with_trivial_rig(camera)
    grid = np.stack(np.meshgrid([-0.9, -0.3, 0.3, 0.9], [-0.6, 0.0, 0.6]), -1).reshape(-1, 2)
    points = np.column_stack([grid + random.uniform(-0.1, 0.1, grid.shape), random.uniform(-0.2, 0.2, DOTS)])
    colours = 255 * np.array([[n % 2, n // 2 % 2, n // 4 % 2] for n in range(1, 7)] * 2, np.uint8)
    for number, name in enumerate(names, 1):
        turn = pycolmap.Rotation3d(cv2.Rodrigues(random.uniform(-0.1, 0.1, 3))[0])
        pose = pycolmap.Rigid3d(turn, np.append(random.uniform(-0.2, 0.2, 2), 2.6))
        seen = [camera.img_from_cam((pose * point)[None])[0] for point in points]
        keypoints = [pycolmap.Point2D(xy=xy, point3D_id=place + 1) for place, xy in enumerate(seen)]
        image = pycolmap.Image(name=name, points2D=keypoints, camera_id=camera.camera_id, image_id=number)
        made.add_image_with_trivial_frame(image, pose)
    for place, (point, colour) in enumerate(zip(points, colours, strict=True)):
        track = pycolmap.Track([pycolmap.TrackElement(number, place) for number in range(1, len(names) + 1)])
        made.add_point3D_with_id(place + 1, pycolmap.Point3D(xyz=point, track=track, color=colour, error=0.0))
    return made


def photo(made: Any, name: str, orientation: int, extra: int) -> bytes:
    """The file of an image: dots on grey."""
    pixels = np.full((*SIZE[::-1], 3), 128, np.uint8)
    image = made.find_image_with_name(name)
    for point in made.points3D.values():
        place = 16 * (image.project_point(point.xyz) - 0.5)
        cv2.circle(pixels, np.round(place).astype(int).tolist(), 16 * 5, point.color.tolist(), -1, shift=4)
    stored = np.ascontiguousarray(_STORED[orientation](np.rot90(pixels, extra)))
    if name.endswith("png"):
        return bytes(cv2.imencode(".png", stored[..., ::-1])[1])
    exif, file = Image.Exif(), BytesIO()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored).save(file, "webp" if name.endswith("webp") else "jpeg", quality=95, exif=exif)
    return file.getvalue()


def dots(raster: Any, project: Any, made: Any) -> float:
    """How many of the dots are where `project` says, by their colours. raster: BGR; project: point → COLMAP's pixel."""
    found = []
    for point in made.points3D.values():
        column, row = np.floor(project(point.xyz)).astype(int)
        found.append(np.abs(raster[row, column, ::-1].astype(int) - point.color).max() < 60)
    return float(np.mean(found))


def camera_of(name: str, **params: float) -> Any:
    camera = pycolmap.Camera.create_from_model_name(1, name, 150.0, *SIZE)
    values = dict(zip(camera.params_info.split(", "), camera.params, strict=True))
    camera.params = list((values | params).values())
    return camera


def make_run(root: Path, made: Mapping[str, list[Any]], photos: Mapping[str, tuple[int, int]] = PHOTOS) -> MadeRun:
    """A run over scenes with these models, largest first; a scene without models has photos too."""
    files = {
        scene: {name: photo(models[0], name, *photos[name]) for name in photos}
        if models
        else {"a.png": bytes(cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1])}
        for scene, models in made.items()
    }
    task = scenes.load(write_task(root / "data", files))
    results = {}
    for scene in task.scenes:
        folder = root / "out/scenes" / scene.name
        folder.mkdir(parents=True)
        extra = {name: photos[name][1] for name in scene.images if made[scene.name] and photos[name][1]}
        infos = {name: images.probe(scene.path(name)).rotated(extra.get(name, 0)) for name in scene.images}
        stored = {name: info.stored_quarters for name, info in infos.items() if info.stored_quarters}
        for number, one in enumerate(made[scene.name]):
            (folder / f"models/{number}").mkdir(parents=True)
            rotated(one, {name: -count for name, count in stored.items()}).write(folder / f"models/{number}")
        models = read_models(folder / "models", stored) if made[scene.name] else []
        poses = models[0].poses if models else {}
        placed = {name: Placement(pose.rotated(-infos[name].stored_quarters), 0) for name, pose in poses.items()}
        counts = {"images": len(scene.images), "registered": len(placed), "models": len(models)}
        result = SceneResult(placed, models, counts, {"map": 1.0}, [], {}, extra, stored)
        write_result(folder / "result.json", "made up", result)
        results[scene.name] = result
    write_run(root / "out/run.json", task, Config(), results, {}, 1.0)
    roots = {scene.name: scene.root for scene in task.scenes}
    return MadeRun(root / "out", roots, {name: models[0] for name, models in made.items() if models})
