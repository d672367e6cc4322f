"""The score of 2024: how many cameras' centres one similarity brings near to the true ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_kit.data.tables import POSE_COLUMNS
from imc_kit.metric.similarity import register
from imc_kit.metric.tables import centers_of, checked, full_names, grouped, read_both, warn_of_unknown
from imc_kit.metric.text import aligned, mean_of, or_none, span
from imc_kit.types import Float64

if TYPE_CHECKING:
    from imc_kit.metric.tables import Table

log = logging.getLogger(__name__)

THRESHOLDS = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
"""2024's distances in metres for all scenes but the transparent ones."""
TRANSPARENT_THRESHOLDS = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""2024's distances in metres for scenes of the category 'transparent'."""
FREE = 3
"""A similarity fits three cameras to almost anything, so that many are not counted (2024 and 2025)."""


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
            "score": or_none(self.score),
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
        return mean_of(scene.score for scene in self.scenes.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "scenes": {name: number}, "details": {name: {…}}}`; null stands for no score."""
        return {
            "mean": or_none(self.mean),
            "scenes": {name: or_none(scene.score) for name, scene in self.scenes.items()},
            "details": {name: scene.to_json() for name, scene in self.scenes.items()},
        }

    def __str__(self) -> str:
        rows = [
            (
                name,
                str(scene.images),
                str(scene.registered),
                span(scene.score, scene.at_most),
                " ".join(f"{t:g}:{span(*c)}" for t, *c in zip(scene.thresholds, scene.counts, scene.most, strict=True)),
            )
            for name, scene in self.scenes.items()
        ]
        header = ("scene", "images", "registered", "mAA", "images within")
        at_most = mean_of(scene.at_most for scene in self.scenes.values())
        return aligned(header, [*rows, ("mean", "", "", span(self.mean, at_most), "")])


def score(truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]] | None = None) -> Score:
    """Score a submission as the challenge of 2024 does.

    truth, submission: a CSV file or a DataFrame with the columns image_path, dataset, scene, rotation_matrix and
        translation_vector, world-to-camera. Rows are paired by dataset, scene and image_path, in any order. A row that
        the submission lacks is as good as one of nan; rows that the truth lacks are ignored, with a warning.
    thresholds: distances by scene, in the unit of the truth; a scene that is not named has `THRESHOLDS`. Scenes are
        called as `scene_names` says, here and in the result.

    The hosts' program is the notebook fabiobellavia/imc2024-3d-metric-evaluation-example on Kaggle, with every triplet
    tried and every inlier set fitted again. This is the same search, see `score_centers`.

    Raises `KitError` for tables that cannot be read, lack columns, name an image twice or hold a malformed pose, for a
    truth that is not finite, and for thresholds that are not positive.
    """
    columns = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    true, submitted = read_both(truth, submission, columns, key=("dataset", "scene", "image_path"))
    groups = grouped(true, lambda key: key[:2])
    names = scene_names(groups)
    warn_of_unknown(thresholds, names.values())
    distances = {name: checked((thresholds or {}).get(name, THRESHOLDS), name) for name in names.values()}
    scenes = {}
    for group, keys in groups.items():
        centers = np.array([true[key].center for key in keys]), centers_of(submitted, keys)
        scenes[names[group]] = score_centers(*centers, distances[names[group]], names=[key[-1] for key in keys])
    return Score(scenes)


def scene_names(groups: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """What each (dataset, scene) is called: by its scene alone, or dataset/scene where another is called so.

    Raises `KitError` where that does not tell two of them apart.
    """
    full = full_names(groups)
    called = Counter(name for group, name in full.items() for name in {group[-1], name})
    return {group: group[-1] if called[group[-1]] == 1 else name for group, name in full.items()}


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
    distances = checked(thresholds)
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
