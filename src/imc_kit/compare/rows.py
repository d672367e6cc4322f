"""The results of a comparison: a row for each configuration and scene, and their summary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imc_kit.compare.repeatability import CHANGES, Change, Repeated, average, mean


@dataclass(frozen=True)
class Row:
    """One configuration on one scene. None means not known, or not defined.

    scene: None when the configuration could not run at all.
    accuracy: the mAA, when the truth is known; a failed scene has one too, of its placeholder poses.
    keypoints: mean over the images.
    verified_pairs: pairs with inliers; inliers_mean and inliers_median are over these.
    repeated: by kind of change, see `repeatability`.
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

    @property
    def solved(self) -> bool:
        return self.registered is not None

    @property
    def overall(self) -> Repeated | None:
        """The mean over the kinds of change."""
        return average(list(self.repeated.values()))

    @property
    def total(self) -> float | None:
        """Seconds of all stages."""
        return sum(self.seconds.values()) if self.seconds else None


def summarize(rows: Iterable[Row]) -> list[Row]:
    """One row for each configuration, in their order, whose scene is None: see `Comparison.summary`."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row)
    return [_summary(name, group) for name, group in groups.items()]


def _summary(name: str, rows: Sequence[Row]) -> Row:
    def total(column: str) -> int | None:
        known = [value for row in rows if (value := getattr(row, column)) is not None]
        return sum(known) if known else None

    sums: dict[str, Any] = {column: total(column) for column in ("images", "registered", "verified_pairs")}
    averaged = ("accuracy", "keypoints", "inliers_mean", "inliers_median")
    means: dict[str, Any] = {column: mean(getattr(row, column) for row in rows) for column in averaged}
    stages = dict.fromkeys(stage for row in rows for stage in row.seconds)
    return Row(
        name,
        None,
        **sums,
        **means,
        repeated=by_change([(change, one) for row in rows for change, one in row.repeated.items()]),
        seconds={stage: sum(row.seconds.get(stage, 0.0) for row in rows) for stage in stages},
        remarks=tuple(f"{row.scene}: {remark}" if row.scene else remark for row in rows for remark in row.remarks),
    )


def by_change(found: Iterable[tuple[Change, Repeated]]) -> dict[Change, Repeated]:
    """The mean for each kind of change that there is, in the order of `CHANGES`."""
    groups: dict[Change, list[Repeated]] = {change: [] for change in CHANGES}
    for change, result in found:
        groups[change].append(result)
    means = {change: average(group) for change, group in groups.items()}
    return {change: one for change, one in means.items() if one is not None}
