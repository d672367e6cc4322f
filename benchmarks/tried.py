"""What decoding at a reduced size is worth, and what compiled networks and short numbers would be, on a CPU.

    python benchmarks/tried.py ROOT [--scene castle_P19] [--images 6] [--enlarged 4] [--out FILE]

The kit decodes JPEGs at a half, a quarter or an eighth where that is enough, beside: decoded whole, then resized; the
photographs are enlarged for it. The others it does without: ALIKED through `torch.compile`, and in bfloat16; products
of descriptors in bfloat16, and of eight-bit integers. All on one core, as each of the kit's threads has one. ROOT is in
a competition's layout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from compare import _facts, _markdown
from numpy.typing import NDArray
from speed import RATIO, best, row
from threadpoolctl import threadpool_limits

from imc_kit.config import preset
from imc_kit.data import images, scenes
from imc_kit.detectors import aliked, extract
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.errors import KitError, unknown_name
from imc_kit.types import Features, Scene


def main() -> None:
    parser = argparse.ArgumentParser(description="What some ways to be faster are worth.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--scene", default="castle_P19")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--enlarged", type=int, default=4, help="times, before the photographs are decoded; default: 4")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    known = {scene.name: scene for scene in scenes.load(arguments.root).scenes}
    if arguments.scene not in known:
        raise unknown_name("scene", arguments.scene, known)
    scene = replace(known[arguments.scene], images=known[arguments.scene].images[: arguments.images])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        rows = [*decoding(scene, arguments.enlarged), *networks(scene), *products(scene)]
    facts = "\n".join(f"- {fact}: {value}" for fact, value in _facts().items())
    header = ["what", "with: s", "without: s", "times faster", "agreement"]
    text = f"{facts}\n\n{_markdown(header, rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


def decoding(scene: Scene, enlarged: int) -> list[list[str]]:
    """Seconds an image, for the long side that ALIKED asks for and the one that SIFT does."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, name in enumerate(scene.images):
            pixels = images.load(scene.path(name)).pixels
            large = cv2.resize(pixels, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
            paths.append(Path(folder, f"{number}.jpg"))
            paths[-1].write_bytes(images.as_jpeg(np.asarray(large, np.uint8)))
        width, height = images.probe(paths[0]).size

        def whole(long_side: int) -> list[NDArray[Any]]:
            found = []
            for path in paths:
                photo = images.load(path)
                scale = long_side / max(photo.size)
                found.append(cv2.resize(photo.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            return found

        def reduced(long_side: int) -> list[NDArray[Any]]:
            return [images.load(path, long_side).pixels for path in paths]

        for long_side in (800, 1024):
            (ours, mine), (plain, other) = best(partial(reduced, long_side), partial(whole, long_side))
            apart = np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(mine, other, strict=True)])
            what = f"JPEGs of {width} × {height}, decoded for {long_side} pixels, an image"
            rows.append(row(what, ours / len(paths), plain / len(paths), f"{apart:.1f} of 255 apart on average"))
    return rows


def networks(scene: Scene) -> list[list[str]]:
    """Seconds an image of ALIKED, in memory."""
    config = AlikedConfig(device="cpu")
    detector = config.create()
    photos = [images.load(scene.path(name), config.long_side) for name in scene.images]

    def found() -> list[Features]:
        return list(extract(detector, photos))

    def in_bfloat16() -> list[Features]:
        with torch.autocast("cpu", torch.bfloat16):
            return found()

    plainly = aliked._dense_maps
    compiled = torch.compile(plainly)

    def through_compiled() -> list[Features]:
        aliked._dense_maps = compiled
        try:
            return found()
        finally:
            aliked._dense_maps = plainly

    started = time.perf_counter()
    try:
        through_compiled()
    except Exception as error:  # torch.compile wants a C++ compiler, which may be missing
        return [["ALIKED through torch.compile", "–", "–", "–", f"it failed: {str(error).splitlines()[0]}"]]
    took = time.perf_counter() - started
    (compiled_s, mine), (short_s, short), (eager_s, other) = best(through_compiled, in_bfloat16, found)
    count = len(photos)
    said = f"{_alike(mine, other):.4f} of keypoints; the first {count} images took {took:.0f} s"
    return [
        row("ALIKED n16 through torch.compile, an image", compiled_s / count, eager_s / count, said),
        row(
            "ALIKED n16 in bfloat16, an image",
            short_s / count,
            eager_s / count,
            f"{_alike(short, other):.4f} of keypoints",
        ),
    ]


def _alike(mine: Sequence[Features], other: Sequence[Features]) -> float:
    """The share of keypoints that both have, to a twentieth of a pixel."""
    same = sum(
        int((np.linalg.norm(a.keypoints[:, None] - b.keypoints[None], axis=2).min(1) < 0.05).sum())
        for a, b in zip(mine, other, strict=True)
    )
    return same / sum(max(len(a), len(b)) for a, b in zip(mine, other, strict=True))


def products(scene: Scene) -> list[list[str]]:
    """Seconds a pair of the product of all SIFT descriptors with all, without what is read off it."""
    config = preset("sift").detector
    photos = [images.load(scene.path(name), config.load_side) for name in scene.images]
    rows = [np.ascontiguousarray(found.descriptors, np.float32) for found in extract(config.create(), photos)]
    unit = [torch.from_numpy(one / np.linalg.norm(one, axis=1, keepdims=True)) for one in rows]
    pairs = list(combinations(range(len(unit)), 2))
    largest = max(float(one.max()) for one in unit)
    short = [one.bfloat16() for one in unit]
    small = [(one * (127 / largest)).round().to(torch.int8) for one in unit]

    def with_all(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], of: Sequence[torch.Tensor]) -> None:
        for a, b in pairs:
            multiply(of[a], of[b].T)

    (full_s, _), (short_s, _), (small_s, _) = best(
        partial(with_all, torch.mm, unit), partial(with_all, torch.mm, short), partial(with_all, torch._int_mm, small)
    )
    agreement = {
        name: np.mean([_shared(multiply(of[a], of[b].T), unit[a] @ unit[b].T, squared) for a, b in pairs])
        for name, multiply, of, squared in (
            ("bfloat16", torch.mm, short, 1.0),
            ("eight bits", torch._int_mm, small, (largest / 127) ** 2),
        )
    }
    size = int(np.mean([len(one) for one in unit]))
    return [
        row(
            f"products in {name}, SIFT, {size} keypoints, a pair", seconds / len(pairs), full_s / len(pairs),
            f"{agreement[name]:.4f} of matches",
        )
        for name, seconds in (("bfloat16", short_s), ("eight bits", small_s))
    ]  # fmt: skip


def _shared(product: torch.Tensor, exact: torch.Tensor, unit: float) -> float:
    """Of all matches, mutual and passing the ratio test, the share that both products give. unit: of the first."""
    first, second = (_matches(one) for one in (product.float() * unit, exact))
    return len(first & second) / max(1, len(first | second))


def _matches(product: torch.Tensor) -> set[tuple[int, int]]:
    value, there = product.topk(2, dim=1)
    back = product.argmax(0)
    distance = (2 - 2 * value).clamp_min(0).sqrt()
    mine = torch.arange(len(product))
    kept = (back[there[:, 0]] == mine) & (distance[:, 0] < RATIO * distance[:, 1])
    return set(zip(mine[kept].tolist(), there[kept, 0].tolist(), strict=True))


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
