"""Features, matches and global descriptors on disk."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import resource
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from imc_kit.data import chunk_files
from imc_kit.data.store import Store, Table, pair_key
from imc_kit.errors import KitError
from imc_kit.types import Features, Matches

SIZE = (640, 480)
COLUMNS = ("keypoints", "scores", "descriptors", "scales", "orientations", "shapes")


def features(count: int, seed: int = 0, dtype: Any = np.float16, *, optional: bool = False) -> Features:
    random = np.random.default_rng(seed)
    extra = [random.uniform(1, 90, count).astype(np.float32) if optional else None for _ in range(2)]
    shapes = random.normal(0, 20, (count, 2, 2)).astype(np.float32) if optional else None
    return Features(
        random.uniform(0, 470, (count, 2)).astype(np.float32),
        random.uniform(0, 1, count).astype(np.float32),
        random.uniform(0, 255, (count, 8)).astype(dtype),
        SIZE,
        *extra,
        shapes,
    )


def matches(count: int, seed: int = 0) -> Matches:
    random = np.random.default_rng(seed)
    return Matches(
        random.integers(0, 2**31 - 1, (count, 2)).astype(np.int32), random.uniform(0, 1, count).astype(np.float32)
    )


def assert_same(found: Features, wanted: Features, columns: tuple[str, ...] = COLUMNS) -> None:
    assert found.image_size == wanted.image_size
    for name in columns:
        left, right = getattr(found, name), getattr(wanted, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.fixture
def table(tmp_path: Path) -> Table[Features]:
    return Store(tmp_path).features("abc")


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
@pytest.mark.parametrize("optional", [False, True])
def test_features_come_back_as_they_were(table: Table[Features], dtype: Any, optional: bool) -> None:
    values = {f"k{count}": features(count, count, dtype, optional=optional) for count in (5, 0, 1, 3000)}
    table.put(values)
    reopened = Table[Features](table.folder, "features")
    for opened in (table, reopened):
        assert len(opened) == 4
        for key, value in values.items():
            assert key in opened
            assert_same(opened[key], value)


def test_float32_descriptors_become_float16_and_keypoints_do_not(table: Table[Features]) -> None:
    value = features(50, dtype=np.float32)
    table.put({"k": value})
    assert_same(table["k"], value, ("keypoints", "scores"))
    assert table["k"].descriptors.dtype == np.float16
    np.testing.assert_allclose(table["k"].descriptors, value.descriptors, rtol=1e-3)


def test_keypoints_of_huge_images_keep_their_places(table: Table[Features]) -> None:
    points = np.array([[19999.375, 12345.625]], np.float32)  # 20000 in float16
    table.put({"k": Features(points, np.ones(1, np.float32), np.ones((1, 8), np.float16), (20000, 15000))})
    np.testing.assert_array_equal(table["k"].keypoints, points)


@pytest.mark.parametrize("beside", [False, True])
def test_an_image_without_features_comes_back_as_it_was(table: Table[Features], beside: bool) -> None:
    """Whatever the images of its chunk have: other columns, another width or another kind of descriptors."""
    bare = {
        "bare": Features.empty(SIZE, 8, np.float16),
        "wide": Features.empty((3, 9), 128, np.float16),
        "binary": Features.empty(SIZE, 32, np.uint8),
        "oriented": features(0, optional=True),
    }
    chunks = [bare | {"full": features(7, optional=True)}] if beside else [{key: value} for key, value in bare.items()]
    for chunk in chunks:
        table.put(chunk)
    for chunk in chunks:
        for key, value in chunk.items():
            assert_same(Table[Features](table.folder, "features")[key], value)


def test_large_descriptors_keep_their_precision(table: Table[Features]) -> None:
    large = np.full((1, 8), 1e5, np.float32)  # infinite in float16
    value = Features(np.ones((1, 2), np.float32), np.ones(1, np.float32), large, SIZE)
    table.put({"large": value, "small": features(2)})
    assert_same(table["large"], value)


def test_a_chunk_of_empty_values_only(table: Table[Features]) -> None:
    table.put({"a": Features.empty(SIZE, 32, np.uint8), "b": Features.empty(SIZE, 32, np.uint8)})
    assert_same(table["b"], Features.empty(SIZE, 32, np.uint8))


def test_matches_come_back_as_they_were(tmp_path: Path) -> None:
    table = Store(tmp_path).matches("abc")
    values = {pair_key("a", str(count)): matches(count, count) for count in (4, 0, 1)}
    table.put(values)
    for key, value in values.items():
        np.testing.assert_array_equal(table[key].indices, value.indices)
        np.testing.assert_array_equal(table[key].scores, value.scores)
        assert table[key].indices.dtype == np.int32


def test_global_descriptors_come_back_as_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = {str(length): random.normal(size=length).astype(np.float32) for length in (384, 0, 1, 8192)}
    Store(tmp_path).descriptors("abc").put(values)
    table = Store(tmp_path).descriptors("abc")
    for key, value in values.items():
        np.testing.assert_array_equal(table[key], value)
        assert table[key].dtype == np.float32
    assert Store(tmp_path).descriptors("other").missing(["1"]) == ["1"]


def test_tables_of_other_fingerprints_are_separate(tmp_path: Path) -> None:
    Store(tmp_path).features("one").put({"k": features(2)})
    assert Store(tmp_path).features("two").missing(["k"]) == ["k"]
    assert Store(tmp_path).matches("one").missing(["k"]) == ["k"]


def test_missing_names_each_key_once_in_order(table: Table[Features]) -> None:
    table.put({"b": features(1)})
    assert table.missing(["c", "b", "a", "c"]) == ["c", "a"]
    assert table.missing([]) == []
    with pytest.raises(KeyError):
        table["c"]


def test_putting_nothing_writes_nothing(table: Table[Features]) -> None:
    table.put({})
    assert not table.folder.exists()


def test_the_partial_file_of_a_killed_writer_is_ignored(table: Table[Features]) -> None:
    table.put({"k": features(3)})
    (chunk,) = table.folder.iterdir()
    (table.folder / f".{chunk.stem}.1.2.partial").write_bytes(chunk.read_bytes()[:100])
    reopened = Table[Features](table.folder, "features")
    assert len(reopened) == 1
    assert_same(reopened["k"], features(3))


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_truncated_chunk_is_dropped(table: Table[Features], left: float, caplog: pytest.LogCaptureFixture) -> None:
    table.put({"good": features(2)})
    (good,) = table.folder.glob("*.h5")
    table.put({"bad": features(500), "worse": features(500)})
    (bad,) = set(table.folder.glob("*.h5")) - {good}
    bad.write_bytes(bad.read_bytes()[: int(left * bad.stat().st_size)])
    with caplog.at_level(logging.WARNING, "imc_kit"):
        reopened = Table[Features](table.folder, "features")
    assert bad.name in caplog.text
    assert reopened.missing(["bad", "good", "worse"]) == ["bad", "worse"]
    assert not bad.exists()
    reopened.put({"bad": features(500), "worse": features(500)})
    assert_same(reopened["worse"], features(500))
    assert_same(reopened["good"], features(2))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def zero_tail(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:300] + bytes(len(content) - 300))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def edit_scores(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["columns/scores"][0] = 0.25


def without_headers(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["headers"]


def other_file(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w"):
        pass


def folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES = (flip, zero_tail, lengthen, edit_scores, without_headers, other_file, folder, pipe, device)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("before", ["opening", "reading"])
def test_damage_is_noticed_and_made_good(
    table: Table[Features], damage: Any, before: str, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"k": features(20), "l": features(3)}
    table.put(values)
    opened = Table[Features](table.folder, "features")
    (chunk,) = table.folder.glob("*.h5")
    damage(chunk)
    if before == "opening":
        opened = Table[Features](table.folder, "features")
    with caplog.at_level(logging.WARNING, "imc_kit"):
        assert opened.missing(values) == ["k", "l"]
    assert [path.suffix for path in table.folder.iterdir()] == [".damaged"]
    opened.put(values)
    again = Table[Features](table.folder, "features")
    for key, value in values.items():
        assert_same(again[key], value)


def test_damage_between_two_tables_of_one_process_is_noticed(table: Table[Features]) -> None:
    table.put({"k": features(20)})
    assert_same(table["k"], features(20))
    (chunk,) = table.folder.glob("*.h5")
    time.sleep(0.02)  # until the clock of the file system has moved
    flip(chunk)
    assert "k" not in Table[Features](table.folder, "features")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOLCK, errno.ESTALE])
@pytest.mark.parametrize("reading", ["index", "content"])
def test_a_disk_that_fails_costs_no_file(
    table: Table[Features], monkeypatch: pytest.MonkeyPatch, code: int, reading: str
) -> None:
    table.put({"k": features(20)})
    chunk_files._opened.cache_clear()
    opened = Table[Features](table.folder, "features")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fail)
        if reading == "index":
            chunk_files._opened.cache_clear()
            opened = Table[Features](table.folder, "features")
        assert opened.missing(["k"]) == ["k"]
    opened.refresh()
    assert_same(opened["k"], features(20))


def test_a_disk_that_fails_later_is_a_clear_error(table: Table[Features]) -> None:
    table.put({"k": features(20)})
    assert "k" in table
    (chunk,) = table.folder.glob("*.h5")
    chunk.rename(chunk.with_suffix(".moved"))
    with pytest.raises(KitError, match=rf"cannot read .*{chunk.name}"):
        table["k"]


def test_a_folder_that_cannot_be_read_is_a_clear_error(table: Table[Features], monkeypatch: pytest.MonkeyPatch) -> None:
    table.put({"k": features(20)})

    def fail(_: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(KitError, match=r"cannot read the store in .*: Permission denied"):
        Table[Features](table.folder, "features")


def test_few_file_descriptors_suffice(tmp_path: Path) -> None:
    """macOS allows a process 256."""
    for name in "abc":
        for number in range(10):
            Store(tmp_path).matches(name).put({str(number): matches(2, number)})
    chunk_files._opened.cache_clear()
    with (tmp_path / "highest").open("wb") as file:
        highest = file.fileno()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, limits[1]))
    try:
        tables = [Store(tmp_path).matches(name) for name in "abc"]
        assert sum(len(table[str(number)]) for table in tables for number in range(10)) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(list(tmp_path.rglob("*.h5"))) == 30


def test_other_programs_can_read_a_chunk(table: Table[Features]) -> None:
    table.put({"k": features(20), "l": features(5, 1)})
    (chunk,) = table.folder.glob("*.h5")
    with h5py.File(chunk) as file:
        assert [key.decode() for key in file["keys"]] == ["k", "l"]
        np.testing.assert_array_equal(file["columns/scores"][slice(*file["offsets"][1:3])], features(5, 1).scores)


def test_refresh_reads_chunks_of_other_processes(table: Table[Features]) -> None:
    other = Table[Features](table.folder, "features")
    other.put({"k": features(2)})
    assert "k" not in table
    table.refresh()
    assert_same(table["k"], features(2))


def test_a_pickled_table_opens_its_folder_again(table: Table[Features]) -> None:
    table.put({"k": features(2)})
    assert_same(table["k"], features(2))  # opens a file
    copy = pickle.loads(pickle.dumps(table))
    assert_same(copy["k"], features(2))
    copy.put({"l": features(3)})
    table.refresh()
    assert_same(table["l"], features(3))


def test_threads_put_and_read_at_once(table: Table[Features]) -> None:
    def work(number: int) -> None:
        table.put({f"{number}-{part}": features(5, number) for part in range(3)})
        table.refresh()
        for before in range(number):
            if f"{before}-1" in table:
                assert_same(table[f"{before}-1"], features(5, before))
        assert_same(table[f"{number}-2"], features(5, number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert len(Table[Features](table.folder, "features")) == 48


def test_threads_may_put_the_same_chunk(table: Table[Features]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(table.put, [{"k": features(5)}] * 16))
    assert_same(table["k"], features(5))
    assert len(list(table.folder.iterdir())) == 1


def _put_in_process(table: Table[Features], number: int) -> None:
    table.put({f"{number}-{part}": features(5, number) for part in range(3)})
    table.put({"shared": features(4, 99)})
    assert_same(table["shared"], features(4, 99))


def test_processes_put_at_once(table: Table[Features]) -> None:
    table.put({"before": features(1)})
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_put_in_process, [table] * 4, range(4)))
    table.refresh()
    assert len(table) == 14
    for number in range(4):
        assert_same(table[f"{number}-1"], features(5, number))
    assert_same(table["shared"], features(4, 99))


@pytest.mark.parametrize("blocked", ["root", "root/features", "root/features/abc"])
def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    table = Store(tmp_path / "root").features("abc")
    assert table.missing(["k"]) == ["k"]
    with pytest.raises(KitError, match=r"cannot write .*abc"):
        table.put({"k": features(2)})
    assert table.missing(["k"]) == ["k"]
    assert (tmp_path / blocked).read_text() == "in the way"


def test_a_full_disk_is_a_clear_error(table: Table[Features], monkeypatch: pytest.MonkeyPatch) -> None:
    table.put({"k": features(2)})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KitError, match="No space left"):
        table.put({"l": features(2)})
    assert table.missing(["k", "l"]) == ["l"]
    assert [path.suffix for path in table.folder.iterdir()] == [".h5"]


def test_a_store_below_is_read_and_never_changed(tmp_path: Path) -> None:
    below, above = Store(tmp_path / "below"), Store(tmp_path / "above", tmp_path / "below")
    below.features("f").put({"a": features(3)})
    below.features("f").put({"b": features(4)})
    before = {path: path.read_bytes() for path in (tmp_path / "below").rglob("*.h5")}
    table = above.features("f")
    assert table.missing("abc") == ["c"]
    table.put({"c": features(5)})
    assert [len(pickle.loads(pickle.dumps(table))[key]) for key in "abc"] == [3, 4, 5]
    assert {path: path.read_bytes() for path in (tmp_path / "below").rglob("*.h5")} == before
    for path in before:
        path.write_bytes(b"damaged")
    assert above.features("f").missing("abc") == ["a", "b"]
    assert {path.read_bytes() for path in (tmp_path / "below/features/f").iterdir()} == {b"damaged"}
