"""What it is worth that a scene is matched while the one before is mapped: all scenes in one run, or in a run of each.

    python benchmarks/overlap.py ROOT [--preset sift] [--scenes A B] [--max-images 70] [--repeats 1]

ROOT is a competition's root, or any folder that `imc-kit solve` takes. The two alternate; each starts from nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from imc_kit.config import Config, preset
from imc_kit.data import scenes
from imc_kit.errors import KitError
from imc_kit.pipeline.run import solve


def main() -> None:
    parser = argparse.ArgumentParser(description="Time all scenes in one run, beside a run of each.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--scenes", nargs="+", help="only these; they may have any number of images")
    parser.add_argument("--max-images", type=int, default=70, help="leave larger scenes out; default: 70")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    task = scenes.load(arguments.root)
    small = [scene.name for scene in task.scenes if len(scene.images) <= arguments.max_images]
    names = arguments.scenes or small
    config = preset(arguments.preset)
    config.check()
    print(f"{'':>14} {'seconds':>8} {'images registered':>18}")
    for _ in range(arguments.repeats):
        for label, parts in (("a run of each", [[name] for name in names]), ("one run", [names])):
            started = time.monotonic()
            registered = sum(solved(task.only(*part), config) for part in parts)
            print(f"{label:>14} {time.monotonic() - started:8.1f} {registered:18}", flush=True)


def solved(task: scenes.Task, config: Config) -> int:
    """How many images of a task are registered, by a run of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run = solve(task, folder, config)
        return sum(scene.counts["registered"] for scene in run.scenes.values())


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
