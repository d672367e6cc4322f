"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from imc_kit.data import atomic
from imc_kit.errors import KitError


def test_the_old_file_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for text in ("é 1\n", "2\r\n"):
        before = path.read_bytes() if path.exists() else None
        with atomic.writing(path) as file:
            file.write(text)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == text.encode()
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def half() -> None:
        with atomic.writing(path) as file:
            file.write("new")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(KitError, match=r"cannot write .*notes.txt"), atomic.writing(path) as file:
            file.write("x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_replaced_only_after_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "notes.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KitError, match="No space left on device"), atomic.writing(path) as file:
        file.write("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"cannot write .*No such file"), atomic.writing(tmp_path / "nowhere" / "a.txt"):
        pytest.fail("there is nothing to write to")
    with pytest.raises(KitError, match="cannot write"), atomic.writing(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf_8_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    with atomic.writing(path) as file:
        file.write(os.fsdecode(b"im\xff1.jpg"))
    assert path.read_bytes() == b"im\xff1.jpg"


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)  # 254 bytes
    with atomic.writing(path, binary=True) as file:
        file.write(b"\xff")
    assert path.read_bytes() == b"\xff"
