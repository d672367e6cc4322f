"""The folder of a run: whose it is, who writes to it, and what is in the way."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.pipeline.out_folder import MARKER, claimed, prepare_scene, scene_folder


def test_only_folders_of_runs_and_empty_ones_are_taken(tmp_path: Path) -> None:
    old = {"input": "photos", "layout": "folder", "config": {}, "scenes": {}}
    for number, (content, accepted) in enumerate(
        [
            ({}, True),
            ({".DS_Store": "", "store/features/x.h5": ""}, True),
            ({"run.json": json.dumps(old), "my notes.txt": "mine"}, True),  # by a version without a marker
            ({"run.json": "[]", "my notes.txt": "mine"}, False),
            ({"submission.csv": "mine"}, False),
            ({"scenes/a/models/0/mine.txt": "mine"}, False),
            ({"report.html": "mine", "store/features/x.h5": ""}, False),
        ]
    ):
        out = tmp_path / str(number)
        for name, text in content.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
        if accepted:
            for _ in range(2):  # the second time it has a marker
                with claimed(out, []):
                    (out / "run.json").unlink(missing_ok=True)
        else:
            with pytest.raises(KitError, match="which no run of imc-kit wrote: give another folder"), claimed(out, []):
                pass
            assert not (out / MARKER).exists()
        for name, text in content.items():
            assert name == "run.json" or (out / name).read_text() == text


def test_the_folder_of_a_notebook_may_hold_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebook.ipynb").write_text("mine")
    (tmp_path / "run.json").write_text("[" * 50_000)
    with pytest.raises(KitError, match=r"holds run\.json, which no run"), claimed(tmp_path, []):
        pass
    (tmp_path / "run.json").unlink()
    with claimed(tmp_path, []):
        pass


def test_one_run_at_a_time(tmp_path: Path) -> None:
    def fails_within() -> None:
        with claimed(tmp_path, []):
            with pytest.raises(KitError, match=f"another run .*: process {os.getpid()} on "), claimed(tmp_path, []):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_within()
    with claimed(tmp_path, []):
        pass
    assert [path.name for path in (tmp_path / MARKER).iterdir()] == []


def test_locks_that_nobody_holds_any_more_are_taken_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, lock = platform.node(), tmp_path / MARKER / "lock"
    stale = [f"{ended.pid} 7 {here}", f"{ended.pid} - {here}", ""]
    if Path("/proc/self/stat").exists():
        stale.append(f"{os.getpid()} 7 {here}")  # a process of another time, with the same number
    for text in stale:
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(text)
        os.utime(lock, (0, time.time() - 60))
        with claimed(tmp_path, []):
            assert lock.read_text().startswith(f"{os.getpid()} ")
        assert not lock.exists()
    lock.write_text("12 7 another-machine")
    with pytest.raises(KitError, match=f"process 12 on another-machine; .* delete {lock}"), claimed(tmp_path, []):
        pass
    assert lock.exists()


def test_what_is_in_the_way_is_moved_and_nothing_behind_links_is_lost(tmp_path: Path) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    theirs.mkdir()
    (theirs / "precious").write_text("x")
    scene = out / "scenes/a/b"
    (scene / "result.json").mkdir(parents=True)
    (scene / "result.json/mine").write_text("y")
    (out / MARKER).mkdir()
    (scene / "models").symlink_to(theirs)
    (scene / "colmap-2.log").symlink_to(theirs / "precious")
    (scene / "database-x.db").symlink_to(theirs / "gone")
    (scene / "partial").write_text("no folder")
    (out / "quick").symlink_to(theirs)
    (out / "run.json").mkdir()
    os.mkfifo(scene / "colmap.log")
    with claimed(out, [scene]):
        prepare_scene(out, scene)
        assert sorted(path.name for path in scene.iterdir()) == ["aside-1-partial", "aside-1-result.json"]
        assert sorted(path.name for path in out.iterdir()) == [MARKER, "aside-1-run.json", "scenes"]
    assert (scene / "aside-1-result.json/mine").read_text() == "y"
    assert (theirs / "precious").read_text() == "x"
    assert len(list(theirs.iterdir())) == 1


def test_the_results_of_scenes_do_not_lie_in_one_another(tmp_path: Path) -> None:
    names = [
        "a",
        "a/models",
        "a/models~",
        "a/Partial",
        "a/partial/models",
        "a/result.json",
        "a/colmap-1.log",
        "models",
        "a/b",
    ]
    folders = [scene_folder(tmp_path, name) for name in names]
    assert len({str(folder).casefold() for folder in folders}) == len(names)
    assert (folders[0], folders[-1]) == (tmp_path / "a", tmp_path / "a/b")
    for folder in folders:
        prepare_scene(tmp_path, folder)
        prepare_scene(tmp_path, folder)
    taken = {"models", "partial", "result.json", "colmap-1.log"}
    assert all(taken.isdisjoint(path.name.casefold() for path in folder.iterdir()) for folder in folders)


def test_a_path_that_is_too_long_is_said_at_once(tmp_path: Path) -> None:
    out = tmp_path.joinpath(*["x" * 200] * 20)
    with pytest.raises(KitError, match="bytes too long"), claimed(out, [out / "scenes/a"]):
        pass
    assert list(tmp_path.iterdir()) == []
