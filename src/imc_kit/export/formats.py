"""The formats of exports."""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from imc_kit.colmap import child
from imc_kit.colmap.child import Workplace
from imc_kit.errors import KitError
from imc_kit.export import features
from imc_kit.export.model import SceneModel
from imc_kit.export.nerfstudio import transforms
from imc_kit.export.opensfm import reconstruction
from imc_kit.pipeline.results import write_json

_TIME_LIMIT = 24 * 3600.0
"""Seconds: only to end a process that hangs. Ten thousand photos of 12 megapixels take about an hour."""


def colmap_text(scene: SceneModel, folder: Path) -> None:
    """COLMAP's text files, which describe the photos as they are stored."""
    model = scene.read()
    if spaced := sorted(image.name for image in model.images.values() if " " in image.name):
        raise KitError(f"COLMAP's text files cannot hold names with spaces, such as {spaced[0]!r}: use binary ones")
    model.write_text(folder)


def ply(scene: SceneModel, folder: Path) -> None:
    """The points with their colours, in points.ply."""
    scene.read().export_PLY(folder / "points.ply")


def upright(scene: SceneModel, folder: Path) -> None:
    """Upright copies of the photos in images/, and their model in sparse/0."""
    model = scene.upright(folder / "images")
    (folder / "sparse/0").mkdir(parents=True)
    model.write(folder / "sparse/0")


def undistorted(scene: SceneModel, folder: Path) -> None:
    """Upright photos without lens distortion in images/, and their model in sparse/ and sparse/0.

    MVS programs look for sparse/, splatting programs for sparse/0.
    """
    source, log = folder.with_name(f"{folder.name}~"), Path(mkdtemp(), "colmap.log")  # the log outlives an error
    upright(scene, source)
    at = Workplace(folder, log)
    with child.loading():
        at.run("undistort", "undistortion", _TIME_LIMIT, model=source / "sparse/0", images=source / "images")
    names = [path.relative_to(source).as_posix() for path in (source / "images").rglob("*") if path.is_file()]
    if lacking := sorted(name for name in names if not (folder / name).exists()):
        raise KitError(f"COLMAP cannot read {len(lacking)} photos of {scene.name}, such as {lacking[0]} (see {log})")
    shutil.rmtree(source)
    shutil.rmtree(log.parent)
    shutil.copytree(folder / "sparse", folder / "sparse/0")


def nerfstudio(scene: SceneModel, folder: Path) -> None:
    """Upright copies of the photos in images/, transforms.json, and the points in sparse_pc.ply."""
    model = scene.upright(folder / "images")
    write_json(folder / "transforms.json", transforms(model, "images", "sparse_pc.ply"))
    model.export_PLY(folder / "sparse_pc.ply")


def opensfm(scene: SceneModel, folder: Path) -> None:
    """Upright copies of the photos in images/, and reconstruction.json."""
    write_json(folder / "reconstruction.json", reconstruction(scene.upright(folder / "images")))


_WRITERS: tuple[Callable[[SceneModel, Path], str | None], ...] = (
    colmap_text, ply, upright, undistorted, nerfstudio, opensfm, features.hloc, features.colmap_database
)  # fmt: skip
FORMATS = {writer.__name__.replace("_", "-"): writer for writer in _WRITERS}
"""Each writes one model into one folder. Those of features, which all models share, return a remark on them."""
