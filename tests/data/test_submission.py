"""Submissions: composing, writing and checking them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from imc_kit.data.scenes import Row
from imc_kit.data.submission import NO_POSE, check, compose, write
from imc_kit.data.tables import POSE_COLUMNS, format_pose, parse_pose, read_table
from imc_kit.types import Placement, Pose
from posed_tables import random_pose

COLUMNS = ("image_path", "dataset", "scene", *POSE_COLUMNS)
IDENTITY = ("1.0;0.0;0.0;0.0;1.0;0.0;0.0;0.0;1.0", "0.0;0.0;0.0")


def asked(image: str, scene: str = "church", file: str | None = "") -> Row:
    key = {"image_path": f"test/{scene}/images/{image}", "dataset": scene, "scene": scene}
    return Row(key, scene, image if file == "" else file)


# Composing


def test_all_rows_are_there_in_order_before_anything_is_solved() -> None:
    rows = [asked("b.jpg"), asked("a.jpg"), asked("gone.jpg", file=None), asked("x.jpg", "pond")]
    answer = compose(rows, {})
    assert [row["image_path"] for row in answer] == [row.key["image_path"] for row in rows]
    assert all(tuple(row) == COLUMNS for row in answer)
    assert all((row["rotation_matrix"], row["translation_vector"]) == IDENTITY for row in answer)
    assert compose([], {}) == []


def test_images_without_a_placement_are_at_the_mean_of_their_scene() -> None:
    near, far = random_pose(1).rotation, random_pose(2).rotation
    placed = {
        "near.jpg": Placement(Pose.from_center(near, np.array([1.0, 0, 0])), 0),
        "far.jpg": Placement(Pose.from_center(far, np.array([9.0, 0, 0])), 0),
        "nearer.jpg": Placement(Pose.from_center(near, np.array([2.0, 3, 0])), 1),
        "guessed.jpg": Placement(Pose.from_center(far, np.array([1e6, 0, 0])), None),
    }
    rows = [asked("far.jpg"), asked("gone.jpg", file=None), asked("unread.jpg"), asked("x.jpg", "pond")]
    rows += [asked("guessed.jpg")]
    poses = [
        Pose(*parse_pose(row["rotation_matrix"], row["translation_vector"]))
        for row in compose(rows, {"church": placed, "pond": {}})
    ]
    np.testing.assert_allclose(poses[0].center, [9, 0, 0], atol=1e-12)
    for pose in poses[1:3]:
        np.testing.assert_allclose(pose.center, [4, 1, 0], atol=1e-12)
        np.testing.assert_array_equal(pose.rotation, near)
    np.testing.assert_array_equal(poses[3].rotation, np.eye(3))
    np.testing.assert_allclose(poses[4].center, [1e6, 0, 0], atol=1e-6)


def test_2025_puts_each_model_in_a_cluster_and_the_rest_among_the_outliers() -> None:
    def row(image: str, file: bool = True) -> Row:
        key = {"image_id": f"ETs_{image}_public", "dataset": "ETs", "scene": "cluster7", "image": image}
        return Row(key, "ETs", image if file else None)

    rows = [row("a.png"), row("b.png"), row("guessed.png"), row("gone.png", file=False)]
    pose = random_pose(3)
    placed = {"a.png": Placement(pose, 1), "b.png": Placement(pose, 0), "guessed.png": Placement(pose, None)}
    answer = compose(rows, {"ETs": placed}, predict_scene=True)
    assert [values["scene"] for values in answer] == ["cluster2", "cluster1", "outliers", "outliers"]
    texts = [(values["rotation_matrix"], values["translation_vector"]) for values in answer]
    assert texts == [format_pose(pose)] * 2 + [NO_POSE] * 2
    assert [values["scene"] for values in compose(rows, {}, predict_scene=True)] == ["outliers"] * 4
    assert rows[0].key["scene"] == "cluster7"


# Writing


def test_a_written_file_can_be_read_by_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    rows = [{"b": "1", "a": 'with, "quotes"'}, {"a": "two\nlines", "b": "é 東"}]
    write(path, ("a", "b"), rows)
    assert path.read_bytes() == 'a,b\n"with, ""quotes""",1\n"two\nlines",é 東\n'.encode()
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [dict(sorted(row.items())) for row in rows]
    assert read_table(path)["a"].tolist() == [row["a"] for row in rows]
    write(path, ("a",), [])
    assert path.read_bytes() == b"a\n"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_fail_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("old")
    with pytest.raises(KeyError):
        write(path, ("a", "b"), [{"a": "1", "b": "2"}, {"a": "1"}])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# Checking


def checked(tmp_path: Path, rows: list[dict[str, str]], keys: list[dict[str, str]]) -> str:
    write(tmp_path / "submission.csv", COLUMNS, rows)
    return "; ".join(check(tmp_path / "submission.csv", COLUMNS, keys))


def test_the_check_finds_wrong_rows_and_poses(tmp_path: Path) -> None:
    rows = [asked(f"{name}.jpg") for name in "abc"]
    keys = [row.key for row in rows]
    good = compose(rows, {})
    assert checked(tmp_path, good, keys) == ""
    assert "b.jpg,church,church is missing" in checked(tmp_path, [good[0], good[2]], keys)
    assert "c.jpg,church,church was not asked for" in checked(tmp_path, good, keys[:2])
    assert "a.jpg,church,church is there 2 times" in checked(tmp_path, [good[0], *good], keys)
    assert "order" in checked(tmp_path, good[::-1], keys)
    assert "was not asked for" in checked(tmp_path, good, [])
    for pose, said in (
        (("1;2", "0;0;0"), "row 2 has no valid pose: a rotation is 9 numbers"),
        (NO_POSE, "row 2 has no valid pose: rotation must be finite"),
        ((IDENTITY[0], "0;0;inf"), "finite"),
        ((IDENTITY[0].replace("1.0", "2.0"), IDENTITY[1]), "orthonormal"),
    ):
        bad = good[1] | dict(zip(POSE_COLUMNS, pose, strict=True))
        assert said in checked(tmp_path, [good[0], bad, good[2]], keys)


def test_the_check_finds_other_columns_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    assert "no file" in check(path, COLUMNS, [])[0]
    write(path, COLUMNS[::-1], [])
    assert "were expected" in check(path, COLUMNS, [])[0]


def test_in_2025_the_scene_is_part_of_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    columns = ("image_id", "dataset", "scene", "image", *POSE_COLUMNS)
    keys = [{"image_id": name, "dataset": "ETs", "image": name} for name in ("a", "b")]
    rows = [Row(key | {"scene": "?"}, "ETs", key["image"]) for key in keys]
    answer = compose(rows, {"ETs": {"a": Placement(random_pose(4), 0)}}, predict_scene=True)
    write(path, columns, answer)
    assert check(path, columns, keys) == []
    half = answer[1] | {"scene": "", "translation_vector": "0;0;0"}
    write(path, columns, [answer[0], half])
    problems = check(path, columns, keys)
    assert problems[0] == "row 2 has nothing in the column scene"
    assert "row 2 has no valid pose" in problems[1]
