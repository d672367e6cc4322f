"""Geometry of the 3D view: its frame, its up direction, its viewpoint, the size of its cameras."""

from collections.abc import Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.spatial import KDTree

from imc_kit.metric import SceneScore
from imc_kit.types import Float64

_ASPECTS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Aspect ratios of the view, width / height, from a phone to a wide window."""
_FIELD_OF_VIEW = np.pi / 4
"""Vertical field of view of plotly's camera, in radians."""


def level(axes: Float64) -> Float64:
    """The rotation [3, 3] that maps the cameras' mean up direction (−y) to +z. axes: world-to-camera [n, 3, 3]."""
    up = -axes[:, 1].mean(axis=0) if len(axes) else np.array([0.0, 0.0, 1.0])
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.eye(3)
    up = up / length
    across = np.eye(3)[np.abs(up).argmin()]
    right = np.cross(across, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up])


def eye(axes: Float64) -> Float64:
    """The unit vector from the scene to the viewpoint: behind the cameras and a little above."""
    ahead = axes[:, 2].mean(axis=0) if len(axes) else np.zeros(3)
    flat = np.array([ahead[0], ahead[1], 0])
    length = np.linalg.norm(flat)
    # Cameras all around have no common direction: any side is as good.
    back = -flat / length if length > 0.2 else np.array([0.8, 0.6, 0])
    eye = 0.85 * back + [0, 0, 0.35]
    return np.asarray(eye / np.linalg.norm(eye), np.float64)


def view(points: Float64, eye: Float64) -> tuple[Float64, dict[float, float]]:
    """The target [3] that centres all points [K, 3] when seen from direction `eye`, and the viewpoint's distance.

    The distance, with a margin of 8 %, is given for each width / height of the view.
    """
    if not len(points):
        return np.zeros(3), dict.fromkeys(_ASPECTS, 1.0)
    right = np.cross([0, 0, 1], eye)
    right /= np.linalg.norm(right)
    up = np.cross(eye, right)
    slope, near = np.tan(_FIELD_OF_VIEW / 2), points @ eye
    # A camera at distance t sees a point at height h if h ≤ slope · (t - near), and likewise below.
    above, below = ((near + side * (points @ up) / slope).max() for side in (1, -1))
    tall = (above + below) / 2
    wide = {aspect: (near + np.abs(points @ right) / (slope * aspect)).max() for aspect in _ASPECTS}
    return up * slope * (above - below) / 2, {aspect: 1.08 * float(max(tall, far)) for aspect, far in wide.items()}


def not_far(points: Float64, centers: Float64) -> NDArray[np.bool_]:
    """bool [K]: which points lie in the box around all cameras and the middle 92 % of the points, plus a margin."""
    if not len(points):
        return np.zeros(0, np.bool_)
    box = np.percentile(points, [4, 96], axis=0)
    everything = np.concatenate([box, centers])
    low, high = everything.min(axis=0), everything.max(axis=0)
    # The margin depends on the points alone: distant cameras must not let in distant points.
    margin = 0.25 * (box[1] - box[0])
    return np.asarray(((points >= low - margin) & (points <= high + margin)).all(axis=1), np.bool_)


def frustum_size(centers: Float64) -> float:
    """Height of a frustum: 0.6 × the median distance to the nearest camera, but 3 to 12 % of the cameras' extent."""
    if len(centers) < 2:
        return 0.3
    extent = float(np.linalg.norm(np.ptp(centers, axis=0))) or 1.0
    nearest = KDTree(centers).query(centers, k=2)[0][:, 1]
    return float(np.clip(0.6 * np.median(nearest), 0.03 * extent, 0.12 * extent))


def round_length(length: float) -> float:
    """The largest of 1, 2 or 5 × a power of ten that does not exceed `length`."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(base for base in (1, 2, 5) if base * power <= length * (1 + 1e-9)) * power)


def frusta(centers: Float64, axes: Float64, frames: Sequence[tuple[float, float]], size: float) -> Float64:
    """All camera frusta as one polyline [K, 3] with gaps (nan); a tick marks the upper side of each.

    frames: see `Model.frames`. size: the height of the frusta.
    """
    lines = []
    for center, rotation, (across, down) in zip(centers, axes, frames, strict=True):
        corners = [(-across, -down), (across, -down), (across, down), (-across, down)]
        # In the camera's frame: 0 is its centre, 1 to 4 are the corners, 5 is above the middle of the upper side.
        own = np.array([(0, 0, 0), *((x, y, 1) for x, y in corners), (0, -1.5 * down, 1)]) * size
        path = own[[0, 1, 2, 3, 4, 1, 5, 2, 0, 3, 4, 0]]
        lines += [path @ rotation + center, np.full((1, 3), np.nan)]
    return np.concatenate(lines)


def match_names(names: Sequence[str], paths: Sequence[str]) -> dict[str, int]:
    """The row of each image in a table: the first row whose path ends with the image's name.

    Names are relative to the scene's folder; the table's paths may have leading folders. If several names match a path,
    the longest wins.
    """
    known = set(names)
    rows: dict[str, int] = {}
    for row, path in enumerate(paths):
        parts = path.split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((end for end in ends if end in known), None)
        if name is not None:
            rows.setdefault(name, row)
    return rows


def similarity(names: Sequence[str], centers: Float64, score: SceneScore) -> Float64 | None:
    """The metric's similarity [3, 4] from the model's frame to the truth's; None with fewer than three cameras in both.

    `score.aligned` holds the submitted centres after this similarity, so a least-squares fit recovers it (Umeyama,
    1991).
    """
    known = match_names(names, score.names)
    shared = [(number, known[name]) for number, name in enumerate(names) if name in known]
    shared = [(number, row) for number, row in shared if np.isfinite(score.aligned[row]).all()]
    if len(shared) < 3:
        return None
    own, rows = np.array(shared).T
    found = pycolmap.estimate_sim3d(centers[own], score.aligned[rows])
    return None if found is None else found.matrix()
