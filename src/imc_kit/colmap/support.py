"""How well a model agrees with the matches that it was made from: a score that needs no truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap import sparse
from imc_kit.colmap.database import recent_keypoints
from imc_kit.types import Float64, Model

IdPair = tuple[int, int]
Indices = NDArray[Any]


def support(database: Path, model: Model, pairs: Collection[tuple[str, str]], max_error: float = 2.0) -> float:
    """The share of the verified matches of `pairs` whose epipolar (Sampson) error in `model` is at most `max_error`.

    database: with the verified matches. pairs: of image names; those of which the model lacks an image do not count.
    max_error: in pixels. The share is 0 when no pair counts.

    A model that is folded, because a repeated structure was taken for one, contradicts many of its strongest pairs.
    """
    import pycolmap

    cameras = sparse.read_cameras(model.folder)
    camera_of = {image.name: cameras[image.camera] for image in sparse.read_images(model.folder)}
    agreeing = total = 0
    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        keypoints = recent_keypoints(opened)
        for pair in pairs:
            if all(name in model.poses for name in pair):
                numbers = ids[pair[0]], ids[pair[1]]
                matches = opened.read_two_view_geometry(*numbers).inlier_matches
                first, second = (keypoints(number)[matches[:, side]] for side, number in enumerate(numbers))
                one, other = (model.poses[name] for name in pair)
                rotation = other.rotation @ one.rotation.T
                translation = other.translation - rotation @ one.translation
                errors = _sampson((camera_of[pair[0]], camera_of[pair[1]]), rotation, translation, first, second)
                agreeing += int((errors <= max_error).sum())
                total += len(errors)
    return agreeing / total if total else 0.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a database says of some pairs of images, by COLMAP's ids."""

    keypoints: dict[int, Float64]
    """In COLMAP's coordinates, [N, 2], by image."""
    matches: dict[IdPair, Indices]
    """[K, 2], by pair: indices of the first and the second image's keypoints."""


def read_evidence(opened: Any, pairs: Iterable[IdPair], *, verified: bool = True) -> Evidence:
    """The verified matches of `pairs` of ids in an open database, or all their matches, and the keypoints of these."""
    matches = {
        pair: opened.read_two_view_geometry(*pair).inlier_matches if verified else opened.read_matches(*pair)
        for pair in pairs
    }
    images = sorted({image for pair in matches for image in pair})
    return Evidence({image: np.asarray(opened.read_keypoints(image), np.float64)[:, :2] for image in images}, matches)


def agreement(
    reconstruction: Any, evidence: Evidence, pairs: Iterable[IdPair], max_error: float = 2.0
) -> tuple[int, int]:
    """How many of the matches of `pairs` agree with a reconstruction, as `support` says, of how many.

    Those of which an image has no pose do not count.
    """
    agreeing = total = 0
    for pair in pairs:
        if all(image in reconstruction.images and reconstruction.images[image].has_pose for image in pair):
            errors = epipolar_errors(reconstruction, evidence, pair)
            agreeing += int((errors <= max_error).sum())
            total += len(errors)
    return agreeing, total


def epipolar_errors(reconstruction: Any, evidence: Evidence, pair: IdPair) -> Float64:
    """Sampson's distance, in pixels, [K], of the matches of two posed images."""
    first, second = (reconstruction.images[image] for image in pair)
    matches = evidence.matches[pair]
    points, others = (evidence.keypoints[image][matches[:, side]] for side, image in enumerate(pair))
    cameras = [reconstruction.cameras[image.camera_id] for image in (first, second)]
    motion = (second.cam_from_world() * first.cam_from_world().inverse()).matrix()
    return _sampson((cameras[0], cameras[1]), motion[:, :3], motion[:, 3], points, others)


def _sampson(
    cameras: tuple[Any, Any], rotation: Float64, translation: Float64, points: Float64, others: Float64
) -> Float64:
    """Of points [K, 2] and [K, 2] in the images of two cameras, the second's pose being that in the first's frame."""
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
