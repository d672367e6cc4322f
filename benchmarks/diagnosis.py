"""Where right matches are lost between matching and poses: the pairs of finished runs against the true poses.

    imc-kit solve ROOT --preset sift --score --out SIFT
    imc-kit solve ROOT --preset sift --detector xfeat --matcher lightglue --upright --score --out XFEAT
    python benchmarks/diagnosis.py ROOT SIFT XFEAT [--scenes NAME …] [--out FILE]

ROOT: scenes in a competition's layout, with truth.csv. A match is right if it is within 4 pixels of the true epipolar
lines, and a pair if half of its verified matches are. The camera of each scene is fitted to the first run's matches, so
scenes whose photos have several sizes are left out, as are photos that were rotated upright.

*False pairs*: the share of verified pairs that are wrong. *Lost*: the share of pairs with at least 15 right matches, a
third of all, that verification drops. *Precision*: the median distance of right matches from the true epipolar lines in
pixels, which is that of the keypoints.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imc_kit.colmap import database, database_reading
from imc_kit.data.images import probe
from imc_kit.types import Mask, Pose, Scene
from true_geometry import Camera, Points, distances, likeliest_camera, scene_with_poses

RIGHT = 4.0
"""Pixels."""
FOR_CAMERA = 40
"""Pairs with the most verified matches, from which the camera is fitted."""
FEWEST, LEAST_SHARE = 15, 1 / 3
"""A pair that verification should keep has at least so many right matches, and this share of all."""
HEADER = """\
| scene | run | pairs | false pairs | lost | precision: px | registered | score |
|---|---|--:|--:|--:|--:|--:|--:|"""

Pairs = dict[tuple[int, int], tuple[Points, Mask]]
"""By the numbers of two images: their matches, and which of them are verified."""


@dataclass(frozen=True)
class Row:
    """What became of the pairs of one scene in one run."""

    scene: str
    run: str
    pairs: int
    false_pairs: float
    lost: float
    precision: float
    registered: int
    score: float

    def __str__(self) -> str:
        shares = f"{self.false_pairs:.2f} | {self.lost:.2f} | {self.precision:.2f}"
        return f"| {self.scene} | {self.run} | {self.pairs} | {shares} | {self.registered} | {self.score:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="scenes with true poses")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs of these scenes")
    parser.add_argument("--scenes", nargs="+", help="default: those of the first run")
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    lines = [HEADER]
    print(HEADER)
    for name in arguments.scenes or json.loads((arguments.runs[0] / "run.json").read_text("utf-8"))["scenes"]:
        for row in rows(arguments.root, arguments.runs, name):
            lines.append(str(row))
            print(row, flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", "utf-8")


def rows(root: Path, runs: list[Path], name: str) -> list[Row]:
    """A row for each run; none if the photos have several sizes."""
    scene, poses = scene_with_poses(root, name)
    sizes = {probe(scene.path(image)).size for image in scene.images}
    if len(sizes) > 1:
        return []
    found = [read_pairs(run, scene) for run in runs]
    best = sorted(found[0].items(), key=lambda pair: -pair[1][1].sum())[:FOR_CAMERA]
    camera = likeliest_camera({pair: kept(*value) for pair, value in best}, poses, sizes.pop())
    return [row(run, scene, poses, camera, pairs) for run, pairs in zip(runs, found, strict=True)]


def read_pairs(run: Path, scene: Scene) -> Pairs:
    """The pairs of a run whose images were not rotated."""
    folder = run / "scenes" / scene.name
    rotated = json.loads((folder / "result.json").read_text("utf-8")).get("rotation_quarters", {})
    number = {image: i for i, image in enumerate(scene.images) if image not in rotated}
    pairs: Pairs = {}
    for first, second in database.match_counts(folder / "database.db"):
        if first in number and second in number:
            matches, verified = database_reading.read_pair(folder / "database.db", first, second)
            pairs[number[first], number[second]] = (matches.first, matches.second), verified
    return pairs


def row(run: Path, scene: Scene, poses: list[Pose], camera: Camera, pairs: Pairs) -> Row:
    """Compare one scene's pairs with the truth."""
    false, lost, good, verified_pairs = 0, 0, 0, 0
    precise = []
    for (i, j), (points, verified) in pairs.items():
        off = distances(points, (poses[i], poses[j]), camera)
        right = off <= RIGHT
        verified_pairs += bool(verified.any())
        false += bool(verified.any() and right[verified].mean() < 0.5)
        if right.sum() >= FEWEST and right.mean() >= LEAST_SHARE:
            good += 1
            lost += not verified.any()
            precise.append(off[right & verified])
    content = json.loads((run / "run.json").read_text("utf-8"))
    registered = content["scenes"][scene.name]["counts"]["registered"]
    score = content.get("score", {}).get("scenes", {}).get(scene.name, float("nan"))
    median = float(np.median(np.concatenate([np.empty(0), *precise]))) if precise else float("nan")
    shares = false / max(1, verified_pairs), lost / max(1, good)
    return Row(scene.name, run.name, verified_pairs, *shares, median, registered, score)


def kept(points: Points, verified: Mask) -> Points:
    """The verified matches of a pair."""
    return points[0][verified], points[1][verified]


if __name__ == "__main__":
    main()
