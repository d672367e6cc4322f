"""Whole scenes whose cameras the user knows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

import imc_kit
from imc_kit.cli.main import main
from imc_kit.colmap.cameras import CameraConfig
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.data import scenes
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline.results import SceneResult
from imc_kit.synthetic.plaza import DISTANCES, Camera, orbit, plaza, render, write_layout
from point_scenes import CONFIG, FIRST, solve_scene, write_photographs

TRUE = "SIMPLE_RADIAL 400 300 360 200 150 0"
"""`point_scenes`' camera."""


def solved(
    folder: Path, cameras: CameraConfig, mapper: str = "incremental"
) -> tuple[SceneResult, dict[str, pycolmap.Camera]]:
    """The first place of `point_scenes`, and the camera of each image in the files of its model."""
    photos = folder / "photos"
    if not photos.exists():
        write_photographs(photos)
    (scene,) = scenes.load(photos).scenes
    scene = replace(scene, images=scene.images[:FIRST])
    runs = (MappingConfig(mapper),)  # type: ignore[arg-type]
    config = replace(CONFIG, mapping=runs, cameras=cameras)
    with ThreadPoolExecutor(1) as pool:
        result = solve_scene(scene, folder / "out", Store(folder / "store"), config, pool)
    model = pycolmap.Reconstruction(result.models[0].folder)
    return result, {image.name: model.cameras[image.camera_id] for image in model.images.values()}


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_fixed_cameras_stay_and_others_are_estimated(tmp_path: Path, mapper: str) -> None:
    """Half of the photos have a known camera, which is a little wrong: nothing may correct it."""
    wrong = TRUE.replace("360", "355")
    names = [f"{number:02}.png" for number in range(FIRST)]
    known = tmp_path / "known.txt"
    known.write_text("".join(f"{name} {wrong}\n" for name in names[::2]))
    result, cameras = solved(tmp_path, CameraConfig(known=str(known), fixed=True), mapper)
    assert result.counts["registered"] == FIRST
    assert any("without known intrinsics (5)" in note for note in result.notes)
    for name in names[::2]:
        assert cameras[name].model.name == "SIMPLE_RADIAL"  # not refined to OPENCV
        assert cameras[name].params.tolist() == [355, 200, 150, 0]
    assert cameras[names[0]].camera_id == cameras[names[2]].camera_id != cameras[names[1]].camera_id
    assert cameras[names[1]].mean_focal_length() == pytest.approx(357, rel=0.03)
    free = solved(tmp_path, CameraConfig(known=str(known)), mapper)[1][names[0]]
    assert free.model.name == "SIMPLE_RADIAL"
    assert free.mean_focal_length() != 355
    assert free.mean_focal_length() == pytest.approx(360, rel=0.02)


def test_a_file_with_other_content_is_another_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = tmp_path / "known.txt"
    before = "solved before with the same images and configuration"
    for text, again in ((TRUE, False), (f"# comment\n{TRUE}", True), (TRUE.replace("360", "358"), False)):
        known.write_text(text)
        caplog.clear()
        with caplog.at_level("INFO"):
            solved(tmp_path, CameraConfig(known=str(known), fixed=True))
        assert (before in caplog.text) == again


def test_cameras_that_fit_no_image_stop_a_run_before_any_work(tmp_path: Path) -> None:
    photos = write_photographs(tmp_path / "photos")
    known = tmp_path / "known.txt"
    known.write_text(f"0.png {TRUE}\n")
    with pytest.raises(KitError, match=r"fit no image: 0\.png; did you mean"):
        imc_kit.solve(photos, tmp_path / "out", replace(CONFIG, cameras=CameraConfig(known=str(known))))
    known.write_text(TRUE.replace("400 300", "300 400"))
    run = imc_kit.solve(photos, tmp_path / "out", replace(CONFIG, cameras=CameraConfig(known=str(known))))
    assert "do not fit 00.png of photos: they are for 300 × 400 pixels" in run.failed["photos"]


@pytest.mark.slow  # it renders photos
def test_a_fisheye_lens_of_120_degrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same photos score 0.3 with an unknown lens."""
    size, focal = (480, 360), 240 / np.deg2rad(60)
    lens = Camera(*size, focal, (size[0] - 1) / 2, (size[1] - 1) / 2, fisheye=True)
    poses = {f"{number}.jpg": pose for number, pose in enumerate(orbit(24, distance=5.0, height=2.0)[:8])}

    def photos() -> list[np.ndarray]:
        return [render(plaza(), lens, pose, samples=1) for pose in poses.values()]

    write_layout(tmp_path / "in", "plaza", "synthetic", poses, size, photos, DISTANCES)
    known = f"OPENCV_FISHEYE {focal},{focal},240,180,0,0,0,0"
    options = ["--cameras.known", known, "--score", "--threads", "1"]
    assert main(["solve", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options]) == 0
    text = capsys.readouterr().out
    assert float(text.split("\nmean")[1].split()[0]) >= 0.95
