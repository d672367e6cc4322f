"""A verified database without the pairs that seem to show equal objects in different places."""

import shutil
from pathlib import Path

import numpy as np

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import delete_pairs, id_pair_counts, reading, recent_keypoints
from imc_kit.types import Pair
from imc_kit.viewgraph.missing import completeness
from imc_kit.viewgraph.strengths import strengths

_CONTRAST = 4
"""A pair counts with its matches times its completeness to this power. Equal objects can have ten times the matches of
a right pair. With 3 some of them count more than right pairs; with 6 nothing changes (docs/benchmarks.md)."""
_WEAK = 0.7
"""Pairs weaker than this are left out, as those that are no reference pairs are (`mapping_runs`). With 0.3 the prints
of three of six mugs are joined."""


def distinct(database: Path, at: Workplace) -> tuple[Path, list[Pair]] | None:
    """A copy of a verified database without pairs that lack matches, in a folder in that of `at`; None if none lacks.

    Returns its path, and the pairs without verified matches in it, by image names.

    Each pair is judged by the matches that its viewpoints let expect (`viewgraph.missing`), and left out if others with
    more evidence join its images. So no image is cut off.
    """
    weights: dict[Pair, float] = {}
    with reading(database) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        cameras = {number: opened.read_camera(image.camera_id) for number, image in images.items()}
        sizes = {number: (camera.width, camera.height) for number, camera in cameras.items()}
        keypoints = recent_keypoints(opened)
        for pair, count in id_pair_counts(opened, verified=True).items():
            first, second = pair
            matches = opened.read_two_view_geometry(*pair).inlier_matches
            both = np.array([sizes[first], sizes[second]])
            share = completeness((keypoints(first), keypoints(second)), both, matches)
            weights[images[first].name, images[second].name] = count * share**_CONTRAST
    weak = [pair for pair, strength in strengths(weights).items() if strength < _WEAK]
    if not weak:
        return None
    path = at.folder / "distinct" / "database.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(database, path)
    delete_pairs(path, "two_view_geometries", weak)
    return path, weak
