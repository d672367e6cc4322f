"""The optional steps after mapping. Each changes finished models in a child process.

`readd` adds the pairs that a mapping run left out but that agree with its model. Where structures repeat, a model of
the strong pairs alone may be right; but fewer pairs constrain its cameras less. `merge_models` joins partial models,
`localise` adds images to a model, `find_principal_points` allows for cropped photos, `align_keypoints` makes its
keypoints more precise, `refine` bundle-adjusts it with a fuller camera model, and `georeference` aligns it to metres.
The child's work is in `readding`, `merging`, `localisation`, `principal_points`, `subpixel`, `refinement` and
`georeference`.
All limits were chosen on the open scenes.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.model_files import read_model, read_models
from imc_kit.errors import KitError, require
from imc_kit.types import Model, Pair

REFUSED = "refused"
"""A file of this name in the output means that the scene does not determine the fuller camera model."""
REFUSALS = "refusals.json"
"""The file in which `georeference` says why models could not be aligned."""


@dataclass(frozen=True)
class StepConfig:
    """The options of every step. Raises `KitError` when a value makes no sense."""

    job: ClassVar[str]
    """The name in `jobs.JOBS`."""
    what: ClassVar[str]
    """The step in words, for messages."""
    shares: ClassVar[Sequence[str]] = ()
    """The options that are fractions, from 0 to 1."""
    positive: ClassVar[Sequence[str]] = ()
    """The options that must be more than 0."""

    on: bool = True
    """Run this step."""
    time_limit: float = 600.0
    """Maximum seconds per scene."""

    def __post_init__(self) -> None:
        for option in self.shares:
            self.require(0 <= getattr(self, option) <= 1, option, "in 0 … 1")
        for option in self.positive:
            self.require(getattr(self, option) > 0, option, "more than 0")
        self.require(self.time_limit >= 0, "time_limit", "at least 0")  # 0: no time is left

    def require(self, valid: bool, option: str, wanted: str) -> None:
        """Raise `KitError` unless the value of an option is valid."""
        require(valid, f"{option} of the {self.what}", wanted, getattr(self, option))

    def run(self, at: Workplace, **arguments: Any) -> None:
        at.run(self.job, self.what, self.time_limit, config=asdict(self), known=asdict(at.known), **arguments)


@dataclass(frozen=True)
class ReaddingConfig(StepConfig):
    """Which pruned pairs are re-added."""

    job = "readd"
    what = "re-adding of pairs"
    shares = "min_agreement", "max_loss"
    positive = ("max_error",)

    max_error: float = 4.0
    """Maximum epipolar error of an agreeing match, in pixels, before bundle adjustment."""
    min_agreement: float = 0.7
    """Minimum share of a pair's verified matches that agree with the model. Only these matches are used."""
    max_loss: float = 0.01
    """Maximum share of the model's own matches that may stop agreeing with it (`support`). Otherwise nothing
    changes."""


@dataclass(frozen=True)
class MergingConfig(StepConfig):
    """When two models become one."""

    job = "merge"
    what = "merging of models"
    shares = "min_link_ratio", "max_loss", "min_agreement", "min_kept"
    positive = ("max_error",)

    min_links: int = 8
    """Minimum number of 3D–3D correspondences that fit one similarity. A correspondence joins points of two models that
    a shared image sees at one keypoint, or that a verified match joins."""
    min_link_ratio: float = 0.4
    """Minimum share of all 3D–3D correspondences that fit the similarity."""
    max_error: float = 12.0
    """Maximum reprojection error of a fitting point in the other model's image, in pixels, before bundle adjustment."""
    max_loss: float = 0.01
    """Maximum share of the two models' own verified matches that may stop agreeing (`support`) after the merge."""
    min_agreement: float = 0.5
    """Minimum share of the verified matches between the two models that agree with the merged one."""
    min_kept: float = 0.9
    """Minimum share of both models' observations that remain after bundle adjustment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.min_links >= 3, "min_links", "at least 3, because fewer do not define a similarity")


@dataclass(frozen=True)
class LocalisationConfig(StepConfig):
    """When an image counts as localised."""

    job = "localise"
    what = "localisation of images"
    shares = "min_inlier_ratio", "max_loss"
    positive = "max_error", "max_match_error", "rounds"

    min_inliers: int = 10
    """Minimum number of 2D–3D correspondences that fit the pose (COLMAP's mapper: 30)."""
    min_inlier_ratio: float = 0.1
    """Minimum share of the 2D–3D correspondences that fit (COLMAP's mapper, with verified matches: 0.25)."""
    max_error: float = 8.0
    """Maximum reprojection error of a fitting point, in pixels, before bundle adjustment (COLMAP's mapper: 12)."""
    max_match_error: float = 2.0
    """Maximum epipolar error, in pixels, of a localised image's matches that make new points."""
    max_loss: float = 0.01
    """Maximum share of the model's verified matches that may stop agreeing with it (`support`) when everything is
    bundle-adjusted. Otherwise the model's own poses stay fixed."""
    rounds: int = 3
    """Maximum rounds of localisation and bundle adjustment: each round may add points for the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.min_inliers >= 4, "min_inliers", "at least 4, because fewer points do not define a pose")


@dataclass(frozen=True)
class PrincipalPointsConfig(StepConfig):
    """When the principal points of a model with several cameras are estimated: those of cropped photos are not in the
    centre."""

    job = "find principal points"
    what = "estimation of principal points"
    positive = "min_gain", "max_offset"

    min_gain: float = 1.15
    """Minimum number of observations that agree to a quarter of a pixel with free principal points, as a factor of that
    with centred ones. For scenes of cropped photos it is 1.2 to 1.9. For others it is 0.95 to 1.05, and 1.10 for
    reichstag10, which gets no better (docs/benchmarks.md)."""
    max_offset: float = 0.25
    """Maximum distance of a principal point from the centre, as a share of the image's side. At 0.25, half of the photo
    was cut off at one side."""


@dataclass(frozen=True)
class SubpixelConfig(StepConfig):
    """How keypoints are aligned along tracks. Pixels are those of images reduced to `long_side`."""

    job = "align"
    what = "sub-pixel alignment of keypoints"
    shares = ("min_correlation",)
    positive = "long_side", "radius", "max_move", "max_iterations"

    long_side: int = 1600
    """Reduce images to at most this many pixels on their longer side. Detectors see 1024 to 3200."""
    radius: int = 4
    """Patches have 2 · radius + 1 pixels on a side. With 7, uneven surfaces fit less well (docs/benchmarks.md)."""
    max_move: float = 2.5
    """Keypoints that would move further stay in place: networks find them to about a pixel."""
    min_correlation: float = 0.7
    """Keypoints whose patches correlate less stay in place."""
    max_errors: tuple[float, ...] = (2.0, 1.0)
    """Maximum reprojection errors in pixels of the full image. For each, align, bundle-adjust, and drop observations
    with a larger error. The first round improves the poses that warp the patches of the second."""
    max_iterations: int = 50
    """Maximum solver iterations per bundle adjustment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = len(self.max_errors) > 0 and all(error > 0 for error in self.max_errors)
        self.require(valid, "max_errors", "at least one number of pixels, each more than 0")


@dataclass(frozen=True)
class RefinementConfig(StepConfig):
    """When and how a finished model is refined."""

    job = "refine"
    what = "refinement of a model"
    positive = "min_images", "max_median_error", "max_iterations"

    camera_model: Literal["OPENCV", "RADIAL"] = "OPENCV"
    """The camera model after refinement. OPENCV has two focal lengths and four distortion parameters, RADIAL one and
    two."""
    min_images: int = 10
    """Refine only cameras that this many images share. With fewer images, distortion is under-constrained."""
    max_median_error: float = 0.35
    """Refine only a model whose median reprojection error is at most this, in pixels. In other models, a fuller camera
    model fits keypoint errors."""
    max_errors: tuple[float, ...] = (2.0, 1.0, 0.5)
    """Maximum reprojection errors in pixels. For each, drop observations with a larger error and bundle-adjust."""
    max_iterations: int = 50
    """Maximum solver iterations per bundle adjustment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = len(self.max_errors) > 0 and all(error > 0 for error in self.max_errors)
        self.require(valid, "max_errors", "at least one number of pixels, each more than 0")


@dataclass(frozen=True)
class PositionsConfig(StepConfig):
    """What the positions of photos are used for: to select pairs, and to align models to metres."""

    job = "georeference"
    what = "alignment to positions"
    positive = "k", "stddev"

    on: bool = True
    """Use the positions of photos."""
    file: Path | None = None
    """CSV file of positions, instead of GPS in EXIF: image, latitude, longitude, altitude; or image, x, y, z in
    metres."""
    pairs: Literal["auto", "on", "off"] = "auto"
    """Match each image with those taken nearest to it. auto: if 90 % of the images have positions, not all pairs are
    matched anyway, and the k nearest images are further apart than the positions are wrong (3 · stddev)."""
    k: int = 15
    """pairs: each image selects this many others. More may select it in turn."""
    stddev: float = 5.0
    """Standard deviation of the positions in metres. Phones and drones without RTK: 3 to 10."""
    adjust: bool = False
    """Bundle-adjust aligned models again with the positions, weighted by `stddev`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.pairs in ("auto", "on", "off"), "pairs", "auto, on or off")

    @property
    def max_error(self) -> float:
        """Metres: positions that are further off are outliers. Of a normal distribution in 3D, 97 % are nearer."""
        return 3 * self.stddev


# All steps raise `ColmapError` when the child process crashes or runs out of time.


def readd(database: Path, model: Model, left_out: Collection[Pair], config: ReaddingConfig, at: Workplace) -> Model:
    """Bundle-adjust a model with the left-out pairs that agree with it.

    database: with the model's images, keypoints and verified matches. left_out: pairs of image names.

    Returns the new model, or `model` when no pair agrees, or when its own matches would agree less.
    """
    config.run(at, database=database, model=model.folder, left_out=sorted(left_out))
    return _changed(model, at)


def merge_models(database: Path, models: Sequence[Model], config: MergingConfig, at: Workplace) -> list[Model]:
    """Merge the models that fit together, into subfolders 0, 1, …, largest first.

    database: with verified matches. models: made from it, in any number and order; their files do not change.

    RANSAC finds a similarity between points that two models share. The larger model determines the frame and the poses
    of shared images. After bundle adjustment, a merge that contradicts the matches is undone.
    """
    config.run(at, database=database, models=[model.folder for model in models])
    return read_models(at.folder)


def localise(database: Path, model: Model, config: LocalisationConfig, at: Workplace, *, fixed: bool = False) -> Model:
    """Localise the database's images that a model lacks, and add them to it.

    database: with the model's images, keypoints and verified matches. All matches of the other images are used,
        verified or not, so a copy with more and looser matches helps.
    fixed: keep the poses and intrinsics of the model.

    Returns the new model, or `model` when no image can be localised.

    An image's matches link its keypoints to 3D points. From these, RANSAC finds its pose, and its focal length unless
    the model or EXIF has it. Images that see most of the model come first; the points that they add help others. Then
    everything is bundle-adjusted.
    """
    config.run(at, database=database, model=model.folder, fixed=fixed)
    return _changed(model, at)


def find_principal_points(database: Path, model: Model, config: PrincipalPointsConfig, at: Workplace) -> Model:
    """Bundle-adjust a model with free principal points, if that fits its matches much better.

    database: with the model's images, keypoints and verified matches.

    Returns the new model, or `model` if its principal points are centred, if all images share a camera, because then
    no photo was cropped by itself, or if the user knows a camera.
    """
    if len({*model.frames.values()}) < 2:
        return model
    config.run(at, database=database, model=model.folder)
    return _changed(model, at)


def align_keypoints(
    model: Model,
    photos: Mapping[str, tuple[Path, int]],
    config: SubpixelConfig,
    at: Workplace,
    *,
    fixed: Collection[str] = (),
) -> Model:
    """Align the keypoints of each track to a fraction of a pixel by the brightness around them, and bundle-adjust.

    photos: for each image of the model, its path and the further clockwise 90° rotations that make it upright
        (`ImageInfo.extra_quarters`).
    fixed: images that keep their poses and intrinsics.

    Returns the new model, or `model` if no more observations of the images that are not fixed would be precise.
    """
    plain = {name: (str(path), quarters) for name, (path, quarters) in photos.items() if name in model.poses}
    config.run(at, model=model.folder, photos=plain, fixed=sorted(fixed))
    return _changed(model, at)


def refine(model: Model, config: RefinementConfig, at: Workplace) -> Model:
    """Bundle-adjust the best points of a model with a fuller camera model.

    Returns the new model, or `model` if refinement is unreliable: few images share a camera, or keypoints are
    imprecise. Raises `KitError` if the scene does not determine the camera.
    """
    if len(model.poses) < config.min_images:
        return model
    config.run(at, model=model.folder)
    if (at.folder / REFUSED).exists():
        raise KitError("the photos do not determine a fuller camera model (a flat scene?): the model stays as it was")
    return _changed(model, at)


def georeference(
    models: Sequence[Model],
    positions: Mapping[str, Sequence[float]],
    origin: tuple[float, float, float] | None,
    config: PositionsConfig,
    at: Workplace,
) -> tuple[list[Model], list[str]]:
    """Align each model to the positions of its images, by a similarity from RANSAC.

    positions: x, y, z in metres by image name. origin: see `Alignment`.

    Returns the models, and why some are not aligned: one sentence each. Models without three positions stay as they are
    without a word, except the first. Raises `ColmapError` when the child process fails.
    """
    config.run(at, models=[model.folder for model in models], positions=dict(positions), origin=origin)
    folders = [at.folder / str(number) for number in range(len(models))]
    aligned = [read_model(one) if one.is_dir() else model for one, model in zip(folders, models, strict=True)]
    return aligned, json.loads((at.folder / REFUSALS).read_text("utf-8"))


def _changed(model: Model, at: Workplace) -> Model:
    """The model that a step wrote, or `model` if it wrote none."""
    return read_model(at.folder) if (at.folder / "images.bin").is_file() else model
