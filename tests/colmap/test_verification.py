"""Geometric verification and its limits."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from imc_kit.colmap import database
from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.colmap.database import write_database
from imc_kit.colmap.verification import inlier_counts, verify
from imc_kit.errors import KitError
from imc_kit.types import Features, Matches
from imc_kit.viewgraph.two_view import VerificationConfig

SIZE = (1000, 800)
NAMES = ("a.png", "b.png", "c.png", "stranger.png")


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def write(path: Path) -> Path:
    """Three views of 200 points, a third of whose matches are wrong, and one of other points, all matched by number."""
    random = np.random.default_rng(0)
    points = random.uniform((-2, -2, 5), (2, 2, 9), (200, 3))
    features = {}
    for number, name in enumerate(NAMES):
        angle = 0.15 * number
        turn = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
        if name == "stranger.png":
            places = random.uniform((0, 0), np.array(SIZE) - 1, (200, 2))
        else:
            seen = points @ turn.T + (-0.8 * number, 0.1 * number, 0)
            places = seen[:, :2] / seen[:, 2:] * 800 + np.array(SIZE) / 2 + random.normal(0, 0.2, (200, 2))
        places = places.clip(0, np.array(SIZE) - 1).astype(np.float32)
        features[name] = Features(places, np.ones(200, np.float32), np.zeros((200, 1), np.uint8), SIZE)
    rows = np.arange(200)
    wrong = np.where(rows >= 140, rows[::-1] + 80, rows) % 200  # 140 … 199 are matched to others
    matches = Matches(np.stack([rows, wrong], 1)[:200].astype(np.int32), np.ones(200, np.float32))
    pairs = [(first, second, matches) for first, second in combinations(NAMES, 2)]
    entries = [ImageEntry(name, path.parent / name, SIZE) for name in NAMES]
    write_database(path, entries, features.__getitem__, pairs, CameraConfig("size"))
    return path


def counted(folder: Path, config: VerificationConfig, executor: Executor) -> dict[tuple[str, str], int]:
    path = write(folder / "database.db")
    assert verify(path, config, executor) == []
    return inlier_counts(path)


def test_it_keeps_the_right_matches(tmp_path: Path, pool: Executor) -> None:
    found = counted(tmp_path, VerificationConfig(), pool)
    assert set(found) == set(combinations(NAMES[:3], 2))
    assert all(135 <= count <= 160 for count in found.values())


def test_processes_do_it_as_well_as_threads(tmp_path: Path, pool: Executor) -> None:
    wanted = counted(tmp_path, VerificationConfig(), pool)
    with ProcessPoolExecutor(2) as processes:
        assert counted(tmp_path, VerificationConfig(), processes) == wanted


@pytest.mark.parametrize("count", [30, 100, 1000])
def test_strangers_do_not_pass_by_chance(tmp_path: Path, pool: Executor, count: int) -> None:
    random = np.random.default_rng(3)
    names = [f"{number}.png" for number in range(8)]
    features = {
        name: Features(
            random.uniform(0, 999, (count, 2)).astype(np.float32).clip(0, 999),
            np.ones(count, np.float32), np.zeros((count, 1), np.uint8), (1000, 1000),
        )
        for name in names
    }  # fmt: skip
    same = Matches(np.repeat(np.arange(count, dtype=np.int32)[:, None], 2, 1), np.ones(count, np.float32))
    path = tmp_path / "database.db"
    entries = [ImageEntry(name, tmp_path / name, (1000, 1000)) for name in names]
    pairs = [(first, second, same) for first, second in combinations(names, 2)]
    write_database(path, entries, features.__getitem__, pairs, CameraConfig("size"))
    verify(path, VerificationConfig(), pool)
    assert inlier_counts(path) == {}


def test_no_matches_are_ordinary(tmp_path: Path, pool: Executor) -> None:
    empty = Features.empty(SIZE, 1, np.uint8)
    path = tmp_path / "database.db"
    write_database(path, [ImageEntry("a.png", tmp_path / "a.png", SIZE)], lambda _: empty, [], CameraConfig())
    assert verify(path, VerificationConfig(), pool) == []
    assert inlier_counts(path) == {}


def test_the_time_is_kept(tmp_path: Path, pool: Executor) -> None:
    path = write(tmp_path / "database.db")
    (note,) = verify(path, VerificationConfig(), pool, until=time.monotonic() - 1)
    assert note == "time ran out: 6 of 6 matched pairs were not verified"
    assert inlier_counts(path) == {}


def test_options_that_make_no_sense_are_refused() -> None:
    for option in ("max_error", "min_inliers", "max_trials", "time_limit"):
        with pytest.raises(KitError, match=f"{option} of the verification must be"):
            VerificationConfig(**{option: 0})  # type: ignore[arg-type]


def test_memory_does_not_grow_with_the_images(tmp_path: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_RECENT", 8)
    held = []
    for images in (20, 100):
        path = tmp_path / f"{images}.db"
        random = np.random.default_rng(images)
        places = random.uniform(0, 700, (3000, 2)).astype(np.float32)  # of 48 KB, as they are read
        one = Features(places, np.ones(3000, np.float32), np.zeros((3000, 1), np.uint8), SIZE)
        rows = np.arange(12, dtype=np.int32)
        matches = Matches(np.stack([rows, rows], 1), np.ones(12, np.float32))
        entries = [ImageEntry(f"{number}.png", tmp_path / f"{number}.png", SIZE) for number in range(images)]
        pairs = [(first.name, second.name, matches) for first, second in pairwise(entries)]
        write_database(path, entries, lambda _, one=one: one, pairs, CameraConfig("size"))
        tracemalloc.start()
        try:
            verify(path, VerificationConfig(), pool)
            held.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert held[1] < 1.3 * held[0]
