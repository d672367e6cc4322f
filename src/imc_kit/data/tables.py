"""Tables of poses: read CSV files, and convert poses to text and back.

A pose is two texts of numbers joined by ';': the rotation, row by row (9), and the translation (3), world-to-camera.
Kaggle's submissions and ground truth have this form in all years.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imc_kit.data.text import read_text
from imc_kit.errors import KitError
from imc_kit.types import Float64, Pose

if TYPE_CHECKING:
    import pandas as pd

POSE_COLUMNS = ("rotation_matrix", "translation_vector")


def read_table(path: Path | str, columns: Sequence[str] = ()) -> "pd.DataFrame":
    """Read a CSV file. Every value remains text, including 'nan' and ''.

    columns: those that the file must have.

    A file with only a header is a table without rows. Raises `KitError` when the file is missing, is not CSV in UTF-8,
    lacks a column, or has rows of different lengths.
    """
    import pandas as pd

    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        header, *rows = [row for row in lines if row] or [[]]
    except csv.Error as error:
        raise KitError(f"{path} is not a CSV file: {error}") from error
    if not header:
        raise KitError(f"{path} is empty: its first line must name the columns")
    if missing := [column for column in columns if column not in header]:
        raise KitError(f"{path} lacks the column {', '.join(missing)}: it has {', '.join(header)}")
    if repeated := [column for column, count in Counter(header).items() if count > 1]:
        raise KitError(f"{path} has the column {', '.join(repeated)} more than once")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise KitError(f"{path} is not a table: row {number} has {len(row)} values, the header {len(header)}")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    table.attrs["path"] = str(path)  # for messages
    return table


def parse_pose(rotation: str, translation: str) -> tuple[Float64, Float64]:
    """Parse R [3, 3] and t [3] from their texts; nan and inf are kept.

    Raises `ValueError` when a text has the wrong number of values, or one that is not a number.
    """
    return _numbers(rotation, 9, "a rotation").reshape(3, 3), _numbers(translation, 3, "a translation")


def format_pose(pose: Pose) -> tuple[str, str]:
    """Format R and t as texts. `parse_pose` restores exactly the same doubles."""
    rotation, translation = (";".join(map(repr, part.ravel().tolist())) for part in (pose.rotation, pose.translation))
    return rotation, translation


def _numbers(text: str, count: int, what: str) -> Float64:
    parts = text.split(";")
    if len(parts) != count:
        raise ValueError(f"{what} is {count} numbers joined by ';', not {len(parts)}: {text[:80]!r}")
    try:
        return np.array([float(part) for part in parts], np.float64)
    except ValueError:
        raise ValueError(f"{what} is {count} numbers joined by ';', not {text[:80]!r}") from None
