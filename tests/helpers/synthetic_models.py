"""Scenes that pycolmap makes up, and partial models of them in frames of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from imc_kit.colmap.cameras import change_camera_model
from imc_kit.colmap.model_files import read_model
from imc_kit.types import Model, Pose


@dataclass
class Synthetic:
    database: Path
    scene: Any
    """The true pycolmap.Reconstruction, whose ids are the database's."""
    poses: dict[str, Pose]

    @property
    def ids(self) -> list[int]:
        return sorted(self.scene.images)

    def names(self, ids: Collection[int]) -> set[str]:
        return {self.scene.images[image_id].name for image_id in ids}


def synthesize(
    folder: Path, images: int, points: int = 600, seed: int = 1, noise: float = 0.5, **options: Any
) -> Synthetic:
    """A scene with all pairs matched; keypoints are off by `noise` pixels, and a fifth of the raw matches is wrong."""
    pycolmap.set_random_seed(seed)
    folder.mkdir(exist_ok=True)
    defaults = {"num_rigs": 1, "num_frames_per_rig": images, "num_points3D": points, "num_points2D_without_point3D": 50}
    wanted = pycolmap.SyntheticDatasetOptions(**{"inlier_match_ratio": 0.8, **defaults, **options})
    with pycolmap.Database.open(folder / "database.db") as database:
        scene = pycolmap.synthesize_dataset(wanted, database)
        pycolmap.synthesize_noise(pycolmap.SyntheticNoiseOptions(point2D_stddev=noise), scene, database)
    poses = {}
    for image in scene.images.values():
        matrix = image.cam_from_world().matrix()
        poses[image.name] = Pose(matrix[:, :3], matrix[:, 3])
    return Synthetic(folder / "database.db", scene, poses)


def part(scene: Any, ids: Collection[int], folder: Path, seed: int = 0) -> Model:
    """The model of some images alone, bundle-adjusted, in a frame and a scale of its own."""
    random = np.random.default_rng(seed)
    model = pycolmap.Reconstruction(scene)
    for image in scene.images.values():
        if image.image_id not in ids:
            model.deregister_frame(image.frame_id)
    model.tear_down()
    if len(ids) > 1:
        pycolmap.bundle_adjustment(model, pycolmap.BundleAdjustmentOptions(print_summary=False))
    rotation = pycolmap.Rotation3d(random.normal(size=4) / 2)
    rotation.normalize()
    model.transform(pycolmap.Sim3d(random.uniform(0.3, 3), rotation, random.normal(size=3) * 10))
    folder.mkdir(parents=True)
    model.write(folder)
    return read_model(folder)


def with_camera_model(model: Model, name: str, folder: Path) -> Model:
    """The model after bundle adjustment with another camera model than the database has."""
    changed = pycolmap.Reconstruction(model.folder)
    for camera in changed.cameras.values():
        change_camera_model(camera, name)
    pycolmap.bundle_adjustment(changed, pycolmap.BundleAdjustmentOptions(print_summary=False))
    changed.update_point_3d_errors()
    folder.mkdir()
    changed.write(folder)
    return read_model(folder)


def camera_models(model: Model) -> set[str]:
    """The names of the camera models of the images with poses."""
    found = pycolmap.Reconstruction(model.folder)
    return {found.cameras[found.images[image_id].camera_id].model.name for image_id in found.reg_image_ids()}


def unmatch(synthetic: Synthetic, first: Collection[int], second: Collection[int], raw: bool = True) -> None:
    """Take away the matches between images of `first` and of `second`."""
    with pycolmap.Database.open(synthetic.database) as database:
        for one in first:
            for other in second:
                if one != other:
                    database.delete_two_view_geometry(one, other)
                    if raw:
                        database.delete_matches(one, other)


def shuffle(synthetic: Synthetic, first: Collection[int], second: Collection[int]) -> None:
    """Join the wrong keypoints between images of `first` and of `second`."""
    random = np.random.default_rng(0)
    with pycolmap.Database.open(synthetic.database) as database:
        for one in first:
            for other in second:
                if one == other or (one > other and one in second and other in first):
                    continue
                geometry = database.read_two_view_geometry(one, other)
                raw = database.read_matches(one, other)
                database.delete_two_view_geometry(one, other)
                database.delete_matches(one, other)
                verified = geometry.inlier_matches.copy()
                for matches in (raw, verified):
                    matches[:, 1] = random.permutation(matches[:, 1])
                geometry.inlier_matches = verified
                database.write_matches(one, other, raw)
                database.write_two_view_geometry(one, other, geometry)


def errors(found: dict[str, Pose], truth: dict[str, Pose]) -> tuple[float, float]:
    """The largest error of a centre, as a share of the scene's size, and of a rotation, in degrees.

    After the similarity of Umeyama (1991) from the found centres to the true ones.
    """
    names = sorted(found)
    source, target = (np.array([poses[name].center for name in names]) for poses in (found, truth))
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = np.trace(np.diag(s) @ flip) / (a**2).sum()
    off = np.linalg.norm(scale * a @ rotation.T - b, axis=1).max() / np.linalg.norm(b, axis=1).max()
    angles = []
    for name in names:
        between = found[name].rotation @ rotation.T @ truth[name].rotation.T
        angles.append(np.degrees(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1))))
    return float(off), float(max(angles))
