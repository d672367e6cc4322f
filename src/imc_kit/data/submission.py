"""Compose a submission from poses, write it, and check it."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from imc_kit.data import atomic
from imc_kit.data.scenes import Row
from imc_kit.data.tables import POSE_COLUMNS, format_pose, parse_pose, read_table
from imc_kit.errors import KitError
from imc_kit.types import Placement, Pose

OUTLIERS = "outliers"
"""The value of 2025's `scene` column for an image that belongs to no scene."""
CLUSTER = "cluster{}"
"""The value of that column for the images of one model. The first and largest model is cluster1."""
NO_POSE = (";".join(["nan"] * 9), ";".join(["nan"] * 3))
"""The pose of an outlier in 2025's submission."""


Placements = Mapping[str, Mapping[str, Placement]]
"""The poses of images, by scene and image."""


def compose(rows: Iterable[Row], placements: Placements, *, predict_scene: bool = False) -> list[dict[str, str]]:
    """Compose the rows of a valid submission, in the order of `rows`.

    placements: the poses found so far. Any scene or image may be missing.
    predict_scene: fill the `scene` column, as 2025 requires. An image registered in model k is in `cluster{k + 1}`; any
        other image is an outlier without a pose. If False, an image without a placement gets a guess: the mean centre
        of its scene's registered cameras, and the rotation of the camera nearest to that centre.
    """
    guesses = {scene: _mean_pose(placed.values()) for scene, placed in placements.items()}
    answer = []
    for row in rows:
        placement = placements.get(row.scene, {}).get(row.image) if row.image is not None else None
        values = dict(row.key)
        if not predict_scene:
            texts = format_pose(placement.pose if placement else guesses.get(row.scene, Pose.identity()))
        elif placement is None or placement.model is None:
            values["scene"], texts = OUTLIERS, NO_POSE
        else:
            values["scene"], texts = CLUSTER.format(placement.model + 1), format_pose(placement.pose)
        answer.append(values | dict(zip(POSE_COLUMNS, texts, strict=True)))
    return answer


def _mean_pose(placements: Iterable[Placement]) -> Pose:
    poses = [placement.pose for placement in placements if placement.model is not None]
    if not poses:
        return Pose.identity()
    centers = np.array([pose.center for pose in poses])
    mean = centers.mean(axis=0)
    nearest = poses[int(np.linalg.norm(centers - mean, axis=1).argmin())]
    return Pose.from_center(nearest.rotation, mean)


def write(path: Path | str, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV file whole or not at all (see `atomic.writing`)."""
    with atomic.writing(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([row[column] for column in columns] for row in rows)


def check(path: Path | str, columns: Sequence[str], keys: Sequence[Mapping[str, str]]) -> list[str]:
    """List the problems of a submission, one sentence each. An empty list means that it is valid.

    columns: all columns that it must have, in order.
    keys: for each required row, in order, the values of the columns that are not part of the answer (`Task.keys`).
        If the answer is more than the pose (2025's `scene`), all numbers of a pose may be nan.
    """
    try:
        table = read_table(path)
    except KitError as error:
        return [str(error)]
    if list(table.columns) != list(columns):
        return [f"{path} has the columns {', '.join(table.columns)}: {', '.join(columns)} were expected"]
    fixed = [column for column in columns if column in (keys[0] if keys else columns)]
    answered = [column for column in columns if column not in fixed and column not in POSE_COLUMNS]
    required = [tuple(key[column] for column in fixed) for key in keys]
    problems = _differences(required, list(table[fixed].itertuples(index=False, name=None)))
    for number, row in enumerate(table.to_dict("records"), 1):
        problems += [f"row {number} has nothing in the column {column}" for column in answered if not row[column]]
        try:
            rotation, translation = parse_pose(*(row[column] for column in POSE_COLUMNS))
            if not (answered and np.isnan(rotation).all() and np.isnan(translation).all()):
                Pose(rotation, translation)
        except ValueError as error:
            problems.append(f"row {number} has no valid pose: {error}")
    return problems


def _differences(required: list[tuple[str, ...]], found: list[tuple[str, ...]]) -> list[str]:
    wanted, present = Counter(required), Counter(found)
    problems = [f"the row {','.join(key)} is missing" for key in wanted if key not in present]
    problems += [f"the row {','.join(key)} was not asked for" for key in present if key not in wanted]
    repeated = [key for key in wanted if present[key] > wanted[key]]
    problems += [f"the row {','.join(key)} is there {present[key]} times" for key in repeated]
    if not problems and required != found:
        problems.append("the rows are not in the order asked for")
    return problems
