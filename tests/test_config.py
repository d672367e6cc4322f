"""Presets, overrides by dotted name, and the fingerprint that names cached results."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.steps import ReaddingConfig
from imc_kit.compare.repeatability import RepeatabilityConfig
from imc_kit.config import PRESETS, Config, FeaturePipeline, feature_pipeline, fingerprint, plain, preset, restored
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors import DETECTORS
from imc_kit.detectors.disk import DiskConfig
from imc_kit.detectors.opencv import AkazeConfig, OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.retrieval import DESCRIPTORS
from imc_kit.runtime import weights

WITHOUT_EFFECT = {"threads", "time_limit", "folder"}


def test_presets_are_found_by_name() -> None:
    assert preset("sift") == Config()
    for name, config in PRESETS.items():
        assert preset(name) is config


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(KitError, match="unknown preset 'sitf': did you mean 'sift'"):
        preset("sitf")


def test_overrides() -> None:
    config = preset(
        "sift",
        {
            "detector.max_keypoints": 2048,
            "detector.long_side": None,
            "matcher.ratio": 0.8,
            "cameras.sharing": "image",
            "cameras.focal_factor": 1,
            "mapping.1.time_limit": 60.0,
            "mapping.0.options": {},
            "mapping.2": MappingConfig(options={"min_model_size": 5}),
            "verification.min_inliers": 20,
            "threads": 1,
            "seed": 7,
        },
    )
    assert config.detector == dataclasses.replace(Config().detector, max_keypoints=2048, long_side=None)
    assert config.matcher == NearestConfig(ratio=0.8, cells=64)
    assert (config.cameras.sharing, config.cameras.focal_factor) == ("image", 1)
    assert config.mapping[:3] == (
        MappingConfig("global"),
        MappingConfig("global", min_strength=0.7, time_limit=60.0),
        MappingConfig(options={"min_model_size": 5}),
    )
    assert config.verification.min_inliers == 20
    assert (config.threads, config.seed) == (1, 7)
    config.check()
    assert preset("sift") == Config()  # the preset itself stays as it was


def test_a_whole_stage_can_be_replaced() -> None:
    assert preset("sift", {"detector": OrbConfig()}).detector == OrbConfig()
    assert preset("sift", {"mapping": (MappingConfig("global"),)}).mapping == (MappingConfig("global"),)


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("sed", "seed"),
        ("detecter.max_keypoints", "detector"),
        ("detector.max_keypoint", "detector.max_keypoints"),
        ("mapping.0.timelimit", "mapping.0.time_limit"),
        ("mapping.9.time_limit", None),
        ("mapping.-1.time_limit", None),
        ("mapping.first.time_limit", None),
        ("detector.name", None),
        ("seed.x", None),
        ("", None),
        (".", None),
    ],
)
def test_an_unknown_option_names_the_nearest(option: str, nearest: str | None) -> None:
    with pytest.raises(KitError) as raised:
        preset("sift", {option: 1})
    assert repr(option)[1:-1] in str(raised.value)
    if nearest:
        assert f"did you mean {nearest!r}" in str(raised.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", "1"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", None),
        ("threads", "all"),
        ("detector", "sift"),
        ("detector", NearestConfig()),
        ("detector.max_keypoints", 2048.0),
        ("detector.root", 1),
        ("cameras.focal_factor", "1.2"),
        ("cameras.sharing", "exit"),
        ("cameras.model", None),
        ("mapping.0.options", [("a", 1)]),
        ("mapping", MappingConfig()),
        ("mapping.0", 1),
        ("mapping.0.mapper", "glomap"),
    ],
)
def test_a_value_of_a_wrong_type_names_the_option(option: str, value: Any) -> None:
    with pytest.raises(KitError, match=f"option '{option}' must be of type"):
        preset("sift", {option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_matches", 0),
        ("threads", 0),
        ("time_limit", 0.0),
        ("time_limit", float("nan")),
        ("enough", float("nan")),
        ("trusted", -1.0),
    ],
)
def test_a_bad_value_is_refused_when_it_is_set(option: str, value: Any) -> None:
    with pytest.raises(KitError, match=f"{option} must be "):
        preset("sift", {option: value})


@pytest.mark.parametrize(
    "overrides",
    [
        {"merging.min_links": 2},
        {"readding.min_agreement": 2.0},
        {"localisation.min_inliers": 3},
        {"refinement.min_images": 0},
        {"mapping.0.options": {"mapper.init_min_tri_angle": 5}},  # an option of the incremental mapper
    ],
)
def test_check_refuses_what_cannot_go_well(overrides: dict[str, Any]) -> None:
    with pytest.raises(KitError):
        preset("sift", overrides).check()


def _changed(config: Any) -> Iterator[tuple[str, Any]]:
    """`config` with one field changed, for each field at any depth."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in WITHOUT_EFFECT:
            continue
        others: list[Any]
        if dataclasses.is_dataclass(value):
            others = [other for _, other in _changed(value)]
        elif isinstance(value, tuple) and len(value) > 1:
            others = [value[:1], value[::-1]]
        elif isinstance(value, tuple):
            others = [(*value, FeaturePipeline(OrbConfig(), NearestConfig()))]
        elif isinstance(value, dict):
            others = [{"x": 1}, {"x": 2}]
        elif isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int | float):
            others = [value + 1 if isinstance(value, int) else value / 2 or 0.5]
        elif value is None:
            others = [1]
        else:
            others = {
                "exif": ["size"], "SIMPLE_RADIAL": ["RADIAL"], "": ["900,500,400,0"], "cpu": ["cuda"],
                "matches": ["sequential"], "auto": ["on"],
            }.get(value, [f"{value}x"])  # fmt: skip
        for other in others:
            yield field.name, dataclasses.replace(config, **{field.name: other})


def test_the_fingerprint_changes_with_any_option() -> None:
    changed = list(_changed(Config()))
    assert {name for name, _ in changed} == {field.name for field in dataclasses.fields(Config)} - WITHOUT_EFFECT
    prints = [fingerprint(Config()), *(fingerprint(config) for _, config in changed)]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_changes_with_nothing_else() -> None:
    assert fingerprint(Config()) == fingerprint(preset("sift", {"seed": 0, "detector.max_keypoints": 8192}))
    forth = MappingConfig(options={"a": 1, "b": 2})
    back = MappingConfig(options={"b": 2, "a": 1})
    assert forth == back
    assert fingerprint(forth) == fingerprint(back)


def test_the_fingerprint_ignores_what_has_no_effect(tmp_path: Path) -> None:
    mapping = tuple(dataclasses.replace(run, time_limit=1.0) for run in Config().mapping)
    readding = ReaddingConfig(time_limit=1.0)
    other = Config(threads=3, time_limit=5.0, mapping=mapping, readding=readding, masks=MaskConfig(folder=tmp_path))
    assert fingerprint(other) == fingerprint(Config())


@pytest.mark.parametrize("folder", [False, True])
def test_the_fingerprint_depends_on_the_content_of_files_and_not_on_their_place(tmp_path: Path, folder: bool) -> None:
    def one(place: str, content: str) -> str:
        path = tmp_path / place / "disk_depth.pth"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return fingerprint(DiskConfig(weights=path.parent if folder else path))

    first = one("a", "first")
    assert one("b", "first") == first
    assert one("a", "other") != first
    assert one("a", "first") == first
    assert fingerprint(DiskConfig(weights=tmp_path / "none")) != fingerprint(DiskConfig())


CELL = """
from dataclasses import dataclass
from typing import ClassVar
from imc_kit.detectors import DetectorConfig

STEP = 5
NAMES = {"left", "right", "top", "bottom"}

def helper(image):
    return [value for value in image if str(value) not in {"a", "b", "c"}][::STEP], NAMES

class Finder:
    def find(self, image):
        return helper(image)

@dataclass(frozen=True)
class CellConfig(DetectorConfig):
    name: ClassVar[str] = "cell"

    def create(self):
        return Finder()
"""
PRINT = "\nfrom imc_kit.config import fingerprint\nprint(fingerprint(CellConfig()))"


def of_cell(code: str) -> str:
    names = {"__name__": "__main__"}
    exec(compile(code, "cell", "exec", dont_inherit=True), names)
    return fingerprint(names["CellConfig"]())


def test_the_fingerprint_depends_on_the_code_of_a_notebook_cell() -> None:
    first = of_cell(CELL)
    assert of_cell("unrelated = 1\n\n" + CELL) == first
    edits = (
        ("STEP = 5", "STEP = 6"),
        ("return helper(image)", "return helper(image[1:])"),
        ('"c"}', '"d"}'),
        ("top", "up"),
    )
    assert len({first, *(of_cell(CELL.replace(*edit)) for edit in edits)}) == len(edits) + 1
    other = subprocess.run([sys.executable, "-c", CELL + PRINT], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first  # in a process with other hashes of strings


def test_the_fingerprint_depends_on_the_code_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it is edited, and again when the edited code is imported: then other code runs."""
    package = tmp_path / "edited_package"
    package.mkdir()
    for name, code in (("__init__", ""), ("loops", "x = 1"), ("cell", CELL)):
        (package / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("edited_package.cell")
    prints = [fingerprint(module.CellConfig())]
    (package / "loops.py").write_text("x = 2222")
    prints.append(fingerprint(module.CellConfig()))
    prints.append(fingerprint(importlib.reload(module).CellConfig()))
    (package / "loops.py").write_text("x = 1")
    assert fingerprint(importlib.reload(module).CellConfig()) == prints[0]
    assert len(set(prints)) == 3


def test_the_fingerprint_tells_detectors_with_the_same_options_apart() -> None:
    assert len({fingerprint(config()) for config in DETECTORS.values()}) == len(DETECTORS)
    assert fingerprint(SiftConfig(), OrbConfig()) != fingerprint(OrbConfig(), SiftConfig())
    assert plain(AkazeConfig())["name"] == "akaze"


def test_plain_values() -> None:
    assert plain(Path("a/b")) == "a/b"
    with pytest.raises(TypeError, match="set"):
        plain({1})


def test_no_number_is_nan_and_none_is_negative_without_a_reason() -> None:
    negative = {"min_similarity", "min_score"}  # cosine similarities
    kinds = [Config, RepeatabilityConfig, *DETECTORS.values(), *MATCHERS.values(), *DESCRIPTORS.values()]
    kinds += [type(value) for value in vars(Config()).values() if dataclasses.is_dataclass(value)]
    kinds.append(type(Config().mapping[0]))
    tried = 0
    for kind in dict.fromkeys(kinds):
        for name in (field.name for field in dataclasses.fields(kind)):
            annotation = get_type_hints(kind)[name]
            if not {annotation, *get_args(annotation)} & {int, float}:
                continue
            values = [math.nan, *([] if name in negative else [-1, -math.inf])]
            if isinstance(getattr(kind(), name), tuple):
                values = [(value,) for value in values]
            for value in values:
                tried += 1
                with pytest.raises(KitError):
                    dataclasses.replace(kind(), **{name: value})
    assert tried > 200


@pytest.mark.parametrize("option", ["cameras.focal_factor", "verification.max_error", "detector.contrast_threshold"])
def test_only_time_limits_may_be_infinite(option: str) -> None:
    with pytest.raises(KitError, match=f"{option} must be a finite number"):
        preset("sift", {option: math.inf})
    preset("sift", {"merging.time_limit": math.inf, "time_limit": math.inf})


def test_all_missing_weight_files_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "places", lambda: [tmp_path])
    names = "aliked-n16.pth aliked_lightglue.pth dinov2_vits14_pretrain.pth"
    with pytest.raises(KitError, match=f"'imc-kit weights get {names}'"):
        preset("baseline").check()
    with pytest.raises(KitError, match=r"aliked-n16\.pth is missing: looked in"):
        preset("aliked").check()


UNUSUAL = Config(
    AkazeConfig(),
    also=(feature_pipeline("none+loftr"), feature_pipeline("xfeat+adalam")),
    masks=MaskConfig(folder=Path("masks")),
    mapping=(MappingConfig("global", {"min_model_size": 4}, time_limit=math.inf),),
    time_limit=90.5,
)


@pytest.mark.parametrize("config", [*PRESETS.values(), UNUSUAL])
def test_a_configuration_is_restored_from_json(config: Config) -> None:
    assert restored(json.loads(json.dumps(config, default=plain))) == config


@pytest.mark.parametrize("wrong", [{"detecter": 1}, {"mapping": 3}, {"detector": {}}, []])
def test_the_configuration_of_another_version_is_refused(wrong: Any) -> None:
    with pytest.raises(KitError, match="another version"):
        restored(wrong)
