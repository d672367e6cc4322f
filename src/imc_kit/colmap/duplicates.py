"""Verified databases without the pairs that seem to show equal objects in different places."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import delete_pairs, id_pair_counts, reading, recent_keypoints
from imc_kit.types import Pair
from imc_kit.viewgraph.missing import completeness
from imc_kit.viewgraph.strengths import strengths

_CONTRAST = 4
"""A pair counts with its matches times its completeness to this power. Equal objects can have ten times the matches of
a right pair. With 3 some of them count more than right pairs, and with 6 in one more scene (docs/benchmarks.md)."""
_WEAK = 0.7
"""Pairs weaker than this are left out, as those that are no reference pairs are (`mapping_runs`). With 0.3 the prints
of three of six mugs are joined."""
_PLAUSIBLE = 0.5, 0.4
"""Pairs that have these shares of the expected matches come back if those left do not determine a model: first those
with half. In rendered scenes of 28 to 36 photos of two equal objects they include half of the right pairs, and up to
three wrong ones; in mugs with two equal prints there are more (docs/benchmarks.md)."""
_DOUBTFUL = 0.06
"""The share of the strongest pairs' matches that must be in doubt, in pairs weaker than this when judged by what they
lack. It is 0.09 to 0.4 in scenes with duplicates, and at most 0.04 in eleven of fifteen other scenes."""


@dataclass(frozen=True)
class Distinct:
    """A verified database without some of its pairs: its path, and the pairs by image names."""

    database: Path
    left_out: list[Pair]


def distinct(database: Path, at: Workplace) -> list[Distinct]:
    """Copies of a verified database without pairs that lack matches, in folders in that of `at`.

    Each pair is judged by the matches that its viewpoints let expect (`viewgraph.missing`), and left out if others with
    more evidence join its images. So no image is cut off. The first copy has hardly a wrong pair, but may have too few
    to determine a model; the next ones have more. None if hardly any of the strongest pairs lacks matches.
    """
    counts: dict[Pair, int] = {}
    complete: dict[Pair, float] = {}
    weights: dict[Pair, float] = {}
    with reading(database) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        cameras = {number: opened.read_camera(image.camera_id) for number, image in images.items()}
        sizes = {number: (camera.width, camera.height) for number, camera in cameras.items()}
        keypoints = recent_keypoints(opened)
        for (first, second), count in id_pair_counts(opened, verified=True).items():
            matches = opened.read_two_view_geometry(first, second).inlier_matches
            both = np.array([sizes[first], sizes[second]])
            pair = images[first].name, images[second].name
            counts[pair] = count
            complete[pair] = completeness((keypoints(first), keypoints(second)), both, matches)
            weights[pair] = count * complete[pair] ** _CONTRAST
    strong = [pair for pair, strength in strengths(counts).items() if strength >= _WEAK]
    judged = strengths(weights)
    doubtful = sum(counts[pair] for pair in strong if judged[pair] < _DOUBTFUL)
    if doubtful < _DOUBTFUL * sum(counts[pair] for pair in strong) or not strong:
        return []
    weak = [pair for pair, strength in judged.items() if strength < _WEAK]
    left_out = [weak]
    for share in _PLAUSIBLE:
        weaker = [pair for pair in weak if complete[pair] < share]
        if len(weaker) < len(left_out[-1]):
            left_out.append(weaker)
    return [
        _without(database, pairs, at.folder / f"distinct-{number}" / "database.db")
        for number, pairs in enumerate(left_out)
    ]


def _without(database: Path, pairs: list[Pair], path: Path) -> Distinct:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(database, path)
    delete_pairs(path, "two_view_geometries", pairs)
    return Distinct(path, pairs)
