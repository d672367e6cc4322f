"""What the scores of all years share: reading tables row by row, and checking thresholds."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imc_kit.data.tables import parse_pose, read_table
from imc_kit.errors import KitError
from imc_kit.types import Float64

if TYPE_CHECKING:
    import pandas as pd

    Table = Path | str | pd.DataFrame

log = logging.getLogger(__name__)

Key = tuple[str, ...]


class Posed(NamedTuple):
    """A row: its scene and its pose, world-to-camera; nan if there is none."""

    scene: str
    rotation: Float64
    translation: Float64

    @property
    def center(self) -> Float64:
        with np.errstate(all="ignore"):
            return -self.rotation.T @ self.translation


NO_ROW = Posed("", np.full((3, 3), np.nan), np.full(3, np.nan))


def read_both(
    truth: Table, submission: Table, columns: Sequence[str], key: Sequence[str], unposed: str | None = None
) -> tuple[dict[Key, Posed], dict[Key, Posed]]:
    """Read both tables, by the values of the `key` columns.

    unposed: the scene whose true poses may be nan. Raises `KitError` as `score` does.
    """
    true = _read(truth, "the truth", columns, key)
    submitted = _read(submission, "the submission", columns, key)
    if not true:
        raise KitError(f"{_called(truth, 'the truth')} has no rows")
    for where, pose in true.items():
        if pose.scene != unposed and not np.isfinite(pose.center).all():
            raise KitError(f"{_called(truth, 'the truth')} has no finite pose for {', '.join(where)}")
    unknown = [where for where in submitted if where not in true]
    if unknown:
        log.warning("%d rows of the submission are not in the truth, such as %s", len(unknown), ", ".join(unknown[0]))
    return true, submitted


def _read(table: Table, role: str, columns: Sequence[str], key: Sequence[str]) -> dict[Key, Posed]:
    name = _called(table, role)
    frame = read_table(table) if isinstance(table, Path | str) else table
    if missing := [column for column in columns if column not in frame.columns]:
        raise KitError(f"{name} lacks the column {', '.join(missing)}: it has {', '.join(map(str, frame.columns))}")
    rows: dict[Key, Posed] = {}
    for number, values in enumerate(zip(*(frame[column].astype(str) for column in columns), strict=True), 1):
        row = dict(zip(columns, values, strict=True))
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


def grouped(keys: Iterable[Key], group: Callable[[Key], Key]) -> dict[Key, list[Key]]:
    """The keys of each group, in order."""
    groups: dict[Key, list[Key]] = {}
    for key in keys:
        groups.setdefault(group(key), []).append(key)
    return groups


def centers_of(poses: Mapping[Key, Posed], keys: Sequence[Key]) -> Float64:
    """The camera centres [m, 3] of some keys; nan where there is no pose."""
    return np.array([poses.get(key, NO_ROW).center for key in keys]).reshape(-1, 3)


def checked(thresholds: Sequence[float], scene: str = "", least: int = 1) -> tuple[float, ...]:
    """The thresholds of a scene as numbers. Raises `KitError` unless there are `least` or more, all positive."""
    try:
        values = () if isinstance(thresholds, str) else tuple(float(value) for value in thresholds)
    except (TypeError, ValueError):
        values = ()
    if len(values) < least or not all(0 < value < np.inf for value in values):
        whose = f"the thresholds of {scene}" if scene else "thresholds"
        count = "at least one" if least == 1 else f"{least} or more"
        raise KitError(f"{whose} must be positive numbers, {count}, not {thresholds!r}")
    return values


def full_names(groups: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The name dataset/scene of each. Raises `KitError` when two are equal, because the parts may contain '/'."""
    names = {group: "/".join(group) for group in groups}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise KitError(f"the truth has two scenes that are both called {twice[0]}: give one another name")
    return names


def warn_of_unknown(thresholds: Iterable[str] | None, scenes: Iterable[str]) -> None:
    unknown = sorted(set(thresholds or ()).difference(scenes))
    if unknown:
        log.warning("thresholds are given for scenes that are not in the truth: %s", ", ".join(unknown))


def read_thresholds(path: Path | str) -> dict[str, Any]:
    """Read a JSON file of thresholds, `{scene: [distances]}`. Raises `KitError` when it cannot be read."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read the thresholds in {path}: {error}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} must hold an object that names each scene's distances, {{scene: [distances]}}")
    return content
