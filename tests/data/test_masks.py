"""Masks, compared with known colours and shapes."""

from __future__ import annotations

import colorsys
import dataclasses
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from imc_kit.data import images, listing, masks
from imc_kit.data.images import Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors import extract
from imc_kit.detectors.opencv import OrbConfig
from imc_kit.errors import KitError
from imc_kit.types import Scene

RNG = np.random.default_rng(0)
PLANTS = MaskConfig(vegetation=True)


@pytest.fixture
def raw(monkeypatch):
    """Vegetation by colour alone."""
    monkeypatch.setattr(masks, "_OPEN_RADIUS", 0)
    monkeypatch.setattr(masks, "_CLOSE_RADIUS", 0)


def photo(pixels: np.ndarray) -> Photo:
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]), 0, False)


def colour(hue: float, saturation: float = 1.0, value: float = 1.0) -> np.ndarray:
    return np.rint(255 * np.array(colorsys.hsv_to_rgb(hue / 360, saturation, value))).astype(np.uint8)


def plain(*rgb: int, size=(40, 30)) -> np.ndarray:
    return np.full((size[1], size[0], 3), rgb, np.uint8)


def save(path: Path, values: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


# ---- vegetation ----


def test_hue_saturation_and_value_are_those_of_the_standard_library(raw, monkeypatch):
    pixels = RNG.integers(0, 256, (80, 100, 3)).astype(np.uint8)
    hsv = np.array([colorsys.rgb_to_hsv(*rgb) for rgb in (pixels.reshape(-1, 3) / 255).tolist()]).reshape(pixels.shape)
    hue, saturation, value = hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2]
    for limit, chosen in (("_HUES", (80, 140)), ("_MIN_SATURATION", 0.4), ("_MIN_VALUE", 0.3)):
        monkeypatch.setattr(masks, limit, chosen)
    expected = (hue >= 80) & (hue <= 140) & (saturation >= 0.4) & (value >= 0.3)
    near_a_limit = (
        (np.abs(hue[..., None] - [80, 140]).min(-1) < 0.01)
        | (np.abs(saturation - 0.4) < 1e-4)
        | (np.abs(value - 0.3) < 1e-4)
    )
    assert 0.02 < expected.mean() < 0.5
    np.testing.assert_array_equal(masks.vegetation(pixels)[~near_a_limit], expected[~near_a_limit])


@pytest.mark.parametrize(
    ("rgb", "plant"),
    [
        (colour(120), True),
        (colour(80, 0.6, 0.5), True),  # grass
        (colour(35, 0.4, 0.8), False),  # sandstone
        (colour(210, 0.5, 0.9), False),  # sky
        (colour(170, 0.4, 0.5), False),  # verdigris
        (colour(120, 0.05, 0.5), False),  # grey
        (colour(120, 1.0, 0.02), False),  # black
        (np.array([255, 255, 255]), False),
        (np.array([0, 0, 0]), False),
    ],
)
def test_typical_colours(rgb, plant):
    assert (masks.vegetation(plain(*rgb)) == plant).all()


def test_spots_are_dropped_and_gaps_filled_as_in_scipy(monkeypatch):
    green = ndimage.gaussian_filter(RNG.normal(size=(90, 120)), 1.5) > 0
    green[:12] = green[-12:] = green[:, :12] = green[:, -12:] = False  # at the edges, conventions differ
    pixels = np.where(green[..., None], colour(120), colour(30)).astype(np.uint8)
    y, x = np.mgrid[-4:5, -4:5]
    for opening, closing in ((1, 0), (0, 3), (2, 4)):
        monkeypatch.setattr(masks, "_OPEN_RADIUS", opening)
        monkeypatch.setattr(masks, "_CLOSE_RADIUS", closing)
        found = masks.vegetation(pixels)
        expected = ndimage.binary_opening(green, x**2 + y**2 <= opening**2)
        expected = ndimage.binary_closing(expected, x**2 + y**2 <= closing**2)
        assert (expected != green).sum() > 0
        np.testing.assert_array_equal(found, expected)


def test_half_of_a_photo_is_masked_at_the_working_size():
    pixels = plain(200, 150, 100, size=(1280, 640))
    pixels[:, 640:] = colour(120)
    allowed = masks.mask(photo(pixels), "a.jpg", PLANTS)
    assert allowed.shape == (320, 640)
    assert allowed[:, :320].all()
    assert not allowed[:, 320:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3000, 2)])
def test_odd_sizes(size):
    assert masks.vegetation(plain(0, 255, 0, size=size)).all()


def test_a_photo_of_only_plants_is_not_masked_with_a_warning(raw, caplog):
    pixels = plain(*colour(120))
    pixels[:3] = 200
    with caplog.at_level(logging.WARNING):
        assert masks.mask(photo(pixels), "wood/a.jpg", PLANTS) is None
    assert ["wood/a.jpg" in record.message for record in caplog.records] == [True]
    allowed = masks.mask(photo(pixels), "wood/a.jpg", dataclasses.replace(PLANTS, min_share=0.05))
    assert allowed.mean() == pytest.approx(0.1)


def test_nothing_by_default():
    assert masks.mask(photo(plain(*colour(120))), "a.jpg", MaskConfig()) is None


# ---- a folder ----


def test_black_is_masked_in_a_mask_of_any_size_and_kind(tmp_path):
    wanted = RNG.random((24, 32)) < 0.5
    kinds = {
        "grey.png": wanted.astype(np.uint8) * 255,
        "ones.png": wanted.astype(np.uint8),
        "colour.png": np.where(wanted[..., None], [255, 0, 0], [0, 0, 0]).astype(np.uint8),
        "bilevel.png": wanted,
        "some.png": np.where(wanted, RNG.integers(20, 256, wanted.shape), 0).astype(np.uint8),
        "deep.png": wanted.astype(np.uint16) * 65535,
    }
    for name, values in kinds.items():
        allowed = masks.read(save(tmp_path / name, values), photo(plain(0, 0, 0, size=(64, 48))))
        assert allowed.dtype == np.bool_
        np.testing.assert_array_equal(allowed, wanted, name)
    blocks = np.kron(wanted, np.ones((8, 8), bool))  # what JPEG keeps well
    path = save(tmp_path / "a.jpg", blocks.astype(np.uint8) * 255, quality=80)
    np.testing.assert_array_equal(masks.read(path, photo(plain(0, 0, 0))), blocks)
    black = masks.read(save(tmp_path / "black.png", np.zeros((20, 20), np.uint8)), photo(plain(0, 0, 0)))
    assert not black.any()


def test_a_mask_is_found_by_its_name(tmp_path):
    assert set(masks._SUFFIXES) == listing.IMAGE_SUFFIXES
    white = np.full((20, 20), 255, np.uint8)
    assert masks.find("x/a.b.jpg", tmp_path) is None
    last_to_first = ["x/a.b.JPEG", "x/a.b.tif", "x/a.b.png", "x/a.b.jpg", "x/a.b.jpg.png"]
    for name in last_to_first:
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.fromarray(white).save(tmp_path / name, "png")
        assert masks.find("x/a.b.jpg", tmp_path) == tmp_path / name
    for other in ("a.b.jpg", "y/a.b.jpg", "x/a.jpg", "x/a"):
        assert masks.find(other, tmp_path) is None
    save(tmp_path / "Łódź [1] *.png", white)
    assert masks.find("Łódź [1] *.jpg", tmp_path) == tmp_path / "Łódź [1] *.png"
    assert masks.find("no suffix", tmp_path) is None


def test_names_of_other_programs_and_a_name_of_255_bytes(tmp_path):
    for number, name in enumerate(("a_mask.PNG", "b.mask.tif", "c.jpg.mask.png")):
        save(tmp_path / name, np.zeros((20, 20), np.uint8), format="png")
        assert masks.find(f"{'abc'[number]}.jpg", tmp_path) == tmp_path / name
    assert masks.find("d.jpg", tmp_path) is None
    assert masks.find("x" * 251 + ".jpg", tmp_path) is None
    assert masks.mask(photo(plain(0, 0, 0)), "x" * 251 + ".jpg", MaskConfig(folder=tmp_path)) is None


def test_images_without_a_mask_are_counted(tmp_path):
    scene = Scene("church", tmp_path / "photos", ("a.jpg", "b.jpg", "sub/c.jpg"), ())
    config = MaskConfig(folder=tmp_path)
    assert masks.coverage([scene], MaskConfig()) == []
    with pytest.raises(KitError, match=r"0 of 3 images have a mask in .*IMG\.jpg\.png, IMG\.png, IMG_mask\.png"):
        masks.coverage([scene], config)
    for name in ("a_mask.png", "church.png", "sub/c.jpg.png"):
        save(tmp_path / name, np.zeros((20, 20), np.uint8))
    assert masks.coverage([scene], config)[0].startswith("2 of 3 images have a mask")
    save(tmp_path / "b.png", np.zeros((20, 20), np.uint8))
    assert masks.coverage([scene], config) == []


def test_an_image_without_a_mask_is_not_masked(tmp_path):
    save(tmp_path / "a.png", np.zeros((20, 20), np.uint8))
    config = MaskConfig(folder=tmp_path)
    assert masks.mask(photo(plain(0, 0, 0)), "b.jpg", config) is None
    assert not masks.mask(photo(plain(0, 0, 0)), "a.jpg", config).any()


def test_folder_and_vegetation_together(raw, tmp_path, caplog):
    values = np.zeros((60, 80), np.uint8)
    values[:, :40] = 255
    save(tmp_path / "a.png", values)
    pixels = plain(200, 150, 100)
    pixels[:15] = colour(120)
    config = MaskConfig(folder=tmp_path, vegetation=True)
    expected = np.zeros((30, 40), bool)
    expected[15:, :20] = True
    np.testing.assert_array_equal(masks.mask(photo(pixels), "a.jpg", config), expected)
    # The folder allows only plants: then its mask is used alone.
    pixels[:, :20] = colour(120)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(masks.mask(photo(pixels), "a.jpg", config), values > 0)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("extra", "own_exif"), [(0, False), (1, True)])
def test_a_mask_is_rotated_as_its_photo_is(tmp_path, orientation, extra, own_exif):
    stored = np.full((30, 40, 3), 255, np.uint8)
    stored[3:9, 5:20] = 0
    block = Image.Exif()
    block[0x0112] = orientation
    path = save(tmp_path / "photos" / "a.png", stored, exif=block)
    save(tmp_path / "masks" / "a.png", stored[..., 0], **({"exif": block} if own_exif else {}))
    seen = images.load(path, extra_quarters=extra)
    allowed = masks.mask(seen, "a.png", MaskConfig(folder=tmp_path / "masks"))
    np.testing.assert_array_equal(allowed, seen.pixels[..., 0] > 0)
    assert allowed.flags.c_contiguous


def test_a_file_that_cannot_be_a_mask_is_refused_by_name(tmp_path, caplog):
    config = MaskConfig(folder=tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    save(tmp_path / "upright.png", np.zeros((40, 30), np.uint8))
    for name in ("text", "empty", "folder", "upright"):
        taken = photo(plain(0, 0, 0, size=(40, 30)))
        with pytest.raises(KitError, match=rf"{name}\.png"):
            masks.read(tmp_path / f"{name}.png", taken)
        with pytest.raises(KitError, match=rf"{name}\.png"):
            masks.digest(tmp_path / f"{name}.png", images.ImageInfo((40, 30), 0, False))
        caplog.clear()
        assert masks.mask(taken, f"{name}.jpg", config) is None
        assert f"{name}.jpg is not masked: " in caplog.text
    square = masks.read(save(tmp_path / "square.png", np.zeros((20, 20), np.uint8)), photo(plain(0, 0, 0)))
    assert square.shape == (20, 20)  # it is stretched later


def test_check_requires_the_folder(tmp_path):
    MaskConfig().check()
    MaskConfig(folder=tmp_path).check()
    (tmp_path / "file").touch()
    for wrong in ("nowhere", "file"):
        with pytest.raises(KitError, match=wrong):
            MaskConfig(folder=tmp_path / wrong).check()


def test_an_invalid_option_is_refused():
    with pytest.raises(KitError, match="min_share of the masks"):
        MaskConfig(min_share=float("nan"))


# ---- with detectors ----


def test_no_keypoints_on_the_plants(tmp_path):
    pixels = cv2.resize(RNG.integers(0, 256, (30, 40, 1)).astype(np.uint8), (320, 240)).reshape(240, 320, 1)
    pixels = (pixels * np.ones(3)).astype(np.uint8)
    pixels[:, 160:, [0, 2]] //= 3
    pixels[:, 160:, 1] |= 128
    taken = photo(pixels)
    detector = OrbConfig().create()
    (everywhere,) = extract(detector, [taken])
    (masked,) = extract(detector, [taken], [masks.mask(taken, "a.jpg", MaskConfig(vegetation=True))])
    assert (everywhere.keypoints[:, 0] > 164).any()
    assert len(masked) > 20
    assert masked.keypoints[:, 0].max() < 161


def test_a_fern_is_masked_and_a_fountain_of_sandstone_is_not(shared):
    folder = shared / "scenes" / "test"
    config = MaskConfig(vegetation=True)
    left = {}
    for scene in ("fern20", "fountain_P11"):
        path = min((folder / scene / "images").iterdir())
        left[scene] = masks.mask(images.load(path, 640), path.name, config)
    assert 0.6 < left["fern20"].mean() < 0.85
    assert left["fountain_P11"].mean() > 0.98
    height, width = left["fern20"].shape
    middle = left["fern20"][height // 4 : height // 2, width * 2 // 5 : width * 3 // 5]
    assert middle.mean() < 0.15
