"""Tables of poses: the submission, the rows asked for, the truth.

A pose in a table is two texts of numbers joined by ';': R row by row (nine) and t (three), world-to-camera.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imc_kit.data import atomic
from imc_kit.errors import KitError
from imc_kit.types import Float64, Placement, Pose

if TYPE_CHECKING:
    import pandas as pd

POSE_COLUMNS = ("rotation_matrix", "translation_vector")
OUTLIERS = "outliers"
"""What 2025's `scene` column says of an image that belongs to no scene."""
CLUSTER = "cluster{}"
"""What it says of the images of a model: the first, which is the largest, is cluster1."""
NO_POSE = (";".join(["nan"] * 9), ";".join(["nan"] * 3))
"""The pose of an outlier in 2025's submission."""


class AskedRow(Protocol):
    """One row that a submission must have."""

    @property
    def key(self) -> Mapping[str, str]:
        """What the row says besides the pose, by column."""

    @property
    def scene(self) -> str: ...

    @property
    def image(self) -> str | None:
        """The image's name in the scene; None when there is no such file."""


def read_table(path: Path | str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file, every value a text as it is written ('nan' and '' too).

    Raises `KitError` when the file is missing, is not a CSV file in UTF-8, or lacks one of `columns`. A file with a
    header alone is a table without rows.
    """
    import pandas as pd

    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header, *rows = [row for row in reader if row] or [[]]
    except FileNotFoundError:
        raise KitError(f"there is no file {path}") from None
    except OSError as error:
        raise KitError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise KitError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not header:
        raise KitError(f"{path} is empty: a header row with the names of the columns was expected")
    missing = [column for column in columns if column not in header]
    if missing:
        raise KitError(f"{path} lacks the column {', '.join(missing)}: it has {', '.join(header)}")
    repeated = [column for column, count in Counter(header).items() if count > 1]
    if repeated:
        raise KitError(f"{path} has the column {', '.join(repeated)} more than once")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise KitError(f"{path} is not a table: row {number} has {len(row)} values, the header {len(header)}")
    return pd.DataFrame(rows, columns=header, dtype=str)


def parse_pose(rotation: str, translation: str) -> tuple[Float64, Float64]:
    """Read R [3, 3] and t [3] from their texts, nan and inf as they are.

    Raises `ValueError` when a text has another count of numbers, or something that is no number.
    """
    return _numbers(rotation, 9, "a rotation").reshape(3, 3), _numbers(translation, 3, "a translation")


def _numbers(text: str, count: int, what: str) -> Float64:
    parts = text.split(";")
    if len(parts) != count:
        raise ValueError(f"{what} is {count} numbers joined by ';', not {len(parts)}: {text[:80]!r}")
    try:
        return np.array([float(part) for part in parts], np.float64)
    except ValueError:
        raise ValueError(f"{what} is {count} numbers joined by ';', not {text[:80]!r}") from None


def format_pose(pose: Pose) -> tuple[str, str]:
    """The texts of a pose's R and t; `parse_pose` gives back exactly the same doubles."""
    return _text(pose.rotation), _text(pose.translation)


def _text(values: Float64) -> str:
    return ";".join(repr(value) for value in values.ravel().tolist())


def compose(
    rows: Iterable[AskedRow], placements: Mapping[str, Mapping[str, Placement]], *, predict_scene: bool = False
) -> list[dict[str, str]]:
    """The rows of a valid submission, one for each of `rows` in their order, whatever is solved so far.

    placements: scene name: image name: where it came out; scenes and images may be lacking.
    predict_scene: the `scene` column is part of the answer, as in 2025: an image that model k registered is in
        `cluster{k + 1}`, any other is among the outliers and has no pose. Without it, an image that has no
        placement stands at the mean centre of its scene's registered cameras and looks as the nearest of them does.
    """
    guesses = {scene: _middle(placed.values()) for scene, placed in placements.items()}
    answer = []
    for row in rows:
        placement = placements.get(row.scene, {}).get(row.image) if row.image is not None else None
        values = dict(row.key)
        if not predict_scene:
            pose = placement.pose if placement else guesses.get(row.scene, Pose.identity())
            texts = format_pose(pose)
        elif placement is None or placement.model is None:
            values["scene"], texts = OUTLIERS, NO_POSE
        else:
            values["scene"], texts = CLUSTER.format(placement.model + 1), format_pose(placement.pose)
        answer.append(values | dict(zip(POSE_COLUMNS, texts, strict=True)))
    return answer


def _middle(placements: Iterable[Placement]) -> Pose:
    poses = [placement.pose for placement in placements if placement.model is not None]
    if not poses:
        return Pose.identity()
    centers = np.array([pose.center for pose in poses])
    middle = centers.mean(axis=0)
    nearest = poses[int(np.linalg.norm(centers - middle, axis=1).argmin())]
    return Pose.from_center(nearest.rotation, middle)


def write(path: Path | str, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV file whole or not at all (see `atomic.writing`)."""
    with atomic.writing(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([row[column] for column in columns] for row in rows)


def check(path: Path | str, columns: Sequence[str], keys: Sequence[Mapping[str, str]]) -> list[str]:
    """What is wrong with a submission, one sentence each; an empty list when it is valid.

    columns: all columns that it must have, in order.
    keys: for each row asked for, in order, what it must say in the columns that are not part of the answer. Where the
        answer is more than the pose (2025's `scene`), a pose may be nan throughout.
    """
    try:
        table = read_table(path)
    except KitError as error:
        return [str(error)]
    if list(table.columns) != list(columns):
        return [f"{path} has the columns {', '.join(table.columns)}: {', '.join(columns)} were expected"]
    fixed = [column for column in columns if column in (keys[0] if keys else columns)]
    answered = [column for column in columns if column not in fixed and column not in POSE_COLUMNS]
    asked = [tuple(key[column] for column in fixed) for key in keys]
    found = list(table[fixed].itertuples(index=False, name=None))
    problems = _differences(asked, found)
    for number, row in enumerate(table.to_dict("records"), 1):
        problems += [f"row {number} has nothing in the column {column}" for column in answered if not row[column]]
        try:
            rotation, translation = parse_pose(*(row[column] for column in POSE_COLUMNS))
            if not (answered and np.isnan(rotation).all() and np.isnan(translation).all()):
                Pose(rotation, translation)
        except ValueError as error:
            problems.append(f"row {number} has no valid pose: {error}")
    return problems


def _differences(asked: list[tuple[str, ...]], found: list[tuple[str, ...]]) -> list[str]:
    wanted, present = Counter(asked), Counter(found)
    problems = [f"the row {','.join(key)} is missing" for key in wanted if key not in present]
    problems += [f"the row {','.join(key)} was not asked for" for key in present if key not in wanted]
    problems += [
        f"the row {','.join(key)} is there {present[key]} times" for key in wanted if present[key] > wanted[key]
    ]
    if not problems and asked != found:
        problems.append("the rows are not in the order asked for")
    return problems
