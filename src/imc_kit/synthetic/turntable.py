"""A synthetic turntable with known cameras: a glazed jug without a texture, the kind of scene that features fail on.

The jug turns; the camera, the lamps and the backdrop stay, so that the highlights and the backdrop stay too. It is the
same as a camera that goes round the jug with everything else fixed to it, and that is how the poses say it. The world
is in metres, its z axis points up, and the origin is in the middle of the jug. Points are component first, [3, K], as
in `render`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from imc_kit.metric import TRANSPARENT_THRESHOLDS
from imc_kit.synthetic.plaza import Camera, look_at, noise, write_layout
from imc_kit.types import Float32, Pixels, Pose

_REACH = 0.105  # metres: a ball of this radius around the origin holds the jug
_NEAR = 2e-4  # metres: what is as near as this to the surface is on it
_STEPS = 48
_BUNDLE = 8  # rays along each side of a bundle
_BLEND = np.float32(0.012)  # metres: how far parts flow into each other

# Directions to the lamps in the camera's own axes (right, down, forward), and how bright they are.
_LAMPS = (((-0.55, -0.65, -0.55), 0.75), ((0.80, -0.25, -0.45), 0.30))
_GLAZE = np.array([[0.30], [0.52], [0.58]], np.float32)
_GLOSS = 70.0  # Blinn's and Phong's exponent


def circle_of_views(views: int, seed: int = 0, distance: float = 0.45, height: float = 0.2) -> list[Pose]:
    """Once round the z axis in even steps, looking at the origin; the seed says where it begins. In metres."""
    start = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    angles = start + np.arange(views) * 2 * np.pi / max(views, 1)
    return [look_at(np.array([distance * np.cos(a), distance * np.sin(a), height]), np.zeros(3)) for a in angles]


def distance_to_jug(points: Float32) -> Float32:
    """From points [3, K] to the surface in metres, negative inside, never more than the true distance by much; [K].

    A belly and a neck of revolution; a handle, a spout and a dent on three sides make every view another.
    """
    x, y, z = points
    away = np.hypot(x, y)
    belly = np.sqrt(np.square(away) + np.square((z + np.float32(0.025)) * np.float32(0.9))) - np.float32(0.05)
    neck = np.hypot(away - np.float32(0.024), np.maximum(np.abs(z - np.float32(0.045)) - np.float32(0.022), 0))
    jug = _blended(belly, neck - np.float32(0.006))
    handle = np.hypot(np.hypot(x - np.float32(0.05), z - np.float32(0.015)) - np.float32(0.034), y) - np.float32(0.0075)
    jug = _blended(jug, handle)
    jug = _blended(jug, _capsule(points, (-0.022, 0.038, -0.02), (-0.044, 0.076, 0.045), 0.009))
    return -_blended(-jug, np.linalg.norm(points - _column(-0.045, -0.05, -0.03), axis=0) - np.float32(0.03))


def _column(*values: float) -> Float32:
    return np.array(values, np.float32)[:, None]


def _blended(first: Float32, second: Float32) -> Float32:
    """The union of two bodies with the crease between them filled."""
    share = np.maximum(_BLEND - np.abs(first - second), 0)
    return np.asarray(np.minimum(first, second) - share * share / (4 * _BLEND), np.float32)


def _capsule(
    points: Float32, start: tuple[float, float, float], end: tuple[float, float, float], radius: float
) -> Float32:
    low, along = _column(*start), _column(*end) - _column(*start)
    part = np.clip(((points - low) * along).sum(axis=0) / (along * along).sum(), 0, 1)
    return np.asarray(np.linalg.norm(points - low - part * along, axis=0) - np.float32(radius), np.float32)


def _walk(origin: Float32, rays: Float32, start: Float32, width: float) -> Float32:
    """How far along unit `rays` [3, K] from `origin` [3, 1] and from `start` [K] on the jug is, metres [K]; else inf.

    width: of the bundle around each ray, in radians; the walk ends where it may touch the jug.
    """
    closest = -(origin * rays).sum(axis=0)
    inside = np.square(origin + closest * rays).sum(axis=0) < (_REACH + width) ** 2
    depth = np.full(rays.shape[1], np.inf, np.float32)
    walking = np.flatnonzero(inside & np.isfinite(start))
    at = np.maximum(start, closest - np.float32(_REACH + width))[walking]
    for _ in range(_STEPS):  # each step goes as far as nothing can be in the way
        step = distance_to_jug(origin + at * rays[:, walking]) - np.float32(width) * at
        there = step < _NEAR
        depth[walking[there]] = at[there]
        at = at + step
        going = ~there & (at < closest[walking] + np.float32(_REACH))
        walking, at = walking[going], at[going]
    depth[walking] = at  # along the surface, and as good as on it
    return depth


def _rays(camera: Camera, pose: Pose, columns: Float32, rows: Float32) -> Float32:
    """Unit directions [3, K] through columns × rows, row by row."""
    x, y = np.meshgrid((columns - camera.cx) / camera.focal, (rows - camera.cy) / camera.focal)
    rays = pose.rotation.T @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return np.asarray(rays / np.linalg.norm(rays, axis=0), np.float32)


def _normals(points: Float32) -> Float32:
    corners = np.array([(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)], np.float32)[..., None]
    slopes = sum(corner * distance_to_jug(points + np.float32(5e-4) * corner) for corner in corners)
    return np.asarray(slopes / np.linalg.norm(slopes, axis=0), np.float32)


def render_jug(camera: Camera, pose: Pose, backdrop: Float32, samples: int = 2) -> Float32:
    """Light [3, h, w] before `backdrop` [3, h, w]; every pixel is the mean of `samples` × `samples` rays."""
    columns, rows = (
        ((np.arange(side * samples) + 0.5) / samples - 0.5).astype(np.float32) for side in (camera.width, camera.height)
    )
    axes, origin = pose.rotation.astype(np.float32), pose.center.astype(np.float32)[:, None]
    # Bundles of rays first: most pass the jug by, and the others are almost there when they part.
    coarse = [(side[::_BUNDLE] + np.float32((_BUNDLE - 1) / 2 / samples)) for side in (columns, rows)]
    bundles = _rays(camera, pose, *coarse)
    width = 0.75 * _BUNDLE / samples / camera.focal  # to their corners, and a little more
    start = _walk(origin, bundles, np.zeros(bundles.shape[1], np.float32), width)
    start = start.reshape(len(coarse[1]), -1).repeat(_BUNDLE, axis=0).repeat(_BUNDLE, axis=1)
    rays = _rays(camera, pose, columns, rows)
    depth = _walk(origin, rays, start[: len(rows), : len(columns)].ravel(), 0.0)
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
        light += np.float32(power) * np.maximum((halfway * normals).sum(axis=0), 0) ** np.float32(_GLOSS)
    image = np.repeat(np.repeat(backdrop, samples, axis=1), samples, axis=2).reshape(3, -1)
    image[:, hit] = np.minimum(light, 1)
    return np.asarray(image.reshape(3, camera.height, samples, camera.width, samples).mean(axis=(2, 4)), np.float32)


def backdrop(camera: Camera, seed: int = 0) -> Float32:
    """Light [3, h, w] of the mottled wall behind the jug and the table below it, the same in every photograph."""
    rng = np.random.default_rng(seed)
    mottle = noise(rng, (camera.height, camera.width), max(camera.width / 12, 3.0), 3.0)
    down = np.linspace(0, 1, camera.height, dtype=np.float32)[:, None]
    table = 1 / (1 + np.exp((np.float32(0.62) - down) * 40))
    grey = 0.40 - 0.12 * down + 0.10 * table + 0.012 * mottle
    return np.asarray(np.stack([grey, 0.98 * grey, 0.94 * grey]), np.float32)


def render_turntable(camera: Camera, poses: Sequence[Pose], seed: int = 0) -> list[Pixels]:
    """A photograph uint8 [h, w, 3] for every pose, in order, on all processors; each has grain of its own."""
    wall = backdrop(camera, seed)

    def photograph(number: int) -> Pixels:
        light = np.sqrt(render_jug(camera, poses[number], wall)) * 255
        grain = np.random.default_rng((seed, number)).normal(0, 1.5, light.shape)
        return np.ascontiguousarray(np.moveaxis(np.clip(light + grain, 0, 255).round().astype(np.uint8), 0, 2))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(photograph, range(len(poses))))


def write_turntable(
    root: Path | str, views: int = 36, size: tuple[int, int] = (320, 240), seed: int = 0, name: str = "jug"
) -> dict[str, Pose]:
    """Photograph the jug and lay it out as `render.write_layout` does, in the category `transparent`.

    Returns the true poses by `image_path`; in the order of the names the views are shuffled. The camera is
    `Camera.centred` with a focal length of 1.5 widths. Raises `KitError` as `render.write_layout` does.
    """
    camera = Camera.centred(size, 1.5 * size[0])
    turn = circle_of_views(max(views, 0), seed)
    shuffled = np.random.default_rng(seed).permutation(len(turn))
    poses = {f"{number:03}.jpg": turn[place] for number, place in enumerate(shuffled)}
    return write_layout(
        root, name, "transparent", poses, size,
        lambda: render_turntable(camera, list(poses.values()), seed), TRANSPARENT_THRESHOLDS,
    )  # fmt: skip
