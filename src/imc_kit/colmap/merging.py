"""Joining the partial models of a scene into fewer, larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imc_kit.colmap import child, mapping
from imc_kit.errors import KitError
from imc_kit.types import Model


@dataclass(frozen=True)
class MergingConfig:
    """When two models are taken for parts of one."""

    on: bool = True
    """Whether to do it at all."""
    min_links: int = 8
    """Points of both that show the same, because an image that is in both sees them at one keypoint or a verified match
    joins them, and that one similarity must take onto each other."""
    min_link_ratio: float = 0.4
    """The share of all such pairs of points that it must fit."""
    max_error: float = 12.0
    """How far off, in pixels, a point may appear in the other model's image, before adjustment."""
    min_shared: int = 3
    """Without enough such points, so many shared images whose cameras one similarity must fit."""
    max_loss: float = 0.01
    """The share of each model's verified matches that may cease to agree with it (`support`) by being joined."""
    min_agreement: float = 0.5
    """The share of the verified matches between the two that must agree with the joined model."""
    min_kept: float = 0.9
    """The share of the observations of both that must be left after adjustment."""
    time_limit: float = 600.0
    """Seconds that one scene may take."""

    def check(self) -> None:
        """Raise KitError for limits that make no sense."""
        for name in ("min_link_ratio", "max_loss", "min_agreement", "min_kept"):
            if not 0 <= getattr(self, name) <= 1:
                raise KitError(f"{name} of merging must be in 0 … 1, not {getattr(self, name)}")
        if self.min_links < 3 or self.min_shared < 3:
            raise KitError("min_links and min_shared of merging must be at least 3: fewer do not fix a similarity")
        if not (self.max_error > 0 and self.time_limit > 0):
            raise KitError("max_error and time_limit of merging must be more than 0")


def merge_models(
    database: Path,
    models: Sequence[Model],
    folder: Path,
    config: MergingConfig,
    log: Path,
    threads: int = -1,
    seed: int = 0,
) -> list[Model]:
    """Join what belongs together; the models end up in `folder`/0, 1, …, those with most images first.

    database: with the verified matches. models: made from it, in any number and order; they are only read.

    Two models are joined by a similarity, found by RANSAC on points of both that show the same: because an image that
    is in both sees them, or because a verified match joins images of one and the other. The larger gives the frame, and
    the poses of shared images. After bundle adjustment of the whole a join that the matches contradict is given up,
    and both stay as they were. Raises ColmapError when the child process crashes or runs out of time.
    """
    if not models:
        return []
    child.fill(
        folder, "merge", "merging of models", config, log,
        database=database, models=[model.folder for model in models], threads=threads, seed=seed,
    )  # fmt: skip
    return mapping.read_models(folder)
