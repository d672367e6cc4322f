"""Score the files of a competition: which year's score fits them, and which distances belong to them."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imc_kit.data.tables import read_table
from imc_kit.data.text import read_text
from imc_kit.errors import KitError, unknown_name
from imc_kit.metric.centers import SCENES_2024, Score, score
from imc_kit.metric.clusters import Score2025, score_2025
from imc_kit.metric.pairs import Score2023, score_2023
from imc_kit.metric.tables import IMAGE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
Edition = Literal["2023", "2024", "2025"]
AnyPath = Path | str
AnyScore = Score | Score2023 | Score2025
_THRESHOLD_FILES = "thresholds.json", "train_thresholds.csv"
"""Names of files of thresholds: the kit's own, and 2025's."""
_TRUTH_FILES = "truth.csv", "train_labels.csv", "train/train_labels.csv"
"""Names of files with true poses below a competition's root: the kit's own, 2025's, and those of 2023 and 2024."""
_CLUSTER = re.compile(r"cluster-?\d+", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ScoredFiles:
    """The score of two files. distances: which distances it used, in words."""

    edition: Edition
    result: AnyScore
    distances: str

    def to_json(self) -> dict[str, Any]:
        return {"edition": self.edition, "distances": self.distances, **self.result.to_json()}

    def __str__(self) -> str:
        return f"{self.result}\n\nscore of {self.edition}, {self.distances}"


def score_files(
    truth: AnyPath,
    submission: AnyPath,
    thresholds: AnyPath | None = None,
    edition: Edition | None = None,
    scenes: Sequence[str] = (),
) -> ScoredFiles:
    """Score a submission against the true poses, as the competition does.

    truth, submission: CSV files, for example a competition's train_labels.csv.
    thresholds: a file for `read_thresholds`; None takes the one next to the truth (`find_thresholds`), if any.
    edition: the year whose score is computed; None recognises it from the columns (`edition_of`).
    scenes: score only these: scenes, or datasets in 2025; empty for all.

    Raises `KitError` as the scores of the years do, for an unknown scene, and when the files look swapped.
    """
    true, submitted = read_table(truth), read_table(submission)
    if _looks_submitted(true) and not _looks_submitted(submitted):
        raise KitError(f"{truth} looks like a submission and {submission} like the truth: give the truth first")
    edition = edition or edition_of(true)
    distances, source = distances_of(truth, thresholds)
    if unknown := [name for name in scenes if not _is_of(true, [name], edition).any()]:
        kind = "dataset" if edition == "2025" else "scene"
        raise unknown_name(kind, unknown[0], true[kind].unique())
    if scenes:
        true, submitted = (table[_is_of(table, scenes, edition)] for table in (true, submitted))
        known = {*true["scene"], *(true["dataset"] + "/" + true["scene"])}
        distances = distances and {name: values for name, values in distances.items() if name in known}
    if edition == "2025":
        if distances is None:
            wanted = "give --thresholds FILE, or put train_thresholds.csv next to it"
            raise KitError(f"the score of 2025 needs the distances of each scene, and {truth} has none: {wanted}")
        return ScoredFiles(edition, score_2025(true, submitted, distances), source)
    if edition == "2023":
        return ScoredFiles(edition, score_2023(true, submitted, distances), source)
    result = score(true, submitted, distances)
    if guessed := sorted(result.scenes.keys() - (distances or {}) - SCENES_2024.keys()):
        log.warning("no distances are given for %s: 2024's are used, which are in metres", ", ".join(guessed))
    return ScoredFiles(edition, result, source)


def edition_of(table: "pd.DataFrame") -> Edition:
    """The year whose tables have these columns and paths.

    2025 names images by `image`. 2023's image_path begins with dataset/scene/. All others are 2024's.
    """
    if "image" in table.columns and "image_path" not in table.columns:
        return "2025"
    if "image_path" in table.columns and {"dataset", "scene"} <= set(table.columns):
        starts = table["dataset"] + "/" + table["scene"] + "/"
        if len(table) and all(map(str.startswith, table["image_path"], starts)):
            return "2023"
    return "2024"


def find_thresholds(truth: AnyPath) -> Path | None:
    """The thresholds that belong to a file of true poses: thresholds.json or train_thresholds.csv in its folder, or in
    the folder above a `train` folder."""
    folder = Path(truth).absolute().parent
    folders = [folder, folder.parent] if folder.name == "train" else [folder]
    candidates = (place / name for place in folders for name in _THRESHOLD_FILES)
    return next((path for path in candidates if path.is_file()), None)


def distances_of(truth: AnyPath | None, thresholds: AnyPath | None = None) -> tuple[dict[str, Any] | None, str]:
    """The thresholds for `score_scenes` and where they are from, in words: given, found next to the truth, or None."""
    path = thresholds or (truth and find_thresholds(truth))
    return (read_thresholds(path), f"distances from {path}") if path else (None, "the competition's own distances")


def read_thresholds(path: AnyPath) -> dict[str, Any]:
    """Read a file of thresholds.

    It is JSON, `{scene: [distances]}`, or CSV with the columns dataset, scene and thresholds, whose distances are
    joined by ';', as in 2025's train_thresholds.csv. Raises `KitError` when it cannot be read.
    """
    if Path(path).suffix.lower() == ".csv":
        table = read_table(path, ("dataset", "scene", "thresholds"))
        rows = table[["dataset", "scene", "thresholds"]].itertuples(index=False, name=None)
        return {f"{dataset}/{scene}": text.split(";") for dataset, scene, text in rows}
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise KitError(f"cannot read the thresholds in {path}: {error}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} must hold an object that names each scene's distances, {{scene: [distances]}}")
    return content


def find_truth(root: Path, rows: Sequence[dict[str, str]]) -> Path:
    """The file below a competition's root with the true poses of these rows (`Task.keys`).

    Raises `KitError` when there is none, and when 2025's distances are missing.
    """
    for path in (root / name for name in _TRUTH_FILES):
        if path.is_file():
            table = read_table(path)
            column = next((name for name in IMAGE_COLUMNS if name in table.columns), None)
            if column and not set(table[column]).isdisjoint(row.get(column, "") for row in rows):
                if edition_of(table) == "2025" and find_thresholds(path) is None:
                    raise KitError(f"{path} has no distances: put train_thresholds.csv next to it")
                return path
    raise KitError(f"{root} has no true poses of these images: put them into truth.csv there, or leave out the score")


def _looks_submitted(table: "pd.DataFrame") -> bool:
    """Whether a table has what only submissions have: such a name, 2025's image_id, or scenes called cluster1."""
    names = table["scene"] if "scene" in table.columns else ()
    called = "submission" in Path(table.attrs["path"]).name
    return called or "image_id" in table.columns or any(map(_CLUSTER.fullmatch, names))


def _is_of(table: "pd.DataFrame", names: Sequence[str], edition: Edition) -> "pd.Series[bool]":
    """Whether each row belongs to one of these scenes, or datasets in 2025."""
    if edition == "2025":
        return table["dataset"].isin(names)
    return table["scene"].isin(names) | (table["dataset"] + "/" + table["scene"]).isin(names)
