"""How fast the slow stages are beside what people would run instead, in one run, and whether they give the same.

    python benchmarks/speed.py ROOT [--scene castle_P19] [--images 8] [--out FILE]
    python benchmarks/speed.py ROOT --exhaustive liberty135 [--keypoints 2048] [--out FILE]

The first: ALIKED's keypoints, and mutual nearest neighbours with a ratio test, beside a plain loop over kornia's own
modules, with all the threads that torch takes. The second: all pairs of a scene, SIFT, matched and verified, beside
COLMAP's match_exhaustive on its own features, capped at as many. ROOT is in a competition's layout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from compare import _facts, _markdown

from imc_kit import images, scenes, weights, work
from imc_kit.colmap import database, verification
from imc_kit.config import preset
from imc_kit.detectors import AlikedConfig, SiftConfig
from imc_kit.errors import KitError, unknown_name
from imc_kit.fanout import workers
from imc_kit.masks import MaskConfig
from imc_kit.matchers import NearestConfig
from imc_kit.store import Store, pair_key
from imc_kit.types import Features, Scene

RATIO = 0.8
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast the slow stages are beside others.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--scene", default="castle_P19")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--exhaustive", metavar="SCENE")
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    known = {scene.name: scene for scene in scenes.load(arguments.root).scenes}
    name = arguments.exhaustive or arguments.scene
    if name not in known:
        raise unknown_name("scene", name, known)
    rows = (
        exhaustive(known[name], arguments.keypoints)
        if arguments.exhaustive
        else [*extraction(known[name], arguments.images), *matching(known[name], arguments.images)]
    )
    facts = "\n".join(f"- {fact}: {value}" for fact, value in _facts().items())
    text = f"{facts}\n\n{_markdown(['what', 'ours: s', 'theirs: s', 'times faster', 'agreement'], rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


def best(*calls: Callable[[], Any]) -> list[tuple[float, Any]]:
    """The least seconds of each call, taken in turn, and what it gave."""
    found = [(float("inf"), None)] * len(calls)
    for _ in range(REPEATS):
        for number, call in enumerate(calls):
            started = time.perf_counter()
            given = call()
            found[number] = min(found[number], (time.perf_counter() - started, given), key=lambda one: one[0])
    return found


def row(what: str, ours: float, theirs: float, agreement: str) -> list[str]:
    return [what, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.1f}", agreement]


def extraction(scene: Scene, count: int) -> list[list[str]]:
    """Seconds an image, reading included."""
    import torch
    from kornia.feature import ALIKED

    config = AlikedConfig()
    theirs = ALIKED("aliked-n16", config.max_keypoints, config.threshold).eval()
    path = weights.find("aliked-n16.pth")
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    paths = [scene.path(name) for name in scene.images[:count]]

    def plain() -> list[Any]:
        with torch.inference_mode():
            found = []
            for path in paths:
                pixels = images.load(path, config.long_side).pixels
                found += theirs(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
            return found

    def kit() -> list[Features]:
        with tempfile.TemporaryDirectory() as folder, workers(None, None) as pool:
            shots, _ = work.inspect(replace(scene, images=scene.images[:count]), MaskConfig(), pool)
            shelf = Store(Path(folder)).features("x")
            work.detect(shots, shelf, config, MaskConfig(), pool, "")
            return [shelf[shot.key] for shot in shots.values()]

    kit()  # loads the network
    (ours, mine), (loop, other) = best(kit, plain)
    same = total = 0
    for one, two in zip(mine, other, strict=True):
        apart = np.linalg.norm(one.keypoints[:, None] - two.keypoints.numpy()[None], axis=2)
        nearest = apart.argmin(1)
        cosine = (one.descriptors.astype(np.float32) * two.descriptors.numpy()[nearest]).sum(1)
        same += int(((apart.min(1) < 0.05) & (cosine > 0.999)).sum())
        total += max(len(one), len(two.keypoints))
    return [row(f"ALIKED n16, {scene.name}, an image", ours / count, loop / count, f"{same / total:.4f} of keypoints")]


def matching(scene: Scene, count: int) -> list[list[str]]:
    """Seconds a pair, of features in memory."""
    import torch
    from kornia.feature import match_smnn

    rows = []
    for config in (AlikedConfig(), preset("sift").detector):
        with tempfile.TemporaryDirectory() as folder, workers(None, None) as pool:
            shots, _ = work.inspect(replace(scene, images=scene.images[:count]), MaskConfig(), pool)
            shelf = Store(Path(folder)).features("x")
            work.detect(shots, shelf, config, MaskConfig(), pool, "")
            features = [
                replace(found, descriptors=found.descriptors.astype(np.float32))
                for found in (shelf[shot.key] for shot in shots.values())
            ]
        pairs = list(combinations(features, 2))
        tensors = {id(one): torch.from_numpy(one.descriptors.copy()) for one in features}

        def plain(pairs: Sequence[Any] = pairs, tensors: dict[int, Any] = tensors) -> list[Any]:
            return [match_smnn(tensors[id(a)], tensors[id(b)], RATIO)[1].numpy() for a, b in pairs]

        def kit(cells: int | None, pairs: Sequence[Any] = pairs) -> list[Any]:
            matcher = NearestConfig(ratio=RATIO, cells=cells).create()
            with workers(None, None) as pool:
                chunks = [pairs[start : start + 4] for start in range(0, len(pairs), 4)]
                return [one.indices for found in pool.map(matcher.match_batch, chunks) for one in found]

        (exact, all_of_it), (celled, in_cells), (loop, other) = best(lambda: kit(None), lambda: kit(64), plain)
        for label, seconds, mine in (("exact", exact, all_of_it), ("64 cells", celled, in_cells)):
            sets = [[set(map(tuple, found.tolist())) for found in one] for one in (mine, other)]
            same = sum(len(a & b) for a, b in zip(*sets, strict=True))
            either = sum(len(a | b) for a, b in zip(*sets, strict=True))
            size = int(np.mean([len(one) for one in features]))
            what = f"nearest, {label}, {config.name}, {size} keypoints, a pair"
            rows.append(row(what, seconds / len(pairs), loop / len(pairs), f"{same / either:.4f} of matches"))
    return rows


def exhaustive(scene: Scene, keypoints: int) -> list[list[str]]:
    """Seconds for all pairs: matching and verification; detection is not counted."""
    config = preset("sift")
    detector = SiftConfig(**{**vars(config.detector), "max_keypoints": keypoints})
    with tempfile.TemporaryDirectory() as folder, workers(None, None) as pool:
        root = Path(folder)
        shots, _ = work.inspect(scene, MaskConfig(), pool)
        store = Store(root / "store")
        features, matches = store.features("x"), store.matches("x")
        work.detect(shots, features, detector, MaskConfig(), pool, scene.name)
        pairs = list(combinations(shots, 2))
        started = time.perf_counter()
        work.match(shots, pairs, features, matches, config.matcher, detector.kind, pool, scene.name)
        entries = [database.ImageEntry(name, shot.path, shot.info.size) for name, shot in shots.items()]
        found = ((a, b, matches[pair_key(shots[a].key, shots[b].key)]) for a, b in pairs)
        some = (entry for entry in found if len(entry[2]) >= config.min_matches)
        path = root / "ours.db"
        database.write_database(path, entries, lambda name: features[shots[name].key], some, config.cameras)
        verification.verify(path, config.verification, root / "log", pool)
        ours = time.perf_counter() - started
        verified = verification.inlier_counts(path)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.db"
        options = pycolmap.FeatureExtractionOptions()
        options.sift.max_num_features = keypoints
        pycolmap.extract_features(
            path,
            scene.root,
            image_names=list(scene.images),
            camera_mode=pycolmap.CameraMode.SINGLE,
            extraction_options=options,
        )
        started = time.perf_counter()
        pycolmap.match_exhaustive(path)
        theirs = time.perf_counter() - started
        other = verification.inlier_counts(path)
    both = len(set(map(frozenset, verified)) & set(map(frozenset, other)))
    said = f"{len(verified)} and {len(other)} pairs verified, {both} the same"
    return [row(f"{len(pairs)} pairs of {scene.name}, at most {keypoints} keypoints", ours, theirs, said)]


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
