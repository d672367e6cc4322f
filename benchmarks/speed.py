"""The speed of the slow stages compared with the usual alternatives, and whether the results agree.

    python benchmarks/speed.py ROOT [--scene castle_P19] [--images 8] [--device auto] [--out FILE]
    python benchmarks/speed.py ROOT --exhaustive liberty135 [--keypoints 2048] [--out FILE]
    python benchmarks/speed.py ROOT --lightglue [--keypoints 2048] [--out FILE]

The first command compares SIFT with OpenCV's, one image per core. It compares ALIKED, mutual nearest neighbours with a
ratio test and, on a GPU, LightGlue with a plain loop over kornia's modules, on the same device with all of torch's
threads. The second command matches and verifies all pairs of a scene, compared with COLMAP's match_exhaustive on its
own SIFT features, with the same maximum of keypoints. The third command compares LightGlue on the CPU with kornia's
module for ALIKED, DISK and XFeat, in CPU seconds of one thread. ROOT has a competition's layout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch
from kornia import feature
from numpy.typing import NDArray

from compare import _facts, _markdown
from imc_kit.colmap import cameras, database, verification
from imc_kit.config import preset
from imc_kit.data import images, scenes
from imc_kit.data.masks import MaskConfig
from imc_kit.data.store import Store, pair_key
from imc_kit.detectors import DETECTORS, DetectorConfig
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError, unknown_name
from imc_kit.matchers import Matcher, lightglue
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline.records import inspect
from imc_kit.pipeline.tasks import Tasks
from imc_kit.runtime import weights
from imc_kit.runtime.executors import workers
from imc_kit.runtime.torch_utils import device
from imc_kit.types import Features, Scene
from untrained import random_where_missing

RATIO = 0.8
REPEATS = 3
LIGHTGLUE_DETECTORS = "aliked", "disk", "xfeat"
LIGHTGLUE_SCENES = "castle_P19", "temple_sparse16", "fountain_P11"
LIGHTGLUE_IMAGES = 4
"""All six pairs of these images are matched: easy and hard ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The speed of the slow stages compared with the usual alternatives.")
    parser.add_argument("root", type=Path, help="scenes in a competition's layout")
    parser.add_argument("--scene", default="castle_P19", help="default: castle_P19")
    parser.add_argument("--images", type=int, default=8, help="use the first N images; default: 8")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--exhaustive", metavar="SCENE", help="compare with COLMAP on all pairs of this scene")
    parser.add_argument("--lightglue", action="store_true", help="compare LightGlue on the CPU with kornia's module")
    parser.add_argument("--keypoints", type=int, default=2048, help="with the last two; default: 2048")
    parser.add_argument("--out", type=Path, help="also save the table in this file")
    arguments = parser.parse_args()
    known = {scene.name: scene for scene in scenes.load(arguments.root).scenes}
    name = arguments.exhaustive or arguments.scene
    if name not in known:
        raise unknown_name("scene", name, known)
    facts = "\n".join(f"- {fact}: {value}" for fact, value in _facts().items())
    if arguments.lightglue:
        torch.set_num_threads(1)
        every = product(LIGHTGLUE_DETECTORS, LIGHTGLUE_SCENES)
        rows = [row for name, scene in every for row in light_glue_on_cpu(known[scene], name, arguments.keypoints)]
    elif arguments.exhaustive:
        rows = exhaustive(known[name], arguments.keypoints)
    else:
        where = device(arguments.device, "benchmark")
        facts += f"\n- device: {torch.cuda.get_device_name(where) if where.type == 'cuda' else 'the CPU'}"
        scene = replace(known[name], images=known[name].images[: arguments.images])
        parts = (sift, extraction, matching, *([light_glue] if where.type == "cuda" else []))
        rows = [row for part in parts for row in part(scene, where)]
    text = f"{facts}\n\n{_markdown(['what', 'ours: s', 'theirs: s', 'times faster', 'agreement'], rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


def best(*calls: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> list[tuple[float, Any]]:
    """The shortest time of each call in seconds, and its result. The calls take turns."""
    found = [(float("inf"), None)] * len(calls)
    for _ in range(REPEATS):
        for number, call in enumerate(calls):
            started = clock()
            given = call()
            found[number] = min(found[number], (clock() - started, given), key=lambda one: one[0])
    return found


def row(what: str, ours: float, theirs: float, agreement: str) -> list[str]:
    return [what, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.1f}", agreement]


def sift(scene: Scene, _: torch.device) -> list[list[str]]:
    """Seconds per image in memory, with the preset's thresholds and maximum."""
    config = preset("sift").detector
    assert isinstance(config, SiftConfig)
    detector = config.create()
    photos = [images.load(scene.path(name), config.long_side).pixels for name in scene.images]

    def found_by_opencv(pixels: NDArray[np.uint8]) -> tuple[Any, Any]:
        options = {"contrastThreshold": config.contrast_threshold, "edgeThreshold": config.edge_threshold}
        theirs = cv2.SIFT.create(config.max_keypoints, enable_precise_upscale=True, **options)
        return theirs.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)

    def kit() -> list[Features]:
        with workers(None, None) as pool:
            return list(pool.map(lambda pixels: detector.detect([pixels], [None])[0], photos))

    def plain() -> list[Any]:
        with workers(None, None) as pool:
            return [cv2.KeyPoint.convert(found) for found, _ in pool.map(found_by_opencv, photos)]

    kit()  # compiles
    (ours, mine), (loop, other) = best(kit, plain)
    far = [
        np.linalg.norm(points[:, None] - one.keypoints[None], axis=2).min(1)
        for points, one in zip(other, mine, strict=True)
    ]
    same = np.mean(np.concatenate(far) < 0.02)
    return [row(f"SIFT, {scene.name}, per image", ours / len(photos), loop / len(photos), f"{same:.4f} of keypoints")]


def extraction(scene: Scene, where: torch.device) -> list[list[str]]:
    """Seconds per image, including reading."""
    config = AlikedConfig(device=where.type)
    theirs = feature.ALIKED("aliked-n16", config.max_keypoints, config.threshold).eval().to(where)
    path = weights.find("aliked-n16.pth")
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    paths = [scene.path(name) for name in scene.images]

    def plain() -> list[Any]:
        with torch.inference_mode():
            found = []
            for path in paths:
                pixels = images.load(path, config.long_side).pixels
                found += theirs(torch.from_numpy(pixels).to(where).permute(2, 0, 1)[None].float() / 255)
            return [(one.keypoints.cpu().numpy(), one.descriptors.cpu().numpy()) for one in found]

    def kit() -> list[Features]:
        return features_of(scene, config)

    kit()  # loads the network
    (ours, mine), (loop, other) = best(kit, plain)
    same = total = 0
    for one, (points, descriptors) in zip(mine, other, strict=True):
        apart = np.linalg.norm(one.keypoints[:, None] - points[None], axis=2)
        nearest = apart.argmin(1)
        cosine = (one.descriptors.astype(np.float32) * descriptors[nearest]).sum(1)
        same += int(((apart.min(1) < 0.05) & (cosine > 0.999)).sum())
        total += max(len(one), len(points))
    count = len(scene.images)
    return [row(f"ALIKED n16, {scene.name}, per image", ours / count, loop / count, f"{same / total:.4f} of keypoints")]


def features_of(scene: Scene, config: DetectorConfig) -> list[Features]:
    """The features of a scene as the pipeline computes them."""
    with tempfile.TemporaryDirectory() as folder, workers(None, None) as pool:
        records, _ = inspect(scene, MaskConfig(), pool)
        table = Store(Path(folder)).features("x")
        Tasks(records, pool).detect(table, config, MaskConfig())
        return [table[record.key] for record in records.values()]


def matched(matcher: Matcher, pairs: Sequence[tuple[Features, Features]]) -> list[NDArray[Any]]:
    """Match on all cores, two pairs at a time. With larger chunks, some cores would wait at the end."""
    with workers(None, None) as pool:
        chunks = [pairs[start : start + 2] for start in range(0, len(pairs), 2)]
        return [one.indices for found in pool.map(matcher.match_batch, chunks) for one in found]


def matching(scene: Scene, where: torch.device) -> list[list[str]]:
    """Seconds per pair of features in memory. IVF cells always run on the CPU."""
    rows = []
    for config in (AlikedConfig(device=where.type), preset("sift").detector):
        features = [
            replace(found, descriptors=found.descriptors.astype(np.float32)) for found in features_of(scene, config)
        ]
        pairs = list(combinations(features, 2))
        tensors = {id(one): torch.from_numpy(one.descriptors.copy()).to(where) for one in features}
        exact_matcher = NearestConfig(ratio=RATIO, device=where.type).create()
        matcher_in_cells = NearestConfig(ratio=RATIO, cells=64).create()

        def plain(pairs: Sequence[Any] = pairs, tensors: dict[int, Any] = tensors) -> list[Any]:
            found = (feature.match_smnn(tensors[id(a)], tensors[id(b)], RATIO) for a, b in pairs)
            return [indices.cpu().numpy() for _, indices in found]

        (exact, all_of_it), (celled, in_cells), (loop, other) = best(
            partial(matched, exact_matcher, pairs), partial(matched, matcher_in_cells, pairs), plain
        )
        for label, seconds, mine in (("exact", exact, all_of_it), ("64 IVF cells", celled, in_cells)):
            sets = [[set(map(tuple, found.tolist())) for found in one] for one in (mine, other)]
            same = sum(len(a & b) for a, b in zip(*sets, strict=True))
            either = sum(len(a | b) for a, b in zip(*sets, strict=True))
            size = int(np.mean([len(one) for one in features]))
            what = f"nearest, {label}, {config.name}, {size} keypoints, per pair"
            rows.append(row(what, seconds / len(pairs), loop / len(pairs), f"{same / either:.4f} of matches"))
    return rows


def light_glue(scene: Scene, where: torch.device) -> list[list[str]]:
    """Seconds per pair of ALIKED features in memory; with random weights if the file of LightGlue is not found."""
    features = features_of(scene, AlikedConfig(device=where.type))
    config = LightGlueConfig(device=where.type)
    with tempfile.TemporaryDirectory() as folder, random_where_missing(Path(folder)) as random:
        matcher, theirs = config.create("aliked"), lightglue._load(config, "aliked").to(where)
    pairs = list(combinations(features, 2))
    (ours, _), (loop, _) = best(partial(matched, matcher, pairs), partial(by_kornia, theirs, pairs, where))
    size = int(np.mean([len(one) for one in features]))
    said = "random weights" if random else ""
    return [row(f"LightGlue, aliked, {size} keypoints, per pair", ours / len(pairs), loop / len(pairs), said)]


def light_glue_on_cpu(scene: Scene, name: str, keypoints: int) -> list[list[str]]:
    """CPU seconds of one thread per pair, and how many matches are the same."""
    some = replace(scene, images=scene.images[:LIGHTGLUE_IMAGES])
    detector = DETECTORS[name](max_keypoints=keypoints, device="cpu")
    config = LightGlueConfig(device="cpu")
    matcher, theirs = config.create(detector.kind), lightglue._load(config, detector.kind)
    features = features_of(some, detector)

    def kit() -> list[NDArray[Any]]:
        forgotten = [replace(one) for one in features]  # what the matcher keeps for an image is made again
        return [one.indices for one in matcher.match_batch(list(combinations(forgotten, 2)))]

    plain = partial(by_kornia, theirs, list(combinations(features, 2)), torch.device("cpu"))
    (ours, mine), (loop, other) = best(kit, plain, clock=time.process_time)
    sets = [[set(map(tuple, found.tolist())) for found in one] for one in (mine, other)]
    count, different = sum(map(len, sets[1])), sum(len(a ^ b) for a, b in zip(*sets, strict=True))
    size = int(np.mean([len(one) for one in features]))
    what = f"LightGlue, {name}, {scene.name}, {size} keypoints, per pair"
    return [row(what, ours / len(mine), loop / len(mine), f"{different} of {count} matches differ")]


def by_kornia(network: Any, pairs: Sequence[tuple[Features, Features]], where: torch.device) -> list[NDArray[Any]]:
    """The matches of each pair by kornia's LightGlue in a plain loop."""

    def inputs(one: Features) -> dict[str, torch.Tensor]:
        values = (one.keypoints + 0.5, one.descriptors.astype(np.float32), np.array(one.image_size))
        names = ("keypoints", "descriptors", "image_size")
        return {name: torch.tensor(value)[None].float().to(where) for name, value in zip(names, values, strict=True)}

    with torch.inference_mode():
        return [network({"image0": inputs(a), "image1": inputs(b)})["matches"][0].cpu().numpy() for a, b in pairs]


def exhaustive(scene: Scene, keypoints: int) -> list[list[str]]:
    """Seconds for matching and verifying all pairs, without detection."""
    config = preset("sift")
    detector = SiftConfig(**{**vars(config.detector), "max_keypoints": keypoints})
    with tempfile.TemporaryDirectory() as folder, workers(None, None) as pool:
        root = Path(folder)
        records, _ = inspect(scene, MaskConfig(), pool)
        store = Store(root / "store")
        features, matches = store.features("x"), store.matches("x")
        Tasks(records, pool, scene.name).detect(features, detector, MaskConfig())
        pairs = list(combinations(records, 2))
        started = time.perf_counter()
        Tasks(records, pool, scene.name).match(pairs, features, matches, config.matcher, detector.kind)
        entries = [cameras.ImageEntry(name, record.path, record.info.size) for name, record in records.items()]
        found = ((a, b, matches[pair_key(records[a].key, records[b].key)]) for a, b in pairs)
        some = (entry for entry in found if len(entry[2]) >= config.min_matches)
        path = root / "ours.db"
        database.write_database(path, entries, lambda name: features[records[name].key], some, config.cameras)
        verification.verify(path, config.verification, pool)
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
