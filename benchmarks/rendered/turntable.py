"""A synthetic turntable with known cameras: a glazed jug without texture, on which local features fail.

The jug rotates on the turntable; the camera, the lamps and the backdrop stay. The poses are in the jug's frame, where
the camera moves round the jug, with lamps and backdrop fixed to it. The world is in metres, its z axis points up, and
the origin is in the middle of the jug. Points are [3, K], as in `plaza`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from imc_kit.synthetic.plaza import Camera, look_at, noise, on_all_processors, vector, write_layout
from imc_kit.types import Float32, Pixels, Pose

DISTANCES = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""The score's thresholds for the jug, in metres: those of the transparent scenes of the 2024 competition."""

# The shape and the look were chosen by eye.
_REACH = 0.105
"""Metres: the radius of a ball around the origin that contains the jug."""
_NEAR = 2e-4
"""Metres: a point this near to the surface counts as on it. A pixel of the default photo covers five times that."""
_STEPS = 48
"""Maximum number of steps along a ray. Rays that have not ended by then graze the surface and count as hits."""
_BLEND = np.float32(0.012)
"""Metres: the width of the rounded transition between two parts of the jug."""
_LAMPS = (((-0.55, -0.65, -0.55), 0.75), ((0.80, -0.25, -0.45), 0.30))
"""Directions to the lamps along the camera's axes (right, down, forward), and their brightness."""
_GLAZE = np.array([[0.30], [0.52], [0.58]], np.float32)
_GLOSS = np.float32(70)
"""The exponent of the highlights (Blinn, 1977): larger makes them smaller."""


def circle_of_views(views: int, seed: int = 0) -> list[Pose]:
    """Poses on a circle round the z axis, evenly spaced, looking at the origin: radius 0.45 m, height 0.2 m.

    seed: sets the first angle.
    """
    start = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    angles = start + np.arange(views) * 2 * np.pi / max(views, 1)
    return [look_at(np.array([0.45 * np.cos(a), 0.45 * np.sin(a), 0.2]), np.zeros(3)) for a in angles]


def distance_to_jug(points: Float32) -> Float32:
    """The signed distance in metres from points [3, K] to the surface, [K]: negative inside.

    It is almost never too large, so sphere tracing does not step through the surface. The belly and the neck are round;
    a handle, a spout and a dent make every side different.
    """
    x, y, z = points
    away = np.hypot(x, y)
    belly = np.sqrt(np.square(away) + np.square((z + np.float32(0.025)) * np.float32(0.9))) - np.float32(0.05)
    neck = np.hypot(away - np.float32(0.024), np.maximum(np.abs(z - np.float32(0.045)) - np.float32(0.022), 0))
    jug = _blended(belly, neck - np.float32(0.006))
    handle = np.hypot(np.hypot(x - np.float32(0.05), z - np.float32(0.015)) - np.float32(0.034), y) - np.float32(0.0075)
    jug = _blended(jug, handle)
    low, along = vector(-0.022, 0.038, -0.02)[:, None], vector(-0.022, 0.038, 0.065)[:, None]  # the axis of the spout
    part = np.clip(((points - low) * along).sum(axis=0) / (along * along).sum(), 0, 1)
    jug = _blended(jug, np.linalg.norm(points - low - part * along, axis=0) - np.float32(0.009))
    dent = np.linalg.norm(points - vector(-0.045, -0.05, -0.03)[:, None], axis=0) - np.float32(0.03)
    return -_blended(-jug, dent)


def _blended(first: Float32, second: Float32) -> Float32:
    """The union of two bodies with the crease between them filled (Quílez's polynomial smooth minimum)."""
    share = np.maximum(_BLEND - np.abs(first - second), 0)
    return np.asarray(np.minimum(first, second) - share * share / (4 * _BLEND), np.float32)


def _depth(origin: Float32, rays: Float32) -> Float32:
    """The distance in metres, [K], from `origin` [3, 1] along unit `rays` [3, K] to the jug; inf for rays that miss it.

    Sphere tracing (Hart, 1996): every step is as long as the distance to the nearest surface.
    """
    closest = -(origin * rays).sum(axis=0)
    depth = np.full(rays.shape[1], np.inf, np.float32)
    walking = np.flatnonzero((np.square(origin + closest * rays)).sum(axis=0) < _REACH**2)
    at = closest[walking] - np.float32(_REACH)
    for _ in range(_STEPS):
        step = distance_to_jug(origin + at * rays[:, walking])
        there = step < _NEAR
        depth[walking[there]] = at[there]
        at = at + step
        going = ~there & (at < closest[walking] + np.float32(_REACH))
        walking, at = walking[going], at[going]
    depth[walking] = at
    return depth


def _rays(camera: Camera, pose: Pose, samples: int) -> Float32:
    """Unit directions [3, K] in the world, row by row, with `samples` × `samples` rays in each pixel."""
    columns, rows = (
        (np.arange(side * samples) + 0.5) / samples - 0.5 - center
        for side, center in ((camera.width, camera.cx), (camera.height, camera.cy))
    )
    x, y = np.meshgrid(columns / camera.focal, rows / camera.focal)
    rays = pose.rotation.T @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return np.asarray(rays / np.linalg.norm(rays, axis=0), np.float32)


def _normals(points: Float32) -> Float32:
    """Unit normals [3, K] of the surface, from the distances at the four corners of a tetrahedron."""
    corners = np.array([(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)], np.float32)[..., None]
    slopes = sum(corner * distance_to_jug(points + np.float32(5e-4) * corner) for corner in corners)
    return np.asarray(slopes / np.linalg.norm(slopes, axis=0), np.float32)


def render_jug(camera: Camera, pose: Pose, backdrop: Float32, samples: int = 2) -> Float32:
    """Render the jug in front of `backdrop`: light [3, h, w], each pixel the mean of `samples` × `samples` rays."""
    axes, origin = pose.rotation.astype(np.float32), pose.center.astype(np.float32)[:, None]
    rays = _rays(camera, pose, samples)
    depth = _depth(origin, rays)
    hit = np.flatnonzero(np.isfinite(depth))
    points = origin + depth[hit] * rays[:, hit]
    normals = _normals(points)
    body = _GLAZE * (np.float32(0.85) + 2 * points[2])  # a little paler towards the rim
    light = body * (np.float32(0.22) + np.float32(0.10) * normals[2])
    for towards, power in _LAMPS:
        lamp = axes.T @ (np.array(towards, np.float32) / np.linalg.norm(towards).astype(np.float32))
        halfway = lamp[:, None] - rays[:, hit]
        halfway /= np.linalg.norm(halfway, axis=0)
        light += np.float32(power) * body * np.maximum(lamp @ normals, 0)
        light += np.float32(power) * np.maximum((halfway * normals).sum(axis=0), 0) ** _GLOSS
    image = backdrop.repeat(samples, axis=1).repeat(samples, axis=2).reshape(3, -1)
    image[:, hit] = np.minimum(light, 1)
    return np.asarray(image.reshape(3, camera.height, samples, camera.width, samples).mean(axis=(2, 4)), np.float32)


def _backdrop(camera: Camera, seed: int) -> Float32:
    """Light [3, h, w] of the mottled wall behind the jug and the table below it, the same in every photo."""
    rng = np.random.default_rng(seed)
    mottle = noise(rng, (camera.height, camera.width), max(camera.width / 12, 3.0), 3.0)
    down = np.linspace(0, 1, camera.height, dtype=np.float32)[:, None]
    table = 1 / (1 + np.exp((np.float32(0.62) - down) * 40))
    grey = 0.40 - 0.12 * down + 0.10 * table + 0.012 * mottle
    return np.asarray(np.stack([grey, 0.98 * grey, 0.94 * grey]), np.float32)


def render_turntable(camera: Camera, poses: Sequence[Pose], seed: int = 0, samples: int = 2) -> list[Pixels]:
    """Render a photo, uint8 [h, w, 3], for each pose, in order, on all processors; the grain differs between photos.

    samples: each pixel is the mean of `samples` × `samples` rays.
    """
    wall = _backdrop(camera, seed)

    def photo(number: int) -> Pixels:
        light = np.sqrt(render_jug(camera, poses[number], wall, samples)) * 255
        grain = np.random.default_rng((seed, number)).normal(0, 1.5, light.shape)
        return np.ascontiguousarray(np.moveaxis(np.clip(light + grain, 0, 255).round().astype(np.uint8), 0, 2))

    return on_all_processors(photo, range(len(poses)))


def write_turntable(
    root: Path | str, views: int = 36, size: tuple[int, int] = (320, 240), seed: int = 0, name: str = "jug",
    samples: int = 2,
) -> dict[str, Pose]:  # fmt: skip
    """Render views of the jug and write them with `plaza.write_layout`, in the category `transparent`.

    Returns the true poses by `image_path`; the file names do not follow the circle. size: (width, height) in pixels;
    the focal length is 1.5 widths. samples: as for `render_turntable`. Raises `KitError` as `plaza.write_layout` does.
    """
    camera = Camera.centred(size, 1.5 * size[0])
    circle = circle_of_views(max(views, 0), seed)
    shuffled = np.random.default_rng(seed).permutation(len(circle))
    poses = {f"{number:03}.jpg": circle[place] for number, place in enumerate(shuffled)}
    photos = partial(render_turntable, camera, list(poses.values()), seed, samples)
    return write_layout(root, name, "transparent", poses, size, photos, DISTANCES)
