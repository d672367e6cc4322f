"""Merge the partial models of a scene into fewer, larger ones. `joining` does the work in the child process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imc_kit.colmap.model_files import read_models
from imc_kit.colmap.step import StepConfig, run_step
from imc_kit.types import Model


@dataclass(frozen=True)
class MergingConfig(StepConfig):
    """When two models become one. All limits were chosen on the open scenes."""

    job = "merge"
    what = "merging of models"
    shares = "min_link_ratio", "max_loss", "min_agreement", "min_kept"
    positive = ("max_error",)

    min_links: int = 8
    """Minimum number of 3D–3D correspondences that fit one similarity. A correspondence joins a point of one model with
    a
    point of the other: a shared image sees both at one keypoint, or a verified match joins them."""
    min_link_ratio: float = 0.4
    """Minimum share of all 3D–3D correspondences that fit the similarity."""
    max_error: float = 12.0
    """Largest error of a fitting point in the other model's image, in pixels, before bundle adjustment."""
    min_shared: int = 3
    """Where too few points correspond: minimum number of shared images whose cameras fit one similarity."""
    max_loss: float = 0.01
    """Largest share of each model's verified matches that may stop agreeing with it (`support`) after the merge."""
    min_agreement: float = 0.5
    """Minimum share of the verified matches between the two models that agree with the merged one."""
    min_kept: float = 0.9
    """Minimum share of both models' observations that are left after bundle adjustment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("min_links", "min_shared"):
            self.require(getattr(self, option) >= 3, option, "at least 3, because fewer do not define a similarity")


def merge_models(
    database: Path,
    models: Sequence[Model],
    folder: Path,
    config: MergingConfig,
    log: Path,
    threads: int = -1,
    seed: int = 0,
) -> list[Model]:
    """Merge the models that belong together, into `folder`/0, 1, …, largest first.

    database: with verified matches. models: made from it, in any number and order; their files do not change.

    Two models are merged by a similarity, which RANSAC finds between points that both have. The larger model gives the
    frame and the poses of shared images. After bundle adjustment, a merge that contradicts the matches is undone.
    Raises `ColmapError` when the child process crashes or runs out of time.
    """
    if not models:
        return []
    run_step(
        config, folder, log,
        database=database, models=[model.folder for model in models], threads=threads, seed=seed,
    )  # fmt: skip
    return read_models(folder)
