"""The scores of a task's scenes, by the metric of its year."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imc_kit.metric.tables as tables
from imc_kit.data.submission import CLUSTER
from imc_kit.data.tables import read_table
from imc_kit.errors import KitError
from imc_kit.metric.centers import SceneScore, scenes_by_name, score
from imc_kit.metric.clusters import DatasetScore, score_2025
from imc_kit.metric.pairs import score_2023
from imc_kit.metric.tables import Table


class OfScene(NamedTuple):
    """The score of a task's scene.

    models: the cameras' score against the truth, by the number of their model. In 2025 this is the model assigned to a
        true scene. In other years the only number is 0.
    accuracy: the year's score: the mAA, or in 2025 the harmonic mean of mAA and clustering; None if undefined.
    """

    models: Mapping[int, SceneScore]
    accuracy: float | None


def score_scenes(
    layout: str, scenes: Iterable[str], truth: Table, submission: Table, thresholds: Mapping[str, Any] | None = None
) -> dict[str, OfScene]:
    """Score each of a task's scenes that the truth contains, by the metric of its layout (`Task.layout`).

    thresholds: as for `score_2023`, `score_2025` or `score` (2024, folder).

    A task's scene is a dataset in 2025 and is named dataset/scene in 2023. Raises `KitError` as those functions do, and
    in 2025 without thresholds.
    """
    scenes = list(scenes)
    truth, thresholds = _only(scenes, layout, truth, thresholds)
    if layout == "2025":
        if thresholds is None:
            raise KitError("the score of 2025 needs the distances of each scene: give --thresholds FILE")
        datasets = score_2025(truth, submission, thresholds).datasets
        return {name: OfScene(_by_model(data), data.score) for name, data in datasets.items()}
    if layout == "2023":
        means = {name: one.score for name, one in score_2023(truth, submission, thresholds).scenes.items()}
        aligned = scenes_by_name(truth, submission, None, full=True)
    else:
        aligned = score(truth, submission, thresholds).scenes
        means = {name: one.score for name, one in aligned.items()}
    return {name: OfScene({0: aligned[name]}, tables.or_none(means[name])) for name in scenes if name in aligned}


def _only(
    scenes: Sequence[str], layout: str, truth: Table, thresholds: Mapping[str, Any] | None
) -> tuple[Table, Mapping[str, Any] | None]:
    """The truth and the thresholds of these scenes, so that nothing is said about others.

    Scenes whose names end alike stay, because they decide whether a scene is named with its dataset.
    """
    frame = read_table(truth) if isinstance(truth, Path | str) else truth
    if not {"dataset", "scene"} <= set(frame.columns):
        return truth, thresholds
    ends = {name.rpartition("/")[2] for name in scenes}
    kept = frame["dataset"].isin(scenes) if layout == "2025" else frame["scene"].str.rpartition("/")[2].isin(ends)
    if not kept.any():
        return truth, thresholds
    known, others = ({*rows["scene"], *(rows["dataset"] + "/" + rows["scene"])} for rows in (frame[kept], frame[~kept]))
    return frame[kept], thresholds and {
        name: values for name, values in thresholds.items() if name in known or name not in others
    }


def _by_model(data: DatasetScore) -> dict[int, SceneScore]:
    """The true scenes of a dataset by assigned model; of several scenes, the one with the most registered images."""
    order = sorted(data.scenes, key=lambda scene: data.scenes[scene].registered)
    found = ((re.fullmatch(CLUSTER.format("([1-9][0-9]*)"), data.clusters[scene]), scene) for scene in order)
    return {int(match[1]) - 1: data.scenes[scene] for match, scene in found if match}
