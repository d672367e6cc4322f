"""The score of 2025: poses, and the clustering of images into scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_kit.data.submission import OUTLIERS
from imc_kit.data.tables import POSE_COLUMNS
from imc_kit.errors import KitError
from imc_kit.metric.centers import FREE, SceneScore, score_centers
from imc_kit.metric.tables import Key, Posed, centers_of, checked, full_names, grouped, read_both, warn_of_unknown
from imc_kit.metric.text import aligned, mean_of, or_none

if TYPE_CHECKING:
    from imc_kit.metric.tables import Table

SKIPPED_2025 = 2
"""2025's program ignores the first two distances of each scene."""


@dataclass(frozen=True, eq=False)
class DatasetScore:
    """The score of one of 2025's datasets.

    accuracy: the mAA over its scenes, like a recall.
    clustering: the fraction of the images in the assigned clusters that belongs there, like a precision.
    scenes: the score of each true scene, with the images of its cluster.
    clusters: the submission's cluster that is assigned to each true scene.
    """

    accuracy: float
    clustering: float
    scenes: dict[str, SceneScore]
    clusters: dict[str, str]

    @property
    def score(self) -> float:
        """The harmonic mean of accuracy and clustering."""
        total = self.accuracy + self.clustering
        return 2 * self.accuracy * self.clustering / total if total else 0.0


@dataclass(frozen=True, eq=False)
class Score2025:
    """2025's score of a submission, by dataset."""

    datasets: dict[str, DatasetScore]

    @property
    def mean(self) -> float:
        """The unweighted mean over the datasets."""
        return mean_of(dataset.score for dataset in self.datasets.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "datasets": {name: {…}}, "scenes": {"dataset/scene": number}}`.

        A scene's number is its mAA as in 2024, over all its distances; null means no score.
        """
        return {
            "mean": self.mean,
            "datasets": {
                name: {"score": dataset.score, "accuracy": dataset.accuracy, "clustering": dataset.clustering}
                for name, dataset in self.datasets.items()
            },
            "scenes": {
                f"{name}/{scene}": or_none(result.score)
                for name, dataset in self.datasets.items()
                for scene, result in dataset.scenes.items()
            },
        }

    def __str__(self) -> str:
        rows = [
            (name, f"{dataset.accuracy:.4f}", f"{dataset.clustering:.4f}", f"{dataset.score:.4f}")
            for name, dataset in self.datasets.items()
        ]
        return aligned(("dataset", "mAA", "clustering", "score"), [*rows, ("mean", "", "", f"{self.mean:.4f}")])


def score_2025(truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]]) -> Score2025:
    """Score a submission as the challenge of 2025 does: poses, and the clustering of images into scenes.

    truth, submission: CSV files or DataFrames with the columns dataset, scene, image, rotation_matrix and
        translation_vector. Rows are paired by dataset and image. In the submission `scene` is a cluster with any
        name. In both, the scene 'outliers' holds images of no scene; their poses may be nan in the truth.
    thresholds: distances by 'dataset/scene', equally many for all scenes. The first two do not count. There are no
        defaults; Kaggle's train_thresholds.csv has those of the training scenes.

    Each true scene but the outliers is assigned the cluster that shares the most images with it. Ties are broken by the
    best mAA as in 2024, then by the first row. Two scenes may share a cluster. Per dataset, with m the images of a
    scene and c the largest number of its cluster's images within a threshold,

        mAA        = Σ over scenes, thresholds of max(0, c − 3) / Σ over scenes, thresholds of (m − 3)
        clustering = Σ over scenes of images shared with the cluster / Σ over scenes of images in the cluster

    and the score is the mean over datasets of 2·mAA·clustering / (mAA + clustering).

    Source: metric.py of the hosts' data set imc25-utils on Kaggle, from copies in public repositories. Where its code
    and its comments differ, this follows the code. So a scene that shares no image with any cluster is assigned the
    submission's first cluster, whose images then count against clustering. If that cluster is 'outliers' they do not
    count, but the scene's m images do not count in mAA either, which may then exceed 1.

    Where `score_centers` only has bounds, c is the lower one.

    Six random cases agree with the hosts' program to 1e-9 (tests/metric). The hidden scenes' thresholds are not known.
    The hosts' program refuses missing and unknown rows. Here missing rows are outliers and unknown ones are ignored,
    with a warning.

    Raises `KitError` as `score` does, and for a scene without thresholds.
    """
    columns = ("dataset", "scene", "image", *POSE_COLUMNS)
    true, submitted = read_both(truth, submission, columns, key=("dataset", "image"), unposed=OUTLIERS)
    groups = grouped(true, lambda key: (key[0], true[key].scene))
    scenes = {group: keys for group, keys in groups.items() if group[1] != OUTLIERS}
    names = full_names(scenes)
    lacking = [name for name in names.values() if name not in thresholds]
    if lacking:
        raise KitError(f"no thresholds are given for {', '.join(lacking)}")
    warn_of_unknown(thresholds, names.values())
    distances = {group: checked(thresholds[name], name, SKIPPED_2025 + 1) for group, name in names.items()}
    if len(set(map(len, distances.values()))) > 1:
        raise KitError("all scenes must have equally many thresholds")

    datasets = {}
    for dataset in dict.fromkeys(key[0] for key in true):
        clusters: dict[str, list[Key]] = {}
        for key, pose in submitted.items():
            if key[0] == dataset and key in true:
                clusters.setdefault(pose.scene, []).append(key)
        datasets[dataset] = _score_dataset(
            true,
            submitted,
            {group[1]: (keys, distances[group]) for group, keys in scenes.items() if group[0] == dataset},
            clusters,
        )
    return Score2025(datasets)


def _score_dataset(
    true: Mapping[Key, Posed],
    submitted: Mapping[Key, Posed],
    scenes: Mapping[str, tuple[Sequence[Key], Sequence[float]]],
    clusters: Mapping[str, Sequence[Key]],
) -> DatasetScore:
    """Score a dataset. scenes: the keys and the distances of each true scene. clusters: the keys of each cluster."""
    clusters = clusters or {OUTLIERS: ()}
    results: dict[str, SceneScore] = {}
    given: dict[str, str] = {}
    shared = sizes = reached = reachable = 0
    for scene, (keys, distances) in scenes.items():
        name, result = _assign(true, submitted, keys, distances, clusters)
        given[scene], results[scene] = name, result
        reached += _gained(result)
        reachable -= FREE
        if name != OUTLIERS:
            shared += len(set(keys).intersection(clusters[name]))
            sizes += len(clusters[name])
            reachable += len(keys)
    counting = max((len(distances) for _, distances in scenes.values()), default=0) - SKIPPED_2025
    accuracy = reached / (counting * reachable) if counting > 0 and reachable > 0 else 0.0
    return DatasetScore(accuracy, shared / sizes if sizes else 0.0, results, given)


def _assign(
    true: Mapping[Key, Posed],
    submitted: Mapping[Key, Posed],
    keys: Sequence[Key],
    distances: Sequence[float],
    clusters: Mapping[str, Sequence[Key]],
) -> tuple[str, SceneScore]:
    """The cluster that a scene is assigned, and the scene's score with the cluster's images."""
    truth = np.array([true[key].center for key in keys])
    common = {name: set(keys).intersection(cluster) for name, cluster in clusters.items() if name != OUTLIERS}
    most = max(map(len, common.values()), default=0)
    # Without a shared image the first cluster is assigned, which may be that of the outliers.
    candidates = [name for name, members in common.items() if len(members) == most] if most else list(clusters)[:1]
    tried = {}
    for name in candidates:
        centers = centers_of({key: submitted[key] for key in common.get(name, ())}, keys)
        tried[name] = score_centers(truth, centers, distances, names=[key[-1] for key in keys])
    best = max(tried, key=lambda name: _gained(tried[name]))  # the first of equal ones
    return best, tried[best]


def _gained(result: SceneScore) -> int:
    """The images that count, summed over the thresholds that count."""
    return sum(max(0, count - FREE) for count in result.counts[SKIPPED_2025:])
