"""What an earlier run left: read back if it is whole and final, kept if it is better."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imc_kit.pipeline.earlier import Earlier
from imc_kit.pipeline.results import SceneResult, read_result, write_result
from imc_kit.runtime.faults import RETRIED
from imc_kit.runtime.warned import collecting
from imc_kit.types import Model, Placement, Pose


def result(registered: int, *notes: str) -> SceneResult:
    placed = {name: Placement(Pose(np.eye(3), np.arange(3.0)), 0) for name in "abc"}
    return SceneResult(placed, [], {"registered": registered, "models": 0}, {"map": 1.5}, list(notes), {"map": 7})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A result with a model beside it."""
    (tmp_path / "models/0").mkdir(parents=True)
    (tmp_path / "models/0/images.bin").write_bytes(bytes(range(100)))
    write_result(tmp_path / "result.json", "id", result(3, "a note"))
    return tmp_path / "result.json"


def test_a_result_is_read_as_it_was_written(written: Path) -> None:
    found = read_result(written, "id")
    assert found is not None
    assert (found.counts, found.notes, found.seconds) == ({"registered": 3, "models": 0}, ["a note"], {"map": 1.5})
    assert found.placements["b"].pose.translation.tolist() == [0, 1, 2]
    assert read_result(written, "other") is None


def edited(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_text(path.read_text()[:-9]),
    "empty": lambda path: path.write_text(""),
    "number": lambda path: path.write_text("7"),
    "deep": lambda path: path.write_text('{"a":' * 50_000),
    "bytes": lambda path: path.write_bytes(b"\0\xff"),
    "moved": edited("2.0", "2.5"),
    "nan": edited("2.0", "NaN"),
    "renamed": edited('"b"', '"d"'),
    "counts": edited('"registered": 3', '"registered": "3"'),
    "notes": edited('"a note"', "null"),
    "flipped": lambda path: (path.parent / "models/0/images.bin").write_bytes(bytes(99) + b"x"),
    "more": lambda path: (path.parent / "models/0/points3D.bin").write_bytes(b""),
    "gone": lambda path: (path.parent / "models/0/images.bin").unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_result_is_no_result(written: Path, name: str) -> None:
    DAMAGE[name](written)
    with collecting() as warned:
        assert read_result(written, "id") is None
    assert len(warned) == 1
    assert "result.json cannot be used" in warned[0]


def test_notes_are_told_again_and_faults_are_not_final(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    earlier = Earlier("s", tmp_path, "id")
    with caplog.at_level(logging.WARNING, "imc_kit"):
        earlier.replace(result(2, f"COLMAP was killed; {RETRIED}"))
        assert earlier.final() is None
        caplog.clear()
        earlier.replace(result(2, *earlier.told(["logged already"]), "no model"))
        assert caplog.messages == ["s: no model"]
        caplog.clear()
        assert Earlier("s", tmp_path, "id").final() is not None
        assert caplog.messages == ["s: logged already", "s: no model"]


def test_a_better_result_is_kept_until_a_run_without_faults(tmp_path: Path) -> None:
    def broken() -> SceneResult:
        raise RuntimeError("database is locked")

    fault = f"killed; {RETRIED}"
    with pytest.raises(RuntimeError):
        Earlier("s", tmp_path, "id").unless_fails(broken)
    Earlier("s", tmp_path, "id").replace(result(3, fault))
    models = [Model(Path(), {"a": Pose.identity(), "b": Pose.identity()})]
    kept = Earlier("s", tmp_path, "id").unless_worse(models, ["stopped", fault])
    assert kept is not None
    assert kept.counts["registered"] == 3
    assert kept.notes[:2] == [fault, "stopped"]
    assert Earlier("s", tmp_path, "id").unless_worse(models, ["only two fit"]) is None  # nothing failed: it is so
    failed = Earlier("s", tmp_path, "id").unless_fails(broken)
    assert failed.counts["registered"] == 3
    assert "RuntimeError: database is locked" in failed.notes
    with pytest.raises(RuntimeError):
        Earlier("s", tmp_path, "other").unless_fails(broken)


def test_warnings_of_any_thread_and_module_are_collected() -> None:
    with collecting(without="imc_kit.pipeline") as warned:
        for name, level in (("data.images", 30), ("pipeline.run", 30), ("data.images", 30), ("data", 20), ("data", 40)):
            logging.getLogger(f"imc_kit.{name}").log(level, "%s of %d", name, level)
    logging.getLogger("imc_kit.data").warning("later")
    assert warned == ["data.images of 30", "data of 40"]
