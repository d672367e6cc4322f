"""The score of 2023: the relative poses of all pairs of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import imc_kit.metric.tables as tables
from imc_kit.errors import KitError
from imc_kit.metric.tables import Posed, Table
from imc_kit.types import Float64

PairThresholds = tuple[Sequence[float], Sequence[float]]
"""Thresholds of rotation in degrees, and as many thresholds of translation in metres."""
_Limits = tuple[tuple[float, float], ...]
"""The same thresholds as (degrees, metres) pairs."""


def _ten(degrees: float, nearest: float, farthest: float) -> PairThresholds:
    return np.linspace(degrees, 10, 10).tolist(), np.geomspace(nearest, farthest, 10).tolist()


PAIR_THRESHOLDS = _ten(1, 0.2, 5)
"""2023's thresholds from its evaluation page, for scenes whose thresholds are not published."""
PAIR_THRESHOLDS_2023 = {
    **dict.fromkeys(("haiper/bike", "haiper/chairs", "haiper/fountain"), _ten(1, 0.05, 0.5)),
    **dict.fromkeys(("heritage/cyprus", "heritage/dioscuri"), _ten(1, 0.1, 2)),
    "heritage/wall": _ten(0.2, 0.05, 1),
    "urban/kyiv-puppet-theater": _ten(1, 0.5, 5),
}
"""2023's thresholds for the training scenes, from the hosts' notebook."""


@dataclass(frozen=True, eq=False)
class PairScore:
    """2023's score of one scene.

    thresholds: (degrees, metres) pairs.
    fractions: for each threshold, the fraction of image pairs whose relative pose is within it.
    images, registered: the number of images, and of images with a finite submitted pose.
    """

    thresholds: _Limits
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
    def scenes(self) -> dict[str, PairScore]:
        """The scores by 'dataset/scene'."""
        return {f"{dataset}/{name}": one for dataset, scenes in self.datasets.items() for name, one in scenes.items()}

    @property
    def mean(self) -> float:
        """The mean over datasets of the mean over their scenes; scenes without a score are left out."""
        means = (tables.mean_of(scene.score for scene in scenes.values()) for scenes in self.datasets.values())
        return tables.mean_of(means)

    def to_json(self) -> dict[str, Any]:
        """`{"mean": …, "scenes": {"dataset/scene": number}}`; null means no score."""
        return {
            "mean": tables.or_none(self.mean),
            "scenes": {name: tables.or_none(scene.score) for name, scene in self.scenes.items()},
        }

    def __str__(self) -> str:
        rows = [(name, str(one.images), str(one.registered), f"{one.score:.4f}") for name, one in self.scenes.items()]
        return tables.aligned(("scene", "images", "registered", "mAA"), [*rows, ("mean", "", "", f"{self.mean:.4f}")])


def score_2023(truth: Table, submission: Table, thresholds: Mapping[str, PairThresholds] | None = None) -> Score2023:
    """Score a submission as the challenge of 2023 does: the relative poses of all image pairs.

    truth, submission: tables as for `score`.
    thresholds: (degrees, metres) by 'dataset/scene', the same number of both. The defaults are the hosts'
        (`PAIR_THRESHOLDS_2023`), else `PAIR_THRESHOLDS`.

    For images i and j the relative pose is R = Rⱼ·Rᵢᵀ, t = tⱼ − R·tᵢ. Its errors are the angle between the true and
    the submitted R, and the distance between the true and the submitted t. First the submitted t is scaled to the true
    length, with the better of both signs, so scale does not matter. A pair counts if both errors are within the
    threshold. The score is the mean over thresholds, then scenes, then datasets.

    Source: the competition's evaluation page and a copy of the hosts' notebook eduardtrulls/imc2023-evaluation. It was
    not compared with the program that Kaggle ran, and the hidden scenes' thresholds are unknown. The notebook refuses a
    submission that lacks rows, and replaces a matrix that is not a rotation by the nearest rotation. Here a missing row
    counts as nan, and matrices are used unchanged.

    Raises `KitError` as `score` does.
    """
    rows = tables.read_both(truth, submission, ("dataset", "scene", "image_path"))
    names = tables.full_names(rows.scenes)
    tables.warn_of_unknown(thresholds, names.values())
    chosen = PAIR_THRESHOLDS_2023 | dict(thresholds or {})
    limits = {name: _limits(chosen.get(name, PAIR_THRESHOLDS), name) for name in names.values()}
    datasets: dict[str, dict[str, PairScore]] = {}
    for (dataset, scene), keys in rows.scenes.items():
        datasets.setdefault(dataset, {})[scene] = _score_pairs(*rows.pairs(keys), limits[names[dataset, scene]])
    return Score2023(datasets)


def _limits(thresholds: PairThresholds, name: str) -> _Limits:
    try:
        degrees, metres = thresholds
    except (TypeError, ValueError):
        wanted = "two lists, of degrees and of metres"
        raise KitError(f"the thresholds of {name} must be {wanted}, not {thresholds!r}") from None
    angles, distances = tables.checked(degrees, f"{name}, in degrees,"), tables.checked(metres, f"{name}, in metres,")
    if len(angles) != len(distances):
        counts = f"{len(angles)} and {len(distances)}"
        raise KitError(f"{name} needs as many thresholds in degrees as in metres, not {counts}")
    return tuple(zip(angles, distances, strict=True))


def _score_pairs(true: Sequence[Posed], submitted: Sequence[Posed], thresholds: _Limits) -> PairScore:
    registered = sum(bool(np.isfinite(pose.center).all()) for pose in submitted)
    if len(true) < 2:
        return PairScore(thresholds, (float("nan"),) * len(thresholds), len(true), registered)
    with np.errstate(all="ignore"):  # errors of missing poses are nan, which is within no threshold
        true_r, true_t = _relative(true)
        r, t = _relative(submitted)
        # ‖R − R'‖ = 2·√2·sin(angle / 2), which is accurate for small angles too
        chord = np.linalg.norm(true_r - r, axis=(1, 2)) / np.sqrt(8)
        degrees = np.degrees(2 * np.arcsin(np.minimum(chord, 1)))
        length = np.linalg.norm(true_t, axis=1)
        t = t * (length / (np.linalg.norm(t, axis=1) + 1e-15))[:, None]  # the hosts' guard against zero
        metres = np.minimum(np.linalg.norm(true_t - t, axis=1), np.linalg.norm(true_t + t, axis=1))
    fractions = tuple(float(np.mean((degrees <= d) & (metres <= m))) for d, m in thresholds)
    return PairScore(thresholds, fractions, len(true), registered)


def _relative(poses: Sequence[Posed]) -> tuple[Float64, Float64]:
    """The relative poses R [P, 3, 3] and t [P, 3] from the first to the second camera of all P pairs."""
    rotations = np.array([pose.rotation for pose in poses])
    translations = np.array([pose.translation for pose in poses])
    first, second = np.triu_indices(len(poses), 1)
    rotation = rotations[second] @ rotations[first].transpose(0, 2, 1)
    return rotation, translations[second] - np.einsum("pij,pj->pi", rotation, translations[first])
