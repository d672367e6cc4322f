"""The usable images of a scene: which of the others another run may use."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imc_kit.data import images
from imc_kit.data.masks import MaskConfig
from imc_kit.pipeline.records import gone, inspect, stored_mirrored
from imc_kit.runtime import faults
from imc_kit.types import Scene
from jpegs import as_jpeg
from small_tasks import noise

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    for seed, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(as_jpeg(noise(seed)))
    return Scene("s", tmp_path, NAMES)


def inspected(scene: Scene) -> tuple[dict[str, Any], list[str]]:
    with ThreadPoolExecutor(1) as pool:
        return inspect(scene, MaskConfig(), pool)


def test_images_that_vanish_are_tried_again(scene: Scene) -> None:
    records, notes = inspected(scene)
    assert (notes, gone(records)) == ([], [])
    scene.path("b.png").unlink()
    (note,) = gone(records)
    assert "(1): b.png; " in note
    assert faults.happened([note])


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), MemoryError(), FileNotFoundError(errno.ENOENT, "gone")]
)
def test_an_image_that_could_not_be_read_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scene.path("a.png").write_bytes(b"no image")
    real = images._reading

    @contextmanager
    def reading(path: Path) -> Iterator[Any]:
        with real(path) as file:
            if path.name == "b.png":
                if isinstance(error, FileNotFoundError):
                    path.unlink()
                raise error
            yield file

    monkeypatch.setattr(images, "_reading", reading)
    records, notes = inspected(scene)
    assert list(records) == ["c.png"]
    assert [faults.happened([note]) for note in notes] == [False, True]


def test_a_note_tells_that_photos_are_stored_mirrored(scene: Scene) -> None:
    records, _ = inspected(scene)
    (name, record), *_ = records.items()
    for change, count in (({"rotation_quarters": 1}, 0), ({"mirrored": True}, 1)):
        turned = {**records, name: replace(record, info=replace(record.info, **change))}
        notes = stored_mirrored(turned)
        assert len(notes) == count
        assert all(note.startswith("photos that are stored mirrored (1): ") for note in notes)
        assert not faults.happened(notes)
