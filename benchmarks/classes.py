"""Rendered scenes of the classes on which reconstruction fails, with exact poses, and the kit's score on each class.

    python benchmarks/classes.py FOLDER [--samples 5] [--classes twins mug] [--views 20] [--preset sift] [--seed 0]

It writes each scene to FOLDER/CLASS0, CLASS1, … in a competition's layout, and scores the preset class by class.
`python benchmarks/ablation.py FOLDER/*` compares options on them, as on real scenes. Each sample has other objects,
textures and cameras.

- turning: an object turns in front of a background that does not move: black, white or textured
- twins: two equal objects in different surroundings, photographed from all sides and from further away
- mug: a mug with the same print on both sides and a handle, on a table with a few marks
- mixed: the plaza in photos of several sizes, cropped off-centre, some grey, some strongly compressed
- night: the plaza, half of the photos taken at night: dark, noisy, and lit by a lamp in the middle
- plain: solids with hardly any texture
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ablation import run
from imc_kit.config import preset
from imc_kit.data import scenes
from imc_kit.errors import KitError
from imc_kit.synthetic import plaza
from imc_kit.synthetic.plaza import Block, Camera, Cylinder, Ground, Solid, Sphere, Texture, look_at, noise, paint
from imc_kit.types import Float64, Pixels, Pose

SIZE = 640, 480
COLOURS = "d8c9a6", "c4694a", "6fb0a8", "ecc05c", "9db0c8", "e0a698", "a3b878", "35707a", "a88f68", "566a8c"
Rng = np.random.Generator
Sample = tuple[list[Pose], Callable[[], Sequence[Pixels]], float]
"""The cameras of a scene, what renders its photos, and its size in metres."""


def sheet(rng: Rng, solid: Solid) -> Solid:
    """The solid with a painted texture of its own."""
    return replace(solid, texture=Texture.of(paint(rng, solid.sheet, tuple(rng.choice(COLOURS, 2)))))


def statue(
    rng: Rng, foot: tuple[float, float, float] = (0, 0, 0), paints: Callable[[Solid], Solid] | None = None
) -> list[Solid]:
    """A stack of solids, 0.7 m wide and 1.2 m high, no two stacks alike."""
    paints = paints or partial(sheet, rng)
    solids: list[Solid] = [Block(foot, (0.6, 0.6, 0.25), rng.uniform(0, 1.5))]
    x, y, z = foot
    for number in range(5):
        side = rng.uniform(0.2, 0.45)
        size = side, side * rng.uniform(0.6, 1), rng.uniform(0.2, 0.5)
        place = x + rng.uniform(-0.15, 0.15), y + rng.uniform(-0.15, 0.15), z + 0.15 + 0.14 * number
        kind = (Block, Cylinder, Sphere)[rng.integers(3)]
        solids.append(kind(place, size, rng.uniform(0, 3)))
    return [paints(solid) for solid in solids]


def ground(rng: Rng, side: float, colours: tuple[str, str], motifs: float) -> Solid:
    """A square of ground that fades into one colour towards its border, which continues outside."""
    image = paint(rng, (side, side), colours, motifs, texel=0.01).astype(np.float32)
    axis = np.minimum(np.arange(len(image)), np.arange(len(image))[::-1]) / (0.15 * len(image))
    fade = np.clip(np.minimum(axis, axis[:, None]) - 0.1, 0, 1)[..., None]
    image = image.mean((0, 1)) + fade * (image - image.mean((0, 1)))
    return Ground((0, 0, -1), (side, side, 1), texture=Texture.of(image.astype(np.uint8), 0.01))


def ring(rng: Rng, views: int, away: float, target: Float64, jitter: float = 0.1) -> list[Pose]:
    """Cameras round a target: distance and height vary by `jitter`."""
    angles = (np.arange(views) + rng.uniform(-0.2, 0.2, views)) * 2 * np.pi / views
    poses = []
    for angle in angles:
        far, up = away * (1 + jitter * rng.uniform(-1, 1, 2))
        center = target + np.array([far * np.cos(angle), far * np.sin(angle), 0.4 * up])
        poses.append(look_at(center, target + rng.normal(0, 0.02 * away, 3)))
    return poses


def turning(rng: Rng, views: int, number: int) -> Sample:
    solids, camera = statue(rng), Camera.centred(SIZE, 1.4 * SIZE[0])
    poses = ring(rng, views, 2.6, np.array([0, 0, 0.55]), jitter=0.0)
    behind = np.full((SIZE[1], SIZE[0], 3), (0, 255)[number % 2], np.uint8)
    if number % 3 == 2:
        behind = cv2.resize(paint(rng, (3.2, 2.4), ("6b6459", "8a8f98")), SIZE, interpolation=cv2.INTER_AREA)

    def photo(pose: Pose) -> Pixels:
        columns, rows = (np.arange(side, dtype=np.float32) for side in SIZE)
        sky = plaza.cast(solids, camera, pose, columns, rows)[2] < 0
        sky = cv2.dilate(sky.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # pixels on the border are of both
        return np.where(sky[..., None], behind, plaza.render(solids, camera, pose))

    return poses, lambda: plaza.on_all_processors(photo, poses), 1.0


def twins(rng: Rng, views: int, number: int) -> Sample:
    seed, apart = int(rng.integers(1 << 30)), rng.uniform(2.5, 4)
    middles = [(-apart / 2, 0.0, 0.0), (apart / 2, rng.uniform(-0.5, 0.5), 0.0)]
    solids: list[Solid] = [ground(rng, 14.0, ("a3b878", "cfc6b4"), 2.0)]
    for x, y, z in middles:
        solids += statue(np.random.default_rng(seed), (x, y, z))
        for angle in rng.uniform(0, 2 * np.pi, 3):
            near = x + 0.9 * np.cos(angle), y + 0.9 * np.sin(angle), z
            solids.append(sheet(rng, Block(near, tuple(rng.uniform(0.15, 0.35, 3)), rng.uniform(0, 3))))
    third = views // 3
    poses = [pose for middle in middles for pose in ring(rng, third, 2.4, np.add(middle, (0, 0, 0.5)))]
    poses += ring(rng, views - 2 * third, apart + 2.5, np.array([0, 0, 0.5]))
    return poses, lambda: plaza.render_scene(solids, Camera.centred(SIZE), poses), 2.0


def mug(rng: Rng, views: int, number: int) -> Sample:
    body = Cylinder((0, 0, 0), (0.8, 0.8, 1.0))
    image = np.full(paint(rng, body.sheet, ("f4f1e6", "f4f1e6"), 0.0).shape, 235, np.uint8)
    height, width = image.shape[0] // 2, image.shape[1] // 3
    printed = paint(rng, (0.8, 1.0), tuple(rng.choice(COLOURS, 2)), 60.0)
    printed = cv2.resize(printed, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    for row in (0, 1):  # the sides −x and +x of the sheet are in its first column
        down, right = row * height + height // 4, width // 4
        image[down : down + height // 2, right : right + width // 2] = printed
    handle = Block((0, 0.48, 0.25), (0.1, 0.3, 0.5))
    table = ground(rng, 8.0, ("8a6f4d", "94795a"), 0.6)
    solids = [replace(body, texture=Texture.of(image)), sheet(rng, handle), table]
    poses = ring(rng, views, 2.4, np.array([0, 0, 0.4]))
    return poses, lambda: plaza.render_scene(solids, Camera.centred(SIZE, 1.2 * SIZE[0]), poses), 1.0


def mixed(rng: Rng, views: int, number: int) -> Sample:
    poses = plaza.orbit(views, seed=number)
    cuts, sides = rng.uniform(0.0, 0.25, (views, 4)), rng.uniform(0.6, 1.0, views)
    kinds = rng.integers(4, size=views)

    def changed(photo: Pixels, cut: Float64, side: float, kind: int) -> Pixels:
        height, width = photo.shape[:2]
        left, right, top, bottom = (cut * [width, width, height, height]).astype(int)
        photo = photo[top : height - bottom, left : width - right]
        photo = cv2.resize(photo, None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
        if kind == 0:
            photo = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        if kind in (0, 1):
            photo = cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_COLOR)
        return np.asarray(photo, np.uint8)

    def photos() -> Sequence[Pixels]:
        whole = plaza.render_scene(plaza.plaza(number), Camera.centred((960, 720)), poses)
        return [changed(*one) for one in zip(whole, cuts, sides, kinds.tolist(), strict=True)]

    return poses, photos, 10.0


def night(rng: Rng, views: int, number: int) -> Sample:
    poses = plaza.orbit(views, seed=number)
    lamp = np.exp(-(np.hypot(*np.mgrid[-1 : 1 : SIZE[1] * 1j, -1 : 1 : SIZE[0] * 1j]) ** 2))[..., None]

    def dark(photo: Pixels) -> Pixels:
        light = 0.35 * (photo / 255.0) ** 1.3 * lamp * [1.0, 0.85, 0.6] + rng.normal(0, 0.012, photo.shape)
        return (np.clip(light, 0, 1) ** 0.8 * 255).astype(np.uint8)

    def photos() -> Sequence[Pixels]:
        whole = plaza.render_scene(plaza.plaza(number), Camera.centred(SIZE), poses)
        return [dark(photo) if i % 2 else photo for i, photo in enumerate(whole)]

    return poses, photos, 10.0


def plain(rng: Rng, views: int, number: int) -> Sample:
    def smooth(solid: Solid) -> Solid:
        width, height = solid.sheet
        shape = round(height / 0.005), round(width / 0.005)
        colour = np.frombuffer(bytes.fromhex(rng.choice(COLOURS)), np.uint8).astype(np.float32)
        tone = 1 + 0.04 * noise(rng, shape, 60.0, 15.0)[..., None]
        return replace(solid, texture=Texture.of(np.clip(colour * tone, 0, 255).astype(np.uint8)))

    solids = [solid for x in (-0.6, 0.6) for solid in statue(rng, (x, rng.uniform(-0.3, 0.3), 0), smooth)]
    solids.append(smooth(Ground((0, 0, -1), (6, 6, 1))))
    poses = ring(rng, views, 3.2, np.array([0, 0, 0.4]))
    return poses, lambda: plaza.render_scene(solids, Camera.centred(SIZE, 1.2 * SIZE[0]), poses), 2.0


CLASSES = {function.__name__: function for function in (turning, twins, mug, mixed, night, plain)}


def write(root: Path, kind: str, number: int, views: int) -> None:
    """Render one sample of a class, unless it is there."""
    if (root / "truth.csv").exists():
        return
    poses, photos, across = CLASSES[kind](np.random.default_rng([number, len(kind)]), views, number)
    named = {f"view_{i:03}.jpg": pose for i, pose in enumerate(poses)}
    thresholds = [across / 10 * distance for distance in plaza.DISTANCES]
    plaza.write_layout(root, root.name, "synthetic", named, SIZE, photos, thresholds)


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    parser = argparse.ArgumentParser(description="Rendered scenes of the classes that fail, and the kit's scores.")
    parser.add_argument("root", type=Path, help="folder for the scenes; those that are there are used again")
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES), help="default: all")
    parser.add_argument("--samples", type=int, default=5, help="scenes of each class; default: 5")
    parser.add_argument("--views", type=int, default=20, help="photos of each scene; default: 20")
    parser.add_argument("--preset", default="sift", help="default: sift")
    parser.add_argument("--seed", type=int, default=0, help="of the solutions; default: 0")
    arguments = parser.parse_args()
    tasks = []
    for kind in arguments.classes:
        for number in range(arguments.samples):
            write(folder := arguments.root / f"{kind}{number}", kind, number, arguments.views)
            tasks.append(scenes.load(folder))
    config = replace(preset(arguments.preset), seed=arguments.seed)
    with tempfile.TemporaryDirectory() as out:
        found = run(tasks, config, Path(out))
    found["class"] = found["scene"].str.rstrip("0123456789")
    print("| class | mean mAA | by sample (registered images) |\n|---|--:|---|")
    for kind, rows in found.groupby("class", sort=False):
        cells = ", ".join(f"{row.mAA:.2f} ({row.registered})" for row in rows.itertuples())
        print(f"| {kind} | {rows['mAA'].mean():.3f} | {cells} |")
    print(f"| all | {found['mAA'].mean():.3f} | |")


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
