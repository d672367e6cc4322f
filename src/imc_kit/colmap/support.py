"""How well a model agrees with the matches that it was made from: a score that needs no truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64, Model

Pair = tuple[int, int]
Indices = NDArray[Any]


def support(database: Path, model: Model, pairs: Collection[tuple[str, str]], max_error: float = 2.0) -> float:
    """The share of the verified matches of `pairs` whose epipolar (Sampson) error in `model` is at most `max_error`.

    database: with the verified matches. pairs: of image names; those of which the model lacks an image do not count.
    max_error: in pixels. The share is 0 when no pair counts.

    A model that is folded, because a repeated structure was taken for one, contradicts many of its strongest pairs.
    """
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        evidence = read_evidence(opened, [(ids[a], ids[b]) for a, b in pairs if a in model.poses and b in model.poses])
    agreeing, total = agreement(pycolmap.Reconstruction(model.folder), evidence, evidence.matches, max_error)
    return agreeing / total if total else 0.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a database says of some pairs of images, by COLMAP's ids."""

    keypoints: dict[int, Float64]
    """In COLMAP's coordinates, [N, 2], by image."""
    matches: dict[Pair, Indices]
    """[K, 2], by pair: indices of the first and the second image's keypoints."""


def read_evidence(opened: Any, pairs: Iterable[Pair], *, verified: bool = True) -> Evidence:
    """The verified matches of `pairs` of ids in an open database, or all their matches, and the keypoints of these."""
    matches = {
        pair: opened.read_two_view_geometry(*pair).inlier_matches if verified else opened.read_matches(*pair)
        for pair in pairs
    }
    images = sorted({image for pair in matches for image in pair})
    return Evidence({image: np.asarray(opened.read_keypoints(image), np.float64)[:, :2] for image in images}, matches)


def agreement(
    reconstruction: Any, evidence: Evidence, pairs: Iterable[Pair], max_error: float = 2.0
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


def epipolar_errors(reconstruction: Any, evidence: Evidence, pair: Pair) -> Float64:
    """Sampson's distance, in pixels, [K], of the matches of two posed images."""
    first, second = (reconstruction.images[image] for image in pair)
    matches = evidence.matches[pair]
    points, others = (evidence.keypoints[image][matches[:, side]] for side, image in enumerate(pair))
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
