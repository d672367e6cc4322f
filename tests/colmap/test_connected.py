"""Models of the global mapper are divided where hardly any points hold them together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.connected import divide, parts
from imc_kit.colmap.mapping import MappingConfig, map_scene
from imc_kit.colmap.model_files import read_model, read_models
from synthetic_models import Synthetic, errors, synthesize, unmatch

LEFT, RIGHT = range(1, 7), range(7, 13)


@pytest.fixture
def synthetic(tmp_path: Path) -> Synthetic:
    return synthesize(tmp_path / "scene", len(LEFT) + len(RIGHT), points=200)


def seen(**points: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(numbers, np.int64) for name, numbers in points.items()}


def test_three_points_join_images() -> None:
    assert parts({}) == []
    assert parts(seen(a=[])) == [["a"]]
    assert parts(seen(b=[1, 2, 3], a=[])) == [["a"], ["b"]]
    assert parts(seen(a=[1, 2, 3, 4], b=[2, 3, 4])) == [["a", "b"]]
    assert parts(seen(a=[1, 2, 3, 4], b=[3, 4, 5, 6, 7], c=[5, 6, 7])) == [["b", "c"], ["a"]]
    # c sees two points of a and one of b.
    assert parts(seen(a=[1, 2, 3, 4, 5], b=[1, 2, 3, 9], c=[4, 5, 9])) == [["a", "b", "c"]]


def test_parts_are_what_growing_image_by_image_gives() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = {f"{number}": random.choice(60, random.integers(0, 9), replace=False) for number in range(12)}
        left, expected = set(points), []
        while left:
            part = {max(sorted(left), key=lambda name: len(points[name]))}
            while grown := {
                name
                for name in left - part
                if len(set(points[name]) & {point for inside in part for point in points[inside]}) >= 3
            }:
                part |= grown
            left -= part
            expected.append(sorted(part))
        assert parts(points) == sorted(expected, key=lambda part: (-len(part), part))


def without_common_points(synthetic: Synthetic, folder: Path) -> None:
    """Write the true model such that each point is seen by one of the blocks alone."""
    model = pycolmap.Reconstruction(synthetic.scene)
    for number, point in [*model.points3D.items()]:
        block = LEFT if number % 3 else RIGHT
        for image, keypoint in [(element.image_id, element.point2D_idx) for element in point.track.elements]:
            if image in block:
                model.delete_observation(image, keypoint)
    folder.mkdir(parents=True)
    model.write(folder)


def test_a_model_is_divided_where_no_points_hold_it_together(synthetic: Synthetic, tmp_path: Path) -> None:
    for number in (11, 12):
        synthetic.scene.deregister_frame(synthetic.scene.images[number].frame_id)
    without_common_points(synthetic, tmp_path / "models/0")
    before = read_model(tmp_path / "models/0")
    for _ in range(2):  # the second time nothing is left to divide
        divide(tmp_path / "models", 3)
        models = read_models(tmp_path / "models")
        assert [set(model.poses) for model in models] == [synthetic.names(LEFT), synthetic.names(range(7, 11))]
        for model in models:
            for name, pose in model.poses.items():
                np.testing.assert_array_equal(pose.center, before.poses[name].center)
        assert sum(len(model.points) for model in models) == len(before.points)


def test_whole_models_stay_as_they_are_and_small_parts_are_dropped(synthetic: Synthetic, tmp_path: Path) -> None:
    (tmp_path / "models/0").mkdir(parents=True)
    synthetic.scene.write(tmp_path / "models/0")
    files = {path.name: path.read_bytes() for path in (tmp_path / "models/0").iterdir()}
    divide(tmp_path / "models", 3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "models/0").iterdir()} == files

    without_common_points(synthetic, tmp_path / "equal/0")
    divide(tmp_path / "equal", 7)
    (model,) = read_models(tmp_path / "equal")  # the largest part stays, however small
    assert set(model.poses) == synthetic.names(LEFT)


def test_global_mapping_does_not_join_what_shares_no_points(synthetic: Synthetic, tmp_path: Path) -> None:
    """Two blocks of images and one pair between them, whose keypoints no third image has."""
    unmatch(synthetic, LEFT, RIGHT)
    bridge = LEFT[-1], RIGHT[0]
    with pycolmap.Database.open(synthetic.database) as database:
        geometry = pycolmap.TwoViewGeometry()
        one, other = (synthetic.scene.images[number] for number in bridge)
        index = {point.point3D_id: row for row, point in enumerate(other.points2D) if point.has_point3D()}
        pairs = [
            (row, index[point.point3D_id])
            for row, point in enumerate(one.points2D)
            if point.has_point3D() and point.point3D_id in index
        ]
        matches = np.array(pairs, np.uint32)[:40]
        for number, column in zip(bridge, matches.T, strict=True):
            for neighbour in LEFT if number in LEFT else RIGHT:
                if neighbour != number:
                    first, second = sorted((number, neighbour))
                    old = database.read_two_view_geometry(first, second)
                    side = int(number == second)
                    old.inlier_matches = old.inlier_matches[~np.isin(old.inlier_matches[:, side], column)]
                    database.delete_two_view_geometry(first, second)
                    database.write_two_view_geometry(first, second, old)
        geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
        geometry.cam2_from_cam1 = other.cam_from_world() * one.cam_from_world().inverse()
        geometry.inlier_matches = matches
        database.write_two_view_geometry(*bridge, geometry)
    at = Workplace(tmp_path / "models", tmp_path / "log.txt", threads=1, seed=0)
    models = map_scene(synthetic.database, tmp_path, MappingConfig("global"), at)
    assert [set(model.poses) for model in models] == [synthetic.names(LEFT), synthetic.names(RIGHT)]
    for model in models:
        assert errors(model.poses, synthetic.poses)[0] < 0.02
