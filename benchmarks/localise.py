"""How precisely new photos are localised in a run, compared with solving all photos together.

    python benchmarks/localise.py ROOT --out DIR [--preset sift] [--scenes A B] [--seed 0] [--threads N]

ROOT has a competition's layout, with truth.csv and thresholds.json (distances by scene). A third of the images of each
scene is withheld at random; the others are solved, and the withheld ones are localised in the result. DIR gets the
runs, and localise.md.

A position is right if it is within the scene's second distance of that in the joint solution of all images. The run is
first aligned to it by the similarity of the images that both have. The same is done with the true positions, with the
run's own images, and with a second joint solution, which has another seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pycolmap

from imc_kit import localise, preset, solve
from imc_kit.config import Config
from imc_kit.data import scenes
from imc_kit.errors import KitError
from imc_kit.types import Float64, Scene
from true_geometry import scene_with_poses

SHARE = 1 / 3
"""Of the images of a scene that are withheld."""
Centers: TypeAlias = Mapping[str, Float64]
"""Camera centres by image."""


def linked(folder: Path, scene: Scene, names: Collection[str]) -> Path:
    """Make links to these images of a scene in `folder`, and return it."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.symlink_to(scene.path(name))
    return folder


def solved(photos: Path, out: Path, config: Config) -> Centers:
    """Solve the photos in a folder, and return the camera centres of the largest model."""
    (result,) = solve(scenes.load(photos, out=out), out, config).scenes.values()
    return {name: placed.pose.center for name, placed in result.placements.items() if placed.model == 0}


def distances(centers: Centers, reference: Centers, common: Collection[str], names: Collection[str]) -> Float64:
    """How far centres are from a reference, after alignment over `common`; infinite where one is missing."""
    pairs = [(centers[name], reference[name]) for name in common if name in centers and name in reference]
    similarity = pycolmap.estimate_sim3d(*map(np.array, zip(*pairs, strict=True)))
    if similarity is None:
        return np.full(len(names), np.inf)
    return np.array([
        np.linalg.norm(similarity * centers[name] - reference[name])
        if name in centers and name in reference else np.inf
        for name in names
    ])  # fmt: skip


def rows(root: Path, names: Collection[str], out: Path, config: Config, seed: int) -> Iterator[str]:
    """The lines of the table, each as soon as it is known."""
    thresholds = json.loads((root / "thresholds.json").read_text("utf-8"))
    yield "| scene | run | placed | right | by the truth | own images right | joint, another seed |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name in names:
        scene, poses = scene_with_poses(root, name)
        true = {image: pose.center for image, pose in zip(scene.images, poses, strict=True)}
        count = round(SHARE * len(scene.images))
        chosen = np.random.default_rng(seed).choice(len(scene.images), count, replace=False)
        withheld = [scene.images[number] for number in sorted(chosen.tolist())]
        kept = [image for image in scene.images if image not in withheld]
        folder = out / name
        own = solved(linked(folder / "photos", scene, kept), folder / "run", config)
        every = linked(folder / "all", scene, scene.images)
        joint = solved(every, folder / "joint", config)
        again = solved(every, folder / "again", replace(config, seed=config.seed + 1))
        queries = linked(folder / "withheld", scene, withheld)
        shutil.rmtree(folder / "localised", ignore_errors=True)
        answers = localise(folder / "run", queries, folder / "localised").answers
        found = {image: answer.pose.center for image, answer in answers.items() if answer.pose and answer.model == 0}
        common = sorted(joint)
        scale = pycolmap.estimate_sim3d(*(np.array([of[image] for image in common]) for of in (joint, true))).scale
        limit = thresholds[name][1]
        both = {**own, **found}
        cells = [
            f"{len(own)} of {len(kept)}",
            f"{len(found)} of {count}",
            _share(distances(both, joint, own, withheld) * scale <= limit),
            _share(distances(both, true, own, withheld) <= limit),
            _share(distances(own, joint, own, list(own)) * scale <= limit),
            _share(distances(again, joint, own, withheld) * scale <= limit),
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _share(right: Float64) -> str:
    return f"{int(right.sum())} of {len(right)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--scenes", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    config = replace(preset(options.preset), threads=options.threads)
    names = options.scenes or [scene.name for scene in scenes.load(options.root).scenes]
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "localise.md").open("w", encoding="utf-8") as file:
        for line in rows(options.root, names, options.out, config, options.seed):
            print(line, flush=True)
            print(line, file=file, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
