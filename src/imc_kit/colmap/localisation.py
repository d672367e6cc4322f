"""Giving poses to the images that a model lacks, by what they see of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imc_kit.colmap import child, mapping
from imc_kit.errors import KitError
from imc_kit.types import Model


@dataclass(frozen=True)
class LocalisationConfig:
    """When an image is taken to be localised."""

    on: bool = True
    """Whether to try it at all."""
    min_inliers: int = 10
    """Keypoints of the image, each with a 3D point of its own, that the pose must fit (COLMAP's mapper: 30)."""
    min_inlier_ratio: float = 0.1
    """The share of the keypoints with 3D points that it must fit (COLMAP's mapper, on verified matches: 0.25)."""
    max_error: float = 8.0
    """How far off, in pixels, a fitting point may appear, before adjustment."""
    max_match_error: float = 2.0
    """Matches of a localised image whose epipolar error is larger, in pixels, make no points."""
    max_loss: float = 0.01
    """The share of the model's verified matches that may cease to agree with it (`support`) when all is adjusted;
    otherwise its poses stay as they were."""
    rounds: int = 3
    """Of localising and adjusting, at most; each may bring what the next one needs."""
    time_limit: float = 600.0
    """Seconds that one scene may take."""

    def check(self) -> None:
        """Raise KitError for limits that make no sense."""
        for name in ("min_inlier_ratio", "max_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise KitError(f"{name} of localisation must be in 0 … 1, not {getattr(self, name)}")
        if self.min_inliers < 4:
            raise KitError("min_inliers of localisation must be at least 4: fewer points do not fix a camera")
        if not (self.max_error > 0 and self.max_match_error > 0 and self.rounds > 0 and self.time_limit > 0):
            raise KitError("max_error, max_match_error, rounds and time_limit of localisation must be more than 0")


def localise(
    database: Path, model: Model, folder: Path, config: LocalisationConfig, log: Path, threads: int = -1, seed: int = 0
) -> Model:
    """The model with those images of the database that it lacks and that can be localised, in `folder`; or `model`.

    database: with the model's own images, keypoints and verified matches; all matches of the other images are used,
    verified or not, so more and looser ones may be added to a copy for this.

    An image's keypoints get 3D points through its matches with images of the model; from these its pose comes by
    RANSAC (and its focal length, unless an image of the model has the same camera or EXIF gives it). Images that see
    most of the model come first, and what they add helps others. Then all is adjusted. An image that cannot be
    localised well stays out. Raises ColmapError when the child process crashes or runs out of time.
    """
    child.fill(
        folder, "localise", "localisation of images", config, log,
        database=database, model=model.folder, threads=threads, seed=seed,
    )  # fmt: skip
    return mapping.read_model(folder) if (folder / "images.bin").is_file() else model
