"""The score of 2025: poses, and the clustering of images into scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import imc_kit.metric.tables as tables
from imc_kit.data.submission import OUTLIERS
from imc_kit.errors import KitError
from imc_kit.metric.centers import FREE, SceneScore, score_rows
from imc_kit.metric.tables import Key, Rows, Table

SKIPPED_2025 = 2
"""2025's program ignores the first two distances of each scene."""


@dataclass(frozen=True, eq=False)
class DatasetScore:
    """The score of one of 2025's datasets.

    accuracy: the mAA over its scenes; similar to recall.
    clustering: the fraction of the images in the assigned clusters that belong there; similar to precision.
    scenes: the score of each true scene, computed from the images of its cluster.
    clusters: the submission's cluster assigned to each true scene.
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
        return tables.mean_of(dataset.score for dataset in self.datasets.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "datasets": {name: {…}}, "scenes": {"dataset/scene": number}}`.

        A scene's number is its mAA as in 2024, over all its thresholds; null means no score.
        """
        return {
            "mean": self.mean,
            "datasets": {
                name: {"score": dataset.score, "accuracy": dataset.accuracy, "clustering": dataset.clustering}
                for name, dataset in self.datasets.items()
            },
            "scenes": {
                f"{name}/{scene}": tables.or_none(result.score)
                for name, dataset in self.datasets.items()
                for scene, result in dataset.scenes.items()
            },
        }

    def __str__(self) -> str:
        rows = [
            (name, f"{dataset.accuracy:.4f}", f"{dataset.clustering:.4f}", f"{dataset.score:.4f}")
            for name, dataset in self.datasets.items()
        ]
        return tables.aligned(("dataset", "mAA", "clustering", "score"), [*rows, ("mean", "", "", f"{self.mean:.4f}")])


def score_2025(truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]]) -> Score2025:
    """Score a submission as the challenge of 2025 does: poses, and the clustering of images into scenes.

    truth, submission: CSV files or DataFrames with the columns dataset, scene, image, rotation_matrix and
        translation_vector. Rows are paired by dataset and image. In the submission `scene` is a cluster with any
        name. In both, the scene 'outliers' holds images of no scene; their poses may be nan in the truth.
    thresholds: distances by 'dataset/scene', the same number for all scenes. The first two do not count. There are no
        defaults; Kaggle's train_thresholds.csv has those of the training scenes.

    Each true scene except the outliers is assigned the cluster that shares the most images with it. Ties are broken by
    the best mAA as in 2024, then by the first row. Two scenes may share a cluster. Per dataset, with m the number of a
    scene's images and c the largest number of its cluster's images within a threshold,

        mAA        = Σ over scenes, thresholds of max(0, c − 3) / Σ over scenes, thresholds of (m − 3)
        clustering = Σ over scenes of images shared with the cluster / Σ over scenes of images in the cluster

    and the score is the mean over datasets of 2·mAA·clustering / (mAA + clustering).

    Source: metric.py of the hosts' data set imc25-utils on Kaggle, from copies in public repositories. If its code and
    its comments differ, this function follows the code. So a scene that shares no image with any cluster is assigned
    the submission's first cluster, whose images then count against clustering. If that cluster is 'outliers', they do
    not count. But then the scene's m images do not count in mAA either, which may exceed 1.

    If `score_centers` only has bounds, c is the lower one.

    Six random cases agree with the hosts' program to 1e-9 (tests/metric). The hidden scenes' thresholds are unknown.
    The hosts' program refuses missing and unknown rows. Here missing rows are outliers, and unknown rows are ignored
    with a warning.

    Raises `KitError` as `score` does, and for a scene without thresholds.
    """
    rows = tables.read_both(truth, submission, ("dataset", "image"), unposed=OUTLIERS)
    scenes = {group: keys for group, keys in rows.scenes.items() if group[1] != OUTLIERS}
    names = tables.full_names(scenes)
    if lacking := [name for name in names.values() if name not in thresholds]:
        raise KitError(f"no thresholds are given for {', '.join(lacking)}")
    tables.warn_of_unknown(thresholds, names.values())
    distances = {group: tables.checked(thresholds[name], name, SKIPPED_2025 + 1) for group, name in names.items()}
    if len(set(map(len, distances.values()))) > 1:
        raise KitError("all scenes must have equally many thresholds")

    clusters: dict[str, dict[str, set[Key]]] = {dataset: {} for dataset, _ in rows.true}
    for key, pose in rows.submitted.items():
        if key in rows.true:
            clusters[key[0]].setdefault(pose.scene, set()).add(key)
    assigned: dict[str, dict[str, _Assigned]] = {dataset: {} for dataset in clusters}
    for (dataset, scene), keys in scenes.items():
        limits = distances[dataset, scene]
        assigned[dataset][scene] = _assign(rows, keys, limits, clusters[dataset] or {OUTLIERS: set()})
    return Score2025({dataset: _dataset_score(of_scenes) for dataset, of_scenes in assigned.items()})


class _Assigned(NamedTuple):
    """A true scene's cluster, the number of images that both share, the cluster's size, and the scene's score."""

    cluster: str
    shared: int
    size: int
    score: SceneScore


def _assign(rows: Rows, keys: list[Key], distances: Sequence[float], clusters: dict[str, set[Key]]) -> _Assigned:
    common = {name: {key for key in keys if key in cluster} for name, cluster in clusters.items() if name != OUTLIERS}
    most = max(map(len, common.values()), default=0)
    # Without a shared image, the first cluster is assigned, which may be the outliers.
    candidates = [name for name, shared in common.items() if len(shared) == most] if most else list(clusters)[:1]
    tried = {}
    for name in candidates:
        submitted = {key: rows.submitted[key] for key in common.get(name, ())}
        tried[name] = score_rows(rows._replace(submitted=submitted), keys, distances)
    best = max(tried, key=lambda name: _gained(tried[name]))  # the first of equal ones
    return _Assigned(best, most, 0 if best == OUTLIERS else len(clusters[best]), tried[best])


def _dataset_score(scenes: Mapping[str, _Assigned]) -> DatasetScore:
    reached = reachable = 0
    for one in scenes.values():
        reached += _gained(one.score)
        counted = 0 if one.cluster == OUTLIERS else one.score.images
        reachable += (counted - FREE) * (len(one.score.thresholds) - SKIPPED_2025)
    sizes = sum(one.size for one in scenes.values())
    return DatasetScore(
        accuracy=reached / reachable if reachable > 0 else 0.0,
        clustering=sum(one.shared for one in scenes.values()) / sizes if sizes else 0.0,
        scenes={name: one.score for name, one in scenes.items()},
        clusters={name: one.cluster for name, one in scenes.items()},
    )


def _gained(result: SceneScore) -> int:
    """The number of counted images, summed over the counted thresholds."""
    return sum(max(0, count - FREE) for count in result.counts[SKIPPED_2025:])
