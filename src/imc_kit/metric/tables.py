"""What the scores of all years share: reading tables, checking thresholds, and printing scores."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from imc_kit.data.tables import POSE_COLUMNS, parse_pose, read_table
from imc_kit.data.text import read_text
from imc_kit.errors import KitError
from imc_kit.types import Float64

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Table: TypeAlias = "Path | str | pd.DataFrame"
Key = tuple[str, ...]


class Posed(NamedTuple):
    """A row's scene and world-to-camera pose; nan if there is no pose."""

    scene: str
    rotation: Float64
    translation: Float64

    @property
    def center(self) -> Float64:
        with np.errstate(all="ignore"):
            return -self.rotation.T @ self.translation


class Rows(NamedTuple):
    """Both tables. The keys of rows are the values of the columns that name an image.

    scenes: the keys of the truth's rows, by dataset and scene.
    """

    true: dict[Key, Posed]
    submitted: dict[Key, Posed]
    scenes: dict[Key, list[Key]]

    def pairs(self, keys: Iterable[Key]) -> tuple[list[Posed], list[Posed]]:
        """The true and the submitted poses of some images; a missing submitted pose is nan."""
        no_row = Posed("", np.full((3, 3), np.nan), np.full(3, np.nan))
        return [self.true[key] for key in keys], [self.submitted.get(key, no_row) for key in keys]


def read_both(truth: Table, submission: Table, key: Sequence[str], unposed: str | None = None) -> Rows:
    """Read both tables.

    key: the columns that name an image, the dataset first. unposed: the scene whose true poses may be nan. Raises
    `KitError` as `score` does.
    """
    true, submitted = _read(truth, "the truth", key), _read(submission, "the submission", key)
    if not true:
        raise KitError(f"{_called(truth, 'the truth')} has no rows")
    for where, pose in true.items():
        if pose.scene != unposed and not np.isfinite(pose.center).all():
            raise KitError(f"{_called(truth, 'the truth')} has no finite pose for {', '.join(where)}")
    if unknown := [where for where in submitted if where not in true]:
        log.warning("%d rows of the submission are not in the truth, such as %s", len(unknown), ", ".join(unknown[0]))
    scenes: dict[Key, list[Key]] = {}
    for where, pose in true.items():
        scenes.setdefault((where[0], pose.scene), []).append(where)
    return Rows(true, submitted, scenes)


def _read(table: Table, role: str, key: Sequence[str]) -> dict[Key, Posed]:
    name = _called(table, role)
    columns = list(dict.fromkeys((*key, "scene", *POSE_COLUMNS)))
    frame = read_table(table) if isinstance(table, Path | str) else table
    if missing := [column for column in columns if column not in frame.columns]:
        raise KitError(f"{name} lacks the column {', '.join(missing)}: it has {', '.join(map(str, frame.columns))}")
    rows: dict[Key, Posed] = {}
    for number, row in enumerate(frame[columns].astype(str).to_dict("records"), 1):
        where = tuple(row[column] for column in key)
        if where in rows:
            raise KitError(f"{name} has row {number}, {', '.join(where)}, a second time: keep one of them")
        try:
            rows[where] = Posed(row["scene"], *parse_pose(row["rotation_matrix"], row["translation_vector"]))
        except ValueError as error:
            raise KitError(f"{name}, row {number} ({', '.join(where)}): {error}") from None
    return rows


def _called(table: Table, role: str) -> str:
    return f"{role} {table}" if isinstance(table, Path | str) else role


def checked(thresholds: Sequence[float], scene: str = "", least: int = 1) -> tuple[float, ...]:
    """The thresholds of a scene as floats. Raises `KitError` unless there are at least `least`, all positive."""
    try:
        values = () if isinstance(thresholds, str) else tuple(float(value) for value in thresholds)
    except (TypeError, ValueError):
        values = ()
    if len(values) < least or not all(0 < value < np.inf for value in values):
        whose = f"the thresholds of {scene}" if scene else "thresholds"
        count = "at least one" if least == 1 else f"{least} or more"
        raise KitError(f"{whose} must be positive numbers, {count}, not {thresholds!r}")
    return values


def full_names(groups: Iterable[Key]) -> dict[Key, str]:
    """The name dataset/scene of each. Raises `KitError` if two are equal: the parts may contain '/'."""
    names = {group: "/".join(group) for group in groups}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise KitError(f"the truth has two scenes that are both called {twice[0]}: give one another name")
    return names


def warn_of_unknown(thresholds: Iterable[str] | None, scenes: Iterable[str]) -> None:
    if unknown := sorted(set(thresholds or ()).difference(scenes)):
        log.warning("thresholds are given for scenes that are not in the truth: %s", ", ".join(unknown))


def read_thresholds(path: Path | str) -> dict[str, Any]:
    """Read a JSON file of thresholds, `{scene: [distances]}`. Raises `KitError` when it cannot be read."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise KitError(f"cannot read the thresholds in {path}: {error}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} must hold an object that names each scene's distances, {{scene: [distances]}}")
    return content


def mean_of(scores: Iterable[float]) -> float:
    known = [value for value in scores if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as text: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in (header, *rows)
    )
