"""Geometric verification of a database's matched pairs: which matches fit one two-view geometry."""

from concurrent.futures import Executor
from functools import partial
from math import inf
from pathlib import Path

from imc_kit.colmap.database import delete_pairs, id_pair_counts, pair_counts, recent_keypoints, writing
from imc_kit.colmap.lenses import geometry, written
from imc_kit.runtime import deadline, progress
from imc_kit.types import Pair
from imc_kit.viewgraph.two_view import VerificationConfig

_PAIRS_AT_ONCE = 64
"""Pairs per round of the executor: enough to keep its workers busy, few enough to check the deadline often."""


def verify(path: Path, config: VerificationConfig, executor: Executor, until: float = inf) -> list[str]:
    """Write the two-view geometry of every matched pair into the database `path`, from its cameras (`lenses`).

    executor: estimates the geometries. until: the deadline (`runtime.deadline`). Returns a note when time runs out.
    """
    until = min(until, deadline.after(config.time_limit))
    delete_pairs(path, "two_view_geometries")
    with writing(path) as database:
        keypoints = recent_keypoints(database)
        lenses = {image.image_id: database.read_camera(image.camera_id) for image in database.read_all_images()}
        matched = list(id_pair_counts(database, verified=False))
        with progress.bar("verification", len(matched), "pair") as bar:
            for start in range(0, len(matched), _PAIRS_AT_ONCE):
                if not deadline.left(until):
                    left = len(matched) - start
                    return [f"{deadline.RAN_OUT}: {left} of {len(matched)} matched pairs were not verified"]
                pairs = matched[start : start + _PAIRS_AT_ONCE]
                matches = [database.read_matches(*pair) for pair in pairs]
                firsts, seconds = (
                    [keypoints(pair[side])[rows[:, side]] for pair, rows in zip(pairs, matches, strict=True)]
                    for side in (0, 1)
                )
                cameras = [(lenses[first], lenses[second]) for first, second in pairs]
                found = executor.map(config.verify, firsts, seconds, [partial(geometry, both) for both in cameras])
                for pair, both, rows, (matrix, inliers) in zip(pairs, cameras, matches, found, strict=True):
                    if inliers.any():
                        database.write_two_view_geometry(*pair, written(both, matrix, rows[inliers]))
                bar.update(len(pairs))
    return []


def inlier_counts(database: Path) -> dict[Pair, int]:
    """The number of verified matches of each pair that passed verification."""
    return pair_counts(database, verified=True)
