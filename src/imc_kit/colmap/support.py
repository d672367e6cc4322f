"""How well a model agrees with the matches that it was made from: a score that needs no truth."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit.types import Float64, Model


def support(database: Path, model: Model, pairs: Collection[tuple[str, str]], max_error: float = 2.0) -> float:
    """The share of the verified matches of `pairs` whose epipolar (Sampson) error in `model` is at most `max_error`.

    database: with the verified matches. pairs: of image names; those of which the model lacks an image do not count.
    max_error: in pixels. The share is 0 when no pair counts.

    A model that is folded, because a repeated structure was taken for one, contradicts many of its strongest pairs.
    """
    import pycolmap

    reconstruction = pycolmap.Reconstruction(model.folder)
    images = {image.name: image for image in reconstruction.images.values() if image.has_pose}
    agreeing = total = 0
    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        for first, second in pairs:
            if first in images and second in images:
                matches = opened.read_two_view_geometry(ids[first], ids[second]).inlier_matches
                one, other = (
                    np.asarray(opened.read_keypoints(ids[name]), np.float64)[matches[:, side], :2]
                    for side, name in enumerate((first, second))
                )
                errors = _sampson(reconstruction, images[first], images[second], one, other)
                agreeing += int((errors <= max_error).sum())
                total += len(errors)
    return agreeing / total if total else 0.0


def _sampson(reconstruction: Any, first: Any, second: Any, points: Float64, others: Float64) -> Float64:
    """Sampson's distance, in pixels, [K], of points [K, 2] and [K, 2] (COLMAP's coordinates) in two posed images."""
    cameras = [reconstruction.cameras[image.camera_id] for image in (first, second)]
    motion = (second.cam_from_world() * first.cam_from_world().inverse()).matrix()
    x, y, z = motion[:, 3] / max(np.linalg.norm(motion[:, 3]), 1e-12)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ motion[:, :3]
    one, other = (
        np.pad(camera.cam_from_img(places), ((0, 0), (0, 1)), constant_values=1)
        for camera, places in zip(cameras, (points, others), strict=True)
    )
    lines, back = one @ essential.T, other @ essential
    slope = np.sqrt((lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1))
    focal = np.mean([camera.mean_focal_length() for camera in cameras])
    return np.asarray(np.abs((other * lines).sum(1)) / np.maximum(slope, 1e-12) * focal, np.float64)
