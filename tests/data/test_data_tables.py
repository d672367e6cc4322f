"""Reading tables of poses, and poses as text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from imc_kit.data.tables import POSE_COLUMNS, format_pose, parse_pose, read_table
from imc_kit.errors import KitError
from imc_kit.metric import read_thresholds
from imc_kit.types import Pose
from posed_tables import random_pose

COLUMNS = ("image_path", "dataset", "scene", *POSE_COLUMNS)
IDENTITY = ("1.0;0.0;0.0;0.0;1.0;0.0;0.0;0.0;1.0", "0.0;0.0;0.0")


def test_values_stay_the_texts_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes('\ufeffimage,a,b\r\nnan,,1.50\r\n\r\n"x,""y""\nz",NA,é 1\r\n'.encode())
    table = read_table(path, ["b"])
    assert list(table.columns) == ["image", "a", "b"]
    assert table.to_numpy().tolist() == [["nan", "", "1.50"], ['x,"y"\nz', "NA", "é 1"]]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n")
    table = read_table(str(path), ("a", "b"))
    assert list(table.columns) == ["a", "b"]
    assert len(table) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not text in UTF-8"),
        (b'a,b\n"1,2\n', "not a CSV file"),
        (b"a,b\n" + b"x" * 200_000 + b",1\n", "not a CSV file"),
        (b"a,b\n1,2\n1\n", "row 2 has 1 values, the header 2"),
        (b"a,b\n1,2,3\n", "row 1 has 3 values, the header 2"),
        (b"a,b,a\n1,2,3\n", "more than once"),
        (b"a,c\n1,2\n", "lacks the column b, d"),
    ],
)
def test_an_invalid_table_is_refused_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(KitError, match=said) as caught:
        read_table(path, ("a", "b", "d") if b"a,c" in content else ())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"there is no file .*nowhere.csv"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(KitError, match=f"cannot read {tmp_path}"):
        read_table(tmp_path)


def test_reads_the_shared_truth(shared: Path) -> None:
    table = read_table(shared / "scenes" / "truth.csv", COLUMNS)
    for rotation, translation in zip(*(table[column] for column in POSE_COLUMNS), strict=True):
        Pose(*parse_pose(rotation, translation))
    assert len(table) == 350


@pytest.mark.parametrize("seed", range(8))
def test_a_pose_reads_back_bit_for_bit(seed: int) -> None:
    pose = random_pose(seed)
    rotation, translation = parse_pose(*format_pose(pose))
    assert rotation.tobytes() == pose.rotation.tobytes()
    assert translation.tobytes() == pose.translation.tobytes()


def test_a_rotation_is_written_row_by_row() -> None:
    quarter = Pose(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([0.1, 1e-20, -3]))
    assert format_pose(quarter) == ("0.0;-1.0;0.0;1.0;0.0;0.0;0.0;0.0;1.0", "0.1;1e-20;-3.0")


def test_nan_and_inf_are_numbers() -> None:
    rotation, translation = parse_pose(";".join(["nan"] * 9), "nan;inf;-inf")
    assert np.isnan(rotation).all()
    assert rotation.shape == (3, 3)
    np.testing.assert_array_equal(translation, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize(
    ("rotation", "translation", "said"),
    [
        ("1;2;3", IDENTITY[1], "a rotation is 9 numbers"),
        (IDENTITY[0] + ";1", IDENTITY[1], "not 10"),
        (IDENTITY[0], "", "a translation is 3 numbers"),
        (IDENTITY[0], "1;2;", "a translation"),
        (IDENTITY[0], "1;2;x", "'1;2;x'"),
        (IDENTITY[0], "1,2,3", "a translation"),
        ("x" * 10**6, IDENTITY[1], "a rotation"),
    ],
)
def test_an_invalid_pose_is_refused(rotation: str, translation: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_pose(rotation, translation)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path, target: str) -> None:
    path = tmp_path / "table.csv"
    os.mkfifo(path) if target == "fifo" else path.symlink_to(target)
    for read in (read_table, read_thresholds):
        with pytest.raises(KitError, match=r"table\.csv: it is a folder, a pipe or a device"):
            read(path)


def test_a_file_of_gigabytes_is_no_table(tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("w") as file:
        file.truncate(2**32)  # sparse
    with pytest.raises(KitError, match="it has 4096 MB"):
        read_table(tmp_path / "table.csv")
