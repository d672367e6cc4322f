"""Photos from a video that OpenCV itself writes, with frames of known sharpness."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from imc_kit.cli.main import main
from imc_kit.data.video import extract_frames
from imc_kit.errors import KitError

GAINS = {4: 1.0, 5: 1.1, 13: 1.0, 14: 1.2}
"""The sharp frames of the fixture, and their contrast."""


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """15 frames: each has its own brightness, and those in `GAINS` have a pattern, which the others have blurred."""
    path = tmp_path / "walk.avi"
    pattern = np.random.default_rng(0).uniform(0, 100, (64, 96, 3)).astype(np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    assert writer.isOpened()
    for number in range(15):
        frame = pattern * GAINS[number] if number in GAINS else cv2.GaussianBlur(pattern, (0, 0), 3)
        writer.write(np.clip(frame + 8.0 * number, 0, 255).astype(np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("every", "sharp"), [(6, {5, 14}), (7, {5, 13, 14}), (15, {14}), (100, {14})])
def test_the_sharpest_frame_of_each_window(video: Path, every: int, sharp: set[int]) -> None:
    paths = extract_frames(video, video.parent / "out", every)
    numbers = [int(re.findall(r"walk_(\d{7})\.jpg", path.name)[0]) for path in paths]
    assert [number // every for number in numbers] == list(range(-(-15 // every)))
    assert {number for number in numbers if number in GAINS} == sharp
    assert sorted(path.name for path in (video.parent / "out").iterdir()) == [path.name for path in paths]
    for number, path in zip(numbers, paths, strict=True):
        assert cv2.imread(str(path)).mean() == pytest.approx(49.5 * GAINS.get(number, 1) + 8 * number, abs=5)


def test_the_command(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frames", str(video), "--out", str(video.parent / "out"), "--every", "5"]) == 0
    assert "wrote 3 photos" in capsys.readouterr().out


def test_what_is_no_video_is_refused(video: Path, tmp_path: Path) -> None:
    text, image, empty = tmp_path / "notes.mp4", tmp_path / "a.jpg", tmp_path / "empty.avi"
    text.write_text("no video")
    cv2.imwrite(str(image), np.zeros((32, 32, 3), np.uint8))
    writer = cv2.VideoWriter(str(empty), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    writer.release()
    out = tmp_path / "out"
    for path, message in (
        (text, "is no video that OpenCV can read"),
        (image, "is an image: give a video"),
        (tmp_path / "none.mp4", "is no file"),
        (tmp_path, "is no file"),
        (empty, "OpenCV can"),
    ):
        with pytest.raises(KitError, match=message):
            extract_frames(path, out, 5)
    with pytest.raises(KitError, match="every must be at least 1"):
        extract_frames(video, out, 0)
    assert not out.exists()


def test_a_folder_with_files_is_refused(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    extract_frames(video, out, 5)  # empty: accepted
    with pytest.raises(KitError, match="is not an empty folder"):
        extract_frames(video, out, 5)
