"""The whole configuration of a run, and the named presets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imc_kit.colmap.database import CameraConfig
from imc_kit.colmap.localisation import LocalisationConfig
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.merging import MergingConfig
from imc_kit.colmap.readding import ReaddingConfig
from imc_kit.colmap.refinement import RefinementConfig
from imc_kit.colmap.verification import VerificationConfig
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors import AlikedConfig, DetectorConfig, SiftConfig, SuperPointConfig
from imc_kit.detectors import config_class as detector_class
from imc_kit.errors import KitError, unknown_name
from imc_kit.matchers import (
    AnyMatcherConfig,
    DetectorFreeConfig,
    LightGlueConfig,
    MergeConfig,
    NearestConfig,
    check_accepts,
)
from imc_kit.matchers import config_class as matcher_class
from imc_kit.matchers.combine import CombineConfig
from imc_kit.poses.turntable import TurntableConfig
from imc_kit.retrieval import DinoConfig, PairsConfig
from imc_kit.viewgraph.lowres import LowResConfig


@dataclass(frozen=True)
class FeaturePipeline:
    """One way to matches: a detector with a matcher, or detector `none` with a detector-free matcher."""

    detector: DetectorConfig
    matcher: AnyMatcherConfig

    def check(self) -> None:
        """Raise KitError when the two do not go together, or when something that they need is missing."""
        check_accepts(self.matcher, self.detector.kind)
        if isinstance(self.matcher, DetectorFreeConfig):
            self.matcher.create()
        else:
            self.detector.create()
            self.matcher.create(self.detector.kind)

    def weight_files(self) -> tuple[str, ...]:
        """As `Config.weight_files` says."""
        check_accepts(self.matcher, self.detector.kind)
        return *self.detector.weight_files(), *self.matcher.weight_files(self.detector.kind)


@dataclass(frozen=True)
class Config:
    """What each stage does. A stage's own options stand beside the stage."""

    detector: DetectorConfig = field(default_factory=lambda: SiftConfig(contrast_threshold=0.0133, edge_threshold=30.0))
    matcher: AnyMatcherConfig = field(default_factory=lambda: NearestConfig(ratio=0.8, cells=64))
    also: tuple[FeaturePipeline, ...] = ()
    """Further detectors with their matchers, whose keypoints and matches are joined to the first's."""
    combine: CombineConfig = field(default_factory=CombineConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    upright: bool = False
    """Find photographs that lie on their side or head, from cheap matches, and detect on them upright."""
    overview: LowResConfig = field(default_factory=LowResConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    pairs: PairsConfig = field(default_factory=lambda: PairsConfig("matches", exhaustive_up_to=30))
    cameras: CameraConfig = field(default_factory=CameraConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    mapping: tuple[MappingConfig, ...] = (
        MappingConfig("global"),
        MappingConfig("global", min_strength=0.7),
        MappingConfig(),
        MappingConfig(max_cycle_error=5.0),
    )
    """Attempts: the first, and where it is not enough the others, as many at once as there are threads. Of their models
    the one with most images is kept, and of equals the one that agrees most precisely with the strongest pairs."""
    enough: float = 0.9
    """No further attempt is made when a model has this share of the scene's images and is trusted: localisation brings
    back most of those that are missing."""
    trusted: float = 0.98
    """A model is trusted when this share of the verified matches of the strongest pairs agrees with it to 2 pixels.
    Above 1 none is, nor confirmed by another: all attempts are made."""
    readding: ReaddingConfig = field(default_factory=ReaddingConfig)
    merging: MergingConfig = field(default_factory=MergingConfig)
    localisation: LocalisationConfig = field(default_factory=LocalisationConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    turntable: TurntableConfig = field(default_factory=TurntableConfig)
    min_matches: int = 15
    """Pairs of images with fewer matches are dropped before verification."""
    time_limit: float | None = None
    """Seconds that the whole run may take, for all scenes together. Every scene then gets a quick answer first, and
    what is dear is left out when time is short. None: as long as it takes."""
    threads: int | None = None
    """Workers for detection and matching, and threads for COLMAP; None takes all cores."""
    seed: int = 0
    """For everything random. With `threads` 1 the same input gives the same poses on the same machine."""

    @property
    def feature_pipelines(self) -> tuple[FeaturePipeline, ...]:
        return FeaturePipeline(self.detector, self.matcher), *self.also

    @property
    def sparse(self) -> list[FeaturePipeline]:
        """The feature_pipelines with a detector."""
        return [
            feature_pipeline
            for feature_pipeline in self.feature_pipelines
            if not isinstance(feature_pipeline.matcher, DetectorFreeConfig)
        ]

    def looser(self) -> Config:
        """The same with matchers of lower demands."""

        def loosened(feature_pipeline: FeaturePipeline) -> FeaturePipeline:
            matcher = feature_pipeline.matcher
            return (
                feature_pipeline
                if isinstance(matcher, DetectorFreeConfig)
                else FeaturePipeline(feature_pipeline.detector, matcher.looser())
            )

        first, *others = map(loosened, self.feature_pipelines)
        return dataclasses.replace(self, matcher=first.matcher, also=tuple(others))

    def weight_files(self) -> tuple[str, ...]:
        """The names, in the manifest of weights, of all files that it looks for in the usual places, each once.

        Raises KitError for a matcher that does not go with its detector.
        """
        names = [name for feature_pipeline in self.feature_pipelines for name in feature_pipeline.weight_files()]
        return tuple(dict.fromkeys([*names, *self.pairs.weight_files()]))

    def check(self) -> None:
        """Raise KitError, before any work, for anything that cannot go well: see the configuration of each stage."""
        for feature_pipeline in self.feature_pipelines:
            feature_pipeline.check()
        self.masks.check()
        self.pairs.check()
        self.verification.check()
        for attempt in self.mapping:
            attempt.check()
        self.readding.check()
        self.merging.check()
        self.localisation.check()
        self.refinement.check()
        if self.min_matches < 1 or (self.threads is not None and self.threads < 1):
            raise KitError("min_matches and threads must be at least 1")
        if self.time_limit is not None and self.time_limit <= 0:
            raise KitError(f"time_limit must be more than 0 seconds, not {self.time_limit}")


CHEAP = Config(
    SiftConfig(max_keypoints=1000, long_side=800, double_up_to=640),
    mapping=(MappingConfig(),),
    pairs=PairsConfig(exhaustive_up_to=60, k=20),
    localisation=LocalisationConfig(on=False),
    refinement=RefinementConfig(on=False),
)
"""What is found in seconds: the overview of a scene, and its quick answer when the time of a run is limited."""


def cheap(config: Config) -> Config:
    """The same run as cheap as it can be: `CHEAP`, on the cameras, masks, threads and seed of `config`."""
    names = ("masks", "cameras", "threads", "seed", "time_limit")
    return dataclasses.replace(CHEAP, **{name: getattr(config, name) for name in names})


def _aliked(long_side: int = 1024) -> FeaturePipeline:
    return FeaturePipeline(AlikedConfig(max_keypoints=4096, long_side=long_side), LightGlueConfig())


def _superpoint(long_side: int = 1024) -> FeaturePipeline:
    return FeaturePipeline(SuperPointConfig(max_keypoints=4096, long_side=long_side), LightGlueConfig())


_DINO = PairsConfig(exhaustive_up_to=20, descriptors=(DinoConfig(),))

PRESETS: dict[str, Config] = {
    "sift": Config(),
    "aliked": Config(AlikedConfig(), NearestConfig(ratio=0.8, cells=64, device="auto"), upright=True),
    "baseline": Config(_aliked().detector, _aliked().matcher, pairs=_DINO),
    "ensemble": Config(
        _aliked().detector,
        _aliked().matcher,
        also=(_aliked(1600), _superpoint(), _superpoint(1600)),
        pairs=_DINO,
        upright=True,
    ),
    "small": Config(
        SiftConfig(max_keypoints=2048, long_side=800, contrast_threshold=0.0133, edge_threshold=30.0),
        pairs=PairsConfig(exhaustive_up_to=20, k=10),
    ),
}


def preset(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """A preset by name, after overrides by dotted name, for example `{"detector.max_keypoints": 2048}`.

    Raises KitError for names that do not exist, with the nearest one, and for values of a wrong type.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    config = PRESETS[name]
    for option, value in (overrides or {}).items():
        config = _with(config, option.split("."), value, option)
    return config


def feature_pipeline(name: str) -> FeaturePipeline:
    """A detector and a matcher by their names, as in `aliked+lightglue` or `none+loftr`.

    `nearest` has the ratio test of the sift preset, all else its own defaults. Raises KitError with the nearest name.
    """
    detector, plus, matcher = name.partition("+")
    if not plus:
        raise KitError(f"{name!r} is not a detector and a matcher, as aliked+lightglue or none+loftr are")
    return FeaturePipeline(detector_class(detector)(), matcher_named(matcher))


def matcher_named(name: str) -> AnyMatcherConfig:
    """A matcher with its own defaults, `nearest` with the ratio test of the sift preset. Raises KitError for others."""
    usual = Config().matcher
    return usual if name == usual.name else matcher_class(name)()


def fingerprint(*parts: Any) -> str:
    """A short name for configurations and other plain values: equal when they are equal."""
    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """A configuration as JSON takes it; `name` tells detectors and matchers apart."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
        return {"name": value.name, **fields} if hasattr(value, "name") else fields
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _with(target: Any, names: list[str], value: Any, option: str) -> Any:
    first, *rest = names
    if isinstance(target, tuple):
        if not first.isdecimal() or int(first) >= len(target):
            raise unknown_name(f"place in option {option!r}:", first, [str(place) for place in range(len(target))])
        if not rest:
            raise KitError(f"option {option!r} is a whole entry: name one of its own options, as in '{option}.NAME'")
        place = int(first)
        return (*target[:place], _with(target[place], rest, value, option), *target[place + 1 :])
    known = [entry.name for entry in dataclasses.fields(target)] if dataclasses.is_dataclass(target) else []
    if first not in known:
        raise unknown_name("option", option, [".".join([*option.split(".")[: -len(names)], name]) for name in known])
    if rest:
        return dataclasses.replace(target, **{first: _with(getattr(target, first), rest, value, option)})
    expected = typing.get_type_hints(type(target))[first]
    if not _fits(value, expected):
        raise KitError(f"option {option!r} must be of type {getattr(expected, '__name__', expected)}, not {value!r}")
    return dataclasses.replace(target, **{first: value})


def _fits(value: Any, expected: Any) -> bool:
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(expected))
    if origin is typing.Literal:
        return value in typing.get_args(expected)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or expected)
