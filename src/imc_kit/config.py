"""The whole configuration of a run, and the named presets."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import inf, isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

from imc_kit.colmap import known_cameras
from imc_kit.colmap.cameras import CameraConfig
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import DEFAULT_RUNS
from imc_kit.colmap.steps import (
    LocalisationConfig,
    MergingConfig,
    PositionsConfig,
    PrincipalPointsConfig,
    ReaddingConfig,
    RefinementConfig,
    SubpixelConfig,
)
from imc_kit.data.decoding import MAX_PIXELS
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors import DETECTORS, DetectorConfig
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.detectors.superpoint import SuperPointConfig
from imc_kit.detectors.xfeat import XFeatConfig
from imc_kit.errors import KitError, require, unknown_name
from imc_kit.matchers import MATCHERS, AnyMatcherConfig, PhotoMatcherConfig, check_accepts
from imc_kit.matchers.combine import CombineConfig
from imc_kit.matchers.imported import ImportedConfig, ImportedFeatures, ImportedMatches
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.matchers.photo_points import MergeConfig
from imc_kit.poses.turntable import TurntableConfig
from imc_kit.retrieval import DESCRIPTORS
from imc_kit.retrieval.networks import DinoConfig
from imc_kit.retrieval.pairs import PairsConfig
from imc_kit.runtime import versions, weights
from imc_kit.runtime.registry import NamedConfig
from imc_kit.viewgraph.static import StaticConfig
from imc_kit.viewgraph.two_view import VerificationConfig

_WITHOUT_EFFECT = {"threads", "time_limit"}
"""Options that do not change results: one that was cut short by a time limit is never final."""
_SIFT, _NEAREST = SiftConfig(contrast_threshold=0.0133, edge_threshold=30.0), NearestConfig(ratio=0.8, cells=64)


def _check_numbers(target: Any, name: str = "") -> None:
    """Raise KitError for an option at any depth that is nan, or infinite and no time limit."""
    for option, value in _options(target).items():
        path = f"{name}.{option}".lstrip(".")
        finite = not isinstance(value, float) or isfinite(value) or (option == "time_limit" and value == inf)
        require(finite, path, "a finite number", value)
        _check_numbers(value, path)


def _options(target: Any) -> dict[str, Any]:
    """A configuration's options by name, or a tuple's entries by number; empty for anything else."""
    if isinstance(target, tuple):
        return {str(number): entry for number, entry in enumerate(target)}
    return {entry.name: getattr(target, entry.name) for entry in fields(target)} if is_dataclass(target) else {}


@dataclass(frozen=True)
class FeaturePipeline:
    """One way to get matches: a detector with a matcher, or detector `none` with one that takes photos."""

    detector: DetectorConfig
    matcher: AnyMatcherConfig

    def check(self) -> None:
        """Raise KitError if the two are incompatible, or if something that they need is missing."""
        check_accepts(self.matcher, self.detector.kind)
        given = NoDetectorConfig if isinstance(self.matcher, PhotoMatcherConfig) else ImportedFeatures
        if not isinstance(self.detector, (given, ImportedFeatures)):
            self.detector.create()
        if isinstance(self.matcher, PhotoMatcherConfig):
            self.matcher.create()
        elif not isinstance(self.matcher, ImportedMatches):
            self.matcher.create(self.detector.kind)

    def looser(self) -> Self:
        """The same with a less strict matcher; one that takes photos stays as it is."""
        return self if isinstance(self.matcher, PhotoMatcherConfig) else replace(self, matcher=self.matcher.looser())

    def weight_files(self) -> tuple[str, ...]:
        """The weight files that it needs; see `Config.weight_files`."""
        check_accepts(self.matcher, self.detector.kind)
        return *self.detector.weight_files(), *self.matcher.weight_files(self.detector.kind)


@dataclass(frozen=True)
class Config:
    """The options of a run, by stage. Each stage defines its own options.

    Raises KitError for a value that makes no sense.
    """

    detector: DetectorConfig = _SIFT
    matcher: AnyMatcherConfig = _NEAREST
    also: tuple[FeaturePipeline, ...] = ()
    """Further feature pipelines; their keypoints and matches are joined to those of the first (`combine`)."""
    combine: CombineConfig = field(default_factory=CombineConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    imported: ImportedConfig = field(default_factory=ImportedConfig)
    """Features and matches from files, instead of those of `detector` and `matcher`."""
    upright: bool = False
    """Estimate each photo's 90° rotation from low-resolution matches and detect features on the upright image."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    pairs: PairsConfig = field(default_factory=lambda: PairsConfig("matches", exhaustive_up_to=30))
    positions: PositionsConfig = field(default_factory=PositionsConfig)
    static: StaticConfig = field(default_factory=StaticConfig)
    cameras: CameraConfig = field(default_factory=CameraConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    mapping: tuple[MappingConfig, ...] = DEFAULT_RUNS
    """Mapping runs: the first, then the others in parallel unless the first is good enough. The model with the most
    images is kept; ties are broken by agreement with the strongest pairs."""
    enough: float = 0.9
    """Stop mapping when a trusted model has this share of the scene's images; localisation adds most of the rest."""
    trusted: float = 0.98
    """Trust a model when this share of the strongest pairs' verified matches agrees with it within 2 pixels. Above 1
    disables early stopping: every mapping run is made."""
    readding: ReaddingConfig = field(default_factory=ReaddingConfig)
    merging: MergingConfig = field(default_factory=MergingConfig)
    localisation: LocalisationConfig = field(default_factory=LocalisationConfig)
    principal_points: PrincipalPointsConfig = field(default_factory=PrincipalPointsConfig)
    subpixel: SubpixelConfig = field(default_factory=SubpixelConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    turntable: TurntableConfig = field(default_factory=TurntableConfig)
    min_matches: int = 15
    """Drop pairs with fewer matches before verification."""
    time_limit: float | None = None
    """Seconds for the whole run. Every scene gets a quick answer first, and expensive stages are skipped when time runs
    short. None: no limit."""
    max_pixels: int = MAX_PIXELS
    """Leave out images with more pixels, because decoding takes up to 8 bytes each. WebP, AVIF and HEIC: half as
    many."""
    threads: int | None = None
    """Threads for detection, matching and COLMAP; None uses all cores."""
    seed: int = 0
    """Random seed. With `threads` 1, the same input gives the same poses on the same machine."""

    def __post_init__(self) -> None:
        require(self.enough >= 0, "enough", "at least 0", self.enough)
        require(self.trusted >= 0, "trusted", "at least 0", self.trusted)
        require(self.min_matches >= 1, "min_matches", "at least 1", self.min_matches)
        threads = self.threads
        require(threads is None or threads >= 1, "threads", "at least 1, or left out to use all cores", threads)
        require(self.max_pixels >= 1, "max_pixels", "at least 1", self.max_pixels)
        limit = self.time_limit
        require(limit is None or limit > 0, "time_limit", "more than 0 seconds, or None", limit)
        require(self.seed >= 0, "seed", "at least 0", self.seed)
        _check_numbers(self)

    @property
    def feature_pipelines(self) -> tuple[FeaturePipeline, ...]:
        """First `detector` with `matcher`, or what is imported instead. Raises KitError if that cannot be read."""
        return FeaturePipeline(*self.imported.replaced(self.detector, self.matcher)), *self.also

    @property
    def sparse(self) -> list[FeaturePipeline]:
        """The feature pipelines that have a detector."""
        return [one for one in self.feature_pipelines if not isinstance(one.detector, NoDetectorConfig)]

    def first_alone(self) -> Self:
        """The configuration that each scene is mapped with first: without pipelines that are joined if needed."""
        return replace(self, also=()) if self.combine.when == "if_needed" else self

    @property
    def matches_photos(self) -> bool:
        """Whether a matcher takes photos: the further keypoints that it finds depend on the pairs."""
        return any(isinstance(one.matcher, PhotoMatcherConfig) for one in self.feature_pipelines)

    def looser(self) -> Self:
        """The same with less strict matchers."""
        first, *others = (pipeline.looser() for pipeline in (FeaturePipeline(self.detector, self.matcher), *self.also))
        return replace(self, matcher=first.matcher, also=tuple(others))

    def weight_files(self) -> tuple[str, ...]:
        """The weight files that it needs, by their names in the manifest, each once.

        Raises KitError if a matcher is incompatible with its detector.
        """
        names = [name for pipeline in self.feature_pipelines for name in pipeline.weight_files()]
        return tuple(dict.fromkeys([*names, *self.pairs.weight_files()]))

    def check(self) -> None:
        """Raise KitError, before any work, if anything is missing or incompatible in any stage."""
        self.imported.check()
        if self.imported.pairs and self.pairs.file:
            raise KitError("--imported.pairs and --pairs.file are both lists of pairs: give one of them")
        try:
            for pipeline in self.feature_pipelines:
                pipeline.check()
            self.pairs.check()
        except weights.MissingWeightsError:
            if len(names := weights.missing(self.weight_files())) < 2:
                raise
            get = f"get them with 'imc-kit weights get {' '.join(names)}'"
            where = "or put them into a folder that IMC_KIT_WEIGHTS names"
            raise KitError(f"weight files are missing: {', '.join(names)}; {get}, {where}") from None
        self.masks.check()
        if self.cameras.known:
            known_cameras.read(self.cameras.known)
        for run in self.mapping:
            run.check()


CHEAP = Config(
    SiftConfig(max_keypoints=1000, long_side=800, double_up_to=640),
    mapping=(MappingConfig(),),
    pairs=PairsConfig(exhaustive_up_to=60, k=20),
    localisation=LocalisationConfig(on=False),
    principal_points=PrincipalPointsConfig(on=False),
    subpixel=SubpixelConfig(on=False),
    refinement=RefinementConfig(on=False),
)
"""Solves a scene in seconds: for low-resolution matching, and for the quick answers of a run with a time limit."""


def cheap(config: Config) -> Config:
    """`CHEAP` with the masks, positions, `static`, cameras, pixel limit, threads and seed of `config`."""
    names = ("masks", "positions", "static", "cameras", "max_pixels", "threads", "seed", "time_limit")
    return replace(CHEAP, **{name: getattr(config, name) for name in names})


_DINO = PairsConfig(exhaustive_up_to=20, descriptors=(DinoConfig(),))
_BASELINE = Config(AlikedConfig(max_keypoints=4096, long_side=1024), LightGlueConfig(), pairs=_DINO)
_FURTHER = tuple(
    FeaturePipeline(detector(max_keypoints=4096, long_side=long_side), LightGlueConfig())
    for detector, long_side in ((AlikedConfig, 1600), (SuperPointConfig, 1024), (SuperPointConfig, 1600))
)

_XFEAT = FeaturePipeline(XFeatConfig(max_keypoints=1024, long_side=1024), LightGlueConfig())

PRESETS: dict[str, Config] = {
    "sift": Config(),
    "aliked": Config(AlikedConfig(), replace(_NEAREST, device="auto"), upright=True),
    "hybrid": Config(also=(_XFEAT,), combine=CombineConfig(when="if_needed")),
    "baseline": _BASELINE,
    "ensemble": replace(_BASELINE, also=_FURTHER, upright=True),
    "small": Config(replace(_SIFT, max_keypoints=2048, long_side=800), pairs=PairsConfig(exhaustive_up_to=20, k=10)),
}


def preset(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """A preset by name, with overrides by dotted option name, for example `{"detector.max_keypoints": 2048}`.

    Raises KitError for an unknown name, suggesting the nearest one, and for a value of the wrong type.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return override(PRESETS[name], overrides or {})


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A configuration with other values by dotted option name. Raises KitError as `preset` does."""
    for option, value in overrides.items():
        config = _with(config, option.split("."), value, option)
    return config


def feature_pipeline(name: str) -> FeaturePipeline:
    """A detector and a matcher by their names, for example `aliked+lightglue` or `none+loftr`.

    `nearest` gets the ratio test of the sift preset, all others their own defaults. Raises KitError for an unknown
    name, suggesting the nearest one.
    """
    detector, plus, matcher = name.partition("+")
    if not plus:
        raise KitError(f"{name!r} must name a detector and a matcher, as in aliked+lightglue or none+loftr")
    return FeaturePipeline(DETECTORS[detector](), matcher_named(matcher))


def pipeline_names() -> list[str]:
    """Every detector with every matcher that accepts its descriptors, named as for `feature_pipeline`."""
    kinds = {name: detector().kind for name, detector in DETECTORS.items()}
    matchers = {name: matcher() for name, matcher in MATCHERS.items()}
    return [f"{one}+{name}" for one, kind in kinds.items() for name, other in matchers.items() if other.accepts(kind)]


def matcher_named(name: str) -> AnyMatcherConfig:
    """A matcher by name, as in `feature_pipeline`. Raises KitError for an unknown name."""
    return _NEAREST if name == _NEAREST.name else MATCHERS[name]()


def fingerprint(*parts: Any) -> str:
    """A short hash of what results depend on: configurations and other plain values.

    It covers the content of the files that options name, and the code of detectors, matchers and descriptors. Options
    that do not change results are left out, and the folder of masks, because images are identified with their masks.
    Known cameras are a part of their own, because the option names their file.
    """
    text = json.dumps([versions.KIT, *parts], sort_keys=True, default=_identity)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _identity(value: Any) -> Any:
    """What results depend on in a configuration or file, for JSON."""
    if isinstance(value, Path):
        return versions.of_file(value)
    value = replace(value, folder=None) if isinstance(value, MaskConfig) else value
    code = [*value.sources, versions.of_code(type(value))] if isinstance(value, NamedConfig) else []
    return {name: option for name, option in plain(value).items() if name not in _WITHOUT_EFFECT} | {"": code}


def plain(value: Any) -> Any:
    """Convert a configuration or path for JSON; `name` distinguishes detectors and matchers."""
    if is_dataclass(value) and not isinstance(value, type):
        return ({"name": value.name} if hasattr(value, "name") else {}) | _options(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


def restored(content: Any) -> Config:
    """The configuration that `plain` made JSON, as in run.json. Raises KitError if it does not fit this version."""
    try:
        return cast(Config, _restored(Config, {**content}))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise KitError(f"this is the configuration of another version ({error}): run imc-kit solve again") from error


def _restored(kind: Any, value: Any) -> Any:
    """The value of an option, whose annotation is `kind`, from JSON."""
    choices: tuple[Any, ...] = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None or Path in choices:
        return value if value is None else Path(value)
    if get_origin(kind) is tuple:
        return tuple(_restored(get_args(kind)[0], entry) for entry in value)
    if not is_dataclass(kind := choices[0]):
        return value
    options = dict(value)
    if role := getattr(kind, "role", None):  # of a `NamedConfig`
        registries: Mapping[str, Any] = {"detector": DETECTORS, "matcher": MATCHERS, "descriptor": DESCRIPTORS}
        kind = registries[role][options.pop("name")]
    hints = get_type_hints(kind)
    return kind(**{name: _restored(hints[name], entry) for name, entry in options.items()})


def _with(target: Any, names: list[str], value: Any, option: str) -> Any:
    """A copy of a configuration, or of a tuple of them, with a new value for one option at any depth.

    names: the path from `target` to the option; option: the whole path, for messages.
    """
    (first, *rest), options = names, _options(target)
    if first not in options:
        before = option.split(".")[: -len(names)]
        known = [".".join([*before, name]) for name in options]
        raise unknown_name("option", option, known, wrong=".".join([*before, first]))
    if rest:
        value = _with(options[first], rest, value, option)
    else:
        expected = type(options[first]) if isinstance(target, tuple) else get_type_hints(type(target))[first]
        if not _fits(value, expected):
            wanted = getattr(expected, "__name__", expected)
            raise KitError(f"option {option!r} must be of type {wanted}, not {value!r}")
    if isinstance(target, tuple):
        return tuple((options | {first: value}).values())
    return replace(target, **{first: value})


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value has the type of a configuration's annotation."""
    origin = get_origin(expected)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(expected))
    if origin is Literal:
        return value in get_args(expected)
    if isinstance(value, bool) and expected in (int, float):
        return False
    return isinstance(value, (int, float) if expected is float else origin or expected)
