"""Intrinsics that the user gives: what is read, which images they fit, and what is refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.cameras import CameraConfig
from imc_kit.colmap.known_cameras import KnownCamera, check, of_scene, read
from imc_kit.config import Config, fingerprint
from imc_kit.data.images import ImageInfo
from imc_kit.errors import KitError
from imc_kit.types import Scene

WIDE = ImageInfo((640, 480), 0, False)
RADIAL = "SIMPLE_RADIAL 640 480 500 320 240 0.1"


def scene(*images: str, name: str = "church", root: Path = Path("nowhere")) -> Scene:
    return Scene(name, root, images)


def of(known: Path | str, *images: str, info: ImageInfo = WIDE) -> dict[str, KnownCamera]:
    return of_scene(str(known), scene(*images), dict.fromkeys(images, info))[0]


def written(folder: Path, text: str, name: str = "known.txt") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("model", sorted(pycolmap.CameraModelId.__members__.keys() - {"INVALID", "EQUIRECTANGULAR"}))
def test_every_camera_model_of_colmap(model: str) -> None:
    """As pycolmap itself prints the parameters."""
    camera = pycolmap.Camera.create_from_model_name(0, model, 300.5, 640, 480)
    (known,) = read(f"{model} {camera.params_to_string()}")
    assert (known.which, known.model, known.size) == ("", model, None)
    np.testing.assert_allclose(known.params, camera.params)
    (sized,) = read(f"{model}, 640, 480, {camera.params_to_string()}")
    assert sized == KnownCamera("", model, known.params, (640, 480))
    made = sized.upright(WIDE)
    np.testing.assert_allclose(made.params, camera.params)
    assert made.has_prior_focal_length


def test_a_line_may_name_images_and_folders(tmp_path: Path) -> None:
    """The most specific one counts, in the scene or after the scene's name. hloc's lists have the same lines."""
    path = written(
        tmp_path,
        f"""# comment
        {RADIAL}

        wide/ SIMPLE_FISHEYE 640 480 200 320 240
        wide/in side/ SIMPLE_FISHEYE 640 480 201 320 240
        church/wide/a b.jpg PINHOLE 640 480 500,501,320,240
        5 5.jpg PINHOLE 640 480 505 505 320 240
        """,
    )
    images = "a.jpg", "wide/a.jpg", "wide/in side/a.jpg", "wide/in side/x/a.jpg", "wide/a b.jpg", "5 5.jpg"
    found = of(path, *images)
    assert [found[name].params[0] for name in images] == [500, 200, 201, 201, 500, 505]
    assert [found[name].model for name in images[:2]] == ["SIMPLE_RADIAL", "SIMPLE_FISHEYE"]
    assert found["wide/a b.jpg"].params == (500, 501, 320, 240)
    check(str(path), [scene(*images)], tmp_path)


def colmap_model(folder: Path, *, text: bool) -> Path:
    """The files of a model by pycolmap: a camera of two images, and another of one, whose names have spaces."""
    model = pycolmap.Reconstruction()
    for number, names in ((3, ("a 1.jpg", "b.jpg")), (7, ("in/c.jpg",))):
        camera = pycolmap.Camera.create_from_model_name(number, "OPENCV_FISHEYE", 200.25 + number, 640, 480)
        model.add_camera_with_trivial_rig(camera)
        for name in names:
            image = pycolmap.Image(name=name, camera_id=number, image_id=len(model.images) + 1)
            image.points2D = [pycolmap.Point2D(np.array([1.5, 2]))] if name == "b.jpg" else []
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
    folder.mkdir(exist_ok=True)
    model.write_text(folder) if text else model.write_binary(folder)
    return folder


@pytest.mark.parametrize("text", [True, False])
def test_the_cameras_of_a_colmap_model(tmp_path: Path, text: bool) -> None:
    folder = colmap_model(tmp_path / "model", text=text)
    for path in (folder, folder / f"cameras.{'txt' if text else 'bin'}"):
        found = of(path, "a 1.jpg", "b.jpg", "in/c.jpg")
        assert [camera.params[0] for camera in found.values()] == [203.25, 203.25, 207.25]
        assert {camera.model for camera in found.values()} == {"OPENCV_FISHEYE"}
    if text:
        (folder / "images.txt").unlink()
        with pytest.raises(KitError, match=r"has 2 cameras, and no images\.txt beside it"):
            read(str(folder / "cameras.txt"))
        with pytest.raises(KitError, match="has no COLMAP model"):
            read(str(folder))
    else:
        (folder / "cameras.bin").write_bytes((folder / "cameras.bin").read_bytes()[:40])
        with pytest.raises(KitError, match="files are damaged"):
            read(str(folder))


def test_cameras_txt_with_one_camera_is_that_of_all_images(tmp_path: Path) -> None:
    found = of(written(tmp_path, f"# Camera list\n1 {RADIAL}\n", "cameras.txt"), "a.jpg", "b.jpg")
    assert {camera.params for camera in found.values()} == {(500, 320, 240, 0.1)}


def quarter(info: ImageInfo, turns: int) -> ImageInfo:
    return info.rotated(turns)


@pytest.mark.parametrize(("turns", "model"), list(product(range(4), ["OPENCV", "THIN_PRISM_FISHEYE"])))
def test_they_describe_the_stored_photo(turns: int, model: str) -> None:
    """A ray of the stored photo, and the pixel that it has there, both turned."""
    camera = pycolmap.Camera.create_from_model_name(0, model, 400, 640, 480)
    camera.params = [400, 410, 300, 250, *(0.05 / (1 + n) for n in range(len(camera.params) - 4))]
    (known,) = read(f"{model} {','.join(map(str, camera.params))}")
    upright = known.upright(WIDE.rotated(turns))
    assert (upright.width, upright.height) == ((640, 480), (480, 640))[turns % 2]
    x, y = camera.img_from_cam(np.array([0.3, -0.2, 1.0]))
    across, down = 0.3, -0.2
    sides = [640, 480]
    for _ in range(turns):  # clockwise
        x, y, across, down, sides = sides[1] - y, x, -down, across, sides[::-1]
    np.testing.assert_allclose(upright.img_from_cam(np.array([across, down, 1.0])), [x, y], atol=1e-9)


def test_reduced_copies_get_scaled_intrinsics() -> None:
    found, notes = of_scene(
        "PINHOLE 3072 2048 2759.5 2764.2 1520.7 1006.8", scene("a.jpg"), {"a.jpg": ImageInfo((1024, 683), 0, False)}
    )
    np.testing.assert_allclose(
        found["a.jpg"].upright(ImageInfo((1024, 683), 0, False)).params,
        [2759.5 / 3, 2764.2 * 683 / 2048, 1520.7 / 3, 1006.8 * 683 / 2048],
    )
    assert notes == ["known intrinsics are scaled to their photos (1): a.jpg (3072 × 2048 to 1024 × 683)"]


def test_images_without_known_intrinsics_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, f"a.jpg {RADIAL}")
    found, notes = of_scene(str(path), scene("a.jpg", "b.jpg"), {"a.jpg": WIDE, "b.jpg": WIDE})
    assert [*found] == ["a.jpg"]
    assert notes == ["images without known intrinsics (1), which are estimated: b.jpg"]
    assert of_scene("", scene("a.jpg"), {"a.jpg": WIDE}) == ({}, [])


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ("SIMPLE_RADAL 500,320,240,0", "unknown camera model 'SIMPLE_RADAL': did you mean 'SIMPLE_RADIAL'"),
        ("EQUIRECTANGULAR 640,480", "unknown camera model"),
        ("SIMPLE_RADIAL 500,320,240", r"has 3 numbers, but SIMPLE_RADIAL has 4 parameters \(f, cx, cy, k\)"),
        ("SIMPLE_RADIAL 640 480 500,320,240,0,0", "has 7 numbers"),
        ("SIMPLE_RADIAL 500,320,x,0", "there is no such file, and it is no camera such as"),
        ("SIMPLE_RADIAL 500,320,2-4,0", "has something that is no number"),
        ("SIMPLE_RADIAL nan,320,240,0", "unknown camera model 'nan'"),
        ("PINHOLE", "there is no such file"),
        ("known/cameras.txt", "there is no such file"),
    ],
)
def test_what_is_no_camera_is_refused(known: str, message: str) -> None:
    with pytest.raises(KitError, match=message):
        read(known)


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "a.jpg\n", "a.jpg SIMPLE_RADIAL\n", f"{RADIAL}\nwhat is this\n"])
def test_files_without_cameras_are_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(KitError, match=r"it must be|each line must be") as raised:
        read(str(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ("SIMPLE_RADIAL 640 481 500 320 240 0", None),  # a rounded pixel
        ("SIMPLE_RADIAL 480 640 500 320 240 0", "do not fit a.jpg of church: .* for 480 × 640 .* with 640 × 480"),
        ("SIMPLE_RADIAL 640 426 500 320 213 0", "do not fit a.jpg"),
        ("SIMPLE_RADIAL -500 320 240 0", "the focal length must be"),
        ("SIMPLE_RADIAL 500 320 700 0", "the centre must be in the image"),
        ("SIMPLE_RADIAL 50 320 240 0", "0.1 to 10 longer sides"),
        ("EUCM 500 500 320 240 0.6 1.5", None),  # COLMAP's mappers take 1.5 for too much distortion
    ],
)
def test_what_contradicts_the_image_is_refused(known: str, message: str | None) -> None:
    if message is None:
        assert of(known, "a.jpg")
        return
    with pytest.raises(KitError, match=message):
        of(known, "a.jpg")


def test_a_camera_without_a_size_holds_for_images_of_one_size() -> None:
    infos = {"a.jpg": WIDE, "b.jpg": WIDE.rotated(1), "c.jpg": ImageInfo((480, 640), 0, False)}
    known = "PINHOLE 500,500,320,240"
    assert len(of_scene(known, scene("a.jpg", "b.jpg"), {name: infos[name] for name in ("a.jpg", "b.jpg")})[0]) == 2
    with pytest.raises(KitError, match=r"must tell the size .*: a.jpg has 640 × 480, c.jpg has 480 × 640"):
        of_scene(known, scene(*infos), infos)


def test_what_fits_no_image_is_named(tmp_path: Path) -> None:
    there = tmp_path / "not listed.jpg"
    there.touch()
    path = written(tmp_path, f"a.jpg {RADIAL}\nB.jpg {RADIAL}\nin/ {RADIAL}\nnot listed.jpg {RADIAL}\n")
    with pytest.raises(KitError, match=r"fit no image: B.jpg, in/; did you mean 'b.jpg'\?"):
        check(str(path), [scene("a.jpg", "b.jpg", root=tmp_path)], tmp_path)
    check(str(path), [scene("a.jpg", root=tmp_path), scene("in/x.jpg", "B.jpg", name="lizard")], tmp_path)
    with pytest.raises(KitError, match=r"two cameras for a\.jpg, all images"):
        check(str(written(tmp_path, f"a.jpg {RADIAL}\n{RADIAL}\na.jpg {RADIAL}\n{RADIAL}")), [scene("a.jpg")], tmp_path)
    other = tmp_path / "test/lizard/images/in/1.jpg"  # in a scene that is not to be solved
    other.parent.mkdir(parents=True)
    other.touch()
    path = written(tmp_path, f"lizard/ {RADIAL}\nlizard/in/1.jpg {RADIAL}\ntest/lizard/images/in/ {RADIAL}")
    check(str(path), [scene("a.jpg")], tmp_path)


def test_a_result_depends_on_the_content_of_the_file(tmp_path: Path) -> None:
    def key(text: str) -> str:
        path = written(tmp_path, text)
        return fingerprint(Config(cameras=CameraConfig(known=str(path))), of(path, "a.jpg"))

    assert key(RADIAL) == key(f"# comment\n{RADIAL}")
    assert key(RADIAL) != key(RADIAL.replace("0.1", "0.2"))
