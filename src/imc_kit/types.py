"""Values exchanged between stages. All are frozen and checked on construction.

Coordinates: keypoints are float32 (x, y) in pixels of the original, upright image, with the centre of the top-left
pixel at (0, 0). Poses are world-to-camera: x_cam = R · x_world + t, centre C = −Rᵀt.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

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


def _check(value: Any, *dtypes: Any, **shapes: tuple[int, ...]) -> None:
    """Check the named arrays of a frozen dataclass and make them read-only. -1 matches any size. Raises ValueError."""
    for name, shape in shapes.items():
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
        for name in ("rotation", "translation"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        _check(self, np.float64, rotation=(3, 3), translation=(3,))
        if np.abs(self.rotation @ self.rotation.T - np.eye(3)).max() > 1e-4 or np.linalg.det(self.rotation) < 0:
            raise ValueError("the rotation of a pose must be orthonormal with determinant +1")

    @classmethod
    def identity(cls) -> Self:
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_center(cls, rotation: Float64, center: Float64) -> Self:
        """The pose of a camera whose centre is at `center` [3] in the world."""
        return cls(rotation, -np.asarray(rotation, np.float64) @ np.asarray(center, np.float64))

    @property
    def center(self) -> Float64:
        """The camera's centre in the world, [3]."""
        return -self.rotation.T @ self.translation

    def rotated(self, rotation_quarters: int) -> Self:
        """The pose after the image's raster is rotated clockwise by `rotation_quarters` · 90°. The centre stays."""
        cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[rotation_quarters % 4]
        rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float64)
        return type(self)(rotation @ self.rotation, rotation @ self.translation)


@dataclass(frozen=True, eq=False)
class Features:
    """The local features of one image.

    keypoints: float32 [N, 2], (x, y), inside the image: −0.5 ≤ x ≤ width − 0.5.
    scores: float32 [N], larger is stronger; the unit depends on the detector.
    descriptors: float16 or float32 [N, D]; binary descriptors are uint8 [N, D] with eight bits packed per value.
    image_size: (width, height) in pixels.
    scales: float32 [N], diameter in pixels, if the detector provides it.
    orientations: float32 [N], degrees clockwise from +x, if the detector provides them.
    shapes: float32 [N, 2, 2], the linear map from the unit circle to the described ellipse, in pixels, if the detector
        provides it.
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
        optional = {"scales": (n,), "orientations": (n,), "shapes": (n, 2, 2)}
        given = {name: shape for name, shape in optional.items() if getattr(self, name) is not None}
        _check(self, np.float32, keypoints=(n, 2), scores=(n,), **given)
        _check(self, np.float16, np.float32, np.uint8, descriptors=(n, -1))
        width, height = self.image_size
        low, high = np.float32(-0.5), np.array([width - 0.5, height - 0.5], np.float32)
        if not ((self.keypoints >= low) & (self.keypoints <= high)).all():
            raise ValueError(f"keypoints must be inside the image of {width} × {height} pixels")

    def __len__(self) -> int:
        return len(self.keypoints)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays with one row per keypoint that are not None, by field name."""
        names = ("keypoints", "scores", "descriptors", "scales", "orientations", "shapes")
        return {name: values for name in names if (values := getattr(self, name)) is not None}

    def without_descriptors(self) -> Self:
        """The same features in a twentieth of the memory."""
        return replace(self, descriptors=np.empty((len(self), 0), np.uint8))

    @classmethod
    def empty(cls, image_size: tuple[int, int], dimension: int, dtype: Any = np.float32) -> Self:
        """No features, with descriptors [0, dimension] of `dtype`."""
        return cls(np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty((0, dimension), dtype), image_size)


@dataclass(frozen=True, eq=False)
class Matches:
    """Correspondences between two images.

    indices: int32 [K, 2], non-negative row numbers of the first and the second image's keypoints.
    scores: float32 [K], larger is better.
    """

    indices: Int32
    scores: Float32

    def __post_init__(self) -> None:
        k = len(self.indices)
        _check(self, np.int32, indices=(k, 2))
        _check(self, np.float32, scores=(k,))
        if k and self.indices.min() < 0:
            raise ValueError("indices must not be negative")

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def empty(cls) -> Self:
        return cls(np.empty((0, 2), np.int32), np.empty(0, np.float32))

    def one_to_one(self) -> "Matches":
        """The best matches that use each keypoint at most once, sorted by first index (`one_to_one_rows`)."""
        rows = one_to_one_rows(self.indices, self.scores)
        return Matches(self.indices[rows], self.scores[rows])


def one_to_one_rows(indices: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.intp]:
    """The row numbers of `indices` [K, 2] to keep so that no value repeats in a column, sorted by first index.

    Greedy: from the best of `scores` [K] down, a row is kept unless a kept row has the same value in the same column.
    Ties in score go to the lower indices.
    """
    row_of: dict[int, int] = {}  # kept rows by their first value
    seconds: set[int] = set()
    # A plain loop takes less time for a thousand rows than np.unique on each column.
    order = np.lexsort((indices[:, 1], indices[:, 0], -scores))
    for row, (first, second) in zip(order.tolist(), indices[order].tolist(), strict=True):
        if first not in row_of and second not in seconds:
            row_of[first] = row
            seconds.add(second)
    return np.array([row_of[first] for first in sorted(row_of)], np.intp)


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Corresponding points of two images, from a photo matcher.

    first, second: float32 [K, 2], (x, y) in pixels of each original, upright image.
    scores: float32 [K], larger is better.
    """

    first: Float32
    second: Float32
    scores: Float32

    def __post_init__(self) -> None:
        k = len(self.scores)
        _check(self, np.float32, first=(k, 2), second=(k, 2), scores=(k,))

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Scene:
    """Photos of one place.

    An image's name is its full POSIX path relative to `root`, unique within the scene.
    """

    name: str
    root: Path
    images: tuple[str, ...]
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.images)) != len(self.images):
            raise ValueError(f"scene {self.name!r} lists an image twice")
        for image in self.images:
            path = PurePosixPath(image)
            if path.is_absolute() or ".." in path.parts or str(path) != image:
                raise ValueError(f"{image!r} is not a plain path relative to scene {self.name!r}")

    def path(self, image: str) -> Path:
        return self.root / image


@dataclass(frozen=True)
class Alignment:
    """How a model got into metres: the frame of the photos' positions. Its text is a sentence for users."""

    origin: tuple[float, float, float] | None
    """Where (0, 0, 0) is: latitude and longitude in degrees (WGS84), and altitude in metres; x points east, y north, z
    up. None: the frame of a file of x, y, z."""
    scale: float
    """Metres per unit of the model before."""
    positions: int
    """Images of the model that have a position."""
    fitting: int
    """Those whose centre is within three standard deviations of their position."""
    residual: float
    """Median distance of centres and positions, in metres."""
    adjusted: bool = False
    """Whether the positions then took part in a bundle adjustment."""

    def __str__(self) -> str:
        frame = "x, y, z as in the file of positions"
        if self.origin:
            latitude, longitude, altitude = self.origin
            frame = f"east, north, up from {latitude:.7f}°, {longitude:.7f}°, {altitude:.1f} m"
        fit = f"centres are {self.residual:.2f} m (median) from {self.positions} positions, of which {self.fitting} fit"
        return f"in metres, {frame}; {fit}" + (", after bundle adjustment with positions" if self.adjusted else "")


@dataclass(frozen=True, eq=False)
class Model:
    """One sparse reconstruction: COLMAP's files in `folder`, and the parts that later stages use."""

    folder: Path
    poses: dict[str, Pose]
    points: Float64 = field(default_factory=lambda: np.empty((0, 3)))
    """World coordinates, [P, 3]."""
    observations: int = 0
    """Keypoints that observe a 3D point, over all images."""
    reprojection_error: float = 0.0
    """Mean over observations, in pixels."""
    colors: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 3), np.uint8))
    """Colours of the points, RGB [P, 3]."""
    frames: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By image: the tangents of half its horizontal and vertical field of view."""
    alignment: Alignment | None = None
    """How it got into metres; None: its scale and frame are arbitrary."""


@dataclass(frozen=True, eq=False)
class Placement:
    """The pose of an image, and the number of the model that registered it (None: the pose is a guess)."""

    pose: Pose
    model: int | None
