"""How well a model agrees with the matches that it was made from: a score without ground truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap import model_files
from imc_kit.colmap.database import recent_keypoints
from imc_kit.types import Float64, Model, Pair

IdPair = tuple[int, int]
"""Two images by COLMAP's ids."""
Indices = NDArray[Any]
"""Matched keypoints, [K, 2]."""
AGREE = 2.0
"""Pixels. A match agrees with a model when it is this close to its epipolar line. A collapsed, duplicate-structure
model fails this for many of its strongest pairs. Chosen on the open scenes."""


def support(database: Path, model: Model, pairs: Collection[Pair], max_error: float = AGREE) -> float:
    """The share of verified matches whose epipolar (Sampson) error in a model is at most `max_error` pixels.

    database: with the verified matches. pairs: the pairs that count; those with an image outside the model are ignored.
    Returns 0 when no pair counts.
    """
    import pycolmap

    cameras = model_files.read_cameras(model.folder)
    camera_of = {image.name: cameras[image.camera] for image in model_files.read_images(model.folder)}
    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        keypoints = recent_keypoints(opened)

        def errors(first: str, second: str) -> Float64:
            matches = opened.read_two_view_geometry(ids[first], ids[second]).inlier_matches
            points, others = (keypoints(ids[name])[matches[:, side]] for side, name in enumerate((first, second)))
            one, other = model.poses[first], model.poses[second]
            rotation = other.rotation @ one.rotation.T
            translation = other.translation - rotation @ one.translation
            return _sampson((camera_of[first], camera_of[second]), rotation, translation, points, others)

        inside = [pair for pair in pairs if all(name in model.poses for name in pair)]
        agreeing, total = _count((errors(*pair) for pair in inside), max_error)
    return agreeing / total if total else 0.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """Keypoints and matches of some pairs of a database, by COLMAP's ids."""

    keypoints: dict[int, Float64]
    """By image, in COLMAP's coordinates, [N, 2]."""
    matches: dict[IdPair, Indices]
    """By pair: indices of the first and the second image's keypoints."""


def read_evidence(opened: Any, pairs: Iterable[IdPair], *, verified: bool = True) -> Evidence:
    """Read the verified matches of these pairs from an open database, or all their matches, with their keypoints."""
    matches = {
        pair: opened.read_two_view_geometry(*pair).inlier_matches if verified else opened.read_matches(*pair)
        for pair in pairs
    }
    images = sorted({image for pair in matches for image in pair})
    return Evidence({image: np.asarray(opened.read_keypoints(image), np.float64)[:, :2] for image in images}, matches)


def agreement(
    reconstruction: Any, evidence: Evidence, pairs: Iterable[IdPair], max_error: float = AGREE
) -> tuple[int, int]:
    """The number of matches that agree with a reconstruction, as in `support`, and the number that count."""
    posed = set(reconstruction.reg_image_ids())
    inside = (pair for pair in pairs if posed.issuperset(pair))
    return _count((epipolar_errors(reconstruction, evidence, pair) for pair in inside), max_error)


def epipolar_errors(reconstruction: Any, evidence: Evidence, pair: IdPair) -> Float64:
    """The Sampson errors [K] in pixels of the matches of two posed images."""
    first, second = (reconstruction.images[image] for image in pair)
    matches = evidence.matches[pair]
    points, others = (evidence.keypoints[image][matches[:, side]] for side, image in enumerate(pair))
    cameras = reconstruction.cameras[first.camera_id], reconstruction.cameras[second.camera_id]
    motion = (second.cam_from_world() * first.cam_from_world().inverse()).matrix()
    return _sampson(cameras, motion[:, :3], motion[:, 3], points, others)


def _count(errors: Iterable[Float64], max_error: float) -> tuple[int, int]:
    """How many errors are at most `max_error`, and how many there are."""
    agreeing = total = 0
    for some in errors:
        agreeing += int((some <= max_error).sum())
        total += len(some)
    return agreeing, total


def _sampson(
    cameras: tuple[Any, Any], rotation: Float64, translation: Float64, points: Float64, others: Float64
) -> Float64:
    """Sampson errors [K] in pixels of matched points [K, 2] in two cameras; the motion is second from first."""
    x, y, z = translation / max(float(np.linalg.norm(translation)), 1e-12)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    one, other = (
        np.pad(camera.cam_from_img(places), ((0, 0), (0, 1)), constant_values=1)
        for camera, places in zip(cameras, (points, others), strict=True)
    )
    lines, back = one @ essential.T, other @ essential
    slope = np.sqrt((lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1))
    focal = np.mean([camera.mean_focal_length() for camera in cameras])
    return np.asarray(np.abs((other * lines).sum(1)) / np.maximum(slope, 1e-12) * focal, np.float64)
