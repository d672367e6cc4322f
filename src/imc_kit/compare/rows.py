"""The results of a comparison: a row for each configuration and scene, and their summary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from imc_kit.compare.repeatability import CHANGES, Change, Repeated, average, mean

_ACCURACY: Callable[["Row"], float | None] = attrgetter("accuracy")


@dataclass(frozen=True)
class Row:
    """One configuration on one scene. None means unknown or undefined.

    scene: None when the configuration could not run at all.
    seed: the random seed of the run.
    accuracy: the mAA, if the truth is known; a failed scene has that of its placeholder poses.
    keypoints: mean over the images.
    verified_pairs: number of pairs with inliers; inliers_mean and inliers_median are over these pairs.
    repeated: measures by kind of change, see `repeatability`.
    seconds: by stage, of the run that solved the scene.
    remarks: what went wrong, one sentence each.
    """

    configuration: str
    scene: str | None
    images: int | None = None
    registered: int | None = None
    accuracy: float | None = None
    keypoints: float | None = None
    verified_pairs: int | None = None
    inliers_mean: float | None = None
    inliers_median: float | None = None
    repeated: Mapping[Change, Repeated] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    seed: int = 0

    @property
    def solved(self) -> bool:
        return self.registered is not None

    @property
    def share_registered(self) -> float | None:
        """Registered images as a share of all; None for a scene that could not be solved."""
        return self.registered / self.images if self.registered is not None and self.images else None

    @property
    def overall(self) -> Repeated | None:
        """The mean over the kinds of change."""
        return average(list(self.repeated.values()))

    @property
    def total(self) -> float | None:
        """Seconds of all stages."""
        return sum(self.seconds.values()) if self.seconds else None


def of_seeds(rows: Sequence[Row], name: str, value: Callable[[Row], float | None] = _ACCURACY) -> list[float]:
    """A number of the summary of a configuration, by default the mAA, for each seed where it is known, lowest first."""
    own = [row for row in rows if row.configuration == name]
    parts = [_summary(name, [row for row in own if row.seed == seed]) for seed in {row.seed for row in own}]
    return sorted(found for part in parts if (found := value(part)) is not None)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """For each two configurations, whether their mAA differ by more than between the seeds of one; one sentence each.

    They do if every seed of one scores above every seed of the other.
    """
    of = {name: of_seeds(rows, name) for name in dict.fromkeys(row.configuration for row in rows)}
    best_first = sorted((name for name in of if len(of[name]) > 1), key=lambda name: -sum(of[name]) / len(of[name]))
    sentences = []
    for place, better in enumerate(best_first):
        for worse in best_first[place + 1 :]:
            gain = sum(of[better]) / len(of[better]) - sum(of[worse]) / len(of[worse])
            sure = of[better][0] > of[worse][-1]
            verdict = "more than the spread over seeds" if sure else "within the spread over seeds"
            sentences.append(f"{better} − {worse}: {gain:+.3f}, {verdict}")
    return sentences


def summarize(rows: Sequence[Row], *, by_scene: bool = False) -> list[Row]:
    """One row for each configuration, in their order, with scene None: see `Comparison.summary`.

    by_scene: one row for each configuration and scene, which sums up the seeds only.
    """
    groups: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.configuration, row.scene if by_scene else None), []).append(row)
    return [replace(_summary(name, own), scene=scene) for (name, scene), own in groups.items()]


def _summary(name: str, rows: Sequence[Row]) -> Row:
    seeds = len({row.seed for row in rows})

    def total(column: str) -> int | None:
        known = [value for row in rows if (value := getattr(row, column)) is not None]
        return round(sum(known) / seeds) if known else None

    averaged = ("accuracy", "keypoints", "inliers_mean", "inliers_median")
    numbers: dict[str, Any] = {column: total(column) for column in ("images", "registered", "verified_pairs")}
    numbers |= {column: mean(getattr(row, column) for row in rows) for column in averaged}
    repeated = by_change([(change, one) for row in rows for change, one in row.repeated.items()])
    stages = dict.fromkeys(stage for row in rows for stage in row.seconds)
    seconds = {stage: sum(row.seconds.get(stage, 0.0) for row in rows) / seeds for stage in stages}
    told: dict[str, set[int]] = {}
    for row in rows:
        for remark in row.remarks:
            told.setdefault(f"{row.scene}: {remark}" if row.scene else remark, set()).add(row.seed)
    remarks = [
        text if len(of) == seeds else f"{text} (seed {', '.join(map(str, sorted(of)))})" for text, of in told.items()
    ]
    return Row(name, None, **numbers, repeated=repeated, seconds=seconds, remarks=tuple(remarks))


def by_change(found: Sequence[tuple[Change, Repeated]]) -> dict[Change, Repeated]:
    """The mean for each kind of change that occurs, in the order of `CHANGES`."""
    means = {change: average([one for kind, one in found if kind == change]) for change in CHANGES}
    return {change: one for change, one in means.items() if one is not None}
