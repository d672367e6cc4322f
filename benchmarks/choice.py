"""How often the best of the mapping runs' models is chosen, and what is lost otherwise.

    imc-kit solve ROOT --score --out OUT
    python benchmarks/choice.py ROOT OUT [--preset sift] [--seeds 0 1 2] [--scenes A B] [--threads 1] [--out FILE]

ROOT has a competition's layout, with truth.csv and thresholds.json. OUT is a finished run of it, whose databases of
verified matches are mapped again: every mapping run of the preset, with every seed. Each model is scored as it comes
from its mapping run, before any step after mapping. *Chosen* is what the kit chooses when all runs are made; usually it
stops earlier. Other focal lengths, which it tries when no model fits, are not tried here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imc_kit.colmap import mapping
from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.mapping_runs import REFERENCE_STRENGTH, MappingRun
from imc_kit.colmap.support import judge
from imc_kit.colmap.verification import inlier_counts
from imc_kit.config import preset
from imc_kit.metric import read_thresholds, score_centers
from imc_kit.types import Pose, Scene
from imc_kit.viewgraph.strengths import strengths
from true_geometry import scene_with_poses

HARMLESS = 0.01
"""A smaller loss of mAA does not count as a wrong choice."""


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the best of the mapping runs' models is chosen.")
    parser.add_argument("root", type=Path, help="scenes in a competition's layout")
    parser.add_argument("run", type=Path, help="a finished run of them")
    parser.add_argument("--preset", default="sift", help="whose mapping runs are made; default: sift")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--scenes", nargs="+", help="default: all scenes of the run")
    parser.add_argument("--threads", type=int, default=1, help="of a mapping run; default: 1")
    parser.add_argument("--out", type=Path, help="also save the table in this file")
    arguments = parser.parse_args()
    runs = preset(arguments.preset).mapping
    distances = read_thresholds(arguments.root / "thresholds.json")
    found = sorted(path.parent.name for path in (arguments.run / "scenes").glob("*/database.db"))
    lines = [f"| scene | seed | {' | '.join(f'run {number + 1}' for number in range(len(runs)))} | chosen | loss |"]
    lines.append("|---|--:|" + "--:|" * (len(runs) + 2))
    print("\n".join(lines), flush=True)
    losses = []
    for name in arguments.scenes or found:
        scene, truth = scene_with_poses(arguments.root, name)
        database = arguments.run / "scenes" / name / "database.db"
        for seed in arguments.seeds:
            made = [
                (run, mean_accuracy(run, scene, truth, distances[name]))
                for run in mapped(database, scene, runs, seed, arguments.threads)
            ]
            best = MappingRun()
            chosen = 0.0
            for run, accuracy in made:
                if run.beats(best):
                    best, chosen = run, accuracy
            losses.append(max(accuracy for _, accuracy in made) - chosen)
            cells = [f"{accuracy:.3f} ({run.registered})" for run, accuracy in made]
            lines.append(f"| {name} | {seed} | {' | '.join(cells)} | {chosen:.3f} | {losses[-1]:.3f} |")
            print(lines[-1], flush=True)
    right = sum(loss < HARMLESS for loss in losses)
    lines += [
        "",
        f"The best was chosen, or the loss is under {HARMLESS}, in {right} of {len(losses)} cases ("
        f"{right / len(losses):.0%}). The mean loss is {np.mean(losses):.3f}, the largest {max(losses):.3f}.",
    ]
    print("\n".join(lines[-2:]))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", "utf-8")


def mapped(
    database: Path, scene: Scene, configs: Sequence[mapping.MappingConfig], seed: int, threads: int
) -> list[MappingRun]:
    """All mapping runs of a scene. A run that fails has no models."""
    inliers = inlier_counts(database)
    reference = [pair for pair, strength in strengths(inliers).items() if strength >= REFERENCE_STRENGTH]
    made = []
    for config in configs:
        with tempfile.TemporaryDirectory() as scratch:
            at = Workplace(Path(scratch) / "models", Path(scratch) / "log", threads, seed)
            try:
                models = mapping.map_scene(database, scene.root, config, at)
            except ColmapError:
                models = []
            left_out = mapping.left_out(inliers, config)
            judgement = judge(database, models[0], reference) if models else MappingRun().judgement
            made.append(MappingRun(models, judgement, left_out))
    return made


def mean_accuracy(run: MappingRun, scene: Scene, truth: Sequence[Pose], distances: Sequence[float]) -> float:
    """The mAA of the largest model's cameras alone."""
    poses = run.models[0].poses if run.models else {}
    missing = np.full(3, np.nan)
    centres = np.array([poses[name].center if name in poses else missing for name in scene.images])
    return score_centers(np.array([pose.center for pose in truth]), centres, distances).score


if __name__ == "__main__":
    main()
