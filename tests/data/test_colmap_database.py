"""COLMAP databases that pycolmap wrote, and those of older versions."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.data.colmap_database import ColmapDatabase
from imc_kit.errors import KitError

KEYPOINTS = np.random.default_rng(0).uniform(1, 40, (5, 6)).astype(np.float32)
DESCRIPTORS = np.random.default_rng(1).integers(0, 256, (5, 128), np.uint8)
MATCHES = np.array([[3, 1], [0, 4]], np.uint32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three images; the third has no keypoints. The matches of the first two were written in the other order."""
    path = tmp_path / "x.db"
    with pycolmap.Database.open(path) as database:
        camera = pycolmap.Camera.create_from_model_name(0, "PINHOLE", 60.0, 64, 48)
        camera_id = database.write_camera(camera)
        for name in ("b c.jpg", "s/a.jpg", "none.jpg"):
            number = database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
            if name != "none.jpg":
                database.write_keypoints(number, KEYPOINTS)
        sift, aliked = pycolmap.FeatureExtractorType.SIFT, pycolmap.FeatureExtractorType.ALIKED_N16ROT
        database.write_descriptors(1, pycolmap.FeatureDescriptors(type=sift, data=DESCRIPTORS))
        floats = (DESCRIPTORS[:, :32] / np.float32(7)).view(np.uint8)
        database.write_descriptors(2, pycolmap.FeatureDescriptors(type=aliked, data=floats))
        database.write_matches(2, 1, MATCHES)
    return path


def test_everything_is_read_and_nothing_is_written(path: Path) -> None:
    before = path.read_bytes()
    source = ColmapDatabase(path)
    assert [*source.names] == ["b c.jpg", "s/a.jpg"]
    for name in source.names:
        found = source.features(name)
        np.testing.assert_array_equal(found.keypoints, KEYPOINTS[:, :2] - np.float32(0.5))
        assert found.image_size == (64, 48)
    np.testing.assert_array_equal(source.features("b c.jpg").descriptors * 512, DESCRIPTORS)
    np.testing.assert_array_equal(source.features("s/a.jpg").descriptors, DESCRIPTORS[:, :32] / np.float32(7))
    assert source.has_matches()
    assert source.pairs() == [("b c.jpg", "s/a.jpg")]
    found_matches = source.matches("b c.jpg", "s/a.jpg")
    assert found_matches.indices.tolist() == MATCHES[:, ::-1].tolist()
    assert found_matches.scores.tolist() == [1, 0.5]
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["x.db"]


def changed(path: Path, *statements: str, values: Any = ()) -> ColmapDatabase:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement, values)
    connection.close()
    return ColmapDatabase(path)


def test_databases_before_colmap_4_have_no_type_of_descriptors(path: Path) -> None:
    source = changed(path, "DELETE FROM descriptors WHERE type > 0", "ALTER TABLE descriptors DROP COLUMN type")
    np.testing.assert_array_equal(source.features("b c.jpg").descriptors * 512, DESCRIPTORS)
    assert source.features("s/a.jpg").descriptors.shape == (5, 0)


def test_verified_matches_stand_in_for_matches(path: Path) -> None:
    with pycolmap.Database.open(path) as database:
        database.write_two_view_geometry(1, 2, pycolmap.TwoViewGeometry(inlier_matches=MATCHES[:1]))
        database.clear_matches()
    source = ColmapDatabase(path)
    assert source.has_matches()
    assert source.matches(*source.pairs()[0]).indices.tolist() == MATCHES[:1].tolist()
    with pycolmap.Database.open(path) as database:
        database.clear_two_view_geometries()
    assert not ColmapDatabase(path).has_matches()
    assert ColmapDatabase(path).pairs() == []


@pytest.mark.parametrize(
    ("statement", "values", "message"),
    [
        ("UPDATE keypoints SET rows = 9", (), "reshape"),
        ("UPDATE keypoints SET data = NULL", (), "reshape"),
        ("UPDATE descriptors SET rows = 4", (), "4 descriptors and 5 keypoints"),
        ("UPDATE matches SET cols = 1, rows = 4", (), "no pairs of indices"),
        ("UPDATE matches SET data = ?", (b"\xff" * 16,), "no pairs of indices"),
        ("UPDATE matches SET data = 'text'", (), "bytes-like"),
        ("DROP TABLE keypoints", (), "no such table: keypoints"),
    ],
)
def test_damaged_tables_are_refused(path: Path, statement: str, values: Any, message: str) -> None:
    def read() -> None:
        source = changed(path, statement, values=values)
        source.features("b c.jpg")
        source.matches(*source.pairs()[0])

    with pytest.raises(KitError, match=message) as refused:
        read()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_that_is_being_written_is_refused(path: Path) -> None:
    with pycolmap.Database.open(path) as database:
        database.write_camera(database.read_camera(1))
        with pytest.raises(KitError, match=r"x\.db-wal holds changes that are not in it yet"):
            ColmapDatabase(path)
    assert ColmapDatabase(path).has_matches()


@pytest.mark.parametrize("content", [b"", b"no database" * 200, None])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KitError, match=r"cannot read .*x\.db as a COLMAP database"):
        ColmapDatabase(path)
    assert path.exists() == (content is not None)
