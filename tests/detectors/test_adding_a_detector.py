"""The detector in docs/adding-a-detector.md runs as it stands there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from imc_kit.config import Config, preset
from imc_kit.data.images import Photo
from imc_kit.detectors import DETECTORS, extract
from imc_kit.matchers import NearestConfig

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-detector.md"


@pytest.fixture
def corners(tmp_path, monkeypatch):
    """The module of the guide, registered."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "corners_of_the_guide.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("corners_of_the_guide")
    return module


def test_it_finds_and_matches(corners, texture):
    assert DETECTORS["corners"] is corners.CornersConfig
    detector = corners.CornersConfig().create()
    first, second = (Photo(texture[:, x : x + 100].copy(), (100, 96), 0, False) for x in (0, 20))
    one, other = extract(detector, [first, second])
    assert len(one) > 20
    assert one.descriptors.shape == (len(one), detector.dimension)
    matches = NearestConfig().create().match(one, other)
    moved = one.keypoints[matches.indices[:, 0]] - other.keypoints[matches.indices[:, 1]]
    assert ((moved == [20, 0]).all(1)).mean() > 0.5
    assert len(moved) > 15


def test_it_finds_the_corners_of_a_square(corners):
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:41, 30:61] = 255
    (found,) = extract(corners.CornersConfig(max_keypoints=4).create(), [Photo(image, (80, 60), 0, False)])
    apart = np.abs(found.keypoints[:, None] - np.array([(30, 20), (60, 20), (30, 40), (60, 40)])).max(2)
    assert sorted(apart.argmin(1)) == [0, 1, 2, 3]
    assert apart.min(1).max() <= 1
    for nothing in (np.zeros((60, 80, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)):
        (found,) = corners.CornersConfig().create().detect([nothing], [None])
        assert len(found) == 0


def test_it_is_an_ordinary_part_of_a_configuration(corners):
    config = Config(detector=corners.CornersConfig(threshold=0.002, tiles=2))
    config.check()
    assert config.detector.kind == "patch"
    assert preset("sift") != config
