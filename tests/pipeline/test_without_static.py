"""Matches on something static are left out between matching and verification, and a note says so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_kit.config import CHEAP
from imc_kit.data.store import Store
from imc_kit.pipeline.matching import MatchedFeatures, Matching
from imc_kit.pipeline.static import without_static
from imc_kit.types import Features, Matches, Scene
from imc_kit.viewgraph.static import StaticConfig

NAMES = [f"{number}.jpg" for number in range(5)]
PAIRS = list(combinations(NAMES, 2))
STILL, MOVING = 40, 150


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def photographed() -> MatchedFeatures:
    """Five views of 150 points from different directions, with 40 points of a date at the same place in each."""
    random = np.random.default_rng(0)
    points, date = random.uniform(-1, 1, (MOVING, 3)), random.uniform((20, 700), (400, 740), (STILL, 2))
    features = {}
    for number, name in enumerate(NAMES):
        sine, cosine = np.sin(0.15 * number), np.cos(0.15 * number)
        x, y, z = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]) @ points.T
        pixels = (np.array([x, y]) / (z + 5) * 1000).T + np.array([500, 375])
        both = np.concatenate([date, pixels]).astype(np.float32)
        features[name] = Features(both, np.ones(len(both), np.float32), np.zeros((len(both), 4), np.uint8), (1000, 750))
    rows = np.repeat(np.arange(STILL + MOVING, dtype=np.int32)[:, None], 2, axis=1)
    matches = Matches(rows, np.ones(len(rows), np.float32))
    return MatchedFeatures(features.__getitem__, lambda *_: matches)


def matching(tmp_path: Path, pool: Executor, **options: Any) -> Matching:
    return Matching(Scene("s", tmp_path, tuple(NAMES)), Store(tmp_path), CHEAP, pool, **options)


def test_matches_on_a_date_are_left_out_with_a_note(tmp_path: Path, pool: Executor) -> None:
    stages = matching(tmp_path, pool)
    left = without_static(stages, photographed(), dict.fromkeys(NAMES), PAIRS)  # type: ignore[arg-type]
    for pair in PAIRS:
        kept = left.matches(*pair).indices[:, 0]
        assert (kept >= STILL).all()
        assert len(kept) > 0.9 * MOVING
    (note,) = stages.notes
    assert "5 of 5 images show something that does not move with the scene" in note
    assert "--static.no-on" in note


def test_it_can_be_switched_off_and_needs_time(tmp_path: Path, pool: Executor) -> None:
    off, late = matching(tmp_path, pool), matching(tmp_path, pool, until=1.0)
    off.config = replace(off.config, static=StaticConfig(on=False))
    found = photographed()
    for stages in (off, late):
        assert without_static(stages, found, dict.fromkeys(NAMES), PAIRS) is found  # type: ignore[arg-type]
        assert stages.notes == []
