"""Undistort the photos of a model, in COLMAP's child process."""

_JPEG_QUALITY = 95
"""COLMAP's default is OpenImageIO's, which loses more."""


def undistort_job(model: str, images: str, output: str, threads: int, seed: int) -> None:
    """Write COLMAP's dense workspace: images/, their model in sparse/, and what its stereo needs.

    model: the folder of a model that fits the files in `images`.
    """
    import pycolmap

    pycolmap.undistort_images(output, model, images, jpeg_quality=_JPEG_QUALITY, num_threads=threads)
