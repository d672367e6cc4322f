"""Photos from a video: the sharpest frame of every few."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from imc_kit.data.listing import IMAGE_SUFFIXES, exists, is_file, is_folder
from imc_kit.errors import KitError, require
from imc_kit.runtime import progress
from imc_kit.types import Pixels

_QUALITY = 95
"""JPEG's. A video's own compression has lost more."""


def extract_frames(video: Path, out: Path, every: int) -> list[Path]:
    """Write the sharpest frame of each `every` successive ones as `out`/VIDEO_NUMBER.jpg; returns the paths, in order.

    The number is the frame's in the video, from 0, with leading zeros: the names sort in time order. A frame is as
    sharp as the variance of its Laplacian (Pech-Pacheco et al., ICPR 2000). OpenCV rotates frames upright.

    Raises `KitError` when `video` is no video or has no frame, when `out` has files, and when writing fails.
    """
    require(every >= 1, "every", "at least 1 frame", every)
    if not is_file(video) or video.suffix.lower() in IMAGE_SUFFIXES:  # OpenCV would read numbered images as a video
        raise KitError(f"{video} is {'an image' if is_file(video) else 'no file'}: give a video")
    if exists(out) and not (is_folder(out) and not any(out.iterdir())):
        raise KitError(f"{out} is not an empty folder: give a new one for the frames")
    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened():
            raise KitError(f"{video} is no video that OpenCV can read: convert it, for example to MP4 with H.264")
        paths, best, sharpest = [], None, -1.0
        with progress.bar("frames", max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), "frame") as bar:
            for number, frame in enumerate(_frames(capture)):
                bar.update()
                if number and number % every == 0 and best is not None:
                    paths.append(_write(out / f"{video.stem}_{best[0]:07}.jpg", best[1]))
                    sharpest = -1.0
                sharpness = float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.CV_32F).var())
                if sharpness > sharpest:
                    sharpest, best = sharpness, (number, frame)
        if best is None:
            raise KitError(f"{video} has no frame that OpenCV can decode: convert it, for example to MP4 with H.264")
        return [*paths, _write(out / f"{video.stem}_{best[0]:07}.jpg", best[1])]
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture) -> Iterator[Pixels]:
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield np.asarray(frame, np.uint8)


def _write(path: Path, frame: Pixels) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
    except OSError as error:
        raise KitError(f"cannot write {path}: {error.strerror or error}") from error
    return path
