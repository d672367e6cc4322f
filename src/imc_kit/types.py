"""The values that stages exchange. All are frozen, and are checked when they are made.

Coordinates: keypoints are float32 (x, y) in pixels of the original, upright image, the centre of the
top-left pixel at (0, 0). Poses are world-to-camera: x_cam = R · x_world + t, centre C = −Rᵀt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Pair = tuple[str, str]
"""Two images of a scene, by name."""
Pixels = NDArray[np.uint8]
"""An upright image: uint8 [H, W, 3], RGB."""
Mask = NDArray[np.bool_]
"""Where keypoints are allowed: bool [H, W]."""


def _check(value: Any, name: str, shape: tuple[int, ...], *dtypes: Any) -> None:
    """Check an array of a frozen dataclass, and make it read-only. Raises ValueError; -1 in `shape` is any size."""
    array = getattr(value, name)
    fits = array.ndim == len(shape) and all(n in (-1, size) for n, size in zip(shape, array.shape, strict=True))
    if not fits or array.dtype not in dtypes:
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise ValueError(f"{name} must be {wanted} {list(shape)}, not {array.dtype} {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    view = array.view()
    view.flags.writeable = False
    object.__setattr__(value, name, view)


@dataclass(frozen=True, eq=False)
class Pose:
    """`cam_from_world`: a rotation [3, 3] (orthonormal, det +1) and a translation [3], float64."""

    rotation: Float64
    translation: Float64

    def __post_init__(self) -> None:
        for name, shape in (("rotation", (3, 3)), ("translation", (3,))):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
            _check(self, name, shape, np.float64)
        if np.abs(self.rotation @ self.rotation.T - np.eye(3)).max() > 1e-4 or np.linalg.det(self.rotation) < 0:
            raise ValueError("the rotation of a pose must be orthonormal with determinant +1")

    @classmethod
    def identity(cls) -> Pose:
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_center(cls, rotation: Float64, center: Float64) -> Pose:
        """The pose of a camera whose centre is at `center` [3] in the world."""
        return cls(rotation, -np.asarray(rotation, np.float64) @ np.asarray(center, np.float64))

    @property
    def center(self) -> Float64:
        """The camera's centre in the world, [3]."""
        return -self.rotation.T @ self.translation


@dataclass(frozen=True, eq=False)
class Features:
    """The local features of one image.

    keypoints: float32 [N, 2], (x, y), inside the image: −0.5 ≤ x ≤ width − 0.5.
    scores: float32 [N], larger is stronger; the unit is the detector's own.
    descriptors: [N, D], float16 or float32, or uint8 with eight bits packed in each for binary ones.
    image_size: (width, height) in pixels.
    scales: float32 [N], diameter in pixels, when the detector has them.
    orientations: float32 [N], degrees clockwise from +x, when the detector has them.
    shapes: float32 [N, 2, 2], the linear map from the unit circle to the described ellipse, in pixels, when the
        detector has them.
    """

    keypoints: Float32
    scores: Float32
    descriptors: NDArray[Any]
    image_size: tuple[int, int]
    scales: Float32 | None = None
    orientations: Float32 | None = None
    shapes: Float32 | None = None

    def __post_init__(self) -> None:
        n = len(self.keypoints)
        _check(self, "keypoints", (n, 2), np.float32)
        _check(self, "scores", (n,), np.float32)
        _check(self, "descriptors", (n, -1), np.float16, np.float32, np.uint8)
        for name, shape in (("scales", (n,)), ("orientations", (n,)), ("shapes", (n, 2, 2))):
            if getattr(self, name) is not None:
                _check(self, name, shape, np.float32)
        width, height = self.image_size
        low, high = np.float32(-0.5), np.array([width - 0.5, height - 0.5], np.float32)
        if not ((self.keypoints >= low) & (self.keypoints <= high)).all():
            raise ValueError(f"keypoints must be inside the image of {width} × {height} pixels")

    def __len__(self) -> int:
        return len(self.keypoints)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays that have one row per keypoint, by field name, without those that are None."""
        names = ("keypoints", "scores", "descriptors", "scales", "orientations", "shapes")
        return {name: values for name in names if (values := getattr(self, name)) is not None}

    @classmethod
    def empty(cls, image_size: tuple[int, int], dimension: int, dtype: Any = np.float32) -> Features:
        """No features, with descriptors [0, dimension] of `dtype`."""
        return cls(np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty((0, dimension), dtype), image_size)


@dataclass(frozen=True, eq=False)
class Matches:
    """Correspondences between two images.

    indices: int32 [K, 2], not negative: rows of the first and the second image's keypoints.
    scores: float32 [K], larger is better.
    """

    indices: Int32
    scores: Float32

    def __post_init__(self) -> None:
        k = len(self.indices)
        _check(self, "indices", (k, 2), np.int32)
        _check(self, "scores", (k,), np.float32)
        if k and self.indices.min() < 0:
            raise ValueError("indices must not be negative")

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def empty(cls) -> Matches:
        return cls(np.empty((0, 2), np.int32), np.empty(0, np.float32))

    def one_to_one(self) -> Matches:
        """The best matches that use each keypoint at most once, by ascending first index (`one_to_one_rows`)."""
        rows = one_to_one_rows(self.indices, self.scores)
        return Matches(self.indices[rows], self.scores[rows])


def one_to_one_rows(indices: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.intp]:
    """The rows of `indices` [K, 2] to keep so that no value occurs twice in a column, by ascending first index.

    Greedy: from the best score [K] down, each row is kept unless one of its values is in a row kept before. Ties in
    score go to the lower indices.
    """
    taken: tuple[set[int], set[int]] = set(), set()
    kept = []
    # A plain loop takes less time for a thousand rows than np.unique on each column.
    order = np.lexsort((indices[:, 1], indices[:, 0], -scores))
    for row, (first, second) in zip(order.tolist(), indices[order].tolist(), strict=True):
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            kept.append(row)
    rows = np.array(kept, np.intp)
    return rows[np.argsort(indices[rows, 0])]


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Corresponding points of two images, from a detector-free matcher.

    first, second: float32 [K, 2], (x, y) in pixels of each original, upright image.
    scores: float32 [K], larger is better.
    """

    first: Float32
    second: Float32
    scores: Float32

    def __post_init__(self) -> None:
        k = len(self.scores)
        _check(self, "first", (k, 2), np.float32)
        _check(self, "second", (k, 2), np.float32)
        _check(self, "scores", (k,), np.float32)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Correspondences:
        return cls(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty(0, np.float32))


@dataclass(frozen=True)
class Scene:
    """Photos of one place.

    An image's name is its POSIX path relative to `root`, whole, and unique within the scene.
    """

    name: str
    root: Path
    images: tuple[str, ...]
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.images)) != len(self.images):
            raise ValueError(f"scene {self.name!r} names an image twice")
        for image in self.images:
            path = PurePosixPath(image)
            if path.is_absolute() or ".." in path.parts or str(path) != image:
                raise ValueError(f"{image!r} is not a plain path relative to scene {self.name!r}")

    def path(self, image: str) -> Path:
        return self.root / image


@dataclass(frozen=True, eq=False)
class Model:
    """One sparse reconstruction: COLMAP's files in `folder`, and what later stages use of them."""

    folder: Path
    poses: dict[str, Pose]
    points: Float64 = field(default_factory=lambda: np.empty((0, 3)))
    """World coordinates, [P, 3]."""
    observations: int = 0
    reprojection_error: float = 0.0
    """Mean over observations, in pixels."""
    colors: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 3), np.uint8))
    """Colours of the points, RGB [P, 3]."""
    frames: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By image: half of the width and height that it sees at a distance of 1, in units of that distance."""


@dataclass(frozen=True, eq=False)
class Placement:
    """The pose of an image, and the number of the model that registered it (None: the pose is a guess)."""

    pose: Pose
    model: int | None
