"""Synthetic photos with known cameras: textured solids in the sun, ray-cast with NumPy.

The demo, the notebooks, the tests and the benchmarks use them. The world is in metres and its z axis points up. As
everywhere in the kit, pixel (0, 0) is the centre of the top-left pixel. Arrays of points and directions are [3, K],
because NumPy works several times faster on them than on [K, 3].
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from imc_kit.data.submission import write as write_table
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.errors import KitError
from imc_kit.types import Float32, Float64, Int32, Mask, Pixels, Pose

DISTANCES = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The score's thresholds for the plaza, in metres: those of most scenes of the 2024 competition."""


def vector(*values: float) -> Float32:
    return np.array(values, np.float32)


# All values for light, colours and sizes were chosen by eye. Light is linear: colours are squared before shading, and
# the square root is taken afterwards.
_SUN = vector(-0.55, -0.40, 0.73) / np.linalg.norm(vector(-0.55, -0.40, 0.73))
"""The direction towards the sun."""
_SUNLIGHT = vector(0.90, 0.82, 0.68)[:, None]
_SKYLIGHT = vector(0.42, 0.47, 0.56)[:, None]
_HORIZON = vector(0.60, 0.72, 0.82)[:, None]
_ZENITH = vector(0.03, 0.13, 0.42)[:, None]
_CLEAR = 60.0
"""Metres: at this distance, haze replaces two thirds of an object's light."""
_NEAR = 1e-3
"""Metres. A nearer hit is the ray's own starting point, because float32 points are accurate to about 1e-6 of 10 m."""
_INF = np.array(np.inf, np.float32)
_TEXEL = 0.005
"""Metres: the side of a texture's pixel. A pixel of the default photo covers 1.4 cm at 8 m, so textures are finer."""
_RAYS = 65536
"""Rays in a batch: few enough for a processor's cache, enough to hide the overhead of NumPy calls."""


# ---- textures ----


@dataclass(frozen=True, eq=False)
class Texture:
    """A painted sheet, as an image pyramid.

    levels: uint8 [h, w, 3], RGB, each at half the resolution of the one before.
    texel: the side of a pixel of the first level, in metres.
    """

    levels: tuple[Pixels, ...]
    texel: float

    @classmethod
    def of(cls, image: Pixels, texel: float = _TEXEL) -> Self:
        levels = [image]
        while min(levels[-1].shape[:2]) >= 4:
            height, width = (side // 2 for side in levels[-1].shape[:2])
            even = levels[-1][: 2 * height, : 2 * width]  # so that the resolution is exactly halved
            levels.append(np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
        return cls(tuple(levels), texel)

    def colours(self, at: Float32, footprint: Float32) -> Float32:
        """Colours [3, K] in 0 … 255 at (right, down) [2, K] from the corner, blurred over `footprint` [K]; metres."""
        coarsest = len(self.levels) - 1
        blur = np.clip(np.log2(footprint / np.float32(self.texel)), 0, coarsest)
        level = blur.astype(np.int32)
        colours = np.empty((3, len(level)), np.float32)
        for finer in np.unique(level).tolist():
            here = np.flatnonzero(level == finer)
            fine, coarse = (self._sample(i, at[:, here]) for i in (finer, min(finer + 1, coarsest)))
            colours[:, here] = fine + (blur[here] - finer) * (coarse - fine)
        return colours

    def _sample(self, level: int, at: Float32) -> Float32:
        """Colours [3, K] of one level, interpolated bilinearly; outside, the colour of the nearest border pixel."""
        count, columns = at.shape[1], 1024  # OpenCV takes at most 32767 rows or columns
        places = np.zeros((2, -(-count // columns) * columns), np.float32)
        places[:, :count] = at / np.float32(self.texel * 2**level) - np.float32(0.5)
        x, y = places.reshape(2, -1, columns)
        sampled = cv2.remap(self.levels[level], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.array(cv2.split(sampled), np.float32).reshape(3, -1)[:, :count]


def noise(rng: np.random.Generator, shape: tuple[int, int], coarsest: float, finest: float = 2.0) -> Float32:
    """Noise [h, w] of zero mean and unit deviation: octaves with wavelengths of `coarsest` down to `finest` pixels."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    wavelength = coarsest
    while wavelength >= finest:
        grid = rng.standard_normal((int(height / wavelength) + 3, int(width / wavelength) + 3), np.float32)
        octave = cv2.resize(grid, None, fx=wavelength, fy=wavelength, interpolation=cv2.INTER_CUBIC)
        total += np.float32(wavelength**0.15) * octave[:height, :width]
        wavelength /= 2
    return np.asarray((total - total.mean()) / total.std(), np.float32)


_PAINTS = ("e8dcc0", "23395b", "b5432a", "e0a526", "2f6b5a", "f4f1e6", "1f1f24", "7d4f7a", "4f9fb5", "d9773f")


def _rgb(code: str) -> Float32:
    return vector(*bytes.fromhex(code))


def _paint_motifs(rng: np.random.Generator, image: Pixels, texel: float, per_square_metre: float) -> None:
    """Paint rings, polygons, stars and letters, no two alike, so that detectors find points to match."""
    height, width = image.shape[:2]
    for _ in range(round(per_square_metre * height * width * texel**2)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = np.exp(rng.uniform(np.log(0.03), np.log(0.22))) / texel
        colour, other = (_rgb(code).tolist() for code in rng.choice(_PAINTS, 2, replace=False))
        kind, corners = rng.integers(5), int(rng.integers(3, 8))
        center, shift = (round(16 * x), round(16 * y)), 4  # OpenCV's fixed point: sixteenths of a pixel
        if kind < 2:
            cv2.circle(image, center, round(16 * radius), colour, -1, cv2.LINE_AA, shift)
            cv2.circle(image, center, round(16 * radius * rng.uniform(0.3, 0.7)), other, -1, cv2.LINE_AA, shift)
        elif kind < 4:
            angles = rng.uniform(0, 2 * np.pi) + np.arange(2 * corners) * np.pi / corners
            reach = radius * np.resize([1, 0.45 if kind == 3 else np.cos(np.pi / corners)], 2 * corners)
            outline = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
            cv2.fillPoly(image, [np.round(16 * outline).astype(np.int32)], colour, cv2.LINE_AA, shift)
            cv2.circle(image, center, round(4 * radius), other, -1, cv2.LINE_AA, shift)
        else:
            letter, place = chr(rng.integers(ord("A"), ord("Z") + 1)), (round(x - radius), round(y + radius))
            stroke = max(1, round(radius / 5))
            cv2.putText(image, letter, place, cv2.FONT_HERSHEY_DUPLEX, radius / 12, colour, stroke, cv2.LINE_AA)


def paint(
    rng: np.random.Generator,
    size: tuple[float, float],
    colours: tuple[str, str],
    motifs: float = 12.0,
    texel: float = _TEXEL,
) -> Pixels:
    """A weathered sheet of `size` = (width, height) metres in two colours "rrggbb", with `motifs` per square metre."""
    shape = max(4, round(size[1] / texel)), max(4, round(size[0] / texel))
    share = 1 / (1 + np.exp(-2 * noise(rng, shape, 0.8 / texel)))[..., None]
    image = (_rgb(colours[0]) * share + _rgb(colours[1]) * (1 - share)).astype(np.uint8)
    _paint_motifs(rng, image, texel, motifs)
    grain = 1 + 0.18 * noise(rng, shape, 0.3 / texel)[..., None]
    return np.clip(image * grain, 0, 255).astype(np.uint8)


# ---- solids ----


@dataclass(frozen=True, eq=False)
class Solid(ABC):
    """A convex body in an upright box.

    foot: the middle of the box's bottom, [3], metres. size: the box's widths along its own x, y and z, metres.
    yaw: rotation about z in radians, anticlockwise seen from above. texture: of its `sheet`; None is white.

    Subclasses compute the intersection with a ray and the normals, in coordinates where the box spans −1 to 1.
    """

    foot: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float = 0.0
    texture: Texture | None = None

    @abstractmethod
    def _span(self, start: Float32, along: Float32) -> tuple[Float32, Float32]:
        """The t at which the rays `start` + t · `along` enter and leave; for a miss, leave < enter or nan."""

    @abstractmethod
    def _normals(self, points: Float32) -> Float32:
        """Outward normals [3, K] of any length at points [3, K] on the surface."""

    @property
    def bound(self) -> tuple[Float32, float]:
        """A ball around the solid: its centre [3] and its radius."""
        return vector(*self.foot) + vector(0, 0, self.size[2] / 2), float(np.linalg.norm(self.size) / 2)

    @property
    def sheet(self) -> tuple[float, float]:
        """Width and height of its texture in metres: the six sides of the box, seen from outside, in 3 × 2 cells."""
        return 3 * max(self.size[:2]), 2 * max(self.size[1:])

    def _rotated(self, vectors: Float32, way: int) -> Float32:
        if not self.yaw:
            return vectors
        cosine, sine = np.float32(np.cos(self.yaw)), np.float32(way * np.sin(self.yaw))
        x, y, z = vectors
        return np.stack([cosine * x - sine * y, sine * x + cosine * y, z])

    def _in_box(self, vectors: Float32) -> Float32:
        half = vector(*self.size) * np.float32(0.5)
        return self._rotated(vectors, -1) / half.reshape(3, *[1] * (vectors.ndim - 1))

    def distance(self, origin: Float32, direction: Float32) -> Float32:
        """The t at which the rays `origin` + t · `direction` [3, ...] enter the solid; inf for a miss."""
        center = self.bound[0].reshape(3, *[1] * (origin.ndim - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            near, far = self._span(self._in_box(origin - center), self._in_box(direction))
            return np.where((near <= far) & (near > _NEAR), near, _INF)

    def surface(self, points: Float32) -> tuple[Float32, Float32]:
        """Unit normals [3, K] and positions on the sheet (right, down) [2, K], in metres, of surface points [3, K]."""
        half = vector(*self.size)[:, None] * np.float32(0.5)
        inside = self._in_box(points - self.bound[0][:, None])
        normals = self._normals(inside) / half
        normals /= np.linalg.norm(normals, axis=0)
        side, (x, y, z) = np.abs(normals).argmax(axis=0), inside * half
        sign = np.where(np.choose(side, normals) < 0, np.float32(-1), np.float32(1))
        width, height = (np.float32(length) for length in self.sheet)
        right = np.choose(side, [sign * y, -sign * x, x]) + width * (2 * side + 1).astype(np.float32) / 6
        down = np.where(side < 2, -z, -y) + height * (2 - sign) / 4
        return self._rotated(normals, 1), np.stack([right, down])


@dataclass(frozen=True, eq=False)
class Block(Solid):
    """A box; with a smaller top, an obelisk, a pyramid or a roof.

    taper: the top's widths as fractions of the bottom's, 0 to 1.
    """

    taper: tuple[float, float] = (1.0, 1.0)

    @property
    def _leans(self) -> list[np.float32]:
        """The inward slopes of its sides x and y: ±p + lean · (z + 1) ≤ 1."""
        return [np.float32((1 - part) / 2) for part in self.taper]

    def _span(self, start: Float32, along: Float32) -> tuple[Float32, Float32]:
        near, far = _in_slab(start[2], along[2])
        for axis, lean in enumerate(self._leans):
            if lean == 0:  # both sides at once: three times faster
                enter, leave = _in_slab(start[axis], along[axis])
                near, far = np.maximum(near, enter), np.minimum(far, leave)
                continue
            for sign in (1, -1):
                slope = sign * along[axis] + lean * along[2]
                cut = (1 - sign * start[axis] - lean * (start[2] + 1)) / slope
                near = np.maximum(near, np.where(slope < 0, cut, -_INF))
                far = np.minimum(far, np.where(slope < 0, _INF, cut))
        return near, far

    def _normals(self, points: Float32) -> Float32:
        x, y, z = points
        a, b = self._leans
        outside = [x + a * (z + 1), a * (z + 1) - x, y + b * (z + 1), b * (z + 1) - y, z, -z]
        normals = np.array([(1, 0, a), (-1, 0, a), (0, 1, b), (0, -1, b), (0, 0, 1), (0, 0, -1)], np.float32)
        return normals.T[:, np.argmax(outside, axis=0)]


@dataclass(frozen=True, eq=False)
class Cylinder(Solid):
    """An upright drum or column."""

    def _span(self, start: Float32, along: Float32) -> tuple[Float32, Float32]:
        near, far = _in_ball(start[:2], along[:2])
        low, high = _in_slab(start[2], along[2])
        return np.maximum(near, low), np.minimum(far, high)

    def _normals(self, points: Float32) -> Float32:
        x, y, z = points
        return np.where(np.abs(z) > np.hypot(x, y), np.stack([0 * x, 0 * y, z]), np.stack([x, y, 0 * z]))


@dataclass(frozen=True, eq=False)
class Sphere(Solid):
    """A ball; with unequal widths, an ellipsoid."""

    def _span(self, start: Float32, along: Float32) -> tuple[Float32, Float32]:
        return _in_ball(start, along)

    def _normals(self, points: Float32) -> Float32:
        return points


def _in_slab(start: Float32, along: Float32) -> tuple[Float32, Float32]:
    """The t at which one coordinate of a ray enters and leaves −1 … 1."""
    low, high = (-1 - start) / along, (1 - start) / along
    return np.minimum(low, high), np.maximum(low, high)


def _in_ball(start: Float32, along: Float32) -> tuple[Float32, Float32]:
    """The t at which a ray enters and leaves the unit ball (or disc) at the origin; nan for a miss."""
    square = (along * along).sum(axis=0)
    half = (start * along).sum(axis=0) / square
    root = np.sqrt(half * half - ((start * start).sum(axis=0) - 1) / square)
    return -half - root, root - half


@dataclass(frozen=True, eq=False)
class Ground(Solid):
    """The half-space below the top of its box. Its sheet is that top; the border's colours continue outside."""

    @property
    def bound(self) -> tuple[Float32, float]:
        return super().bound[0], np.inf

    @property
    def sheet(self) -> tuple[float, float]:
        return self.size[:2]

    def _span(self, start: Float32, along: Float32) -> tuple[Float32, Float32]:
        return np.where(along[2] < 0, (1 - start[2]) / along[2], np.float32(np.nan)), _INF

    def _normals(self, points: Float32) -> Float32:
        return np.broadcast_to(vector(0, 0, 1)[:, None], points.shape)

    def surface(self, points: Float32) -> tuple[Float32, Float32]:
        x, y, _ = self._in_box(points - self.bound[0][:, None])
        width, height = (np.float32(length) for length in self.sheet)
        return self._normals(points), np.stack([(1 + x) * width / 2, (1 - y) * height / 2])


# ---- cameras ----


@dataclass(frozen=True)
class Camera:
    """A camera with square pixels: `width` × `height`, focal length and principal point in pixels.

    fisheye: the distance from the principal point is the focal length times the angle to the axis, not its tangent
        (COLMAP's SIMPLE_FISHEYE). All angles must be less than 90°.
    """

    width: int
    height: int
    focal: float
    cx: float
    cy: float
    fisheye: bool = False

    @classmethod
    def centred(cls, size: tuple[int, int], focal: float | None = None) -> Self:
        """A camera for photos of `size` = (width, height). The focal length is 0.9 widths unless it is given."""
        width, height = size
        return cls(width, height, focal or 0.9 * width, (width - 1) / 2, (height - 1) / 2)

    def tangents(self, columns: Float32, rows: Float32) -> tuple[Float32, Float32]:
        """Rays (x, y, 1) of the image points `columns` [w] × `rows` [h], in pixels: x [1 or h, w] and y [h, 1 or w]."""
        x = (columns[None] - np.float32(self.cx)) / np.float32(self.focal)
        y = (rows[:, None] - np.float32(self.cy)) / np.float32(self.focal)
        if not self.fisheye:
            return x, y
        angle = np.maximum(np.hypot(x, y), np.float32(1e-6))
        return x * np.tan(angle) / angle, y * np.tan(angle) / angle

    def project(self, pose: Pose, points: Float64) -> Float64:
        """World points [N, 3] → pixels (x, y) [N, 2]; nan for points that are not in front of the camera."""
        seen = points @ pose.rotation.T + pose.translation
        depth = np.where(seen[:, 2:] > 0, seen[:, 2:], np.nan)
        if self.fisheye:
            away = np.maximum(np.linalg.norm(seen[:, :2], axis=1, keepdims=True), 1e-12)
            depth = away / np.arctan2(away, depth)
        return np.asarray(self.focal * seen[:, :2] / depth + [self.cx, self.cy], np.float64)


def look_at(center: Float64, target: Float64, roll: float = 0.0) -> Pose:
    """The pose of an upright camera at `center` [3] that looks at `target` [3], which is neither above nor below it.

    roll: rotation of the camera about its axis, clockwise, in radians.
    """
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    return Pose.from_center(np.stack([right, down, forward]), center)


def orbit(views: int, seed: int = 0, distance: float = 8.0, height: float = 2.6) -> list[Pose]:
    """Hand-held poses once round the z axis: distance, height and aim vary from view to view.

    distance, height: typical values, in metres.
    """
    rng = np.random.default_rng(seed)
    poses = []
    for angle in (np.arange(views) + rng.uniform(-0.25, 0.25, views)) * 2 * np.pi / views:
        away = distance * rng.uniform(0.85, 1.2)
        center = np.array([away * np.cos(angle), away * np.sin(angle), height * rng.uniform(0.6, 1.7)])
        aim = np.array([*rng.uniform(-0.06, 0.06, 2) * distance, 1.2 * rng.uniform(0.7, 1.3)])
        poses.append(look_at(center, aim, rng.uniform(-0.05, 0.05)))
    return poses


# ---- rendering ----


def render(solids: Sequence[Solid], camera: Camera, pose: Pose, samples: int = 2) -> Pixels:
    """Render a photo, uint8 [h, w, 3] RGB; each pixel is the mean of `samples` × `samples` rays."""
    columns, rows = (
        ((np.arange(side * samples) + 0.5) / samples - 0.5).astype(np.float32) for side in (camera.width, camera.height)
    )
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    band = max(1, _RAYS // (camera.width * samples**2))  # rows at a time
    for top in range(0, camera.height, band):
        directions, depth, which = cast(solids, camera, pose, columns, rows[top * samples : (top + band) * samples])
        light = _shade(solids, camera, pose, directions.reshape(3, -1), depth.ravel(), which.ravel(), samples)
        light = light.reshape(3, *depth.shape)
        total = np.sum([light[:, i::samples, j::samples] for i in range(samples) for j in range(samples)], axis=0)
        image[top : top + band] = np.moveaxis(np.sqrt(np.clip(total / samples**2, 0, 1)) * 255 + 0.5, 0, 2)
    return image


def render_scene(solids: Sequence[Solid], camera: Camera, poses: Sequence[Pose]) -> list[Pixels]:
    """Render a photo for each pose, in order, on all processors."""
    return on_all_processors(partial(render, solids, camera), poses)


def on_all_processors(photo: Callable[[Any], Pixels], of: Iterable[Any]) -> list[Pixels]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(photo, of))


def cast(
    solids: Sequence[Solid], camera: Camera, pose: Pose, columns: Float32, rows: Float32
) -> tuple[Float32, Float32, Int32]:
    """Cast rays through the image points `columns` [w] × `rows` [h], in pixels.

    Returns directions [3, h, w] of unit depth, depths [h, w], and numbers of the solids hit [h, w] (−1: the sky).
    """
    x, y = camera.tangents(columns, rows)
    across, down, ahead = pose.rotation.astype(np.float32)[:, :, None, None]
    directions = across * x + (down * y + ahead)
    depth = np.full((len(rows), len(columns)), np.inf, np.float32)
    which = np.full(depth.shape, -1, np.int32)
    origin = pose.center.astype(np.float32)
    for number, solid in enumerate(solids):
        # Only rays in the image rectangle or the cone around the solid's bounding ball can hit it.
        center, radius = solid.bound
        middle = pose.rotation @ center + pose.translation
        window: Any = slice(None), slice(None)
        if camera.fisheye and radius < (away := float(np.linalg.norm(middle))):
            cosines = (x * middle[0] + y * middle[1] + middle[2]) / (np.sqrt(x * x + y * y + 1) * away)
            window = np.nonzero(cosines >= np.sqrt(1 - (radius / away) ** 2))
        elif middle[2] > radius and not camera.fisheye:
            reach = np.array([[-radius], [radius]])
            edges = (middle[:2] + reach)[:, None] / (middle[2] + reach)
            (left, upper), (right, lower) = edges.min(axis=(0, 1)), edges.max(axis=(0, 1))
            window = slice(*np.searchsorted(y[:, 0], [upper, lower])), slice(*np.searchsorted(x[0], [left, right]))
        if depth[window].size:
            rays = directions[:, *window]
            found = solid.distance(origin.reshape(3, *[1] * (rays.ndim - 1)), rays)
            nearer = found < depth[window]
            depth[window] = np.where(nearer, found, depth[window])
            which[window] = np.where(nearer, number, which[window])
    return directions, depth, which


def _shade(
    solids: Sequence[Solid], camera: Camera, pose: Pose, directions: Float32, depth: Float32, which: Int32, samples: int
) -> Float32:
    """The light [3, K] along rays [3, K] of unit depth."""
    light = np.empty(directions.shape, np.float32)
    lengths = np.sqrt((directions * directions).sum(axis=0))
    sky = np.flatnonzero(which < 0)
    height = np.clip(directions[2, sky] / lengths[sky], 0, 1)
    light[:, sky] = _HORIZON + (_ZENITH - _HORIZON) * height ** np.float32(0.6)
    origin = pose.center.astype(np.float32)[:, None]
    for number in np.unique(which[which >= 0]).tolist():
        solid, hit = solids[number], np.flatnonzero(which == number)
        ray, far, length = directions[:, hit], depth[hit], lengths[hit]
        points = origin + far * ray
        normals, at = solid.surface(points)
        facing = np.maximum(-(normals * ray).sum(axis=0) / length, np.float32(0.02))
        reach = far * length if camera.fisheye else far  # to the camera, or to its plane
        footprint = reach / np.float32(camera.focal * samples) / np.sqrt(facing)  # geometric mean of its two widths
        colours = solid.texture.colours(at, footprint) if solid.texture else np.full(ray.shape, 255, np.float32)
        sun = np.maximum(_SUN @ normals, 0)
        lit = np.flatnonzero(sun)  # a convex body throws no shadow on its own sunny side
        sun[lit[_in_shadow([other for other in solids if other is not solid], points[:, lit])]] = 0
        above = np.float32(0.7) + np.float32(0.3) * normals[2]
        colours *= colours * np.float32(1 / 255**2) * (_SUNLIGHT * sun + _SKYLIGHT * above)
        clear = np.exp(-np.square(far * length / np.float32(_CLEAR)))
        light[:, hit] = _HORIZON + clear * (colours - _HORIZON)
    return light


def _in_shadow(solids: Sequence[Solid], points: Float32) -> Mask:
    """bool [K]: whether any of the solids hides the sun from each of the points [3, K]."""
    shadow = np.zeros(points.shape[1], np.bool_)
    if not len(shadow):
        return shadow
    axes = look_at(np.zeros(3), _SUN.astype(np.float64)).rotation.astype(np.float32)
    x, y, towards = seen = axes @ points  # the third axis points to the sun
    low, high = seen.min(axis=1), seen.max(axis=1)
    for solid in solids:
        center, radius = solid.bound
        place = axes @ center
        if np.isinf(radius) or (place < low - radius)[:2].any() or (place > high + radius)[:2].any():
            continue  # the ground is below everything; other solids are too far away
        near = np.square(x - place[0]) + np.square(y - place[1]) < radius**2
        near = np.flatnonzero(near & (towards < place[2] + radius))
        shadow[near] |= np.isfinite(solid.distance(points[:, near], _SUN[:, None]))
    return shadow


# ---- the kit's own scene ----


def plaza(seed: int = 0) -> tuple[Solid, ...]:
    """A painted obelisk on a paved disc, with blocks, drums and balls: 10 m across, every face different."""
    return _painted(seed)


@lru_cache(maxsize=1)  # painting takes seconds; a painted plaza takes 50 MB
def _painted(seed: int) -> tuple[Solid, ...]:
    rng = np.random.default_rng(seed)
    stone, brick, teal, ochre = ("d8c9a6", "a88f68"), ("c4694a", "943f2c"), ("6fb0a8", "35707a"), ("ecc05c", "bd832e")
    slate, rose, moss = ("9db0c8", "566a8c"), ("e0a698", "b06a62"), ("a3b878", "617a42")
    solids: list[tuple[Solid, tuple[str, str]]] = [
        (Block((0, 0, 0), (3.0, 3.0, 0.35), 0.3), slate),
        (Block((0, 0, 0.35), (1.9, 1.9, 0.45), 0.3), rose),
        (Block((0, 0, 0.8), (1.24, 1.24, 3.1), 0.3, taper=(0.58, 0.58)), stone),
        (Block((0, 0, 3.9), (0.72, 0.72, 0.55), 0.3, taper=(0.02, 0.02)), ochre),
        (Block((3.1, 1.2, 0), (1.6, 1.2, 1.4), 0.5), brick),
        (Block((3.1, 1.2, 1.4), (1.84, 1.44, 0.6), 0.5, taper=(1.0, 0.02)), slate),
        (Block((-1.3, 3.2, 0), (2.0, 0.9, 1.1), -0.35), teal),
        (Block((-3.1, -1.5, 0), (1.1, 1.4, 2.0), 0.15, taper=(0.8, 0.8)), ochre),
        (Block((1.0, -3.3, 0), (1.5, 1.0, 0.8), -0.6), rose),
        (Cylinder((1.1, 3.0, 0), (1.0, 1.0, 1.7)), moss),
        (Cylinder((-3.0, 1.3, 0), (1.4, 1.4, 0.8)), brick),
        (Cylinder((3.2, -1.6, 0), (0.84, 0.84, 2.2)), stone),
        (Sphere((-3.0, 1.3, 0.8), (1.0, 1.0, 1.0)), teal),
        (Sphere((1.0, -3.3, 0.8), (0.84, 0.84, 0.84)), moss),
        (Sphere((-1.0, -2.6, 0), (1.2, 1.2, 1.2)), slate),
        (Sphere((3.2, -1.6, 2.2), (0.7, 0.7, 0.7)), ochre),
    ]
    painted = [replace(solid, texture=Texture.of(paint(rng, solid.sheet, colours))) for solid, colours in solids]
    return (Ground((0, 0, -1), (14, 14, 1), texture=Texture.of(_paved(rng, 7.0, 0.007), 0.007)), *painted)


def _paved(rng: np.random.Generator, half: float, texel: float) -> Pixels:
    """The ground: a stone disc of 5.2 m radius, with a star and rings, in a meadow that ends in one colour."""
    stones = paint(rng, (2 * half, 2 * half), ("cfc6b4", "aaa08e"), 5.0, texel).astype(np.float32)
    axis = np.linspace(-half, half, len(stones), dtype=np.float32)
    away, angle = np.hypot(axis, axis[:, None]), np.arctan2(axis[:, None], axis)
    ray = np.abs(angle * np.float32(6 / np.pi) % 2 - 1)  # 1 along the star's points, 0 between them
    rings = ((4.0, 4.15, "3d5a73"), (4.9, 5.2, "6b6459"))
    tints = [((away > inner) & (away < outer), code) for inner, outer, code in rings]
    for where, code in [(away < 1.9 + 2.0 * ray, "b98d4f"), *tints]:
        stones[where] = 0.45 * stones[where] + 0.55 * _rgb(code)
    fading = np.clip((half - away) / 1.2, 0, 1)
    meadow = _rgb("7d9a55") + 16 * (fading * noise(rng, away.shape, 0.6 / texel))[..., None]
    return np.clip(np.where((away < 5.2)[..., None], stones, meadow), 0, 255).astype(np.uint8)


def write_scene(
    root: Path | str, views: int = 24, size: tuple[int, int] = (640, 480), seed: int = 0, name: str = "plaza"
) -> dict[str, Pose]:
    """Render views of the plaza and write them in the layout of 2024; returns the true poses by `image_path`.

    size: (width, height) in pixels; the camera is `Camera.centred(size)`. Raises `KitError` as `write_layout` does.
    """
    poses = {f"view_{i:03}.jpg": pose for i, pose in enumerate(orbit(max(views, 0), seed))}

    def photos() -> list[Pixels]:
        return render_scene(plaza(seed), Camera.centred(size), list(poses.values()))

    return write_layout(root, name, "synthetic", poses, size, photos, DISTANCES)


def write_layout(
    root: Path | str,
    name: str,
    category: str,
    poses: Mapping[str, Pose],
    size: tuple[int, int],
    photos: Callable[[], Sequence[Pixels]],
    thresholds: Sequence[float],
) -> dict[str, Pose]:
    """Write one scene in the layout of the 2024 competition; returns the true poses by `image_path`, in the same order.

    poses: true poses by file name. photos: renders the photos, in the same order and of `size` = (width, height).
    thresholds: the score's distances, in metres.

    Writes under `root`: `test/<name>/images/*`, `test/categories.csv`, `sample_submission.csv`, the true
    world-to-camera poses in `truth.csv`, and `thresholds.json`. Raises `KitError` when one of them cannot be written,
    and for no views or images under 16 pixels.
    """
    if not poses or min(size) < 16:
        asked = f"{len(poses)} views of {size[0]} × {size[1]} pixels"
        raise KitError(f"cannot render {asked}: ask for at least one view of at least 16 × 16 pixels")
    root = Path(root)
    columns = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    paths = {f"test/{name}/images/{image}": pose for image, pose in poses.items()}

    def rows(answers: Mapping[str, Pose]) -> list[dict[str, str]]:
        fields = ((path, name, name, *format_pose(pose)) for path, pose in answers.items())
        return [dict(zip(columns, row, strict=True)) for row in fields]

    try:
        (root / "test" / name / "images").mkdir(parents=True, exist_ok=True)
        for path, photo in zip(paths, photos(), strict=True):
            jpeg = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            (root / path).write_bytes(jpeg.tobytes())
        (root / "thresholds.json").write_text(json.dumps({name: thresholds}) + "\n", encoding="utf-8")
    except OSError as error:
        raise KitError(f"cannot write the scene to {root}: {error.strerror or error}") from error
    write_table(root / "test" / "categories.csv", ("scene", "categories"), [{"scene": name, "categories": category}])
    write_table(root / "sample_submission.csv", columns, rows(dict.fromkeys(paths, Pose.identity())))
    write_table(root / "truth.csv", columns, rows(paths))
    return paths
