"""Photos of two equal objects in different surroundings, each taken from the same four viewpoints."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import match_counts, write_database, writing
from imc_kit.colmap.duplicates import distinct
from imc_kit.colmap.verification import inlier_counts
from imc_kit.types import Features, Matches

SIZE, OBJECT, AROUND = (1000, 800), 200, 600
NAMES = [f"{side}{view}.jpg" for side in "ab" for view in range(4)]


def database(folder: Path, across: int, apart: int = 180) -> Path:
    """The database of their verified matches.

    across: matches of the two objects from the same viewpoint. apart: of one object from the first and last viewpoint.
    """
    random = np.random.default_rng(0)
    points = random.uniform(250, [750, 550], (OBJECT + AROUND, 2))
    views = [points + random.normal(0, 40, points.shape) for _ in range(4)]  # depth moves points between viewpoints
    ones, nothing = np.ones(len(points), np.float32), np.zeros((len(points), 1), np.uint8)
    features = {name: Features(views[int(name[1])].astype(np.float32), ones, nothing, SIZE) for name in NAMES}
    path = folder / "database.db"
    pairs: list[tuple[str, str, Matches]] = []
    for one, other in combinations(NAMES, 2):
        same, view = one[0] == other[0], one[1] == other[1]
        own = apart if {one[1], other[1]} == {"0", "3"} else 180
        rows = random.permutation(len(points) if same else OBJECT)[: own if same else across if view else 30]
        pairs.append((one, other, Matches(np.stack([rows, rows], 1).astype(np.int32), np.ones(len(rows), np.float32))))
    write_database(
        path, [ImageEntry(name, folder / name, SIZE) for name in NAMES], features.__getitem__, pairs, CameraConfig()
    )
    with writing(path) as opened:
        for pair in combinations(range(1, len(NAMES) + 1), 2):
            geometry = pycolmap.TwoViewGeometry()
            geometry.config, geometry.inlier_matches = 3, opened.read_matches(*pair)
            opened.write_two_view_geometry(*pair, geometry)
    return path


def test_pairs_of_the_two_objects_are_left_out_except_the_link(tmp_path: Path) -> None:
    path = database(tmp_path, across=170)
    before = inlier_counts(path)
    (found,) = distinct(path, Workplace(tmp_path / "work", tmp_path / "log"))
    after = inlier_counts(found.database)
    assert set(found.left_out) == before.keys() - after.keys()
    assert {pair for pair in before if pair[0][0] == pair[1][0]} <= after.keys()
    assert not any(one[0] != other[0] and one[1] == other[1] for one, other in after)  # the same viewpoint
    assert inlier_counts(path) == before
    assert match_counts(found.database) == match_counts(path)


def test_weak_pairs_that_lack_no_matches_come_back(tmp_path: Path) -> None:
    path = database(tmp_path, across=170, apart=100)
    few, more = distinct(path, Workplace(tmp_path / "work", tmp_path / "log"))
    ends = {("a0.jpg", "a3.jpg"), ("b0.jpg", "b3.jpg")}
    assert {*few.left_out} - {*more.left_out} == ends
    assert {*more.left_out} < {*few.left_out}
    for copy in few, more:
        assert inlier_counts(copy.database).keys() == inlier_counts(path).keys() - {*copy.left_out}


@pytest.mark.parametrize("across", [0, 40])
def test_weak_pairs_are_no_reason_for_doubt(tmp_path: Path, across: int) -> None:
    assert distinct(database(tmp_path, across), Workplace(tmp_path / "work", tmp_path / "log")) == []


def test_no_pairs(tmp_path: Path) -> None:
    features = Features.empty(SIZE, 1)
    path = tmp_path / "database.db"
    write_database(path, [ImageEntry("a.jpg", tmp_path / "a.jpg", SIZE)], lambda _: features, [], CameraConfig())
    assert distinct(path, Workplace(tmp_path / "work", tmp_path / "log")) == []
