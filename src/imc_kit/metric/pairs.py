"""The score of 2023: the relative poses of all pairs of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_kit.data.tables import POSE_COLUMNS
from imc_kit.errors import KitError
from imc_kit.metric.tables import NOTHING, Posed, checked, full_names, grouped, read_both, warn_of_unknown
from imc_kit.metric.text import aligned, mean_of, or_none
from imc_kit.types import Float64

if TYPE_CHECKING:
    from imc_kit.metric.tables import Table

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
        return mean_of(mean_of(scene.score for scene in scenes.values()) for scenes in self.datasets.values())

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "scenes": {"dataset/scene": number}}`; null stands for no score."""
        return {
            "mean": or_none(self.mean),
            "scenes": {
                f"{dataset}/{name}": or_none(scene.score)
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
        return aligned(("scene", "images", "registered", "mAA"), [*rows, ("mean", "", "", f"{self.mean:.4f}")])


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
    true, submitted = read_both(truth, submission, columns, key=("dataset", "scene", "image_path"))
    groups = grouped(true, lambda key: key[:2])
    names = full_names(groups)
    warn_of_unknown(thresholds, names.values())
    chosen = PAIR_THRESHOLDS_2023 | dict(thresholds or {})
    limits = {name: _limits(chosen.get(name, PAIR_THRESHOLDS), name) for name in names.values()}
    datasets: dict[str, dict[str, PairScore]] = {}
    for (dataset, scene), keys in groups.items():
        poses = [true[key] for key in keys], [submitted.get(key, NOTHING) for key in keys]
        datasets.setdefault(dataset, {})[scene] = _score_pairs(*poses, limits[names[dataset, scene]])
    return Score2023(datasets)


def _limits(thresholds: PairThresholds, name: str) -> tuple[tuple[float, float], ...]:
    try:
        degrees, metres = thresholds
    except (TypeError, ValueError):
        raise KitError(
            f"the thresholds of {name} must be two lists, of degrees and of metres, not {thresholds!r}"
        ) from None
    turns, ways = checked(degrees, f"{name}, in degrees,"), checked(metres, f"{name}, in metres,")
    if len(turns) != len(ways):
        raise KitError(f"{name} needs as many thresholds in degrees as in metres, not {len(turns)} and {len(ways)}")
    return tuple(zip(turns, ways, strict=True))


def _score_pairs(
    true: Sequence[Posed], submitted: Sequence[Posed], thresholds: tuple[tuple[float, float], ...]
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


def _relative(poses: Sequence[Posed]) -> tuple[Float64, Float64]:
    """R [P, 3, 3] and t [P, 3] from the first to the second camera, of all pairs."""
    rotations = np.array([pose.rotation for pose in poses])
    translations = np.array([pose.translation for pose in poses])
    first, second = np.triu_indices(len(poses), 1)
    rotation = rotations[second] @ rotations[first].transpose(0, 2, 1)
    return rotation, translations[second] - np.einsum("pij,pj->pi", rotation, translations[first])
