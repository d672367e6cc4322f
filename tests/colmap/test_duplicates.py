"""A column with the same print on its front and its back, seen from all sides."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from imc_kit.colmap import mapping_runs
from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.database import match_counts, write_database
from imc_kit.colmap.duplicates import distinct
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import RunPolicy, map_best
from imc_kit.colmap.verification import inlier_counts, verify
from imc_kit.metric import score_centers
from imc_kit.synthetic.plaza import look_at
from imc_kit.types import Features, Matches, Pair, Scene
from imc_kit.viewgraph.two_view import VerificationConfig

SIZE, FOCAL, VIEWS, PRINTED, PLAIN, STRAY = (800, 600), 800.0, 16, 200, 500, 400
NAMES = tuple(f"{number:02}.jpg" for number in range(VIEWS))
ANGLES = np.arange(VIEWS) * 2 * np.pi / VIEWS + 0.1
POSES = [look_at(np.array([4 * np.cos(a), 4 * np.sin(a), 1.0]), np.zeros(3)) for a in ANGLES]


def column(folder: Path, printed: int) -> Path:
    """The database of its verified matches. printed: the number of points of the print."""
    random = np.random.default_rng(0)
    angles = np.concatenate([random.uniform(-0.8, 0.8, printed), random.uniform(0, 2 * np.pi, PLAIN)])
    angles = np.concatenate([angles, angles[:printed] + np.pi])
    heights = random.uniform(-1, 1, printed + PLAIN)
    heights = np.concatenate([heights, heights[:printed]])
    looks = np.concatenate([np.arange(printed + PLAIN), np.arange(printed)])  # points of equal looks match
    normals = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    points = normals + heights[:, None] * [0, 0, 1]
    features, shown = {}, {}
    for name, pose in zip(NAMES, POSES, strict=True):
        toward = pose.center - points
        seen = ((normals * toward).sum(1) > 0.35 * np.linalg.norm(toward, axis=1)) & (random.random(len(points)) < 0.7)
        camera = points[seen] @ pose.rotation.T + pose.translation
        keypoints = (
            camera[:, :2] / camera[:, 2:] * FOCAL + np.subtract(SIZE, 1) / 2 + random.normal(0, 0.3, (seen.sum(), 2))
        )
        strays = random.uniform(0, 1, (STRAY, 2)) * np.subtract(SIZE, 1)  # keypoints that never match
        keypoints = np.concatenate([keypoints, strays]).astype(np.float32)
        shown[name] = dict(zip(looks[seen].tolist(), range(seen.sum()), strict=True))
        ones, nothing = np.ones(len(keypoints), np.float32), np.zeros((len(keypoints), 1), np.uint8)
        features[name] = Features(keypoints, ones, nothing, SIZE)
    pairs = []
    for one, other in combinations(NAMES, 2):
        rows = [(shown[one][look], shown[other][look]) for look in sorted(shown[one].keys() & shown[other].keys())]
        pairs.append((one, other, Matches(np.array(rows, np.int32).reshape(-1, 2), np.ones(len(rows), np.float32))))
    path = folder / "database.db"
    entries = [ImageEntry(name, folder / name, SIZE) for name in NAMES]
    write_database(path, entries, features.__getitem__, pairs, CameraConfig())
    with ThreadPoolExecutor(1) as pool:
        verify(path, VerificationConfig(), pool)
    return path


def wrong(pair: Pair) -> bool:
    """Whether the photos are taken from sides that have nothing in common."""
    apart = abs(ANGLES[int(pair[0][:2])] - ANGLES[int(pair[1][:2])])
    return bool(min(apart, 2 * np.pi - apart) > 2.4)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("column")
    return folder, column(folder, PRINTED)


def test_pairs_of_the_two_prints_are_left_out(scene: tuple[Path, Path]) -> None:
    folder, database = scene
    before = inlier_counts(database)
    assert sum(map(wrong, before)) >= VIEWS // 2
    found = distinct(database, Workplace(folder / "a", folder / "log"))
    assert found is not None
    after = inlier_counts(found.database)
    assert not any(map(wrong, after))
    assert set(found.left_out) == before.keys() - after.keys()
    assert {name for pair in after for name in pair} == set(NAMES)
    assert inlier_counts(database) == before
    assert match_counts(found.database) == match_counts(database)


def test_the_column_is_mapped_with_two_sides(scene: tuple[Path, Path]) -> None:
    folder, database = scene
    at = Workplace(folder / "b", folder / "log", 1)
    found = map_best(database, Scene("column", folder, NAMES), (MappingConfig("global"),), RunPolicy(), at)
    centers = np.array([found.models[0].poses[name].center for name in NAMES])
    assert score_centers(np.array([pose.center for pose in POSES]), centers, (0.05, 0.1, 0.2)).score == 1
    assert any(note.startswith(mapping_runs.EQUAL) for note in found.notes)
    assert found.database == database  # with the pairs left out, which may be re-added
    assert any(map(wrong, found.left_out))


def test_a_column_without_prints_stays(tmp_path: Path) -> None:
    database = column(tmp_path, 0)
    found = map_best(database, Scene("column", tmp_path, NAMES), (MappingConfig("global"),), RunPolicy(),
        Workplace(tmp_path / "work", tmp_path / "log", 1))  # fmt: skip
    assert found.database == database
    assert not any(note.startswith(mapping_runs.EQUAL) for note in found.notes)
