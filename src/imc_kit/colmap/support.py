"""How well a model agrees with the matches that it was built from: a score without ground truth."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap.lenses import is_wide, tangent_sampson
from imc_kit.types import Float64, Model, Pair

IdPair = tuple[int, int]
"""Two images by COLMAP's ids."""
Indices = NDArray[Any]
"""Matched keypoints, [K, 2]."""
AGREE = 2.0
"""Pixels. A match agrees with a model when it is this close to its epipolar line. A collapsed, duplicate-structure
model fails this for many of its strongest pairs. Chosen on the open scenes."""
PRECISE = 0.25
"""Pixels. Better poses bring more matches this close to their epipolar lines."""
CONTRADICTED = 0.4
"""A smaller share of agreeing matches says that the pose of an image is wrong. In finished models of the open and hard
scenes it is at most 0.30 for the six poses that nothing held, and at least 0.42 for all others (docs/benchmarks.md)."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Keypoints and matches of some pairs of a database, by COLMAP's ids."""

    keypoints: dict[int, Float64]
    """By image, in COLMAP's coordinates, [N, 2]."""
    matches: dict[IdPair, Indices]
    """By pair: indices of the first and the second image's keypoints."""


def read_evidence(opened: Any, pairs: Iterable[IdPair], *, verified: bool = True) -> Evidence:
    """Read the verified matches (or all matches) and the keypoints of these pairs from an open database."""
    matches = {
        pair: opened.read_two_view_geometry(*pair).inlier_matches if verified else opened.read_matches(*pair)
        for pair in pairs
    }
    images = sorted({image for pair in matches for image in pair})
    return Evidence({image: np.asarray(opened.read_keypoints(image), np.float64)[:, :2] for image in images}, matches)


@dataclass(frozen=True)
class Judgement:
    """How well a model agrees with the verified matches of some pairs."""

    support: float = 0.0
    """The share of the matches whose epipolar (Sampson) error is at most `AGREE` pixels; 0 without matches."""
    precision: float = 0.0
    """The same with `PRECISE` pixels."""
    contradicted: frozenset[str] = frozenset()
    """The images whose poses most of their own matches contradict."""


def judge(database: Path, model: Model, pairs: Collection[Pair]) -> Judgement:
    """Compare a model with the verified matches of a database.

    pairs: the pairs that count; those with an image outside the model are ignored.
    """
    import pycolmap

    reconstruction = pycolmap.Reconstruction(model.folder)
    ids = {reconstruction.images[number].name: number for number in reconstruction.reg_image_ids()}
    with pycolmap.Database.open(database) as opened:
        evidence = read_evidence(opened, [(ids[a], ids[b]) for a, b in pairs if a in ids and b in ids])
    errors = {pair: epipolar_errors(reconstruction, evidence, pair) for pair in evidence.matches}
    agreeing, compared = dict.fromkeys(ids.values(), 0), dict.fromkeys(ids.values(), 0)
    for pair, found in errors.items():
        for image in pair:
            agreeing[image] += int((found <= AGREE).sum())
            compared[image] += len(found)
    every = np.concatenate([np.empty(0), *errors.values()])
    within, precisely = (float((every <= limit).sum() / max(1, len(every))) for limit in (AGREE, PRECISE))
    contradicted = {name for name, image in ids.items() if agreeing[image] < CONTRADICTED * compared[image]}
    return Judgement(within, precisely, frozenset(contradicted))


def agreement(reconstruction: Any, evidence: Evidence, pairs: Iterable[IdPair]) -> tuple[int, int]:
    """The number of matches that agree with a reconstruction, as in `support`, and the number of matches compared."""
    errors = _errors(reconstruction, evidence, pairs)
    return int((errors <= AGREE).sum()), len(errors)


def _errors(reconstruction: Any, evidence: Evidence, pairs: Iterable[IdPair]) -> Float64:
    """The errors of all matches of those pairs whose images have poses."""
    posed = set(reconstruction.reg_image_ids())
    inside = (epipolar_errors(reconstruction, evidence, pair) for pair in pairs if posed.issuperset(pair))
    return np.concatenate([np.empty(0), *inside])


def epipolar_errors(reconstruction: Any, evidence: Evidence, pair: IdPair) -> Float64:
    """The Sampson errors [K] in pixels of the matches of two posed images."""
    images = [reconstruction.images[image] for image in pair]
    cameras = [reconstruction.cameras[image.camera_id] for image in images]
    motion = (images[1].cam_from_world() * images[0].cam_from_world().inverse()).matrix()
    x, y, z = motion[:, 3] / max(float(np.linalg.norm(motion[:, 3])), 1e-12)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ motion[:, :3]
    if any(map(is_wide, cameras)):
        points = (evidence.keypoints[image][rows] for image, rows in zip(pair, evidence.matches[pair].T, strict=True))
        return tangent_sampson(essential, (cameras[0], cameras[1]), *points)
    one, other = (
        np.pad(camera.cam_from_img(evidence.keypoints[image][indices]), ((0, 0), (0, 1)), constant_values=1)
        for image, camera, indices in zip(pair, cameras, evidence.matches[pair].T, strict=True)
    )
    lines, back = one @ essential.T, other @ essential
    slope = np.sqrt((lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1))
    focal = np.mean([camera.mean_focal_length() for camera in cameras])
    return np.asarray(np.abs((other * lines).sum(1)) / np.maximum(slope, 1e-12) * focal, np.float64)
