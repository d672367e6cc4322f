"""hloc's files, read from and by an independent implementation of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hloc_format
from imc_kit.data.hloc import HlocFiles, write_features, write_matches
from imc_kit.errors import KitError
from imc_kit.types import Features, Matches

NAMES = ["a.jpg", "sub/b c.jpg", "d.jpg"]
SIZE = 64, 48


def some(count: int, seed: int) -> hloc_format.Found:
    random = np.random.default_rng(seed)
    return random.uniform(0, 47, (count, 2)).astype(np.float32), random.random((count, 5)).astype(np.float32)


FOUND = {name: some(count, count) for name, count in zip(NAMES, (4, 6, 0), strict=True)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    hloc_format.write_features(features, FOUND, dict.fromkeys(NAMES, SIZE), half=False)
    scores = np.array([0, 0.5, 0, 0.25], np.float16)
    hloc_format.write_matches(matches, {("a.jpg", "sub/b c.jpg"): (np.array([-1, 5, -1, 0], np.int16), scores)})
    return features, matches


def test_files_of_hloc_are_read(files: tuple[Path, Path]) -> None:
    source = HlocFiles(*files)
    assert sorted(source.names) == sorted(NAMES)
    for name, (keypoints, descriptors) in FOUND.items():
        found = source.features(name)
        np.testing.assert_array_equal(found.keypoints, keypoints)
        np.testing.assert_array_equal(found.descriptors, descriptors)
        assert (found.image_size, found.rounded, found.keypoints.dtype) == (SIZE, False, np.float32)
    assert source.pairs() == [("a.jpg", "sub/b c.jpg")]
    matches = source.matches("a.jpg", "sub/b c.jpg")
    assert matches.indices.tolist() == [[1, 5], [3, 0]]
    assert matches.scores.tolist() == [0.5, 0.25]


def test_half_precision_is_told_and_keypoints_may_be_alone(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    hloc_format.write_features(path, FOUND, dict.fromkeys(NAMES, SIZE), half=True)
    with h5py.File(path, "a") as file:
        file.create_dataset("dense.jpg/keypoints", data=np.ones((3, 2), np.float32))
        file.create_dataset("none.jpg/keypoints", data=np.array([], np.float32))
    source = HlocFiles(path)
    assert source.features("a.jpg").rounded
    assert source.features("a.jpg").descriptors.dtype == np.float16
    dense = source.features("dense.jpg")
    assert (dense.descriptors.shape, dense.scores.tolist(), dense.image_size) == ((3, 0), [1, 1, 1], None)
    assert source.features("none.jpg").keypoints.shape == (0, 2)
    assert source.pairs() == []


def test_what_is_written_is_read_by_hlocs_code(tmp_path: Path) -> None:
    names = ["a.jpg", "sub/b.jpg"]
    columns = np.ones(9, np.float32), np.ones((9, 5), np.float16)
    features = {name: Features(some(9, seed)[0], *columns, SIZE) for seed, name in enumerate(names)}
    write_features(tmp_path / "features.h5", features.items())
    one = Matches(np.array([[2, 0], [3, 8]], np.int32), np.array([1, 0.5], np.float32))
    write_matches(tmp_path, dict.fromkeys(names, 9), [("sub/b.jpg", "a.jpg", one)])
    for name in names:
        np.testing.assert_array_equal(
            hloc_format.get_keypoints(tmp_path / "features.h5", name), features[name].keypoints
        )
    assert hloc_format.parse_retrieval(tmp_path / "pairs.txt") == [("sub/b.jpg", "a.jpg")]
    indices, scores = hloc_format.get_matches(tmp_path / "matches.h5", "a.jpg", "sub/b.jpg")
    assert (indices.tolist(), scores.tolist()) == ([[0, 2], [8, 3]], [1, 0.5])
    again = HlocFiles(tmp_path / "features.h5", tmp_path / "matches.h5")
    np.testing.assert_array_equal(again.matches("sub/b.jpg", "a.jpg").indices, one.indices)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a b.jpg"], "cannot hold names with spaces, such as 'a b.jpg'"),
        (["a/b.jpg", "a-b.jpg"], "cannot tell 'a/b.jpg'"),
    ],
)
def test_names_that_hloc_cannot_hold_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(KitError, match=message):
        write_matches(tmp_path, dict.fromkeys(names, 1), [])


def replaced(path: Path, name: str, values: Any) -> None:
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if values is not None:
            file[name] = values


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a.jpg/keypoints", None, "no dataset 'keypoints'"),
        ("a.jpg/keypoints", np.ones((4, 3)), r"/a.jpg/keypoints is float64 \[4, 3\] instead of numbers \[N, 2\]"),
        ("a.jpg/keypoints", [b"x"], "instead of numbers"),
        ("a.jpg/scores", np.ones(5), r"scores is float64 \[5\] instead of numbers \[4\]"),
        ("a.jpg/descriptors", np.ones((4, 5)), r"descriptors is .* instead of numbers \[N, 4\]"),
        ("a.jpg", np.ones(3), "features.h5"),
    ],
)
def test_features_in_another_form_are_refused(files: tuple[Path, Path], name: str, values: Any, message: str) -> None:
    replaced(files[0], name, values)
    with pytest.raises(KitError, match=message) as refused:
        HlocFiles(files[0]).features("a.jpg")
    assert str(files[0]) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("matches0", None, "no dataset 'matches0'"),
        ("matches0", np.array([0.5, 1, 2, 3]), "instead of numbers"),
        ("matches0", np.array([-7, 1, 2, 3]), "the index -7"),
        ("matching_scores0", np.full(4, np.nan), "scores must be finite"),
        ("matching_scores0", np.ones(3), r"instead of numbers \[4\]"),
    ],
)
def test_matches_in_another_form_are_refused(files: tuple[Path, Path], name: str, values: Any, message: str) -> None:
    replaced(files[1], f"a.jpg/sub-b c.jpg/{name}", values)
    with pytest.raises(KitError, match=message) as refused:
        HlocFiles(*files).matches("a.jpg", "sub/b c.jpg")
    assert f"{files[1]} (a.jpg, sub/b c.jpg)" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "cannot read"), (b"no HDF5" * 99, "cannot read"), (None, "no such")]
)
def test_files_that_are_not_hdf5_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KitError, match=message) as refused:
        HlocFiles(path)
    assert str(path) in str(refused.value)


def test_a_damaged_file_is_refused(files: tuple[Path, Path]) -> None:
    content = files[0].read_bytes()
    files[0].write_bytes(content[: len(content) // 2])
    with pytest.raises(KitError, match=r"cannot read .*features\.h5"):
        HlocFiles(files[0])


def test_matches_of_other_features_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    hloc_format.write_matches(other, {("x.jpg", "y.jpg"): (np.array([0]), np.array([1.0]))})
    with pytest.raises(KitError, match=r"other\.h5 has no matches of two images of .*features\.h5"):
        HlocFiles(files[0], other).pairs()


def test_a_name_with_two_meanings_is_refused(tmp_path: Path) -> None:
    found = {"s/a.jpg": some(1, 1), "s-a.jpg": some(1, 2), "b.jpg": some(1, 3)}
    hloc_format.write_features(tmp_path / "f.h5", found, dict.fromkeys(found, SIZE), half=False)
    hloc_format.write_matches(tmp_path / "m.h5", {("s/a.jpg", "b.jpg"): (np.array([0]), np.array([1.0]))})
    with pytest.raises(KitError, match=r"'s-a\.jpg' may mean 's-a\.jpg' and 's/a\.jpg'"):
        HlocFiles(tmp_path / "f.h5", tmp_path / "m.h5").pairs()
