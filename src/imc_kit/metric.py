"""How good the poses are: the scores of the Image Matching Challenges of 2024, 2023 and 2025.

`score` is 2024's, `score_centers` the same for arrays in memory; `score_2023` and `score_2025` are those years'. Every
score is a fraction between 0 and 1 (2025's own program prints a hundred times that). Only in 2023 do rotations count:
the others look at the cameras' centres, C = −Rᵀt, up to a similarity.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imc_kit.errors import KitError
from imc_kit.registration import register
from imc_kit.submission import CLUSTER, OUTLIERS, POSE_COLUMNS, parse_pose, read_table
from imc_kit.types import Float64

if TYPE_CHECKING:
    import pandas as pd

    Table = Path | str | pd.DataFrame

log = logging.getLogger(__name__)

THRESHOLDS = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
"""2024's distances in metres for all scenes but the transparent ones."""
TRANSPARENT_THRESHOLDS = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""2024's distances in metres for scenes of the category 'transparent'."""
FREE = 3
"""A similarity fits three cameras to almost anything, so that many are not counted (2024 and 2025)."""
SKIPPED_2025 = 2
"""2025's scenes have more distances than count: the first two are left out."""

PairThresholds = tuple[Sequence[float], Sequence[float]]
"""Degrees of rotation and metres of translation, as many of one as of the other."""


def _ten(degrees: float, nearest: float, farthest: float) -> PairThresholds:
    return np.linspace(degrees, 10, 10).tolist(), np.geomspace(nearest, farthest, 10).tolist()


PAIR_THRESHOLDS = _ten(1, 0.2, 5)
"""2023's thresholds as its evaluation page gives them, for scenes whose own are not published."""
PAIR_THRESHOLDS_2023 = {
    "haiper/bike": _ten(1, 0.05, 0.5),
    "haiper/chairs": _ten(1, 0.05, 0.5),
    "haiper/fountain": _ten(1, 0.05, 0.5),
    "heritage/cyprus": _ten(1, 0.1, 2),
    "heritage/dioscuri": _ten(1, 0.1, 2),
    "heritage/wall": _ten(0.2, 0.05, 1),
    "urban/kyiv-puppet-theater": _ten(1, 0.5, 5),
}
"""2023's thresholds of the training scenes, from the hosts' notebook."""


@dataclass(frozen=True, eq=False)
class SceneScore:
    """What became of one scene.

    thresholds: the distances, in the unit of the truth.
    counts: for each, the largest number of images that one similarity brings nearer than that to their true centre.
    truth: true centres [m, 3].
    aligned: submitted centres [m, 3], nan where there is none, under the similarity that has the largest sum of such
        numbers over all thresholds, of those tried (the first of several); all nan when no three centres fix one.
    registered: how many submitted centres are finite.
    names: the images, in the order of the rows.
    most: what the counts would be at most if every triplet were tried; where they differ, counts are lower bounds.
    """

    thresholds: tuple[float, ...]
    counts: tuple[int, ...]
    truth: Float64
    aligned: Float64
    registered: int
    names: tuple[str, ...]
    most: tuple[int, ...]

    @property
    def images(self) -> int:
        return len(self.truth)

    @property
    def fractions(self) -> tuple[float, ...]:
        """The score at each threshold: max(0, count − 3) / (images − 3); nan for three images and fewer."""
        return self._fractions(self.counts)

    @property
    def score(self) -> float:
        """The mean over the thresholds (mAA); nan for three images and fewer."""
        return float(np.mean(self.fractions))

    @property
    def at_most(self) -> float:
        """The score that `most` would give: an upper bound, the score itself where that is exact."""
        return float(np.mean(self._fractions(self.most)))

    @property
    def exact(self) -> bool:
        return self.counts == self.most

    def _fractions(self, counts: tuple[int, ...]) -> tuple[float, ...]:
        if self.images <= FREE:
            return (float("nan"),) * len(counts)
        return tuple(max(0, count - FREE) / (self.images - FREE) for count in counts)

    def to_json(self) -> dict[str, Any]:
        return {
            "score": _or_none(self.score),
            "images": self.images,
            "registered": self.registered,
            "thresholds": list(self.thresholds),
            "counts": list(self.counts),
            **({} if self.exact else {"at_most": self.at_most, "counts_at_most": list(self.most)}),
        }


@dataclass(frozen=True, eq=False)
class Score:
    """2024's score of a submission: printed, a table of its scenes, in which a–b stands for what is only bounded."""

    scenes: dict[str, SceneScore]

    @property
    def mean(self) -> float:
        """The unweighted mean over the scenes that have a score; nan when none has."""
        return _mean(scene.score for scene in self.scenes.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "scenes": {name: number}, "details": {name: {…}}}`; null stands for no score."""
        return {
            "mean": _or_none(self.mean),
            "scenes": {name: _or_none(scene.score) for name, scene in self.scenes.items()},
            "details": {name: scene.to_json() for name, scene in self.scenes.items()},
        }

    def __str__(self) -> str:
        rows = [
            (
                name,
                str(scene.images),
                str(scene.registered),
                _range(scene.score, scene.at_most),
                " ".join(
                    f"{t:g}:{_range(*c)}" for t, *c in zip(scene.thresholds, scene.counts, scene.most, strict=True)
                ),
            )
            for name, scene in self.scenes.items()
        ]
        header = ("scene", "images", "registered", "mAA", "images within")
        at_most = _mean(scene.at_most for scene in self.scenes.values())
        return _table(header, [*rows, ("mean", "", "", _range(self.mean, at_most), "")])


@dataclass(frozen=True, eq=False)
class PairScore:
    """What became of one scene by 2023's measure.

    thresholds: (degrees, metres) pairs.
    fractions: for each, the fraction of all pairs of images whose relative pose is as good as that.
    """

    thresholds: tuple[tuple[float, float], ...]
    fractions: tuple[float, ...]
    images: int
    registered: int

    @property
    def score(self) -> float:
        """The mean over the thresholds; nan for a single image."""
        return float(np.mean(self.fractions))


@dataclass(frozen=True, eq=False)
class Score2023:
    """2023's score of a submission: by dataset, by scene."""

    datasets: dict[str, dict[str, PairScore]]

    @property
    def mean(self) -> float:
        """The mean over datasets of the mean over their scenes, without the scenes that have no score."""
        return _mean(_mean(scene.score for scene in scenes.values()) for scenes in self.datasets.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "scenes": {"dataset/scene": number}}`; null stands for no score."""
        return {
            "mean": _or_none(self.mean),
            "scenes": {
                f"{dataset}/{name}": _or_none(scene.score)
                for dataset, scenes in self.datasets.items()
                for name, scene in scenes.items()
            },
        }

    def __str__(self) -> str:
        rows = [
            (f"{dataset}/{name}", str(scene.images), str(scene.registered), f"{scene.score:.4f}")
            for dataset, scenes in self.datasets.items()
            for name, scene in scenes.items()
        ]
        return _table(("scene", "images", "registered", "mAA"), [*rows, ("mean", "", "", f"{self.mean:.4f}")])


@dataclass(frozen=True, eq=False)
class DatasetScore:
    """What became of one of 2025's datasets.

    accuracy: the mAA over its scenes, recall-like.
    clustering: of the images in the clusters that its scenes were given, the fraction that belongs there.
    scenes: each true scene as the images of its cluster show it.
    clusters: which of the submission's clusters each true scene was given.
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
        return _mean(dataset.score for dataset in self.datasets.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "datasets": {name: {…}}, "scenes": {"dataset/scene": number}}`.

        A scene's number is its mAA as 2024 defines it, over all its distances; null stands for none.
        """
        return {
            "mean": self.mean,
            "datasets": {
                name: {"score": dataset.score, "accuracy": dataset.accuracy, "clustering": dataset.clustering}
                for name, dataset in self.datasets.items()
            },
            "scenes": {
                f"{name}/{scene}": _or_none(result.score)
                for name, dataset in self.datasets.items()
                for scene, result in dataset.scenes.items()
            },
        }

    def __str__(self) -> str:
        rows = [
            (name, f"{dataset.accuracy:.4f}", f"{dataset.clustering:.4f}", f"{dataset.score:.4f}")
            for name, dataset in self.datasets.items()
        ]
        return _table(("dataset", "mAA", "clustering", "score"), [*rows, ("mean", "", "", f"{self.mean:.4f}")])


def score(truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]] | None = None) -> Score:
    """Score a submission as the challenge of 2024 does.

    truth, submission: a CSV file or a DataFrame with the columns image_path, dataset, scene, rotation_matrix and
        translation_vector, world-to-camera. Rows are paired by dataset, scene and image_path, in any order. A row that
        the submission lacks is as good as one of nan; rows that the truth lacks are ignored, with a warning.
    thresholds: distances by scene, in the unit of the truth; a scene that is not named has `THRESHOLDS`. Where two
        datasets have a scene of the same name, both are called dataset/scene, here and in the result.

    The hosts' program is the notebook fabiobellavia/imc2024-3d-metric-evaluation-example on Kaggle, with every triplet
    tried and every inlier set fitted again. This is the same search, see `score_centers`.

    Raises `KitError` for tables that cannot be read, lack columns, name an image twice or hold a malformed pose, for a
    truth that is not finite, and for thresholds that are not positive.
    """
    columns = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    true, submitted = _read_both(truth, submission, columns, key=("dataset", "scene", "image_path"))
    groups = _grouped(true, lambda key: key[:2])
    repeated = Counter(scene for _, scene in groups)
    named = {scene if repeated[scene] == 1 else f"{dataset}/{scene}": keys for (dataset, scene), keys in groups.items()}
    _warn_of_unknown(thresholds, named)
    scenes = {}
    for name, keys in named.items():
        distances = (thresholds or {}).get(name, THRESHOLDS)
        centers = np.array([true[key].center for key in keys]), _centers(submitted, keys)
        scenes[name] = score_centers(*centers, distances, names=[key[-1] for key in keys])
    return Score(scenes)


def score_centers(
    truth: Float64, estimated: Float64, thresholds: Sequence[float] = THRESHOLDS, *, names: Sequence[str] | None = None
) -> SceneScore:
    """Score one scene as the challenges of 2024 and 2025 do.

    truth: the cameras' true centres [m, 3], finite.
    estimated: their estimates [m, 3] in any frame and unit; a row that is not finite stands for none.
    thresholds: distances in the unit of the truth.
    names: the images; by default their numbers.

    Every triplet of cameras gives a similarity. For each threshold, the three or more cameras that it brings nearer
    than that give another. The largest number of cameras within a threshold, over all these second similarities,
    counts.

    With up to 300 estimates the numbers are those of all triplets. With more they are, too, where they reach an upper
    bound that holds for any similarity, as when all cameras are right but for some that are far off. Otherwise 200,000
    triplets are tried, the same ones each time: `counts` are lower bounds, `most` has upper bounds (the number of
    estimates where there are more than 3000), and a warning says so.

    Centres that do not differ (by more than rounding) fix no similarity and are passed over; where centres on a line
    leave the turn about it open, which one is taken is not defined, here or in the hosts' program.

    On one core 100 cameras take up to 3 seconds, 300 up to 140, 1000 about 10 seconds. Memory is some tens of MB
    for 1000 cameras and grows as m² up to 3000. See docs/benchmarks.md.

    Raises `ValueError` for arrays of other shapes, `KitError` for thresholds that are not positive.
    """
    truth, estimated = np.asarray(truth, np.float64), np.asarray(estimated, np.float64)
    if truth.shape != (len(truth), 3) or estimated.shape != truth.shape or not np.isfinite(truth).all():
        raise ValueError(f"centres are finite [m, 3] and [m, 3], not {truth.shape} and {estimated.shape}")
    distances = _checked(thresholds)
    finite = np.isfinite(estimated).all(axis=1)
    with np.errstate(all="ignore"):  # the model may be nan
        found = register(estimated[finite].T, truth[finite].T, np.array(distances))
        aligned = np.full(truth.shape, np.nan)
        aligned[finite] = estimated[finite] @ found.model[:, :3].T + found.model[:, 3]
    result = SceneScore(
        thresholds=distances,
        counts=tuple(found.counts.tolist()),
        truth=truth,
        aligned=aligned,
        registered=int(finite.sum()),
        names=tuple(names if names is not None else map(str, range(len(truth)))),
        most=tuple(found.most.tolist()),
    )
    if not result.exact:
        log.warning(
            "of %d cameras not all triplets were tried: the score is at least %.4f and at most %.4f",
            *(result.registered, result.score, result.at_most),
        )
    return result


def score_2023(truth: Table, submission: Table, thresholds: Mapping[str, PairThresholds] | None = None) -> Score2023:
    """Score a submission as the challenge of 2023 does: by the relative poses of all pairs of images.

    truth, submission: tables as for `score`.
    thresholds: (degrees, metres) by 'dataset/scene', as many of one as of the other. A scene that is not named has
        the hosts' own (`PAIR_THRESHOLDS_2023`) or, failing that, `PAIR_THRESHOLDS`.

    For images i and j the relative pose is R = Rⱼ·Rᵢᵀ, t = tⱼ − R·tᵢ. Its errors are the angle between the true and
    the submitted R, and the distance between the true t and the submitted t, which is first given the true one's
    length and the better of the two signs: scale is never judged. A pair counts where both errors are at most the
    threshold's. Source: the competition's evaluation page and the hosts' notebook eduardtrulls/imc2023-evaluation,
    which takes a mean over thresholds, then scenes, then datasets.

    Written from a reader's copy of that notebook; not compared with the program that Kaggle ran, nor are the
    thresholds of hidden scenes known. The notebook refuses a submission that lacks rows: here a missing row counts as
    one of nan. It also turns a matrix that is no rotation into the nearest one, which is not done here.

    Raises `KitError` as `score` does.
    """
    columns = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    true, submitted = _read_both(truth, submission, columns, key=("dataset", "scene", "image_path"))
    groups = _grouped(true, lambda key: key[:2])
    _warn_of_unknown(thresholds, map("/".join, groups))
    chosen = PAIR_THRESHOLDS_2023 | dict(thresholds or {})
    datasets: dict[str, dict[str, PairScore]] = {}
    for (dataset, scene), keys in groups.items():
        degrees, metres = chosen.get(f"{dataset}/{scene}", PAIR_THRESHOLDS)
        if len(degrees) != len(metres):
            raise KitError(f"{dataset}/{scene} needs as many thresholds in degrees as in metres")
        pairs = tuple(zip(_checked(degrees), _checked(metres), strict=True))
        result = _score_pairs([true[key] for key in keys], [submitted.get(key, _NOTHING) for key in keys], pairs)
        datasets.setdefault(dataset, {})[scene] = result
    return Score2023(datasets)


def score_2025(truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]]) -> Score2025:
    """Score a submission as the challenge of 2025 does: poses, and which images belong together.

    truth, submission: CSV files or DataFrames with the columns dataset, scene, image, rotation_matrix and
        translation_vector. Rows are paired by dataset and image. In the submission `scene` is a cluster of any name.
        The scene 'outliers' is for images of no scene, in both; the truth's may be nan.
    thresholds: distances by 'dataset/scene', equally many for all scenes. The first two do not count. (Kaggle's
        train_thresholds.csv has those of the training scenes; there are no defaults.)

    Each true scene but the outliers is given the cluster that shares the most images with it or, among equals, the one
    with the best mAA, as 2024 defines it, or else the one whose first row comes first; two scenes may share a cluster.
    Per dataset, with m the images of a scene and c the largest number of its cluster's images within a threshold,

        mAA        = Σ over scenes, thresholds of max(0, c − 3) / Σ over scenes, thresholds of (m − 3)
        clustering = Σ over scenes of images shared with the cluster / Σ over scenes of images in the cluster

    and the score is the mean over datasets of 2·mAA·clustering / (mAA + clustering).

    Source: metric.py of the hosts' data set imc25-utils on Kaggle, from copies in public repositories, and what it
    computes when it differs from its comments. So, as there, a scene that shares no image with any cluster is given
    the submission's first: its images then count against clustering; and if that first one is 'outliers' they do not,
    but nor do the scene's m images count in mAA, which may then exceed 1.

    Where a scene has so many images that `score_centers` has bounds only, c is the lower one.

    Not compared with the program that Kaggle ran, nor can the hidden scenes' thresholds be. The program refuses rows
    that are missing or unknown: here the former are outliers, the latter are ignored with a warning.

    Raises `KitError` as `score` does, and for a scene without thresholds.
    """
    columns = ("dataset", "scene", "image", *POSE_COLUMNS)
    true, submitted = _read_both(truth, submission, columns, key=("dataset", "image"), unposed=OUTLIERS)
    groups = _grouped(true, lambda key: (key[0], true[key].scene))
    scenes = {group: keys for group, keys in groups.items() if group[1] != OUTLIERS}
    lacking = [name for name in map("/".join, scenes) if name not in thresholds]
    if lacking:
        raise KitError(f"no thresholds are given for {', '.join(lacking)}")
    _warn_of_unknown(thresholds, map("/".join, scenes))
    if len({len(thresholds["/".join(group)]) for group in scenes}) > 1:
        raise KitError("all scenes need equally many thresholds")

    datasets = {}
    for dataset in dict.fromkeys(key[0] for key in true):
        clusters: dict[str, list[_Key]] = {}
        for key, pose in submitted.items():
            if key[0] == dataset and key in true:
                clusters.setdefault(pose.scene, []).append(key)
        datasets[dataset] = _score_dataset(
            true,
            submitted,
            {scene: (keys, thresholds[f"{dataset}/{scene}"]) for (of, scene), keys in scenes.items() if of == dataset},
            clusters,
        )
    return Score2025(datasets)


class OfScene(NamedTuple):
    """What the metric says of a scene of a task.

    models: how the cameras lie beside the truth, by the number of the model that gave their poses. In 2025 each true
        scene stands with the model that it was given, else there is one, with number 0.
    accuracy: the year's score: the mAA, in 2025 the harmonic mean of mAA and clustering; None where it is not defined.
    """

    models: Mapping[int, SceneScore]
    accuracy: float | None


def score_scenes(
    layout: str, scenes: Iterable[str], truth: Table, submission: Table, thresholds: Mapping[str, Any] | None = None
) -> dict[str, OfScene]:
    """What the metric of a layout's year (`Task.layout`) says of each of a task's scenes that the truth knows.

    thresholds: as the year's metric takes them: `score_2023` for 2023, `score_2025` for 2025, else `score`.

    A task's scene is a dataset in 2025, and named dataset/scene in 2023. Raises `KitError` as those functions do, and
    for 2025 without thresholds.
    """
    if layout == "2025":
        if thresholds is None:
            raise KitError("the score of 2025 needs the distances of each scene: give --thresholds FILE.json")
        datasets = score_2025(truth, submission, thresholds).datasets
        return {name: OfScene(_by_model(data), data.score) for name, data in datasets.items()}
    if layout == "2023":
        pairs = score_2023(truth, submission, thresholds)
        means = {f"{dataset}/{name}": s.score for dataset, part in pairs.datasets.items() for name, s in part.items()}
        placed = score(truth, submission).scenes
        # `score` names the dataset only where two have a scene of the same name.
        aligned = {name: placed[name if name in placed else name.split("/", 1)[1]] for name in means}
    else:
        aligned = score(truth, submission, thresholds).scenes
        means = {name: one.score for name, one in aligned.items()}
    return {
        name: OfScene({0: aligned[name]}, means[name] if np.isfinite(means[name]) else None)
        for name in scenes
        if name in aligned
    }


def _by_model(data: DatasetScore) -> dict[int, SceneScore]:
    """The true scenes of a dataset by the model that they were given; of several with one model the best placed."""
    order = sorted(data.scenes, key=lambda scene: data.scenes[scene].registered)
    found = ((re.fullmatch(CLUSTER.format("([1-9][0-9]*)"), data.clusters[scene]), scene) for scene in order)
    return {int(match[1]) - 1: data.scenes[scene] for match, scene in found if match}


def read_thresholds(path: Path | str) -> dict[str, Any]:
    """The content of a JSON file of thresholds. Raises `KitError` when it cannot be read or holds no object."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read the thresholds in {path}: {error}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} must hold an object that names each scene's distances, {{scene: [distances]}}")
    return content


def _score_dataset(
    true: Mapping[_Key, _Posed],
    submitted: Mapping[_Key, _Posed],
    scenes: Mapping[str, tuple[Sequence[_Key], Sequence[float]]],
    clusters: Mapping[str, Sequence[_Key]],
) -> DatasetScore:
    results: dict[str, SceneScore] = {}
    given: dict[str, str] = {}
    shared = sizes = reached = reachable = 0
    clusters = clusters or {OUTLIERS: ()}
    for scene, (keys, distances) in scenes.items():
        truth = np.array([true[key].center for key in keys])
        common = {name: set(keys).intersection(cluster) for name, cluster in clusters.items() if name != OUTLIERS}
        most = max(map(len, common.values()), default=0)
        # Without a shared image the first cluster is taken, which may be that of the outliers.
        sharing = [name for name, members in common.items() if len(members) == most]
        tried = {}
        for name in sharing if most else list(clusters)[:1]:
            members = common.get(name, set())
            centers = _centers({key: submitted[key] for key in members}, keys)
            tried[name] = score_centers(truth, centers, distances, names=[key[-1] for key in keys])
        best = max(tried, key=lambda name: _gained(tried[name]))  # the first, among equals
        given[scene], results[scene] = best, tried[best]
        reached += _gained(tried[best])
        reachable -= FREE
        if best != OUTLIERS:
            shared, sizes, reachable = shared + most, sizes + len(clusters[best]), reachable + len(keys)
    counting = max((len(distances) for _, distances in scenes.values()), default=0) - SKIPPED_2025
    accuracy = reached / (counting * reachable) if counting > 0 and reachable > 0 else 0.0
    return DatasetScore(accuracy, shared / sizes if sizes else 0.0, results, given)


def _gained(result: SceneScore) -> int:
    return sum(max(0, count - FREE) for count in result.counts[SKIPPED_2025:])


def _score_pairs(
    true: Sequence[_Posed], submitted: Sequence[_Posed], thresholds: tuple[tuple[float, float], ...]
) -> PairScore:
    registered = sum(bool(np.isfinite(pose.center).all()) for pose in submitted)
    if len(true) < 2:
        return PairScore(thresholds, (float("nan"),) * len(thresholds), len(true), registered)
    with np.errstate(all="ignore"):  # errors of missing poses are nan, and nan is within nothing
        true_r, true_t = _relative(true)
        r, t = _relative(submitted)
        # ‖R − R'‖ = 2·√2·sin(angle / 2), exact also for small angles
        chord = np.linalg.norm(true_r - r, axis=(1, 2)) / np.sqrt(8)
        degrees = np.degrees(2 * np.arcsin(np.minimum(chord, 1)))
        length = np.linalg.norm(true_t, axis=1)
        t = t * (length / (np.linalg.norm(t, axis=1) + 1e-15))[:, None]  # the hosts' guard against zero
        metres = np.minimum(np.linalg.norm(true_t - t, axis=1), np.linalg.norm(true_t + t, axis=1))
    fractions = tuple(float(np.mean((degrees <= d) & (metres <= m))) for d, m in thresholds)
    return PairScore(thresholds, fractions, len(true), registered)


def _relative(poses: Sequence[_Posed]) -> tuple[Float64, Float64]:
    """R [P, 3, 3] and t [P, 3] from the first to the second camera, of all pairs."""
    rotations = np.array([pose.rotation for pose in poses])
    translations = np.array([pose.translation for pose in poses])
    first, second = np.triu_indices(len(poses), 1)
    rotation = rotations[second] @ rotations[first].transpose(0, 2, 1)
    return rotation, translations[second] - np.einsum("pij,pj->pi", rotation, translations[first])


# Tables.

_Key = tuple[str, ...]


class _Posed(NamedTuple):
    scene: str
    rotation: Float64
    translation: Float64

    @property
    def center(self) -> Float64:
        with np.errstate(all="ignore"):
            return -self.rotation.T @ self.translation


_NOTHING = _Posed("", np.full((3, 3), np.nan), np.full(3, np.nan))


def _read_both(
    truth: Table, submission: Table, columns: Sequence[str], key: Sequence[str], unposed: str | None = None
) -> tuple[dict[_Key, _Posed], dict[_Key, _Posed]]:
    """The rows of both tables by the values of their `key` columns; the truth must be finite but in scene `unposed`."""
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


def _read(table: Table, role: str, columns: Sequence[str], key: Sequence[str]) -> dict[_Key, _Posed]:
    name = _called(table, role)
    if isinstance(table, Path | str):
        frame = read_table(table, columns)
    else:
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise KitError(f"{name} lacks the column {', '.join(missing)}: it has {', '.join(map(str, table.columns))}")
        frame = table
    rows: dict[_Key, _Posed] = {}
    for number, values in enumerate(zip(*(frame[column].astype(str) for column in columns), strict=True), 1):
        row = dict(zip(columns, values, strict=True))
        where = tuple(row[column] for column in key)
        if where in rows:
            raise KitError(f"{name} has row {number}, {', '.join(where)}, a second time: keep one of them")
        try:
            rows[where] = _Posed(row["scene"], *parse_pose(row["rotation_matrix"], row["translation_vector"]))
        except ValueError as error:
            raise KitError(f"{name}, row {number} ({', '.join(where)}): {error}") from None
    return rows


def _called(table: Table, role: str) -> str:
    return f"{role} {table}" if isinstance(table, Path | str) else role


def _grouped(keys: Iterable[_Key], group: Callable[[_Key], _Key]) -> dict[_Key, list[_Key]]:
    groups: dict[_Key, list[_Key]] = {}
    for key in keys:
        groups.setdefault(group(key), []).append(key)
    return groups


def _centers(poses: Mapping[_Key, _Posed], keys: Sequence[_Key]) -> Float64:
    """[m, 3], nan where there is no pose."""
    return np.array([poses.get(key, _NOTHING).center for key in keys]).reshape(-1, 3)


def _checked(thresholds: Sequence[float]) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in thresholds)
    except (TypeError, ValueError):
        values = ()
    if not values or not all(0 < value < np.inf for value in values):
        raise KitError(f"thresholds are positive numbers, at least one, not {thresholds!r}")
    return values


def _warn_of_unknown(thresholds: Iterable[str] | None, scenes: Iterable[str]) -> None:
    unknown = sorted(set(thresholds or ()).difference(scenes))
    if unknown:
        log.warning("thresholds are given for scenes that are not in the truth: %s", ", ".join(unknown))


def _mean(scores: Iterable[float]) -> float:
    known = [value for value in scores if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _range(low: float, high: float) -> str:
    ends = [f"{end:.4f}" if isinstance(end, float) else str(end) for end in (low, high)]
    return "–".join(dict.fromkeys(ends))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of aligned columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in (header, *rows)
    )
