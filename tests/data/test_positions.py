"""Positions from EXIF and from files: what counts as one, and which image it belongs to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from imc_kit.data import images, positions
from imc_kit.data.gps import from_exif
from imc_kit.data.positions import of_scene, read_positions
from imc_kit.errors import KitError
from imc_kit.types import Scene
from rendered.drone import gps_exif

ZURICH: dict[int, Any] = {
    1: "N", 2: (47.0, 22.0, 35.4), 3: "E", 4: (8.0, 32.0, 52.08), 5: b"\x00", 6: 440.5,
}  # fmt: skip


def test_degrees_minutes_and_seconds() -> None:
    assert from_exif(ZURICH) == pytest.approx((47 + 22 / 60 + 35.4 / 3600, 8 + 32 / 60 + 52.08 / 3600, 440.5))
    south_west = from_exif(ZURICH | {1: b"S\0", 2: (IFDRational(33), IFDRational(303, 10)), 3: "w ", 4: (70.5,), 5: 1})
    assert south_west == pytest.approx((-33.505, -70.5, -440.5))  # and below sea level


@pytest.mark.parametrize(
    "tags",
    [
        {1: None},  # without its reference the sign is unknown
        {3: "X"}, {1: 7}, {1: b"\xff"},
        {2: None}, {4: 8.5}, {2: ()}, {2: (1, 2, 3, 4)}, {4: "8/1"},
        {2: (91.0, 0, 0)}, {4: (180.0, 30, 0)}, {2: (47, 61, 0)}, {2: (-47, 22, 0)}, {4: (8, 32, 75)},
        {2: (47, 22, math.nan)}, {2: (47, math.inf, 0)}, {4: (IFDRational(8, 0), 0, 0)}, {2: (IFDRational(0, 0), 0, 0)},
        {2: (0, 0, 0), 4: (0, 0, 0)},
    ],
)  # fmt: skip
def test_a_position_that_makes_no_sense_is_none(tags: dict[int, Any]) -> None:
    assert from_exif(ZURICH | tags) is None
    assert from_exif({}) is None


@pytest.mark.parametrize("altitude", [None, math.nan, IFDRational(1, 0), "high", 1e9, (1, 2)])
def test_an_altitude_that_makes_no_sense_is_unknown(altitude: Any) -> None:
    position = from_exif(ZURICH | {6: altitude})
    assert position is not None
    assert position[2] is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("place", [(47.3765, 8.5478, 440.25), (-33.5, -70.5, -12.5), (0.0, 179.9999, 3.0)])
def test_the_position_in_a_file(tmp_path: Path, suffix: str, place: tuple[float, float, float]) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif.load(gps_exif(*place))
    exif.get_ifd(0x8825)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, exif=exif)
    info = images.probe(path)
    assert info.gps == pytest.approx(place, abs=1e-6)
    assert info.rotated(1).gps == info.gps
    assert images.load(path).size == (30, 20)


@pytest.mark.filterwarnings("ignore::UserWarning")  # from Pillow
def test_damaged_tags_cost_only_the_position(tmp_path: Path) -> None:
    block = gps_exif(47.3765, 8.5478, 440.0)
    for end in range(6, len(block)):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.jpg", exif=block[:end])
        gps = images.probe(tmp_path / "a.jpg").gps
        assert gps is None or gps[:2] == pytest.approx((47.3765, 8.5478), abs=0.1)


# ---- files ----


def table(folder: Path, text: str) -> Path:
    (folder / "positions.csv").write_text(text, "utf-8")
    return folder / "positions.csv"


SCENE = Scene("church", Path("/data/church/images"), ("a.jpg", "b.jpg", "sub/a.jpg", "sub/c d.png"))
HALL = Scene("hall", Path("/data/hall/images"), ("a.jpg", "e.jpg"))


@pytest.mark.parametrize(
    ("text", "geographic", "expected"),
    [
        ("image,latitude,longitude,altitude\na.jpg,47.5,8.25,440\n", True, {"a.jpg": (47.5, 8.25, 440.0)}),
        ("SourceFile, GPSLatitude ,GPSLongitude\nb.jpg,-47.5, 8.25\n", True, {"b.jpg": (-47.5, 8.25, None)}),
        ("# Name,lon,lat,alt,Yaw\na.jpg,8.25,47.5,,9\nb.jpg,,,,\n", True, {"a.jpg": (47.5, 8.25, None)}),
        ("a.jpg,lat\n".replace("a.jpg,lat", "file,lat,lng,ele") + "b.jpg,0,0,5\n", True, {}),
        ("filename,x,y,z\na.jpg,1,-2.5,3e1\nb.jpg,0,0,0\n", False, {"a.jpg": (1, -2.5, 30), "b.jpg": (0, 0, 0)}),
    ],
)
def test_columns_are_recognised(tmp_path: Path, text: str, geographic: bool, expected: dict[str, Any]) -> None:
    assert read_positions(table(tmp_path, text)) == (geographic, expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a.jpg,1,2,3\n", "must have the columns image, latitude"),
        ("image,x,y\na.jpg,1,2\n", "must have the columns"),
        ("image,lat,lon,x,y,z\na.jpg,1,2,3,4,5\n", "must have the columns"),
        ("lat,lon\n1,2\n", "must have the columns"),
        ("image,lat,lon\na.jpg,47°,8\n", r"row 1 \(a.jpg\): a position is numbers"),
        ("image,x,y,z\na.jpg,1,2,nan\n", "a position is numbers"),
        ("image,lat,lon\na.jpg,8,470\n", "latitudes are −90 … 90"),
        ("image,x,y,z\na.jpg,1,2,3\na.jpg,1,2,3\n", "more than once"),
        ("", "is empty"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(KitError, match=reason):
        read_positions(table(tmp_path, text))


def test_names_fit_whole_or_at_the_end(tmp_path: Path) -> None:
    rows = "image,x,y,z\na.jpg,1,0,0\n./b.jpg,2,0,0\nsub\\a.jpg,3,0,0\nimages/sub/c d.png,4,0,0\n"
    path = table(tmp_path, rows)
    positions.check(path, [SCENE])
    found = of_scene(path, SCENE)[1]
    assert {name: place[0] for name, place in found.items()} == dict(zip(SCENE.images, (1, 2, 3, 4), strict=True))
    both = table(tmp_path, "image,x,y,z\nchurch/images/a.jpg,1,0,0\n/data/hall/images/a.jpg,2,0,0\nc d.png,3,0,0\n")
    positions.check(both, [SCENE, HALL])
    assert of_scene(both, HALL)[1] == {"a.jpg": (2, 0, 0)}
    assert {name: place[0] for name, place in of_scene(both, SCENE)[1].items()} == {"a.jpg": 1, "sub/c d.png": 3}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("b.jpg,1,2,3\nb,1,2,3\nB.jpg,1,2,3\n", r"2 of 3 names in .* fit no image \(b, B.jpg\): write names as"),
        ("a.jpg,1,2,3\n", "a.jpg in .* fits 2 images: write more of its path"),
        ("b.jpg,1,2,3\nimages/b.jpg,1,2,3\n", "b.jpg and images/b.jpg in .* are the same image"),
        ("b.jpg,,,\n", "has no positions"),
    ],
)
def test_names_that_fit_no_image_or_several_are_refused(tmp_path: Path, rows: str, reason: str) -> None:
    with pytest.raises(KitError, match=reason):
        positions.check(table(tmp_path, f"image,x,y,z\n{rows}"), [SCENE, HALL])
