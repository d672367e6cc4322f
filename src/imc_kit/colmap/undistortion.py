"""Undistort the photos of a model with COLMAP, in its child process."""

from pathlib import Path

from imc_kit.colmap.child import Workplace

_TIME_LIMIT = 24 * 3600.0
"""Seconds: only to end a process that hangs. Ten thousand photos of 12 megapixels take an hour."""
_JPEG_QUALITY = 95
"""COLMAP's default is OpenImageIO's, which loses more."""


def undistort(model: Path, images: Path, at: Workplace) -> None:
    """Write COLMAP's dense workspace: images/, their model in sparse/, and what its stereo needs.

    model: the folder of a model that fits the files in `images`. Raises `ColmapError` when the child process fails.
    """
    at.run("undistort", "COLMAP's undistortion", _TIME_LIMIT, model=model, images=images)


def undistort_job(model: str, images: str, output: str, threads: int, seed: int) -> None:
    import pycolmap

    pycolmap.undistort_images(output, model, images, jpeg_quality=_JPEG_QUALITY, num_threads=threads)
