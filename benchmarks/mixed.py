"""Several places in one folder, as in 2025: what is lost compared with each place alone.

    python benchmarks/mixed.py ROOT … --out DIR [--preset sift] [--seeds 0] [--datasets castle walls …] [--threads 1]

Each ROOT has scenes with known poses in the layout of 2024. DIR/SEED gets them in the layout of 2025: each dataset has
the images of three to five places and a few strays, which are single images of other scenes. There are the datasets in
`MIXTURES`, one of random places, and each place alone. A rendered plaza is one more scene. Images have numbers as
names, and the same in all datasets, so that a place and its mixtures share features and matches. The kit solves all
datasets in one run and scores them as 2025 does.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from imc_kit.config import override, preset
from imc_kit.data import scenes
from imc_kit.data.submission import NO_POSE, OUTLIERS
from imc_kit.data.tables import POSE_COLUMNS, read_table
from imc_kit.errors import KitError
from imc_kit.metric.clusters import score_2025
from imc_kit.metric.files import read_thresholds
from imc_kit.metric.tables import aligned
from imc_kit.pipeline.run import solve
from imc_kit.synthetic.plaza import write_scene

MIXTURES = {
    "facades": ("castle_P19", "herzjesu_P8", "street19", "whitehouse22"),
    "portals": ("fountain_P11", "door12", "herzjesu_P8", "reichstag10"),
    "objects": ("temple_sparse16", "dino48", "chair34"),
    "city": ("reichstag10", "fern20", "cereal25", "entry10_mixedquality", "plaza"),
}
"""Datasets of places that may be confused: façades, among them two of one town; portals and monuments; objects in front
of one colour; and places that have little in common."""
ONE_PLACE = {"fountain_P11", "fountain_P11_rotated", "castle_P19", "entry10_mixedquality"}
"""Scenes of one courtyard in one frame: the matches between them agree with their true poses. So a dataset has at most
one of them, and the strays of such a dataset are of other scenes."""
STRAYS = 3
RANDOM = "random"
LARGEST = 25
"""Images of the largest place in the random dataset, and of the largest scene that strays come from."""


@dataclass(frozen=True)
class Photo:
    """A photo: its file, its new name and its true pose as text."""

    path: Path
    name: str
    pose: tuple[str, ...]


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="+", metavar="ROOT", help="scenes with truth.csv and thresholds.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the datasets and the kit's results")
    parser.add_argument("--preset", default="sift", help="default: sift")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of datasets and solutions; default: 0")
    parser.add_argument("--datasets", nargs="+", help=f"of {', '.join(MIXTURES)}, {RANDOM}; default: all")
    parser.add_argument("--threads", type=int, help="default: all cores")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        folder = arguments.out / str(seed)
        write_scene(folder / "rendered", seed=seed)
        mixtures, truth = build([*arguments.roots, folder / "rendered"], folder / "input", seed, arguments.datasets)
        config = override(preset(arguments.preset), {"seed": seed, "threads": arguments.threads})
        submission = solve(folder / "input", folder / "output", config).submission
        print(f"\nseed {seed}\n{report(mixtures, truth, submission)}", flush=True)


def build(
    roots: Sequence[Path], folder: Path, seed: int, wanted: Sequence[str] | None = None
) -> tuple[dict[str, list[str]], Path]:
    """Write the datasets; returns the places of each mixture, and the file of true poses."""
    photos, limits = read_scenes(roots, seed)
    rng = np.random.default_rng(seed)
    small = [name for name in sorted(photos) if len(photos[name]) <= LARGEST]
    mixtures = {name: [place for place in places if place in photos] for name, places in MIXTURES.items()}
    mixtures[RANDOM] = sorted(without_twins(rng.permutation(small))[: int(rng.integers(3, 6))])
    if unknown := set(wanted or ()) - mixtures.keys():
        raise KitError(f"unknown dataset {min(unknown)}: known are {', '.join(mixtures)}")
    datasets: dict[str, dict[str, list[Photo]]] = {}
    for name, places in mixtures.items():
        sources = without_twins([*places, *rng.permutation(small)])[len(places) :][:STRAYS]
        strays = [photos[scene][int(rng.integers(len(photos[scene])))] for scene in sources]
        if len(places) >= 3 and (not wanted or name in wanted):
            datasets[name] = {**{place: photos[place] for place in places}, OUTLIERS: strays}
    mixtures = {name: places for name, places in mixtures.items() if name in datasets}
    datasets |= {place: {place: photos[place]} for place in sorted({p for found in mixtures.values() for p in found})}
    rows, distances = [], []
    for dataset, content in datasets.items():
        for scene, those in content.items():
            for photo in those:
                link = folder / "test" / dataset / photo.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(photo.path)
                rows.append((dataset, scene, photo.name, *(NO_POSE if scene == OUTLIERS else photo.pose)))
            if scene != OUTLIERS:
                distances.append((dataset, scene, limits[scene]))
    write_rows(folder / "truth.csv", ("dataset", "scene", "image", *POSE_COLUMNS), rows)
    write_rows(folder / "train_thresholds.csv", ("dataset", "scene", "thresholds"), distances)
    return mixtures, folder / "truth.csv"


def without_twins(names: Iterable[str]) -> list[str]:
    """Scenes in the same order, each once, and only the first of those that show one place."""
    first: dict[str, str] = {}
    for name in map(str, names):
        first.setdefault("" if name in ONE_PLACE else name, name)
    return list(first.values())


def read_scenes(roots: Sequence[Path], seed: int) -> tuple[dict[str, list[Photo]], dict[str, str]]:
    """The photos of all scenes under new names, and the scenes' distances as text."""
    found: list[tuple[str, Path, tuple[str, ...]]] = []
    limits: dict[str, str] = {}
    for root in map(Path.resolve, roots):
        task = scenes.load(root)
        truth = read_table(root / "truth.csv", ("image_path", *POSE_COLUMNS)).set_index("image_path")
        images = {scene.name: scene for scene in task.scenes}
        for row in task.rows:
            if row.image is not None:
                pose = tuple(truth.loc[row.key["image_path"], list(POSE_COLUMNS)])
                found.append((row.scene, images[row.scene].path(row.image), pose))
        limits |= {name: ";".join(map(str, those)) for name, those in read_thresholds(root / "thresholds.json").items()}
    photos: dict[str, list[Photo]] = {}
    numbers = np.random.default_rng(seed).permutation(len(found))
    for number, (scene, path, pose) in zip(numbers, found, strict=True):
        photos.setdefault(scene, []).append(Photo(path, f"{number:04}{path.suffix}", pose))
    return photos, limits


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def report(mixtures: Mapping[str, Sequence[str]], truth: Path, submission: Path) -> str:
    """A table of the mixtures, and one of the places in them."""
    true, submitted = read_table(truth), read_table(submission)
    scores = score_2025(true, submitted, read_thresholds(truth.with_name("train_thresholds.csv"))).datasets
    both = true.merge(submitted, on=["dataset", "image"], suffixes=("", "_submitted"))
    posed = both[both["scene_submitted"] != OUTLIERS]
    lines, details = [], []
    for name, places in mixtures.items():
        one, alone = scores[name], [scores[place] for place in places]
        images, inside = both[both["dataset"] == name], posed[posed["dataset"] == name]
        strays = [table[table["scene"] == OUTLIERS] for table in (inside, images)]
        counts = len(places), len(images), len(inside), "/".join(str(len(table)) for table in strays)
        numbers = one.score, mean(s.score for s in alone), one.accuracy, mean(s.accuracy for s in alone), one.clustering
        lines.append((name, *map(str, counts), *(f"{number:.3f}" for number in numbers)))
        for place in places:
            within = inside[inside["scene_submitted"] == one.clusters[place]]
            single = posed[(posed["dataset"] == place) & (posed["scene_submitted"] == scores[place].clusters[place])]
            foreign = sum(within["scene"] != place)
            counted = (str(sum(images["scene"] == place)), str(len(single)), str(len(within) - foreign), str(foreign))
            details.append(
                (name, place, *counted,
                 f"{scores[place].scenes[place].score:.3f}", f"{one.scenes[place].score:.3f}")
            )  # fmt: skip
    columns = "dataset", "places", "images", "registered", "strays", "score", "alone", "mAA", "alone", "clustering"
    heads = "dataset", "place", "images", "alone", "in cluster", "foreign", "2024's mAA alone", "mixed"
    return f"{aligned(columns, lines)}\n\n{aligned(heads, details)}"


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(str(error))
