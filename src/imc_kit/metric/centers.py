"""The score of 2024: how many camera centres a single similarity brings close to the true ones."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import imc_kit.metric.tables as tables
from imc_kit.metric.similarity import register
from imc_kit.metric.tables import Key, Rows, Table
from imc_kit.types import Float64

log = logging.getLogger(__name__)

THRESHOLDS = (0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
"""2024's distances in metres, for all scenes except transparent ones (from the evaluation page)."""
TRANSPARENT_THRESHOLDS = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""2024's distances in metres for scenes of the category 'transparent' (from the evaluation page)."""
SCENES_2024 = dict.fromkeys(
    ("church", "dioscuri", "lizard", "multi-temporal-temple-baalshamin", "pond"), THRESHOLDS
) | dict.fromkeys(("transp_obj_glass_cup", "transp_obj_glass_cylinder"), TRANSPARENT_THRESHOLDS)
"""The distances of 2024's training scenes."""
FREE = 3
"""Images per scene that do not count in 2024 and 2025, because a similarity can fit almost any three centres."""


@dataclass(frozen=True, eq=False)
class SceneScore:
    """The score of one scene with m images.

    thresholds: distances, in the unit of the truth.
    counts: for each threshold, the largest number of centres that one similarity brings within it.
    truth: true centres [m, 3].
    aligned: submitted centres [m, 3], aligned by the tried similarity with the largest sum of inliers over all
        thresholds, or the first such similarity. Missing centres are nan; all are nan if no three centres define a
        similarity.
    registered: the number of finite submitted centres.
    names: the images, in the order of the rows.
    most: upper bounds of the counts if every triplet were tried. If they differ, counts are lower bounds.
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
        """The score at each threshold: max(0, count − 3) / (images − 3); nan for three images or fewer."""
        return self._fractions(self.counts)

    @property
    def score(self) -> float:
        """The mean over the thresholds (mAA); nan for three images or fewer."""
        return float(np.mean(self.fractions))

    @property
    def at_most(self) -> float:
        """The score computed from `most`: an upper bound, equal to the score if that is exact."""
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
            "score": tables.or_none(self.score),
            "images": self.images,
            "registered": self.registered,
            "thresholds": list(self.thresholds),
            "counts": list(self.counts),
            **({} if self.exact else {"at_most": self.at_most, "counts_at_most": list(self.most)}),
        }


@dataclass(frozen=True, eq=False)
class Score:
    """2024's score of a submission. Prints as a table of scenes; a–b are lower and upper bounds."""

    scenes: dict[str, SceneScore]

    @property
    def mean(self) -> float:
        """The unweighted mean over the scenes with a score; nan if there is none."""
        return tables.mean_of(scene.score for scene in self.scenes.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "scenes": {name: number}, "details": {name: {…}}}`; null means no score."""
        return {
            "mean": tables.or_none(self.mean),
            "scenes": {name: tables.or_none(scene.score) for name, scene in self.scenes.items()},
            "details": {name: scene.to_json() for name, scene in self.scenes.items()},
        }

    def __str__(self) -> str:
        rows = []
        for name, scene in self.scenes.items():
            spans = zip(scene.thresholds, scene.counts, scene.most, strict=True)
            within = " ".join(f"{distance:g}:{_span(*ends)}" for distance, *ends in spans)
            rows.append((name, str(scene.images), str(scene.registered), _span(scene.score, scene.at_most), within))
        header = ("scene", "images", "registered", "mAA", "images within")
        at_most = tables.mean_of(scene.at_most for scene in self.scenes.values())
        return tables.aligned(header, [*rows, ("mean", "", "", _span(self.mean, at_most), "")])


def _span(low: float, high: float) -> str:
    ends = [f"{end:.4f}" if isinstance(end, float) else str(end) for end in (low, high)]
    return "–".join(dict.fromkeys(ends))


def score(truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]] | None = None) -> Score:
    """Score a submission as the challenge of 2024 does.

    truth, submission: a CSV file or a DataFrame with the columns image_path (or image_name), dataset, scene,
        rotation_matrix and translation_vector, world-to-camera. Rows are paired by dataset, scene and image_path, in
        any order. A row missing from the submission counts as nan. A row missing from the truth is ignored, with a
        warning.
    thresholds: distances by scene, in the unit of the truth. Default: 2024's, which are in metres. Scenes have the
        names of `scene_names`, here and in the result.

    Source: the hosts' notebook fabiobellavia/imc2024-3d-metric-evaluation-example on Kaggle, with every triplet tried
    and every inlier set refitted. See `score_centers` for the search.

    Raises `KitError` for tables that cannot be read, lack columns, name an image twice or hold a malformed pose, for a
    truth that is not finite, and for thresholds that are not positive.
    """
    return Score(scenes_by_name(truth, submission, thresholds))


def scenes_by_name(
    truth: Table, submission: Table, thresholds: Mapping[str, Sequence[float]] | None, *, full: bool = False
) -> dict[str, SceneScore]:
    """The scores of all scenes, as `score` computes them. full: whether their names are all dataset/scene."""
    rows = tables.read_both(truth, submission, ("dataset", "scene", "image_path"))
    names = tables.full_names(rows.scenes) if full else scene_names(rows.scenes)
    tables.warn_of_unknown(thresholds, names.values())
    given = SCENES_2024 | dict(thresholds or {})
    distances = {name: tables.checked(given.get(name, THRESHOLDS), name) for name in names.values()}
    return {names[group]: score_rows(rows, keys, distances[names[group]]) for group, keys in rows.scenes.items()}


def score_rows(rows: Rows, keys: Collection[Key], thresholds: Sequence[float]) -> SceneScore:
    """Score the images with these keys as one scene."""
    truth, submitted = (np.array([pose.center for pose in poses]) for poses in rows.pairs(keys))
    return score_centers(truth, submitted, thresholds, names=[key[-1] for key in keys])


def scene_names(groups: Collection[Key]) -> dict[Key, str]:
    """The name of each (dataset, scene): the scene alone if that is unique, else dataset/scene.

    Raises `KitError` when two of them still have the same name.
    """
    full = tables.full_names(groups)
    called = Counter(name for group, name in full.items() for name in {group[-1], name})
    return {group: group[-1] if called[group[-1]] == 1 else name for group, name in full.items()}


def score_centers(
    truth: Float64, estimated: Float64, thresholds: Sequence[float] = THRESHOLDS, *, names: Sequence[str] | None = None
) -> SceneScore:
    """Score one scene as the challenges of 2024 and 2025 do.

    truth: true camera centres [m, 3], finite.
    estimated: their estimates [m, 3] in any frame and unit; a row that is not finite counts as missing.
    thresholds: distances in the unit of the truth.
    names: the images (default: their numbers).

    A similarity is fitted to every triplet of cameras. For each threshold, a second similarity is fitted to the inliers
    of the first one, at least three. The count of a threshold is the largest number of inliers of any second
    similarity.

    Up to 300 estimates the counts are exact. With more they are exact if they reach an upper bound for any similarity,
    for example when most cameras are correct and the others far off. Otherwise 200,000 triplets are tried, always the
    same ones, and a warning is logged: `counts` are lower bounds and `most` upper bounds (the number of estimates if
    that is above 3000).

    Centres that differ only by rounding define no similarity and are skipped. Centres on a line leave the rotation
    about it undefined, here and in the hosts' program.

    On one core 100 cameras take up to 3 s, 300 up to 140 s, 1000 about 10 s. 1000 cameras take some tens of MB, which
    grows as m² up to 3000 cameras. See docs/benchmarks.md.

    Raises `ValueError` for wrong shapes and `KitError` for thresholds that are not positive.
    """
    truth, estimated = np.asarray(truth, np.float64), np.asarray(estimated, np.float64)
    if truth.shape != (len(truth), 3) or estimated.shape != truth.shape or not np.isfinite(truth).all():
        raise ValueError(f"centres are finite [m, 3] and [m, 3], not {truth.shape} and {estimated.shape}")
    distances = tables.checked(thresholds)
    finite = np.isfinite(estimated).all(axis=1)
    with np.errstate(all="ignore"):  # the model may be nan
        found = register(estimated[finite].T, truth[finite].T, np.array(distances))
        aligned = np.full(truth.shape, np.nan)
        aligned[finite] = estimated[finite] @ found.model[:, :3].T + found.model[:, 3]
    counts, most = tuple(found.counts.tolist()), tuple(found.most.tolist())
    called = tuple(map(str, range(len(truth)))) if names is None else tuple(names)
    result = SceneScore(distances, counts, truth, aligned, int(finite.sum()), called, most)
    if not result.exact:
        log.warning(
            "not all triplets of %d cameras were tried: the score is at least %.4f and at most %.4f",
            *(result.registered, result.score, result.at_most),
        )
    return result
