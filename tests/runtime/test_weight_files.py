"""A configuration lists exactly the weight files that it then searches."""

from __future__ import annotations

import dataclasses
import typing
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imc_kit.config import PRESETS, FeaturePipeline, preset
from imc_kit.detectors import DETECTORS
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.keynet import KeyNetConfig
from imc_kit.detectors.opencv import OrbConfig
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS, PhotoMatcherConfig
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.loftr import LoftrConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.retrieval import DESCRIPTORS
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.networks import ClipConfig, DinoConfig
from imc_kit.runtime import weights


def variants(kind: type[Any]) -> Iterator[Any]:
    """The configuration as it is, and with each other value of each option that has a few."""
    yield kind()
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        values = (True, False) if hint is bool else typing.get_args(hint)
        if (hint is bool or typing.get_origin(hint) is typing.Literal) and field.name != "device":
            yield from (dataclasses.replace(kind(), **{field.name: value}) for value in values)


def readers() -> Iterator[tuple[str, tuple[str, ...], Callable[[], object]]]:
    """Name, files and `create` of everything in the registries, in all its variants."""
    detectors = [config for kind in DETECTORS.values() for config in variants(kind)]
    for config in detectors:
        yield config.name, config.weight_files(), config.create
    for config in (config for kind in MATCHERS.values() for config in variants(kind)):
        # No detector of the kit has doghardnet features, but another one may.
        for kind in sorted({*(detector.kind for detector in detectors), "doghardnet"}):
            if config.accepts(kind):
                create = (
                    config.create if isinstance(config, PhotoMatcherConfig) else lambda c=config, k=kind: c.create(k)
                )
                yield config.name, config.weight_files(kind), create
    for config in (config for kind in DESCRIPTORS.values() for config in variants(kind)):
        yield config.name, config.weight_files(), config.create


def test_listed_files_are_those_that_are_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    asked: list[str] = []
    monkeypatch.setattr(weights, "find", lambda name, explicit=None: asked.append(name) or tmp_path / "nowhere")
    seen = set()
    for name, files, create in readers():
        if (name, files) in seen:
            continue
        seen.add((name, files))
        asked.clear()
        if files or name == "none":
            with torch.device("meta"), pytest.raises(KitError, match="nowhere" if files else "detects nothing"):
                create()  # networks without weights are quick to create
        else:
            create()
        assert (name, sorted(asked)) == (name, sorted(files))
    assert {file for _, files in seen for file in files} == set(weights.manifest())


def test_the_manifest_lists_the_users_of_each_file() -> None:
    used = defaultdict(set)
    for name, files, _ in readers():
        for file in files:
            used[file].add(name)
    assert used == {name: set(weight.used_by) for name, weight in weights.manifest().items()}


@pytest.mark.parametrize("config", [*DETECTORS.values(), *DESCRIPTORS.values(), LightGlueConfig, LoftrConfig])
def test_own_files_are_not_listed(config: type[Any], tmp_path: Path) -> None:
    if not any(field.name == "weights" for field in dataclasses.fields(config)):
        assert config().weight_files() == ()
        return
    kind = ("superpoint",) if config in MATCHERS.values() else ()
    assert config(weights=tmp_path).weight_files(*kind) == ()
    assert config().weight_files(*kind)


def test_a_detector_with_several_files_needs_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.touch()
    with pytest.raises(KitError, match="weights of detector 'keynet' must be a folder that holds its files, or None"):
        KeyNetConfig(weights=file).paths()
    with pytest.raises(KitError, match=r"keynet_pytorch\.pth is missing"):
        KeyNetConfig(weights=tmp_path).paths()
    with pytest.raises(KitError, match=r"mine\.pth is empty"):
        AlikedConfig(weights=file).paths()


def test_a_whole_configuration() -> None:
    files = {name: config.weight_files() for name, config in PRESETS.items()}
    assert files == {
        "sift": (),
        "aliked": ("aliked-n16.pth",),
        "baseline": ("aliked-n16.pth", "aliked_lightglue.pth", "dinov2_vits14_pretrain.pth"),
        "ensemble": (
            "aliked-n16.pth",
            "aliked_lightglue.pth",
            "superpoint_v1.pth",
            "superpoint_lightglue.pth",
            "dinov2_vits14_pretrain.pth",
        ),
        "small": (),
        "hybrid": ("xfeat.pt", "xfeat-lighterglue.pt"),
    }
    assert preset("baseline", {"pairs.method": "exhaustive"}).weight_files() == files["baseline"][:2]
    assert preset("baseline", {"matcher": NearestConfig()}).weight_files() == files["baseline"][::2]
    several = preset(
        "sift",
        {
            "pairs.method": "similar",
            "pairs.descriptors": (VladConfig(), ClipConfig(), DinoConfig(weights=Path("mine.pth"))),
        },
    )
    assert several.weight_files() == (ClipConfig.file,)


def test_a_wrong_combination_is_refused() -> None:
    with pytest.raises(KitError, match="'lightglue' cannot match orb descriptors"):
        FeaturePipeline(OrbConfig(), LightGlueConfig()).weight_files()
