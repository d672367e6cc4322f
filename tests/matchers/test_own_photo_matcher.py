"""The photo matcher in docs/features.md, as a notebook cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import imc_kit
from imc_kit.config import Config, feature_pipeline
from imc_kit.data.images import Photo
from imc_kit.matchers import MATCHERS, View
from imc_kit.matchers.photo_points import merge
from imc_kit.types import Features

GUIDE = Path(__file__).parents[2] / "docs" / "features.md"
(CELL,) = re.findall(r"```python\n([^`]*PhotoMatcherConfig.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration that the cell solves with. The registry forgets its matcher after the test."""
    monkeypatch.setattr(MATCHERS, "_known", dict(MATCHERS))
    solved: list[Any] = []
    monkeypatch.setattr(imc_kit, "solve", lambda photos, out, config: solved.append(config), raising=False)
    for _ in range(2):  # a cell may run twice
        exec(CELL, {"__name__": "__main__"})
    return solved[-1]


def test_it_follows_keypoints_that_move(config: Config) -> None:
    feature_pipeline("sift+flow").check()
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    keypoints = np.stack(np.meshgrid(np.arange(60, 260, 20), np.arange(60, 180, 20)), -1).reshape(-1, 2)
    views = []
    for x, y in ((0, 0), (4, 2)):
        pixels = np.ascontiguousarray(texture[y : y + 110, x : x + 150])  # half the size of the original
        features = Features(np.float32(keypoints), np.ones(60, np.float32), np.empty((60, 0), np.uint8), (300, 220))
        views.append(View(Photo(pixels, (300, 220), 0, False), features))
    (found,) = config.matcher.create().match_batch([views])  # type: ignore[call-arg, union-attr]
    assert len(found) > 50
    assert np.abs(found.first - found.second - [8, 4]).max() < 0.3
    features, matches = merge({("a", "b"): found}, {"a": views[0].features, "b": views[1].features})
    assert len(features["a"]) == 60  # all points of the first photo are its keypoints
    assert (matches["a", "b"].indices[:, 1] >= 60).all()  # none of the second is, 8 and 4 pixels from all


def test_it_is_short() -> None:
    body = CELL.split("@register")[1].strip().splitlines()
    assert sum(bool(line.strip()) for line in body) <= 16
