"""A synthetic drone flight with known cameras and noisy GPS: painted fields, hills and houses seen from above.

The world is rendered at a tenth of its size, because the plaza's textures and haze are made for a few metres.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from imc_kit.colmap.geodesy import geographic
from imc_kit.errors import KitError
from imc_kit.synthetic.plaza import Block, Camera, Ground, Solid, Sphere, Texture, paint, render_scene, write_layout
from imc_kit.types import Pixels, Pose

ORIGIN = 47.3765, 8.5478, 440.0
"""Latitude, longitude (WGS84) and altitude of (0, 0, 0), the middle of the ground."""
DISTANCES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The score's thresholds, in metres."""
_METRES = 10.0
"""Metres per unit of the rendered world."""
_ALTITUDE = 60.0
_SPACING = 12.0, 15.0
"""Metres between photos of a flight line, and between lines. Photos cover 67 × 50 m: they overlap by 76 and 77 %."""
_TILT = 25.0
"""Degrees from straight down of every third photo, alternately ahead and back. Straight views alone bend a model."""
_TEXEL = 0.012
"""Units: the side of a texture's pixel. A pixel of a photo covers 0.02 units."""
_COLOURS = ("8fa35c", "566b3a"), ("b9a06c", "8a7446"), ("c4694a", "943f2c"), ("9db0c8", "566a8c"), ("d8c9a6", "a88f68")


def flight(images: int, seed: int = 0) -> list[Pose]:
    """Poses of a drone that flies to and fro in lines, in metres east, north and up of `ORIGIN`.

    The lines have twice as many photos as there are lines; the last may be shorter.
    """
    rng = np.random.default_rng(seed)
    per_line = max(1, round(np.sqrt(2 * images)))
    lines = -(-images // per_line)
    poses = []
    for number in range(images):
        line, place = divmod(number, per_line)
        heading = 0.0 if line % 2 == 0 else np.pi
        along = (place - (per_line - 1) / 2) * (1 if line % 2 == 0 else -1)
        center = np.array([(line - (lines - 1) / 2) * _SPACING[1], along * _SPACING[0], _ALTITUDE])
        tilt = np.radians(_TILT) * ((number % 3 == 0) * (1 if number % 2 else -1)) + rng.normal(0, 0.03)
        yaw = heading + rng.normal(0, 0.05)
        north = np.array([np.sin(yaw), np.cos(yaw), 0.0])
        forward = np.sin(tilt) * north - np.cos(tilt) * np.array([0.0, 0.0, 1.0])
        right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
        rotation = np.stack([right, np.cross(forward, right), forward])
        poses.append(Pose.from_center(rotation, center + rng.normal(0, 1.0, 3)))
    return poses


@lru_cache(maxsize=1)  # painting takes seconds
def fields(width: float, height: float, seed: int = 0) -> tuple[Solid, ...]:
    """Ground of `width` × `height` units with hills, and houses between them."""
    rng = np.random.default_rng(seed)

    def at() -> tuple[float, float, float]:
        return rng.uniform(-width / 2, width / 2), rng.uniform(-height / 2, height / 2), 0.0

    solids: list[Solid] = []
    for _ in range(round(width * height / 40)):  # one per 4000 m²
        x, y, _ = at()
        high = rng.uniform(0.6, 1.6)  # its lower half is in the ground
        solids.append(Sphere((x, y, -high / 2), (rng.uniform(3, 6), rng.uniform(3, 6), high), rng.uniform(0, 3)))
    for _ in range(round(width * height / 25)):
        size = rng.uniform(0.8, 1.6), rng.uniform(0.8, 1.6), rng.uniform(0.5, 1.4)
        taper = (1.0, 0.1) if rng.random() < 0.5 else (1.0, 1.0)
        solids.append(Block(at(), size, rng.uniform(0, 3), taper=taper))
    painted = [
        replace(solid, texture=Texture.of(paint(rng, solid.sheet, _COLOURS[rng.integers(5)], 3, _TEXEL), _TEXEL))
        for solid in solids
    ]
    sheet = paint(rng, (width, height), _COLOURS[0], 8, _TEXEL)
    return (Ground((0, 0, -1), (width, height, 1), texture=Texture.of(sheet, _TEXEL)), *painted)


def gps_exif(latitude: float, longitude: float, altitude: float) -> bytes:
    """An EXIF block with a position, as cameras write it: degrees, minutes and ten-thousandths of a second."""

    def parts(degrees: float) -> tuple[IFDRational, ...]:
        minutes, rest = divmod(round(abs(degrees) * 36_000_000), 600_000)
        return IFDRational(minutes // 60), IFDRational(minutes % 60), IFDRational(rest, 10_000)

    exif = Image.Exif()
    exif[0x8825] = {
        1: "N" if latitude >= 0 else "S", 2: parts(latitude),
        3: "E" if longitude >= 0 else "W", 4: parts(longitude),
        5: b"\x01" if altitude < 0 else b"\x00", 6: IFDRational(round(abs(altitude) * 1000), 1000),
    }  # fmt: skip
    return exif.tobytes()


def write_flight(
    root: Path | str, images: int = 200, size: tuple[int, int] = (320, 240), noise: float = 3.0, seed: int = 0
) -> dict[str, Pose]:
    """Render a flight and write it in the layout of 2024; returns the true poses by `image_path`.

    The poses are in metres east, north and up of `ORIGIN`. Each photo's EXIF has its GPS position.

    size: (width, height) in pixels. noise: standard deviation of the GPS in metres, in each direction.
    Raises `KitError` as `write_layout` does.
    """
    if images < 1:
        raise KitError(f"cannot render a flight of {images} images: ask for at least one")
    poses = {f"flight_{number:04}.jpg": pose for number, pose in enumerate(flight(images, seed))}
    small = [Pose.from_center(pose.rotation, pose.center / _METRES) for pose in poses.values()]
    ground = 2 * np.abs([pose.center[:2] for pose in small]).max(axis=0) + 14.0  # as far as tilted photos see

    def photos() -> list[Pixels]:
        return render_scene(fields(*map(float, ground), seed), Camera.centred(size), small)

    paths = write_layout(root, "flight", "drone", poses, size, photos, DISTANCES)
    for path, block in zip(paths, _noisy_gps(poses, noise, seed), strict=True):
        photo = Path(root) / path
        photo.write_bytes(_with_exif(photo.read_bytes(), block))
    return paths


def _noisy_gps(poses: Mapping[str, Pose], noise: float, seed: int) -> list[bytes]:
    rng = np.random.default_rng([seed, 1])  # not the flight's own numbers
    centers = np.array([pose.center for pose in poses.values()])
    places = geographic(centers + rng.normal(0, noise, centers.shape), ORIGIN)
    return [gps_exif(*map(float, place)) for place in places]


def _with_exif(jpeg: bytes, block: bytes) -> bytes:
    """A JPEG file with a block of EXIF, which starts with "Exif", behind its first marker."""
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]
