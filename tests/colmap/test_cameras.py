"""Which cameras images get: EXIF that is checked, known intrinsics, and which images share them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from imc_kit.colmap.cameras import CameraConfig, ImageEntry, cameras_of
from imc_kit.colmap.query_database import add_queries
from imc_kit.errors import KitError

SIZE = (80, 60)
FOCAL, FOCAL_35MM, PLANE_X, PLANE_Y, UNIT = 0x920A, 0xA405, 0xA20E, 0xA20F, 0xA210


def photo(path: Path, tags: dict[int, Any], size: tuple[int, int] = SIZE, camera: str = "One") -> ImageEntry:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", camera
    exif.get_ifd(0x8769).update(tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "olive").save(path, exif=exif)
    return ImageEntry(path.name, path, size)


def plane(focal: Any, resolution: Any, unit: int = 2) -> dict[int, Any]:
    """A focal length with the resolution of the sensor, in pixels per unit (2: inch, 3: centimetre)."""
    return {FOCAL: focal, PLANE_X: resolution, PLANE_Y: resolution, UNIT: unit}


@pytest.mark.parametrize(
    "tags",
    [
        {FOCAL_35MM: 1},
        {FOCAL_35MM: 2000},
        {FOCAL_35MM: 65535},
        plane(IFDRational(8), IFDRational(1, 100000)),
        plane(IFDRational(8), IFDRational(10**8)),
        plane(IFDRational(-8), IFDRational(300)),
        plane(IFDRational(8), IFDRational(1, 0)),
        plane(IFDRational(1, 0), IFDRational(300)),
        plane(IFDRational(0), IFDRational(300)),
        plane(IFDRational(8), IFDRational(0)),
    ],
)
def test_a_focal_length_that_no_camera_has_is_not_believed(tmp_path: Path, tags: dict[int, Any]) -> None:
    bad = photo(tmp_path / "bad.jpg", tags)
    ((_, camera),), notes = cameras_of([bad], CameraConfig())
    assert camera.mean_focal_length() == 1.2 * 80
    assert not camera.has_prior_focal_length
    assert len(notes) <= 1  # none where COLMAP finds no focal length at all
    good = [photo(tmp_path / f"{number}.jpg", {FOCAL_35MM: 28}) for number in range(3)]
    found, again = cameras_of([bad, *good], CameraConfig())
    assert again == notes
    if notes:
        assert "of 1 images by Maker-One is not used (bad.jpg: " in notes[0]
    assert [camera.has_prior_focal_length for _, camera in found] == [False, True, True, True]
    assert len({key for key, _ in found}) == 2


def test_bad_focal_lengths_are_counted_by_camera(tmp_path: Path) -> None:
    images = [photo(tmp_path / f"{n}.jpg", {FOCAL_35MM: 1 + n}, camera="AB"[n % 2]) for n in range(4)]
    found, notes = cameras_of(images, CameraConfig("size"))
    assert {camera.has_prior_focal_length for _, camera in found} == {False}
    assert len(notes) == 2
    for note, start in zip(notes, ("Maker-A is not used (0.jpg: ", "Maker-B is not used (1.jpg: "), strict=True):
        assert note.startswith(f"the EXIF focal length of 2 images by {start}")


def test_exif_can_be_ignored(tmp_path: Path) -> None:
    images = [photo(tmp_path / f"{focal}.jpg", {FOCAL_35MM: focal}) for focal in (1, 28, 50)]
    found, notes = cameras_of(images, CameraConfig(exif=False))
    assert len({key for key, _ in found}) == 1
    assert {camera.mean_focal_length() for _, camera in found} == {1.2 * 80}
    assert notes == []


def test_known_intrinsics_replace_those_of_exif(tmp_path: Path) -> None:
    """Equal ones are shared; images without any are grouped as if there were no others."""
    images = [photo(tmp_path / f"{number}.jpg", {FOCAL_35MM: 28 + number}) for number in range(5)]
    cameras = [pycolmap.Camera.create_from_model_name(0, "RADIAL", focal, *SIZE) for focal in (90, 90, 95)]
    images[:3] = [replace(image, known=camera) for image, camera in zip(images, cameras, strict=False)]
    (one, two, other, *rest), notes = cameras_of(images, CameraConfig("size"))
    assert notes == []
    assert one[0] == two[0] != other[0]
    assert (one[1], other[1]) == (cameras[0], cameras[2])
    assert {key for key, _ in rest}.isdisjoint({one[0], other[0]})
    assert len({key for key, _ in rest}) == 1


def test_an_unknown_camera_model_is_refused_before_any_work() -> None:
    with pytest.raises(KitError, match="unknown camera model 'OPENCV_FISH': did you mean 'OPENCV_FISHEYE'"):
        CameraConfig(model="OPENCV_FISH")
    for model in ("FOO", "", "EQUIRECTANGULAR", "opencv"):
        with pytest.raises(KitError, match="unknown camera model"):
            CameraConfig(model=model)
    for known in ("OPENCV_FISHEYE", "FOV", "SIMPLE_RADIAL_FISHEYE"):
        assert CameraConfig(model=known).model == known


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_focal_factor_is_a_number(factor: float) -> None:
    with pytest.raises(KitError, match="focal_factor"):
        CameraConfig(focal_factor=factor)


def test_sharing_by_folder(tmp_path: Path) -> None:
    images = [photo(tmp_path / folder / name, {}) for folder in ("wide", "long") for name in ("a.jpg", "b.jpg")]
    images.append(photo(tmp_path / "long" / "c.jpg", {}, SIZE[::-1]))
    keys = [key for key, _ in cameras_of(images, CameraConfig("folder"))[0]]
    assert keys[0] == keys[1] != keys[2] == keys[3] != keys[4]


@pytest.mark.parametrize("turn", [(2, False), (0, True), (2, True)])
def test_images_that_exif_turns_share_what_turning_does_not_change(tmp_path: Path, turn: tuple[int, bool]) -> None:
    """A point and its picture, both turned: the same camera only if its model has the same distortion everywhere."""
    one = photo(tmp_path / "a.jpg", {})
    other = replace(one, name="b.jpg", turn=turn)
    for model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "THIN_PRISM_FISHEYE"):
        (first, camera), (second, _) = cameras_of([one, other], CameraConfig(model=model))[0]
        camera.params = [*camera.params[: len(camera.params) - len(camera.extra_params_idxs())],
            *(0.05 / (1 + number) for number in range(len(camera.extra_params_idxs())))]  # fmt: skip
        sign = [1 if turn == (2, True) else -1, -1 if turn[0] else 1]
        seen = camera.img_from_cam([[0.2, 0.1, 1.0], [0.2 * sign[0], 0.1 * sign[1], 1.0]]) - [40, 30]
        assert (first == second) == bool(abs(seen[0] * sign - seen[1]).max() < 1e-9), model


def with_cameras(focals: list[float]) -> Any:
    """A model of two images, a.jpg and b.jpg, whose cameras have these focal lengths; one focal length is shared."""
    model = pycolmap.Reconstruction()
    for number, focal in enumerate(focals, 1):
        model.add_camera_with_trivial_rig(pycolmap.Camera.create_from_model_name(number, "OPENCV", focal, *SIZE))
    for number, name in enumerate(("a.jpg", "b.jpg"), 1):
        image = pycolmap.Image(name=name, image_id=number, camera_id=min(number, len(focals)))
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
    return model


def test_a_query_shares_intrinsics_with_images_like_it(tmp_path: Path) -> None:
    own = [photo(tmp_path / name, {FOCAL_35MM: 28}) for name in ("a.jpg", "b.jpg")]
    alike = photo(tmp_path / "alike.jpg", {FOCAL_35MM: 28})
    longer = [photo(tmp_path / name, {FOCAL_35MM: 56}) for name in ("long.jpg", "too.jpg")]
    larger = photo(tmp_path / "large.jpg", {}, (160, 120))
    queries = [alike, *longer, larger]
    points = {query.name: np.array([[1.5, 2.5]]) for query in queries}
    model = with_cameras([70.0])
    add_queries(model, own, queries, points, CameraConfig())
    cameras = [model.images[number].camera_id for number in range(3, 7)]
    assert cameras == [1, 2, 2, 3]
    assert model.reg_image_ids() == [1, 2]
    assert model.images[3].points2D[0].xy.tolist() == [1.5, 2.5]
    assert model.cameras[1].focal_length_x == 70
    assert model.cameras[2].model.name == "SIMPLE_RADIAL"
    assert model.cameras[2].focal_length == pytest.approx(cameras_of(longer, CameraConfig())[0][0][1].focal_length)
    assert model.cameras[2].has_prior_focal_length
    assert (model.cameras[3].focal_length, model.cameras[3].has_prior_focal_length) == (1.2 * 160, False)


def test_a_query_like_images_with_different_intrinsics_starts_between_them(tmp_path: Path) -> None:
    own = [photo(tmp_path / name, {}) for name in ("a.jpg", "b.jpg")]
    query = photo(tmp_path / "query.jpg", {})
    model = with_cameras([70.0, 90.0])
    add_queries(model, own, [query], {"query.jpg": np.empty((0, 2))}, CameraConfig())
    camera = model.cameras[model.images[3].camera_id]
    assert (camera.focal_length, camera.has_prior_focal_length) == (80, True)
    assert model.images[3].camera_id == 3
