"""A run of the competition's size under a time limit: 1,100 photos in 20 scenes, resampled from known ones.

    python benchmarks/kaggle_size.py ROOT … --out DIR --time-limit SECONDS [--images 1100] [--scenes 20] [--seed 0]
                                     [-- OPTIONS OF imc-kit solve]

Each ROOT has scenes in the layout of 2024 with truth.csv and thresholds.json. DIR/input gets the photos: every scene is
filled up with crops of its photos, of 80 to 100 % of both sides and in another JPEG quality, which keep the camera
centre; if there are fewer scenes than asked for, some appear twice. Then `imc-kit solve` runs in a process of its own,
with the options after `--`. Reported are the wall time, Python's start included, against the limit, the time by stage,
whether the submission has all rows, and the score.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from imc_kit.data import scenes, submission
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.errors import KitError
from imc_kit.metric.files import read_thresholds
from imc_kit.runtime import deadline
from imc_kit.types import Pose
from imc_kit.viz.run_folder import read_run
from true_geometry import scene_with_poses

COLUMNS = ("image_path", "dataset", "scene", *POSE_COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="+", metavar="ROOT", help="scenes with truth.csv and thresholds.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the photos and the results")
    parser.add_argument("--time-limit", type=float, required=True, help="of the run, in seconds")
    parser.add_argument("--images", type=int, default=1100, help="of all scenes together; default: 1100")
    parser.add_argument("--scenes", type=int, default=20, help="default: 20")
    parser.add_argument("--seed", type=int, default=0, help="of the crops; default: 0")
    own, options = _split(sys.argv[1:])
    arguments = parser.parse_args(own)
    root, out = arguments.out / "input", arguments.out / "output"
    build(arguments.roots, root, arguments.scenes, arguments.images, arguments.seed)
    solve = "from imc_kit.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        solve,
        "solve",
        root,
        "--score",
        "--out",
        out,
        "--time-limit",
        arguments.time_limit,
        *options,
    ]
    started = time.monotonic()
    status = subprocess.run([str(part) for part in command]).returncode
    seconds = time.monotonic() - started
    print(report(root, out, seconds, arguments.time_limit))
    sys.exit(status)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def build(roots: Sequence[Path], folder: Path, count: int, images: int, seed: int) -> None:
    """Write `count` scenes with `images` photos together, unless they are there already."""
    if (folder / "thresholds.json").exists():
        return
    rng = np.random.default_rng(seed)
    found = [(root, scene.name) for root in roots for scene in scenes.load(root).scenes]
    limits = {root: read_thresholds(root / "thresholds.json") for root in roots}
    rows: list[tuple[str, str, Pose]] = []
    distances: dict[str, Sequence[float]] = {}
    for number in range(count):
        root, source = found[number % len(found)]
        name = source if number < len(found) else f"{source}_{number // len(found) + 1}"
        scene, poses = scene_with_poses(root, source)
        wanted = images * (number + 1) // count - images * number // count
        order = rng.permutation(len(poses))
        target = folder / "test" / name / "images"
        target.mkdir(parents=True, exist_ok=True)
        distances[name] = list(limits[root][source])
        for copy in range(wanted):
            photo = order[copy % len(order)]
            pixels = cv2.imread(str(scene.path(scene.images[photo])))
            quality = int(rng.integers(80, 96))
            cv2.imwrite(str(target / f"{copy:04}.jpg"), cropped(pixels, rng), [cv2.IMWRITE_JPEG_QUALITY, quality])
            rows.append((name, f"test/{name}/images/{copy:04}.jpg", poses[photo]))
    for file, known in (("truth.csv", True), ("sample_submission.csv", False)):
        texts = ((path, name, name, *format_pose(pose if known else Pose.identity())) for name, path, pose in rows)
        submission.write(folder / file, COLUMNS, [dict(zip(COLUMNS, text, strict=True)) for text in texts])
    (folder / "thresholds.json").write_text(json.dumps(distances) + "\n", "utf-8")


def cropped(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of a photo, in the middle so that the principal point stays, at another size."""
    share, scale = rng.uniform(0.8, 1.0, 2)
    height, width = (int(side * share) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    part = pixels[top : top + height, left : left + width]
    return cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def report(root: Path, out: Path, seconds: float, limit: float) -> str:
    """How the run went: time against the limit and by stage, completeness, registered images, score."""
    task, run = scenes.load(root), read_run(out)
    flaws = submission.check(out / "submission.csv", task.columns, task.keys)
    stages: Counter[str] = Counter()
    for scene in run.scenes:
        stages.update(scene.seconds)
    answered = [scene for scene in run.scenes if scene.counts.get("registered")]
    short = sum(scene.quick or deadline.ran_out(scene.notes) for scene in answered)
    registered = sum(scene.counts.get("registered", 0) for scene in run.scenes)
    return "\n".join([
        f"{len(task.rows)} photos, {len(task.scenes)} scenes: {seconds:.0f} s of {limit:.0f} s ({seconds / limit:.1%})",
        f"submission: {'; '.join(flaws) if flaws else 'complete'}; {registered} images registered; answers: "
        f"{len(answered) - short} full, {short} cut short, {len(task.scenes) - len(answered)} none",
        "seconds by stage: " + ", ".join(f"{stage} {taken:.0f}" for stage, taken in stages.items()),
    ])  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
