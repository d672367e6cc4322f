"""Give poses to images that a model lacks, by what they see of it. `resection` does the work in the child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imc_kit.colmap.step import StepConfig, changed_model, run_step
from imc_kit.types import Model


@dataclass(frozen=True)
class LocalisationConfig(StepConfig):
    """When an image counts as localised. All limits were chosen on the open scenes."""

    job = "localise"
    what = "localisation of images"
    shares = "min_inlier_ratio", "max_loss"
    positive = "max_error", "max_match_error", "rounds"

    min_inliers: int = 10
    """Minimum number of 2D–3D correspondences that fit the pose (COLMAP's mapper: 30)."""
    min_inlier_ratio: float = 0.1
    """Minimum share of the 2D–3D correspondences that fit (COLMAP's mapper, with verified matches: 0.25)."""
    max_error: float = 8.0
    """Largest reprojection error of a fitting point, in pixels, before bundle adjustment (COLMAP's mapper: 12)."""
    max_match_error: float = 2.0
    """Matches of a localised image with a larger epipolar error, in pixels, make no new points."""
    max_loss: float = 0.01
    """Largest share of the model's verified matches that may stop agreeing with it (`support`) when everything is
    bundle-adjusted. Otherwise the model's own poses stay fixed."""
    rounds: int = 3
    """Largest number of rounds of localising and bundle adjustment: one round may give the next one new points."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.min_inliers >= 4, "min_inliers", "at least 4, because fewer points do not define a pose")


def localise(
    database: Path, model: Model, folder: Path, config: LocalisationConfig, log: Path, threads: int = -1, seed: int = 0
) -> Model:
    """Add the images of a database that a model lacks and that can be localised.

    database: with the model's images, keypoints and verified matches. All matches of the other images are used,
        verified or not, so a copy with more and looser matches helps.

    Returns the new model in `folder`, or `model` when no image can be localised.

    An image's matches give its keypoints 3D points. RANSAC finds its pose from these, and its focal length, unless the
    model or EXIF knows it. Images that see most of the model come first; the points that they add help others. Then
    everything is bundle-adjusted. Raises `ColmapError` when the child process crashes or runs out of time.
    """
    run_step(config, folder, log, database=database, model=model.folder, threads=threads, seed=seed)
    return changed_model(folder, model)
